//! Readiness: whether this process can decide requests.

use crate::engine::snapshot::Snapshot;
use crate::engine::store::SharedStore;
use serde::Serialize;

/// The response on the readiness path. Clients can reach that path, so the response says nothing more; the metrics do.
#[derive(Debug, Serialize)]
pub struct Readiness {
    /// Whether requests are decided rather than refused as `unavailable`.
    pub ready: bool,
}

impl Readiness {
    /// The readiness of a snapshot now.
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
