//! The state that the contexts of one VM share under one configuration.

use crate::engine::auth_throttle::AuthThrottle;
use crate::engine::decide::Decision;
use crate::engine::digests::Digests;
use crate::engine::limiter::Limiter;
use crate::engine::snapshot::Snapshot;
use crate::engine::usage::Reporter;
use crate::engine::verification::cache::Verified;
use crate::engine::verification::queue::Verifier;
use crate::host::proxy_wasm::clock::{self, Clock};
use crate::host::proxy_wasm::metrics::Metrics;
use crate::host::proxy_wasm::shared::SharedData;
use crate::policy::Config;
use keyward_core::dialect::rate_limit_fields::Window;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The reporter that all contexts of this VM with one control plane share.
pub(super) type SharedReporter = Rc<RefCell<Reporter>>;

pub(super) struct Worker {
    pub(super) config: Config,
    pub(super) digests: Digests,
    pub(super) snapshot: RefCell<Snapshot>,
    pub(super) limiter: Limiter,
    /// Absent if the authentication throttle is disabled.
    pub(super) guessing: Option<AuthThrottle>,
    /// The windows to report in the responses of streams, by stream context.
    pub(super) windows: RefCell<BTreeMap<u32, Vec<Window>>>,
    pub(super) verified: RefCell<Verified>,
    pub(super) verifier: RefCell<Verifier>,
    pub(super) metrics: RefCell<Metrics>,
    pub(super) clock: Clock,
    /// Absent if usage is not reported.
    pub(super) usage: Option<SharedReporter>,
}

impl Worker {
    /// Synchronizes this worker's leases and counts of bad keys with shared data.
    pub(super) fn settle(&self, now_ms: u64) {
        self.limiter.tick(&SharedData, now_ms);
        if let Some(guessing) = &self.guessing {
            guessing.tick(&SharedData, now_ms);
        }
    }

    /// Handles a replaced configuration: moves what this worker holds to shared data.
    pub(super) fn release(&self) {
        let now_ms = clock::monotonic_ms();
        self.limiter.release(&SharedData, now_ms);
        if let Some(guessing) = &self.guessing {
            guessing.tick(&SharedData, now_ms);
        }
    }

    /// Counts a decided request, at the clock reading of the decision.
    pub(super) fn count(&self, decision: &Decision) {
        self.metrics.borrow_mut().count_verdict(decision.verdict());
        if let Some(usage) = &self.usage {
            usage.borrow_mut().count(decision, self.clock.latest_wall_ms());
        }
    }
}

thread_local! {
    /// Whether this VM ever served a request; the main thread's never does. Survives a change of configuration.
    static SERVES: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn serves() -> bool {
    SERVES.get()
}

pub(super) fn note_request() {
    SERVES.set(true);
}
