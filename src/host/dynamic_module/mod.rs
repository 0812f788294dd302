//! The host dynamic module: Envoy loads the filter as a shared library, whose code and memory all workers share.
//!
//! `abi` is the border to Envoy. A [`ProcessGateway`](gateway::ProcessGateway) is one configuration; its background work
//! runs on the main thread, woken up by a thread of its own. Each worker thread has its own
//! [`Worker`](crate::host::worker::Worker) for each configuration, and needs no ticks: it sees with each request whether
//! the snapshot has changed.

mod abi;
mod gateway;
mod panics;
mod store;
mod stream;
mod ticker;
mod worker;

#[cfg(test)]
mod tests;

use crate::host::{Host, Level};
use std::sync::LazyLock;
use std::time::Instant;
use store::ProcessStore;

/// This process.
struct Process;

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Host for Process {
    type Store = ProcessStore;

    const STORE: &'static ProcessStore = &ProcessStore;

    const ENVIRONMENT: &'static str = "Envoy's environment";

    /// Since the module was first asked.
    fn monotonic_us() -> u64 {
        let since = u64::try_from(BEGAN.elapsed().as_micros()).unwrap_or(u64::MAX);
        // A millisecond that is never 0.
        since.saturating_add(1000)
    }

    fn log(level: Level, message: &str) {
        abi::log(level, &format!("keyward: {message}"));
    }
}
