//! Purges at intervals what is older than the retention.

use crate::clock::Clock;
use crate::store::{Store, Swept};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// By how much the clock may be put right in an interval and still be believed.
const BELIEVABLE_DRIFT: Duration = Duration::from_secs(60);

/// Lets the edges forget what ended long ago, after each interval in which the clock has run like one. A clock that has just
/// been set, as those of some machines are after their start, could make all keys look as if they had ended long ago.
pub(crate) async fn keep_retention(store: Store, clock: Clock, retention: Duration, interval: Duration) {
    loop {
        let (started, expected) = (Instant::now(), clock());
        sleep(interval).await;
        let (expected, now) = (expected.plus(started.elapsed()), clock());
        if now.minus(BELIEVABLE_DRIFT) > expected || now.plus(BELIEVABLE_DRIFT) < expected {
            tracing::warn!(%now, %expected, "the clock was set; the edges are told to forget nothing for now");
            continue;
        }
        match store.keep_retention(now, retention).await {
            Ok(Swept { forgotten: 0, told_again: 0 }) => {}
            Ok(Swept { forgotten, told_again }) => {
                tracing::info!(forgotten, told_again, "the edges forget what ended long ago");
            }
            Err(error) => tracing::warn!(%error, ?interval, "the retention could not be kept; it is tried again"),
        }
        match store.sweep_usage(now).await {
            Ok(swept) => tracing::debug!(swept, "what is old of the usage is gone"),
            Err(error) => tracing::warn!(%error, ?interval, "the old usage could not be swept; it is tried again"),
        }
    }
}
