//! Whether this process can decide, for load balancers and for people.

use crate::engine::snapshot::Snapshot;
use serde::Serialize;

/// The answer on the readiness path.
#[derive(Debug, Serialize)]
pub struct Readiness {
    /// Whether requests are decided, and not refused as `unavailable`.
    pub ready: bool,
    /// The sequence of the feed that the snapshot reflects.
    pub sequence: u64,
    /// How many records the snapshot holds.
    pub records: u64,
    /// How long ago the feed last answered, in milliseconds; absent if it never did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
}

impl Readiness {
    /// The state of a snapshot now.
    pub fn of(snapshot: &Snapshot, now_ms: u64, max_staleness_ms: Option<u64>) -> Self {
        let status = snapshot.status();
        Self {
            ready: snapshot.is_usable(now_ms, max_staleness_ms),
            sequence: status.sequence,
            records: status.records,
            age_ms: (status.contact_ms > 0).then(|| now_ms.saturating_sub(status.contact_ms)),
        }
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
