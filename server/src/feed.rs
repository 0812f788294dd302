//! Serves pages of the feed: from memory for a recent cursor, else from the database. A long poll waits until there are changes.
//!
//! A server that cannot know whether there are changes does not report that there are none: see [`STALE_AFTER`].

pub mod upstream_status;

use crate::store::hub::Recent;
use crate::store::{Error, FeedRead, Store};
use bytes::Bytes;
use keyward_core::wire::cursor::Position;
use keyward_core::wire::page::{Extent, Page};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use upstream_status::{Current, UpstreamStatus};

/// The feed of a control plane or relay.
#[derive(Clone, Debug)]
pub struct Feed {
    store: Store,
    shutdown: watch::Receiver<bool>,
    /// Of a relay; `None` of a control plane.
    upstream_status: Option<Arc<UpstreamStatus>>,
}

/// A page for a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgedPage {
    /// The encoded page.
    pub page: Bytes,
    /// How long ago the control plane was known to have nothing beyond the page; `None` if it is current by construction, as no
    /// other server writes to the database.
    pub age: Option<Duration>,
}

/// The moment as of which a page is complete.
#[derive(Clone, Copy, Debug)]
enum AsOf {
    /// The moment of reading.
    Now,
    /// When this server last read the database that it shares with others.
    Seen(Instant),
    /// When a relay's upstream last answered.
    Upstream(Current),
}

/// After this long without reading its database a server answers 503 instead of reporting that nothing is new or starting a
/// snapshot, so that the edge asks another server. Changes in memory are served with their age. A relay serves without its
/// upstream for any time.
pub const STALE_AFTER: Duration = Duration::from_secs(10);

impl Feed {
    /// The feed of that database; once `shutdown` is true, no poll waits.
    pub fn new(store: Store, shutdown: watch::Receiver<bool>) -> Self {
        Self { store, shutdown, upstream_status: None }
    }

    /// The feed of a relay, whose age follows the status of its upstream.
    #[must_use]
    pub fn of_relay(self, upstream_status: Arc<UpstreamStatus>) -> Self {
        Self { upstream_status: Some(upstream_status), ..self }
    }

    /// The page after the position, for the reader with that name. Without changes it waits at most that long, or until `end` is
    /// notified, and then returns a page without changes.
    ///
    /// # Errors
    /// If the database cannot be read or was not read for too long; or if a relay has nothing to serve yet, or less than the
    /// reader has.
    pub async fn page_after(
        &self,
        reader: &str,
        position: Position,
        wait: Duration,
        mut end: watch::Receiver<()>,
    ) -> Result<AgedPage, Error> {
        let deadline = Instant::now() + wait;
        let mut shutdown = self.shutdown.clone();
        let mut published = self.store.hub().subscribe();
        if let Some(upstream_status) = &self.upstream_status {
            self.catch_up(upstream_status, &position, deadline, &mut end).await?;
        }
        let mut is_last = false;
        loop {
            // Before reading, so that no publication falls between reading and waiting.
            published.mark_unchanged();
            // Before reading: the page is as new as that, or newer.
            let as_of = self.as_of();
            let aged = |page| AgedPage { page, age: as_of.age(Instant::now()) };
            let summary = match self.read(reader, &position, as_of).await? {
                FeedRead::Page(page) => return Ok(aged(page)),
                FeedRead::UpToDate(summary) => summary,
            };
            // For a reader without a state or within a snapshot there is always a page.
            let Position::Changes { applied, seen } = position else { continue };
            let nothing = || {
                let extent = Extent::Changes { to: applied };
                aged(Bytes::from(Page { answers: position, head: seen, summary, extent, entries: &[] }.encode()))
            };
            if is_last {
                as_of.check()?;
                return Ok(nothing());
            }
            tracing::trace!(sequence = applied, ?wait, "waiting for a change");
            tokio::select! {
                biased;
                // Before changes, which are not for a revoked token.
                _ = end.changed() => return Ok(nothing()),
                _ = published.changed() => {}
                _ = shutdown.wait_for(|shutdown| *shutdown) => return Ok(nothing()),
                // Reads once more, as the age may be lower by now.
                () = sleep_until(deadline) => {
                    if let AsOf::Now = as_of {
                        return Ok(nothing());
                    }
                    is_last = true;
                }
            }
        }
    }

    /// Waits until a relay has what the reader has, or knows that the control plane does not have it either: a snapshot of less
    /// would take the reader back in time.
    async fn catch_up(
        &self,
        upstream_status: &UpstreamStatus,
        position: &Position,
        deadline: Instant,
        end: &mut watch::Receiver<()>,
    ) -> Result<(), Error> {
        let requested = Instant::now();
        let mut shutdown = self.shutdown.clone();
        let mut updates = upstream_status.subscribe();
        loop {
            updates.mark_unchanged();
            if !upstream_status.is_complete() {
                return Err(Error::NoSnapshot);
            }
            let (Position::Changes { seen, .. } | Position::Snapshot { seen, .. }) = position else { return Ok(()) };
            let head = self.store.hub().head();
            // A restored database reuses sequence numbers, so a lower one can belong to another history.
            let is_ahead = seen.epoch != head.epoch
                || seen.sequence > head.sequence
                || (*seen != head && self.store.is_of_another_history(seen).await?);
            if !is_ahead || upstream_status.current().is_later_than(requested) {
                return Ok(());
            }
            upstream_status.request_poll();
            tokio::select! {
                biased;
                _ = end.changed() => return Err(Error::Behind),
                _ = updates.changed() => {}
                _ = shutdown.wait_for(|shutdown| *shutdown) => return Err(Error::Behind),
                () = sleep_until(deadline) => return Err(Error::Behind),
            }
        }
    }

    fn as_of(&self) -> AsOf {
        match (&self.upstream_status, self.store.seen_at()) {
            (Some(upstream_status), _) => AsOf::Upstream(upstream_status.current()),
            (None, Some(seen_at)) => AsOf::Seen(seen_at),
            (None, None) => AsOf::Now,
        }
    }

    async fn read(&self, reader: &str, position: &Position, as_of: AsOf) -> Result<FeedRead, Error> {
        if let Position::Changes { applied, seen } = position {
            match self.store.hub().changes_after(*applied, seen) {
                Recent::Page(page) => return Ok(FeedRead::Page(page)),
                Recent::UpToDate(summary) => return Ok(FeedRead::UpToDate(summary)),
                Recent::Unknown => {}
            }
        }
        // The database's page cache may be older.
        as_of.check()?;
        self.store.feed_after(reader, position).await
    }
}

impl AsOf {
    /// The age at `now`.
    fn age(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Now => None,
            Self::Seen(seen_at) => Some(now.saturating_duration_since(seen_at)),
            Self::Upstream(current) => Some(current.age(now)),
        }
    }

    /// Fails if it was too long ago for a control plane.
    fn check(self) -> Result<(), Error> {
        match self {
            Self::Seen(seen_at) if seen_at.elapsed() > STALE_AFTER => Err(Error::Stale),
            Self::Now | Self::Seen(_) | Self::Upstream(_) => Ok(()),
        }
    }
}
