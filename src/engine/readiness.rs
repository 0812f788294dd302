//! Whether this process can decide, for load balancers and for people.

use crate::engine::snapshot::Snapshot;
use crate::engine::store::SharedStore;
use serde::Serialize;

/// The answer on the readiness path. Clients can reach it, so it says no more than that; the metrics do.
#[derive(Debug, Serialize)]
pub struct Readiness {
    /// Whether requests are decided, and not refused as `unavailable`.
    pub ready: bool,
}

impl Readiness {
    /// The state of a snapshot now.
    pub fn of(snapshot: &mut Snapshot, store: &impl SharedStore, now_ms: u64, max_staleness_ms: Option<u64>) -> Self {
        Self { ready: snapshot.is_usable_now(store, now_ms, max_staleness_ms) }
    }

    /// 200 or 503.
    pub fn status_code(&self) -> u32 {
        if self.ready { 200 } else { 503 }
    }

    /// The body, JSON.
    pub fn body(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}
