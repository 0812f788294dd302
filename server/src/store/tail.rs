//! Publishes committed changes to the hub, in commit order and without a gap, whichever server committed them.
//!
//! A commit of this server publishes its own changes if they follow the hub's head. Everything else is read from the database: commits
//! of other servers, commits whose result was lost, and the history of a restored database. On PostgreSQL a notification in the
//! transaction wakes the other servers, and a poll covers lost ones.

use super::feed::{changes_after, cursor_at, full_head, head};
use super::hub::Change;
use super::mutation::Committed;
use super::rows::Head;
use super::{Error, PATIENCE, Store, within};
use futures_util::TryStreamExt;
use keyward_core::wire::cursor::Cursor;
use sqlx::postgres::PgListener;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// The interval of the poll for changes without a notification.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The timeout of the query for the head. A silently broken connection must be noticed before the feed is stale.
pub(super) const GLANCE_PATIENCE: Duration = Duration::from_secs(4);
/// How long a write waits for its publication, if it cannot be published at once.
pub(super) const WRITERS_PATIENCE: Duration = Duration::from_secs(1);
/// The maximum of changes that are published at once. They cannot be published in parts: each has the current state of its subject,
/// which belongs to the head of them all.
pub(super) const MOST: u64 = 4096;

/// The changes beyond the hub's head.
enum Following {
    /// Nothing.
    Nothing,
    /// Changes, in order and without a gap.
    Changes(Vec<Change>),
    /// Another history, or too many changes; with its head.
    Anew(Head),
}

impl Store {
    /// Publishes a commit, and everything else that the hub lacks. Fails only if the commit failed; other failures are left to the tail.
    pub(super) async fn publish(&self, committed: Result<Committed, Error>) -> Result<(), Error> {
        let (complete, outcome) = match committed {
            Ok(Committed { before, changes }) => {
                (changes.is_empty() || self.hub.publish_after(&before, changes), Ok(()))
            }
            Err(error) => (false, Err(error)),
        };
        if complete {
            return outcome;
        }
        if let Err(error) = within(WRITERS_PATIENCE, self.catch_up()).await {
            tracing::warn!(%error, "failed to publish changes; will retry");
        }
        outcome
    }

    /// Publishes what the hub lacks; returns whether there was anything.
    pub(super) async fn catch_up(&self) -> Result<bool, Error> {
        let mut news = false;
        loop {
            let (known, asked) = (self.hub.head(), Instant::now());
            let taken = match within(PATIENCE, self.following(&known)).await? {
                Following::Nothing => {
                    self.freshness.note(asked);
                    return Ok(news);
                }
                Following::Changes(changes) => self.hub.publish_after(&known, changes),
                Following::Anew(head) => self.hub.reset(&known, head.cursor, head.summary),
            };
            // If another task has published meanwhile, continue from there.
            if taken {
                self.freshness.note(asked);
            }
            news |= taken;
        }
    }

    /// Keeps the hub current until `stopping` is true, across failures of the database.
    pub async fn follow(&self, mut stopping: watch::Receiver<bool>) {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => {}
            () = self.keep_following() => {}
        }
    }

    async fn keep_following(&self) {
        let (mut listener, mut notified, mut well) = (None, true, true);
        loop {
            if listener.is_none() {
                // Commits before the listener starts are found by the next read.
                listener = self.database.listen().await;
            }
            // First, as changes after the revocation of a token are not for polls with it.
            let looked = match self.look_for_token_revocations().await {
                Ok(()) => self.catch_up().await,
                Err(error) => Err(error),
            };
            match &looked {
                // There were changes without a notification: the listener's connection may be broken.
                Ok(true) if !notified => listener = None,
                Ok(_) if !well => tracing::info!("database feed recovered"),
                Err(error) if well => {
                    tracing::warn!(%error, "failed to read feed from database; will retry");
                }
                _ => {}
            }
            well = looked.is_ok();
            notified = woken(&mut listener).await;
        }
    }

    async fn following(&self, known: &Cursor) -> Result<Following, Error> {
        // The full head is read only if there are changes.
        let glance = async { head(&mut *self.database.feed_readers.acquire().await?).await };
        if within(GLANCE_PATIENCE, glance).await? == *known {
            return Ok(Following::Nothing);
        }
        let mut transaction = self.database.begin_read(&self.database.feed_readers).await?;
        let full = full_head(&mut transaction).await?;
        let head = full.cursor;
        let of_this_history =
            known.epoch == head.epoch && cursor_at(&mut transaction, &head, known.sequence).await? == Some(*known);
        if !of_this_history {
            tracing::warn!(
                known = known.sequence,
                head = head.sequence,
                "database has another history; edges that differ get a snapshot"
            );
        }
        if !of_this_history || head.sequence - known.sequence > MOST {
            return Ok(Following::Anew(full));
        }
        let rows: Vec<_> = changes_after(&mut transaction, known.sequence).try_collect().await?;
        let mut changes = rows.into_iter().map(Change::try_from).collect::<Result<Vec<_>, _>>()?;
        if let Some(last) = changes.last_mut() {
            last.summary = full.summary;
        }
        Ok(Following::Changes(changes))
    }
}

/// Waits for a notification or the next poll; returns whether it was a notification. A failed listener is dropped.
async fn woken(listener: &mut Option<PgListener>) -> bool {
    let Some(listening) = listener else {
        tokio::time::sleep(POLL_INTERVAL).await;
        return false;
    };
    match timeout(POLL_INTERVAL, listening.try_recv()).await {
        Ok(Ok(Some(_))) => {
            // One read covers all notifications that have arrived.
            while listening.next_buffered().is_some() {}
            true
        }
        Ok(Ok(None) | Err(_)) => {
            *listener = None;
            true
        }
        Err(_) => false,
    }
}
