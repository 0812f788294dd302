//! The hosts that run the engine, one module each, and what they share.
//!
//! [`Host`], [`Stream`] and [`Gateway`] say what the engine needs of its surroundings. `request` handles requests over a
//! [`Stream`], `background` does everything else over a [`Gateway`]. Neither decides anything itself, and neither knows
//! which host it runs in.

mod background;
mod clock;
mod configuration;
mod control_plane;
#[cfg(not(target_family = "wasm"))]
mod dynamic_module;
#[cfg(feature = "fault-injection")]
mod fault;
mod metrics;
#[cfg(target_family = "wasm")]
mod proxy_wasm;
mod request;
#[cfg(any(not(target_family = "wasm"), feature = "response-headers"))]
mod response;
mod usage;
mod verify;
mod worker;

use crate::engine::store::SharedStore;
use crate::engine::upstream_headers::Change;
use crate::engine::verification::queue::{Busy, Ended, Unverified, Verifier};
use control_plane::Call;
use keyward_core::dialect::rate_limit_fields::Window;
use std::net::IpAddr;
use std::sync::Arc;
use usage::SharedReporter;
use worker::Worker;

/// What surrounds the filter, whatever its configuration.
trait Host {
    /// The storage shared by all workers.
    type Store: SharedStore + 'static;

    /// The storage shared by all workers.
    const STORE: &'static Self::Store;

    /// Where environment variables of the filter must be set, for error messages.
    const ENVIRONMENT: &'static str;

    /// The monotonic clock that all workers share, in microseconds; never 0.
    fn monotonic_us() -> u64;

    /// Logs a line, which names the filter. A failure to log is ignored.
    fn log(level: Level, message: &str);
}

/// The severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Info,
    Warn,
    Error,
}

/// One request.
trait Stream {
    /// What surrounds it.
    type Host: Host;

    /// The client's address according to Envoy's trusted-hop settings.
    fn client_address(&self) -> Option<IpAddr>;

    /// Changes header fields, in order.
    fn change(&self, map: Map, changes: &[Change<'_>]) -> Result<(), NotDone>;

    /// Writes a value into the stream's filter state, under the name `wasm.keyward.NAME`.
    fn set_state(&self, name: State, value: &[u8]) -> Result<(), NotDone>;

    /// Answers the request.
    fn reply(&self, status: u32, headers: &[(&str, &str)], body: &str) -> Result<(), NotDone>;

    /// Answers a gRPC request with this gRPC status.
    fn reply_grpc(&self, grpc_status: u32, message: &str, headers: &[(&str, &str)]) -> Result<(), NotDone>;

    /// Resets the stream.
    fn reset(&self);

    /// Has the request wait for the verification of its credential; it is decided again when that has ended.
    fn wait(&self, what: &Unverified, client: Option<IpAddr>, now_ms: u64) -> Result<(), Busy>;

    /// Keeps the windows for the response to the request.
    fn keep_windows(&self, windows: &[Window]);
}

/// A set of header fields of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Map {
    RequestHeaders,
    RequestTrailers,
    #[cfg(any(not(target_family = "wasm"), feature = "response-headers"))]
    ResponseHeaders,
}

/// A value in filter state, which the guard and the access log read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Verdict,
    Reason,
    Path,
}

/// Envoy has refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NotDone;

/// What becomes of a request for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// It continues.
    Continue,
    /// It waits for a verification.
    Wait,
    /// It was answered or reset.
    End,
}

/// One configuration, where it does what no request does: calls, metrics, and waking up requests that wait.
trait Gateway {
    /// What surrounds it.
    type Host: Host;

    /// How many requests are resumed at once.
    const RESUMED_AT_ONCE: usize;

    /// The worker that this thread has for the configuration.
    fn worker(&self) -> &Worker;

    /// Sends a request to the control plane, and returns an id with which the response arrives.
    fn call(&self, call: &Call<'_>) -> Result<u64, NotDone>;

    /// The requests that wait for a verification.
    fn verifier<T>(&self, see: impl FnOnce(&mut Verifier) -> T) -> T;

    /// Decides again on requests that waited.
    fn resume(&self, ready: Vec<(u32, Arc<Ended>)>);

    /// The reporters whose counts are sent from here.
    fn reporters(&self) -> Vec<SharedReporter>;

    /// The counts of requests and events that are flushed from here.
    fn counts(&self, see: impl FnMut(&metrics::Counts));

    /// Defines a metric; `None` if Envoy refuses it.
    fn define(&self, kind: metrics::Kind, name: &str) -> Option<metrics::Id>;

    /// Adds to a counter, more than 0.
    fn increment(&self, counter: metrics::Id, by: u64);

    /// Sets a gauge.
    fn set(&self, gauge: metrics::Id, value: u64);

    /// Records a value in a histogram.
    fn record(&self, histogram: metrics::Id, value: u64);
}
