//! Wakes requests that wait, such as long polls of the feed, when a token is revoked at any server.

use crate::auth::tokens::file::Tokens;
use std::sync::Arc;
use tokio::sync::watch;

/// Notifies requests that wait whenever a token was revoked.
pub(crate) async fn forward(mut revocations: watch::Receiver<i64>, tokens: Arc<Tokens>) {
    while revocations.changed().await.is_ok() {
        tokens.notify();
    }
}
