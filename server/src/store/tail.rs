//! How the hub hears of what was committed, in commit order and without a gap, by whichever server it was.
//!
//! The change that follows what the hub has is published by whoever committed it. Everything else is read from the
//! database: what another server has committed, what was committed though the answer said otherwise, and what a database
//! that was restored has instead. On PostgreSQL the other servers are woken by a notification that is part of the
//! transaction; a poll covers those that are lost.

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

/// How often the database is asked for what nobody told of.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long the question may take whether there is anything new. A connection that broke without a word has to be noticed
/// while what is known is still good enough for readers of the feed.
pub(super) const GLANCE_PATIENCE: Duration = Duration::from_secs(4);
/// How long a write waits for the hub to hear of it, where it cannot be told at once.
pub(super) const WRITERS_PATIENCE: Duration = Duration::from_secs(1);
/// The most changes that the hub is told of at once. They cannot be told in parts: each shows the current state of its
/// subject, and whoever sees that has to be told of the head it belongs to.
pub(super) const MOST: u64 = 4096;

/// What the database has beyond the hub.
enum Following {
    /// Nothing.
    Nothing,
    /// These, in order and without a gap.
    Changes(Vec<Change>),
    /// Another history, or too much of the same; it stands there.
    Anew(Head),
}

impl Store {
    /// Publishes what was committed, and whatever else the hub lacks. Only the commit's own failure is one: the rest is
    /// left to the tail.
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

    /// Publishes what the hub lacks; whether there was anything.
    ///
    /// # Errors
    /// If the database cannot be read.
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
                Following::Anew(head) => self.hub.begin_anew(&known, head.cursor, head.summary),
            };
            // Where somebody else has published meanwhile, it is asked again from there.
            if taken {
                self.freshness.note(asked);
            }
            news |= taken;
        }
    }

    /// Keeps the hub current until `ending` is true, through every failure of the database.
    pub async fn follow(&self, mut ending: watch::Receiver<bool>) {
        tokio::select! {
            _ = ending.wait_for(|ending| *ending) => {}
            () = self.keep_following() => {}
        }
    }

    async fn keep_following(&self) {
        let (mut listener, mut told, mut well) = (None, true, true);
        loop {
            if listener.is_none() {
                // Whatever was committed before it listens is found by the look that comes next.
                listener = self.database.listen().await;
            }
            // First: what was changed after a token was revoked is not for who waits with it.
            let looked = match self.look_for_token_revocations().await {
                Ok(()) => self.catch_up().await,
                Err(error) => Err(error),
            };
            match &looked {
                // There was what nobody told of: the connection may have broken without a word.
                Ok(true) if !told => listener = None,
                Ok(_) if !well => tracing::info!("database feed recovered"),
                Err(error) if well => {
                    tracing::warn!(%error, "failed to read feed from database; will retry");
                }
                _ => {}
            }
            well = looked.is_ok();
            told = woken(&mut listener).await;
        }
    }

    async fn following(&self, known: &Cursor) -> Result<Following, Error> {
        // The whole state is looked at only where something is new.
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

/// Waits for a notification, or for the next poll; whether it was the former. A listener that fails is gone.
async fn woken(listener: &mut Option<PgListener>) -> bool {
    let Some(listening) = listener else {
        tokio::time::sleep(POLL_INTERVAL).await;
        return false;
    };
    match timeout(POLL_INTERVAL, listening.try_recv()).await {
        Ok(Ok(Some(_))) => {
            // One look finds what all that have arrived tell of.
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
