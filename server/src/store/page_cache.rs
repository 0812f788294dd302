//! Pages of the feed that were read from the database, kept for the next who asks, and the queue of those who wait for one.
//!
//! After an outage thousands of edges want the same pages at once. Each is read once, by one of them; and those who wait
//! are so many at most that what they get is still of use to them.

use super::Error;
use crate::net::fair_queue::{Bounds, FairQueue, Permit};
use bytes::Bytes;
use keyward_core::wire::cursor::{Cursor, Position};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The pages, and the turn to read one that is not among them.
#[derive(Debug)]
pub(super) struct Pages {
    /// One turn, so that whoever has it finds what the one before has read; in turn by token.
    turns: FairQueue<String>,
    kept: Mutex<VecDeque<(Position, Cursor, Bytes)>>,
}

/// The most who wait.
pub(super) const PLACES: usize = 2048;
/// So many places are left to those with other tokens.
const LEFT_TO_OTHERS: usize = PLACES / 4;

/// The most pages that are kept; each has [`PAGE_BYTES`](crate::store::page::PAGE_BYTES) at most.
const KEPT: usize = 64;

impl Pages {
    pub(super) fn new(places: usize) -> Self {
        let waiting_per_caller = places.saturating_sub(LEFT_TO_OTHERS);
        let bounds = Bounds { at_once: 1, at_once_per_caller: 1, waiting: places, waiting_per_caller };
        Self { turns: FairQueue::new(bounds), kept: Mutex::new(VecDeque::new()) }
    }

    /// The page that answers the position while the history has that head.
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

    /// Waits for the turn, unless too many wait already.
    pub(super) async fn turn(&self, reader: &str) -> Result<Permit<String>, Error> {
        self.turns.acquire(reader.to_owned()).await.map_err(|_| Error::Crowded)
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.turns.waiting()
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
        let turn = pages.turn("token:tok_1").await.unwrap();
        for reader in ["token:tok_1", "token:tok_2"] {
            assert!(matches!(pages.turn(reader).await, Err(Error::Crowded)));
        }
        drop(turn);
        assert!(pages.turn("token:tok_1").await.is_ok());
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
