//! Answers a reader of the feed: from memory where its cursor is a recent one, else from the database; and where there
//! is nothing new, as soon as there is.

use crate::hub::Recent;
use crate::store::{Error, Found, Store};
use bytes::Bytes;
use keyward_contract::cursor::Position;
use keyward_contract::page::{Extent, Page};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The feed, for as long as the process serves.
#[derive(Clone, Debug)]
pub struct Feed {
    store: Store,
    shutdown: watch::Receiver<bool>,
}

impl Feed {
    /// A feed of that store; once `shutdown` is true, nobody waits any longer.
    pub fn new(store: Store, shutdown: watch::Receiver<bool>) -> Self {
        Self { store, shutdown }
    }

    /// The encoded page that follows the position. Where nothing does, it waits that long and then answers with a page
    /// of no changes; and sooner once `end` rings.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn page_after(
        &self,
        position: Position,
        wait: Duration,
        mut end: watch::Receiver<()>,
    ) -> Result<Bytes, Error> {
        let deadline = Instant::now() + wait;
        let mut shutdown = self.shutdown.clone();
        let mut published = self.store.hub().subscribe();
        loop {
            // Whatever is published from here on rings, so nothing falls between looking and waiting.
            published.mark_unchanged();
            if let Some(page) = self.look(&position).await? {
                return Ok(page);
            }
            // What follows nothing or continues a snapshot is always a page.
            let Position::Changes { applied, seen } = position else { continue };
            let nothing = || {
                let extent = Extent::Changes { to: applied };
                Bytes::from(Page { answers: position, head: seen, extent, entries: &[] }.encode())
            };
            tracing::trace!(sequence = applied, ?wait, "waiting for a change");
            tokio::select! {
                biased;
                // Before any news: those are not for a token that was removed.
                _ = end.changed() => return Ok(nothing()),
                _ = published.changed() => {}
                _ = shutdown.wait_for(|shutdown| *shutdown) => return Ok(nothing()),
                () = sleep_until(deadline) => return Ok(nothing()),
            }
        }
    }

    async fn look(&self, position: &Position) -> Result<Option<Bytes>, Error> {
        if let Position::Changes { applied, seen } = position {
            match self.store.hub().changes_after(*applied, seen) {
                Recent::Page(page) => return Ok(Some(page)),
                Recent::UpToDate => return Ok(None),
                Recent::Unknown => {}
            }
        }
        Ok(match self.store.feed_after(position).await? {
            Found::Page(page) => Some(page),
            Found::UpToDate => None,
        })
    }
}
