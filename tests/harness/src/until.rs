//! Waits for a condition by polling with a deadline, never by a fixed sleep.

use crate::{Failure, Result};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The pause between two polls.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// Polls until the result is `Ok`; fails with the last result after `limit`.
pub async fn until<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match probe().await {
            Ok(answer) => return Ok(answer),
            Err(last) if Instant::now() >= deadline => {
                return Err(Failure::new(format!("{what}: not within {limit:?}: {last}")));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}
