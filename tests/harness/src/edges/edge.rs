//! One simulated edge: polls, applies, and polls again.

use super::transport::Connection;
use super::{Arrival, Entries, Memory, Shared};
use bytes::Bytes;
use keyward_core::FEED_PATH;
use keyward_core::wire::cursor::Position;
use keyward_core::wire::entry::{Body, Frames};
use keyward_core::wire::page::{Extent, Page};
use keyward_filter::engine::backoff::Backoff;
use keyward_filter::engine::fetcher::BACKOFF_MS;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How long a response may take beyond the requested wait, as in the filter.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// The sequence before the first complete snapshot.
const NOTHING: u64 = u64::MAX;

/// The state of an edge.
#[derive(Debug)]
pub(super) struct Edge {
    /// Duplicated from `place`, so that ten thousand edges can be checked without a lock.
    applied: AtomicU64,
    place: Mutex<Place>,
}

/// The position of an edge, and its history.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) position: Position,
    pub(super) arrivals: Vec<Arrival>,
    pub(super) entries: Entries,
}

impl Default for Edge {
    fn default() -> Self {
        let place = Place { position: Position::Nothing, arrivals: Vec::new(), entries: Entries::new() };
        Self { applied: AtomicU64::new(NOTHING), place: Mutex::new(place) }
    }
}

impl Edge {
    /// The sequence up to which everything is applied; `None` before the first complete snapshot.
    pub(super) fn applied(&self) -> Option<u64> {
        Some(self.applied.load(Ordering::Acquire)).filter(|applied| *applied != NOTHING)
    }

    pub(super) fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a page to the requested position; returns false if it does not follow on that.
    fn apply(&self, asked: Position, page: &[u8], shared: &Shared, records: bool) -> bool {
        let at = Instant::now();
        let Ok(page) = Page::decode(page) else { return false };
        if page.answers != asked && page.answers != Position::Nothing {
            return false;
        }
        let mut place = self.place();
        place.position = page.next();
        if shared.options.memory != Memory::Position {
            place.keep(&page, shared.options.memory);
        }
        if records && matches!(page.extent, Extent::Changes { .. }) {
            let mut versions = shared.versions.lock().unwrap_or_else(PoisonError::into_inner);
            versions.extend(Frames::new(page.entries).flatten().map(|frame| (frame.subject, frame.version)));
        }
        if let Position::Changes { applied, .. } = place.position {
            // A restarted history may be at a lower sequence than the previous one.
            if place.arrivals.last().is_none_or(|last| last.applied < applied) {
                place.arrivals.push(Arrival { at, applied });
            }
            self.applied.store(applied, Ordering::Release);
        }
        true
    }
}

impl Place {
    fn keep(&mut self, page: &Page<'_>, memory: Memory) {
        if let Extent::Snapshot { end } = page.extent {
            let start = page.start();
            self.entries.retain(|subject, _| *subject < start || end.is_some_and(|end| *subject >= end));
        }
        for frame in Frames::new(page.entries).flatten() {
            // As in the filter, an unreadable entry is stored as one that refuses.
            let body = match frame.decode() {
                Ok(Body::Removed) => {
                    self.entries.remove(&frame.subject);
                    continue;
                }
                body => body.ok().filter(|_| memory == Memory::Entries),
            };
            self.entries.insert(frame.subject, (frame.version, body));
        }
    }
}

/// Follows the feed until the runtime shuts down. The first edge records the versions that it sees.
pub(super) async fn follow(edge: Arc<Edge>, shared: Arc<Shared>, number: u32) {
    if let Some(rate) = shared.options.openings_per_s {
        sleep(Duration::from_secs(number.into()) / rate.get()).await;
    }
    // Any distinct seeds suffice; adjacent ones produce similar jitter, so they are spread (Fibonacci hashing).
    let seed = (u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut backoff = Backoff::new(BACKOFF_MS.0, BACKOFF_MS.1, seed);
    let mut connection = None;
    let mut from_the_start = false;
    loop {
        let asked = if from_the_start { Position::Nothing } else { edge.place().position };
        let counters = &shared.counters;
        let well = match poll(&mut connection, &shared, asked).await {
            Some((200, body)) => {
                from_the_start = !edge.apply(asked, &body, &shared, number == 0);
                let counter = if from_the_start { &counters.unfit } else { &counters.pages };
                counter.fetch_add(1, Ordering::Relaxed);
                counters.page_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
                !from_the_start
            }
            Some((status, _)) => {
                from_the_start |= status == 400;
                counters.refused.fetch_add(1, Ordering::Relaxed);
                false
            }
            None => {
                connection = None;
                counters.unanswered.fetch_add(1, Ordering::Relaxed);
                false
            }
        };
        if well {
            backoff.reset();
        } else {
            sleep(Duration::from_millis(backoff.after_failure())).await;
        }
    }
}

/// One poll, on a new connection if there is none; `None` on a timeout.
async fn poll(connection: &mut Option<Connection>, shared: &Shared, asked: Position) -> Option<(u16, Bytes)> {
    let connection = match connection {
        Some(connection) => connection,
        None => {
            let opened = Connection::open(shared.address, shared.options.protocol).await.ok()?;
            shared.counters.connections.fetch_add(1, Ordering::Relaxed);
            connection.insert(opened)
        }
    };
    let wait_s = shared.options.wait_s;
    let path = format!("{FEED_PATH}?after={asked}&wait={wait_s}");
    let patience = Duration::from_secs(wait_s.into()) + ANSWER_GRACE;
    timeout(patience, connection.get(&path, &shared.authorization)).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edges::{Counters, Options, Protocol};
    use keyward_core::wire::cursor::Cursor;

    fn shared() -> Shared {
        let options = Options {
            edges: 1,
            protocol: Protocol::Http2,
            memory: Memory::Position,
            wait_s: 1,
            threads: 1,
            openings_per_s: None,
        };
        let address = crate::ports::loopback(0);
        let authorization = String::new();
        Shared { address, authorization, options, counters: Counters::default(), versions: Mutex::default() }
    }

    #[test]
    fn page_moves_the_position_only_if_it_follows() {
        let (edge, shared) = (Edge::default(), shared());
        let head = Cursor { epoch: 1, sequence: 4, chain: [0; 16] };
        let snapshot = |answers| {
            Page { summary: None, answers, head, extent: Extent::Snapshot { end: None }, entries: &[] }.encode()
        };
        assert!(edge.apply(Position::Nothing, &snapshot(Position::Nothing), &shared, true));
        assert_eq!(edge.applied(), Some(4));
        let here = edge.place().position;
        let later = Cursor { sequence: 6, ..head };
        let changes = |answers| {
            Page { summary: None, answers, head: later, extent: Extent::Changes { to: 6 }, entries: &[] }.encode()
        };
        let elsewhere = Position::Changes { applied: 3, seen: head };
        assert!(!edge.apply(here, &changes(elsewhere), &shared, true));
        assert_eq!(edge.place().position, here);
        assert!(edge.apply(here, &changes(here), &shared, true));
        assert_eq!((edge.applied(), edge.place().arrivals.len()), (Some(6), 2));
        assert!(!edge.apply(edge.place().position, b"no page", &shared, true));
    }
}
