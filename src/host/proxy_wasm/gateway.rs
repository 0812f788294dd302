//! One configuration in one VM.

use crate::engine::usage::{MAX_SECRETS, Reporter};
use crate::engine::verification::queue::{Ended, Verifier};
use crate::host::control_plane::{Call, Response};
use crate::host::metrics::{Counts, Id, Kind};
use crate::host::proxy_wasm::Vm;
use crate::host::proxy_wasm::headers::HeaderBytes;
use crate::host::proxy_wasm::stream::Effective;
use crate::host::usage::{ReportedTo, SharedReporter};
use crate::host::worker::Worker;
use crate::host::{Action, Gateway, NotDone};
use keyward_core::dialect::rate_limit_fields::Window;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, MetricType};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the contexts of one VM share under one configuration.
pub(super) struct Shared {
    /// The root context.
    pub(super) root: u32,
    pub(super) worker: Worker,
    pub(super) verifier: RefCell<Verifier>,
    /// The windows to report in the responses of streams, by stream context.
    pub(super) windows: RefCell<BTreeMap<u32, Vec<Window>>>,
}

impl Gateway for Shared {
    type Host = Vm;

    /// When the call into the VM returns, Envoy resumes the streams nested in one another, because each response calls
    /// the VM, so this bounds Envoy's stack (a few hundred cause a trap); the others follow with the next ticks.
    const RESUMED_AT_ONCE: usize = 16;

    fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Envoy makes every call in the name of the root, but the SDK delivers the response to the context that was active
    /// when the call was sent, and drops it if that context no longer exists: so only the root calls. It outlives every
    /// waiting stream: in Envoy a stream keeps its plugin alive, and the root is destroyed only after the last stream.
    fn call(&self, call: &Call<'_>) -> Result<u64, NotDone> {
        let body = call.body.map(|(_, body)| body);
        let timeout = Duration::from_millis(call.timeout_ms);
        let send = |headers: &[(&str, &str)]| {
            hostcalls::dispatch_http_call(&call.control_plane.cluster, headers.to_vec(), body, Vec::new(), timeout)
        };
        call.with_headers(send).map(u64::from).map_err(|_| NotDone)
    }

    fn verifier<T>(&self, see: impl FnOnce(&mut Verifier) -> T) -> T {
        see(&mut self.verifier.borrow_mut())
    }

    fn resume(&self, ready: Vec<(u32, Arc<Ended>)>) {
        for (context, ended) in ready {
            if hostcalls::set_effective_context(context).is_err() {
                continue;
            }
            let bytes = HeaderBytes::get(MapType::HttpRequestHeaders);
            let headers = bytes.as_ref().and_then(HeaderBytes::fields);
            let stream = Effective { context, shared: self };
            if self.worker.on_resumed(&stream, headers.as_deref(), &ended) == Action::Continue {
                let _ = hostcalls::resume_http_request();
            }
        }
        let _ = hostcalls::set_effective_context(self.root);
    }

    fn reporters(&self) -> Vec<SharedReporter> {
        self.worker.usage.iter().map(Arc::clone).collect()
    }

    fn counts(&self, mut see: impl FnMut(&Counts)) {
        see(&self.worker.counts);
    }

    fn define(&self, kind: Kind, name: &str) -> Option<Id> {
        let kind = match kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        hostcalls::define_metric(kind, name).ok().map(Id::from)
    }

    fn increment(&self, counter: Id, by: u64) {
        // The SDK panics on an increment that is not positive.
        if let (Ok(counter), Ok(by @ 1..)) = (u32::try_from(counter), i64::try_from(by)) {
            let _ = hostcalls::increment_metric(counter, by);
        }
    }

    fn set(&self, gauge: Id, value: u64) {
        self.record(gauge, value);
    }

    fn record(&self, metric: Id, value: u64) {
        if let Ok(metric) = u32::try_from(metric) {
            let _ = hostcalls::record_metric(metric, value);
        }
    }
}

/// The response to a callout, which is read from the effective context.
pub(super) struct CalloutResponse {
    pub(super) headers: usize,
    pub(super) body_size: usize,
}

impl Response for CalloutResponse {
    fn exists(&self) -> bool {
        self.headers > 0
    }

    fn header(&self, name: &str) -> Option<Vec<u8>> {
        hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, name).ok().flatten()
    }

    fn body_length(&self) -> usize {
        self.body_size
    }

    fn body(&self) -> Option<Vec<u8>> {
        let body = hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, self.body_size).ok()?;
        Some(body.unwrap_or_default())
    }
}

thread_local! {
    /// One reporter per control plane. Survives a change of configuration.
    static REPORTERS: RefCell<BTreeMap<ReportedTo, SharedReporter>> = const { RefCell::new(BTreeMap::new()) };

    /// Whether this VM ever served a request; the main thread's never does. Survives a change of configuration.
    static SERVES: Cell<bool> = const { Cell::new(false) };
}

/// This VM's reporter for that control plane.
pub(super) fn reporter_to(control_plane: ReportedTo, seed: u64) -> SharedReporter {
    let new = || Arc::new(Mutex::new(Reporter::new(MAX_SECRETS, seed)));
    REPORTERS.with_borrow_mut(|reporters| Arc::clone(reporters.entry(control_plane).or_insert_with(new)))
}

pub(super) fn serves() -> bool {
    SERVES.get()
}

pub(super) fn note_request() {
    SERVES.set(true);
}
