//! Waiting for something to become true: by asking again, with a deadline, never by sleeping and hoping.

use crate::{Failure, Result};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long to wait between two questions.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the answer is `Ok`.
///
/// # Errors
/// The last answer, when it is not `Ok` within `limit`.
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
