//! What one worker decides with, under one configuration.

use crate::engine::auth_throttle::AuthThrottle;
use crate::engine::decide::Decision;
use crate::engine::digests::Digests;
use crate::engine::limiter::Limiter;
use crate::engine::snapshot::Snapshot;
use crate::engine::store::{Names, SharedStore};
use crate::engine::verification::cache::{HASH_KEY_LENGTH, Verified};
use crate::host::clock::Clock;
use crate::host::configuration::Configuration;
use crate::host::metrics::Counts;
use crate::host::usage::{self, SharedReporter};
use crate::host::{Host, clock};
use crate::policy::Config;
use std::cell::RefCell;
use std::sync::Arc;

pub(super) struct Worker {
    pub(super) config: Config,
    pub(super) digests: Digests,
    pub(super) snapshot: RefCell<Snapshot>,
    pub(super) limiter: Limiter,
    /// Absent if the authentication throttle is disabled.
    pub(super) guessing: Option<AuthThrottle>,
    pub(super) verified: RefCell<Verified>,
    pub(super) counts: Arc<Counts>,
    pub(super) clock: Clock,
    /// Absent if usage is not reported.
    pub(super) usage: Option<SharedReporter>,
}

impl Worker {
    pub(super) fn new<H: Host>(configuration: Configuration, names: Names, usage: Option<SharedReporter>) -> Self {
        let Configuration { config, digests, .. } = configuration;
        let settings = config.snapshot;
        Self {
            limiter: Limiter::new(names.limits(), settings.limit_bucket_bits),
            guessing: config.guessing.map(|threshold| AuthThrottle::new(names.guesses(), threshold)),
            verified: RefCell::new(Verified::new(names.verified(), settings.cache_records, hash_key())),
            snapshot: RefCell::new(Snapshot::new(names, settings.bucket_bits, settings.cache_records)),
            counts: Arc::new(Counts::new()),
            clock: Clock::new::<H>(),
            digests,
            usage,
            config,
        }
    }

    /// Synchronizes this worker's leases and counts of bad keys with the shared store.
    pub(super) fn settle(&self, store: &impl SharedStore, now_ms: u64) {
        self.limiter.tick(store, now_ms);
        if let Some(guessing) = &self.guessing {
            guessing.tick(store, now_ms);
        }
    }

    /// Handles a replaced configuration: moves what this worker holds to the shared store.
    pub(super) fn release<H: Host>(&self) {
        let now_ms = clock::monotonic_ms::<H>();
        self.limiter.release(H::STORE, now_ms);
        if let Some(guessing) = &self.guessing {
            guessing.tick(H::STORE, now_ms);
        }
    }

    /// Counts a decided request, at the clock reading of the decision.
    pub(super) fn count(&self, decision: &Decision) {
        self.counts.count_verdict(decision);
        if let Some(reporter) = &self.usage {
            usage::lock(reporter).count(decision, self.clock.latest_wall_ms());
        }
    }
}

/// The key for hashes of credentials in the shared store, used if this worker is the first to need one.
fn hash_key() -> Option<[u8; HASH_KEY_LENGTH]> {
    let mut key = [0; HASH_KEY_LENGTH];
    getrandom::fill(&mut key).is_ok().then_some(key)
}
