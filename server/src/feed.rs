//! Answers a reader of the feed: from memory where its cursor is a recent one, else from the database; and where there
//! is nothing new, as soon as there is.
//!
//! Nobody is told that there is nothing new by a server that cannot know: see [`OUT_OF_SIGHT_AFTER`].

pub mod upstream_status;

use crate::store::hub::Recent;
use crate::store::{Error, Found, Store};
use bytes::Bytes;
use keyward_core::wire::cursor::Position;
use keyward_core::wire::page::{Extent, Page};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use upstream_status::{Current, UpstreamStatus};

/// The feed, for as long as the process serves.
#[derive(Clone, Debug)]
pub struct Feed {
    store: Store,
    shutdown: watch::Receiver<bool>,
    /// A relay's, with the control plane.
    upstream_status: Option<Arc<UpstreamStatus>>,
}

/// An answer to a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The page, encoded.
    pub page: Bytes,
    /// How long ago the control plane was known to have nothing beyond it; `None` where nobody else could have changed
    /// anything.
    pub age: Option<Duration>,
}

/// As of when what is found is all there is.
#[derive(Clone, Copy, Debug)]
enum AsOf {
    /// Whenever it is found.
    Now,
    /// When this server last saw the database that it shares with others.
    Seen(Instant),
    /// When a relay heard of the control plane.
    Heard(Current),
}

/// After how long without a look at its database a server says no more that there is nothing new, and serves no snapshot: an edge
/// does better to ask another one. Changes that it has are told all the same, with their age. A relay is there to go on
/// without the control plane, and is held to nothing of this.
pub const OUT_OF_SIGHT_AFTER: Duration = Duration::from_secs(10);

impl Feed {
    /// A feed of that store; once `shutdown` is true, nobody waits any longer.
    pub fn new(store: Store, shutdown: watch::Receiver<bool>) -> Self {
        Self { store, shutdown, upstream_status: None }
    }

    /// The feed of a relay, which is as old as its contact with the control plane.
    #[must_use]
    pub fn of_relay(self, upstream_status: Arc<UpstreamStatus>) -> Self {
        Self { upstream_status: Some(upstream_status), ..self }
    }

    /// The page that follows the position, for a reader that is known by its token. Where nothing does, it waits that long and then answers with a page
    /// of no changes; and sooner once `end` rings.
    ///
    /// # Errors
    /// If the database cannot be read, or was out of sight for too long; or if a relay has nothing to serve yet, or less
    /// than the reader knows.
    pub async fn page_after(
        &self,
        reader: &str,
        position: Position,
        wait: Duration,
        mut end: watch::Receiver<()>,
    ) -> Result<Answered, Error> {
        let deadline = Instant::now() + wait;
        let mut shutdown = self.shutdown.clone();
        let mut published = self.store.hub().subscribe();
        if let Some(upstream_status) = &self.upstream_status {
            self.reach(upstream_status, &position, deadline, &mut end).await?;
        }
        let mut is_over = false;
        loop {
            // Whatever is published from here on rings, so nothing falls between looking and waiting.
            published.mark_unchanged();
            // Before looking: what is found is as new as that, or newer.
            let as_of = self.as_of();
            let answered = |page| Answered { page, age: as_of.age(Instant::now()) };
            let summary = match self.look(reader, &position, as_of).await? {
                Found::Page(page) => return Ok(answered(page)),
                Found::UpToDate(summary) => summary,
            };
            // What follows nothing or continues a snapshot is always a page.
            let Position::Changes { applied, seen } = position else { continue };
            let nothing = || {
                let extent = Extent::Changes { to: applied };
                answered(Bytes::from(Page { answers: position, head: seen, summary, extent, entries: &[] }.encode()))
            };
            if is_over {
                as_of.check()?;
                return Ok(nothing());
            }
            tracing::trace!(sequence = applied, ?wait, "waiting for a change");
            tokio::select! {
                biased;
                // Before any news: those are not for a token that was removed.
                _ = end.changed() => return Ok(nothing()),
                _ = published.changed() => {}
                _ = shutdown.wait_for(|shutdown| *shutdown) => return Ok(nothing()),
                // More is known by now of what there is, and is told once it was looked again.
                () = sleep_until(deadline) => {
                    if let AsOf::Now = as_of {
                        return Ok(nothing());
                    }
                    is_over = true;
                }
            }
        }
    }

    /// Waits until a relay has what the reader knows, or knows that the control plane does not have it either: a snapshot of
    /// less would take the reader back in time.
    async fn reach(
        &self,
        upstream_status: &UpstreamStatus,
        position: &Position,
        deadline: Instant,
        end: &mut watch::Receiver<()>,
    ) -> Result<(), Error> {
        let asked = Instant::now();
        let mut shutdown = self.shutdown.clone();
        let mut heard = upstream_status.subscribe();
        loop {
            heard.mark_unchanged();
            if !upstream_status.is_complete() {
                return Err(Error::NoSnapshot);
            }
            let (Position::Changes { seen, .. } | Position::Snapshot { seen, .. }) = position else { return Ok(()) };
            let head = self.store.hub().head();
            // A restored database goes on with the numbers that it had: one that is not higher can be of a later history.
            let is_ahead = seen.epoch != head.epoch
                || seen.sequence > head.sequence
                || (*seen != head && self.store.is_of_another_history(seen).await?);
            if !is_ahead || upstream_status.current().is_later_than(asked) {
                return Ok(());
            }
            upstream_status.hurry();
            tokio::select! {
                biased;
                _ = end.changed() => return Err(Error::Behind),
                _ = heard.changed() => {}
                _ = shutdown.wait_for(|shutdown| *shutdown) => return Err(Error::Behind),
                () = sleep_until(deadline) => return Err(Error::Behind),
            }
        }
    }

    fn as_of(&self) -> AsOf {
        match (&self.upstream_status, self.store.seen_at()) {
            (Some(upstream_status), _) => AsOf::Heard(upstream_status.current()),
            (None, Some(seen_at)) => AsOf::Seen(seen_at),
            (None, None) => AsOf::Now,
        }
    }

    async fn look(&self, reader: &str, position: &Position, as_of: AsOf) -> Result<Found, Error> {
        if let Position::Changes { applied, seen } = position {
            match self.store.hub().changes_after(*applied, seen) {
                Recent::Page(page) => return Ok(Found::Page(page)),
                Recent::UpToDate(summary) => return Ok(Found::UpToDate(summary)),
                Recent::Unknown => {}
            }
        }
        // The store has pages from before.
        as_of.check()?;
        self.store.feed_after(reader, position).await
    }
}

impl AsOf {
    /// How long before `now` that was.
    fn age(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Now => None,
            Self::Seen(seen_at) => Some(now.saturating_duration_since(seen_at)),
            Self::Heard(current) => Some(current.age(now)),
        }
    }

    /// Whether it was too long ago for a control plane.
    fn check(self) -> Result<(), Error> {
        match self {
            Self::Seen(seen_at) if seen_at.elapsed() > OUT_OF_SIGHT_AFTER => Err(Error::Stale),
            Self::Now | Self::Seen(_) | Self::Heard(_) => Ok(()),
        }
    }
}
