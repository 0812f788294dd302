//! Purges revoked and expired keys, and old usage, at intervals. Which keys are purged is decided in `store/retention.rs`, which
//! usage in `store/usage.rs`, and which idempotent requests in `store/idempotency.rs`.

use crate::clock::Clock;
use crate::store::{Purged, Store};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The largest adjustment of the clock within an interval that is accepted.
const MAX_CLOCK_ADJUSTMENT: Duration = Duration::from_secs(60);

/// Purges after each interval in which the clock ran steadily. A clock that was just set, as on some machines after boot, could make
/// all keys look long expired.
pub(crate) async fn run(store: Store, clock: Clock, retention: Duration, interval: Duration) {
    loop {
        let (started, expected) = (Instant::now(), clock());
        sleep(interval).await;
        let (expected, now) = (expected.plus(started.elapsed()), clock());
        if now.minus(MAX_CLOCK_ADJUSTMENT) > expected || now.plus(MAX_CLOCK_ADJUSTMENT) < expected {
            tracing::warn!(%now, %expected, "clock was adjusted; skipping purge");
            continue;
        }
        match store.purge_expired(now, retention).await {
            Ok(Purged { purged: 0, restored: 0 }) => {}
            Ok(Purged { purged, restored }) => {
                tracing::info!(purged, restored, "purged expired keys");
            }
            Err(error) => tracing::warn!(%error, retry_after = ?interval, "failed to purge expired keys; will retry"),
        }
        match store.purge_usage(now).await {
            Ok(purged) => tracing::debug!(purged, "purged old usage"),
            Err(error) => tracing::warn!(%error, retry_after = ?interval, "failed to purge old usage; will retry"),
        }
    }
}
