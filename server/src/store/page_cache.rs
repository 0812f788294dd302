//! A cache of feed pages read from the database, and the queue of readers that wait for one.
//!
//! After an outage thousands of edges request the same pages at once. Each page is read once, by one of them, and the queue is bounded
//! so that waiting readers are served in time.

use super::Error;
use crate::net::fair_queue::{Bounds, FairQueue, Permit};
use bytes::Bytes;
use keyward_core::wire::cursor::{Cursor, Position};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The cached pages, and the permit to read another one.
#[derive(Debug)]
pub(super) struct Pages {
    /// One permit, so that its holder finds what the one before has read.
    queue: FairQueue<String>,
    kept: Mutex<VecDeque<(Position, Cursor, Bytes)>>,
}

/// The maximum of waiting readers.
pub(super) const PLACES: usize = 2048;
/// The places reserved for readers with other tokens.
const LEFT_TO_OTHERS: usize = PLACES / 4;

/// The maximum of cached pages; each has [`PAGE_BYTES`](crate::store::page::PAGE_BYTES) at most.
const KEPT: usize = 64;

impl Pages {
    pub(super) fn new(places: usize) -> Self {
        let waiting_per_caller = places.saturating_sub(LEFT_TO_OTHERS);
        let bounds = Bounds { at_once: 1, at_once_per_caller: 1, waiting: places, waiting_per_caller };
        Self { queue: FairQueue::new(bounds), kept: Mutex::new(VecDeque::new()) }
    }

    /// The page for the position while the history has that head.
    pub(super) fn find(&self, answers: &Position, head: &Cursor) -> Option<Bytes> {
        let kept = self.kept();
        let found = kept.iter().find(|(position, at, _)| (position, at) == (answers, head));
        found.map(|(_, _, page)| page.clone())
    }

    pub(super) fn keep(&self, answers: Position, head: Cursor, page: Bytes) {
        let mut kept = self.kept();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((answers, head, page));
    }

    /// Waits for the permit; fails if the queue is full.
    pub(super) async fn permit(&self, reader: &str) -> Result<Permit<String>, Error> {
        self.queue.acquire(reader.to_owned()).await.map_err(|_| Error::Crowded)
    }

    /// The number of waiting requests.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Position, Cursor, Bytes)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(sequence: u64) -> Cursor {
        Cursor { epoch: 1, sequence, chain: [0; 16] }
    }

    #[tokio::test]
    async fn who_finds_every_place_taken_is_sent_away() {
        let pages = Pages::new(0);
        let permit = pages.permit("token:tok_1").await.unwrap();
        for reader in ["token:tok_1", "token:tok_2"] {
            assert!(matches!(pages.permit(reader).await, Err(Error::Crowded)));
        }
        drop(permit);
        assert!(pages.permit("token:tok_1").await.is_ok());
    }

    #[test]
    fn a_page_is_kept_for_its_head_until_others_need_the_room() {
        let pages = Pages::new(1);
        pages.keep(Position::Nothing, head(1), Bytes::from_static(b"first"));
        assert_eq!(pages.find(&Position::Nothing, &head(1)), Some(Bytes::from_static(b"first")));
        assert_eq!(pages.find(&Position::Nothing, &head(2)), None);
        for sequence in 2..=u64::try_from(KEPT).unwrap() + 1 {
            pages.keep(Position::Nothing, head(sequence), Bytes::new());
        }
        assert_eq!(pages.find(&Position::Nothing, &head(1)), None);
        assert!(pages.find(&Position::Nothing, &head(2)).is_some());
    }
}
