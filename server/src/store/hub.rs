//! The recent changes in memory, and the notification that wakes waiting polls.
//!
//! Thousands of edges wait for one change, so a page is encoded once and shared. Changes are published in commit order, whether this
//! server or another one wrote them. A gap costs cache hits, never correctness: the hub then starts again behind it.

use super::page::PageEntries;
use bytes::Bytes;
use keyward_core::key::digest::Digest;
use keyward_core::wire::cursor::{Cursor, Position};
use keyward_core::wire::page::{Extent, Page};
use keyward_core::wire::summary::Summary;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// One committed change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The sequence.
    pub sequence: u64,
    /// The chain at that sequence.
    pub chain: [u8; Cursor::CHAIN_LENGTH],
    /// The subject.
    pub subject: Digest,
    /// The entry with the new state, as it is sent.
    pub frame: Bytes,
    /// The summary of all records at that sequence; `None` if unknown.
    pub summary: Option<Summary>,
}

/// The result for a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recent {
    /// The page after the reader's cursor.
    Page(Bytes),
    /// The reader has everything that was published; with the summary of all records there.
    UpToDate(Option<Summary>),
    /// The cursor is not a recent one; the database may have it.
    Unknown,
}

/// The ring of recent changes.
#[derive(Debug)]
pub struct Hub {
    ring: Mutex<Ring>,
    head: watch::Sender<u64>,
}

/// The bounds of the ring and its pages.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The maximum of changes.
    pub changes: usize,
    /// The maximum of bytes of frames.
    pub frame_bytes: usize,
    /// The maximum of cached pages.
    pub pages: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { changes: 65_536, frame_bytes: 64 << 20, pages: 64 }
    }
}

#[derive(Debug)]
struct Ring {
    bounds: Bounds,
    /// The cursor before the first change in the ring.
    base: Cursor,
    /// The summary of all records there.
    base_summary: Option<Summary>,
    changes: VecDeque<Change>,
    frame_bytes: usize,
    /// The newest change of every subject in the ring.
    newest: HashMap<Digest, u64>,
    pages: VecDeque<(Position, Bytes)>,
}

impl Hub {
    /// A hub without changes before `base`.
    pub fn new(base: Cursor, summary: Option<Summary>, bounds: Bounds) -> Self {
        let ring = Ring {
            bounds,
            base,
            base_summary: summary,
            changes: VecDeque::new(),
            frame_bytes: 0,
            newest: HashMap::new(),
            pages: VecDeque::new(),
        };
        Self { ring: Mutex::new(ring), head: watch::Sender::new(base.sequence) }
    }

    /// Publishes changes in commit order, and wakes waiting polls.
    pub fn publish(&self, changes: Vec<Change>) {
        let Some(last) = changes.last().map(|change| change.sequence) else { return };
        self.ring().append(changes);
        self.head.send_replace(last);
    }

    /// Publishes changes that follow `known`, if that is the head; otherwise none, as other changes were published meanwhile or some are
    /// missing in between.
    pub fn publish_after(&self, known: &Cursor, changes: Vec<Change>) -> bool {
        let last = changes.last().map(|change| change.sequence);
        let mut ring = self.ring();
        if ring.head() != *known {
            return false;
        }
        if let Some(last) = last {
            ring.append(changes);
            drop(ring);
            self.head.send_replace(last);
        }
        true
    }

    /// Drops all changes and continues from `head`, if `known` is the head here: the database has another history, or too many changes.
    /// Waiting polls are woken to read the database.
    pub fn reset(&self, known: &Cursor, head: Cursor, summary: Option<Summary>) -> bool {
        let mut ring = self.ring();
        if ring.head() != *known {
            return false;
        }
        ring.reset(head, summary);
        drop(ring);
        self.head.send_replace(head.sequence);
        true
    }

    /// Notifies of each publication from now on; the value is the last sequence.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// The head of the history.
    pub fn head(&self) -> Cursor {
        self.ring().head()
    }

    /// The page for a reader that has applied everything up to a sequence, and has seen that head.
    pub fn changes_after(&self, applied: u64, seen: &Cursor) -> Recent {
        self.ring().page_after(applied, seen)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn append(&mut self, changes: Vec<Change>) {
        self.pages.clear();
        for change in changes {
            if change.sequence != self.head().sequence + 1 {
                self.reset(self.cursor(&change), change.summary);
                continue;
            }
            self.frame_bytes += change.frame.len();
            self.newest.insert(change.subject, change.sequence);
            self.changes.push_back(change);
        }
        while self.changes.len() > self.bounds.changes || self.frame_bytes > self.bounds.frame_bytes {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.base = self.cursor(&oldest);
            self.base_summary = oldest.summary;
            self.frame_bytes -= oldest.frame.len();
            if self.newest.get(&oldest.subject) == Some(&oldest.sequence) {
                self.newest.remove(&oldest.subject);
            }
        }
    }

    /// Nothing in the ring can be continued after a gap.
    fn reset(&mut self, base: Cursor, summary: Option<Summary>) {
        self.base = base;
        self.base_summary = summary;
        self.pages.clear();
        self.changes.clear();
        self.newest.clear();
        self.frame_bytes = 0;
    }

    fn page_after(&mut self, applied: u64, seen: &Cursor) -> Recent {
        let Some(first) = self.place_after(applied, seen) else { return Recent::Unknown };
        if first == self.changes.len() {
            return Recent::UpToDate(self.summary().filter(|_| *seen == self.head()));
        }
        let answers = Position::Changes { applied, seen: *seen };
        if let Some((_, page)) = self.pages.iter().find(|(position, _)| *position == answers) {
            return Recent::Page(page.clone());
        }
        let page = self.encode_page(answers, applied, first);
        if self.pages.len() >= self.bounds.pages {
            self.pages.pop_front();
        }
        self.pages.push_back((answers, page.clone()));
        Recent::Page(page)
    }

    /// The index of the first change after what was applied, if the head that was seen is one of this history.
    fn place_after(&self, applied: u64, seen: &Cursor) -> Option<usize> {
        let index = |sequence: u64| usize::try_from(sequence.checked_sub(self.base.sequence)?).ok();
        let first = index(applied)?;
        let known = match index(seen.sequence)?.checked_sub(1) {
            None => self.base,
            Some(index) => self.cursor(self.changes.get(index)?),
        };
        (known == *seen && first <= self.changes.len()).then_some(first)
    }

    fn encode_page(&self, answers: Position, applied: u64, first: usize) -> Bytes {
        let mut entries = PageEntries::default();
        let mut seen = HashSet::new();
        let mut to = applied;
        for change in self.changes.iter().skip(first) {
            if seen.insert(change.subject) && !entries.push(self.current_frame(change)) {
                break;
            }
            to = change.sequence;
        }
        let extent = Extent::Changes { to };
        Bytes::from(
            Page { answers, head: self.head(), summary: self.summary(), extent, entries: entries.as_slice() }.encode(),
        )
    }

    /// The current state of the subject.
    fn current_frame<'a>(&'a self, change: &'a Change) -> &'a [u8] {
        let newest = self.newest.get(&change.subject).and_then(|sequence| {
            let index = sequence.checked_sub(self.base.sequence + 1)?;
            self.changes.get(usize::try_from(index).ok()?)
        });
        &newest.unwrap_or(change).frame
    }

    fn head(&self) -> Cursor {
        self.changes.back().map_or(self.base, |change| self.cursor(change))
    }

    /// The summary of all records at the head.
    fn summary(&self) -> Option<Summary> {
        self.changes.back().map_or(self.base_summary, |change| change.summary)
    }

    fn cursor(&self, change: &Change) -> Cursor {
        Cursor { epoch: self.base.epoch, sequence: change.sequence, chain: change.chain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::page::PAGE_BYTES;
    use keyward_core::wire::cursor::chain;
    use keyward_core::wire::entry::{Body, Entry, Frames, KeyRecord};

    const START: Cursor = Cursor { epoch: 7, sequence: 0, chain: [0; 16] };

    /// A history to publish from.
    struct History(Cursor);

    impl History {
        fn change(&mut self, subject: u8, scope_bytes: usize) -> Change {
            let subject = Digest([subject; 32]);
            let record =
                KeyRecord { key_id: "k".into(), scopes: vec!["s".repeat(scope_bytes)], ..KeyRecord::default() };
            let mut frame = Vec::new();
            self.0.sequence += 1;
            Entry { subject, version: self.0.sequence, body: Body::Key(record) }.encode(&mut frame).unwrap();
            self.0.chain = chain(&self.0.chain, &frame);
            let summary = Some(Summary::of(&frame));
            Change { sequence: self.0.sequence, chain: self.0.chain, subject, frame: frame.into(), summary }
        }
    }

    fn hub(changes: usize) -> (Hub, History) {
        (Hub::new(START, None, Bounds { changes, ..Bounds::default() }), History(START))
    }

    fn page(recent: Recent) -> Bytes {
        match recent {
            Recent::Page(page) => page,
            other => panic!("no page: {other:?}"),
        }
    }

    fn versions(page: &Bytes) -> (Position, Vec<(u8, u64)>) {
        let page = Page::decode(page).unwrap();
        let versions = Frames::new(page.entries).map(|frame| frame.map(|f| (f.subject.0[0], f.version)).unwrap());
        (page.next(), versions.collect())
    }

    /// What follows for a reader that stands at the head that it saw.
    fn after(hub: &Hub, cursor: &Cursor) -> Recent {
        hub.changes_after(cursor.sequence, cursor)
    }

    fn is_up_to_date(hub: &Hub, cursor: &Cursor) -> bool {
        matches!(after(hub, cursor), Recent::UpToDate(_))
    }

    fn at(applied: u64, seen: Cursor) -> Position {
        Position::Changes { applied, seen }
    }

    #[test]
    fn a_page_has_each_subject_once_in_its_current_state() {
        let (hub, mut history) = hub(10);
        hub.publish([1, 2, 1, 3].map(|subject| history.change(subject, 1)).into());
        let (to, entries) = versions(&page(after(&hub, &START)));
        assert_eq!(to, at(4, history.0));
        assert_eq!(entries, [(1, 3), (2, 2), (3, 4)]);
        assert!(is_up_to_date(&hub, &history.0));
    }

    #[test]
    fn a_page_tells_the_summary_of_its_head_and_a_reader_at_the_head_gets_the_same() {
        let (hub, mut history) = hub(2);
        for subject in 1..=4 {
            let changes: Vec<_> = [0, 10].map(|add| history.change(subject + add, 1)).into();
            let (before, last) = (hub.head(), changes[1].summary);
            hub.publish(changes);
            assert!(last.is_some());
            assert_eq!(Page::decode(&page(after(&hub, &before))).unwrap().summary, last);
            assert_eq!(after(&hub, &history.0), Recent::UpToDate(last));
        }
        let (known, summary) = (hub.head(), Some(Summary::of(b"?")));
        assert!(hub.reset(&known, Cursor { chain: [9; 16], ..known }, summary));
        assert_eq!(after(&hub, &hub.head()), Recent::UpToDate(summary));
    }

    #[test]
    fn readers_who_stand_at_one_place_share_one_page() {
        let (hub, mut history) = hub(10);
        hub.publish(vec![history.change(1, 1)]);
        let (first, second) = (page(after(&hub, &START)), page(after(&hub, &START)));
        assert_eq!(first.as_ptr(), second.as_ptr());
        hub.publish(vec![history.change(2, 1)]);
        assert_eq!(versions(&page(after(&hub, &START))).0, at(2, history.0));
    }

    #[test]
    fn a_cursor_of_another_history_or_before_the_ring_is_unknown() {
        let (hub, mut history) = hub(2);
        hub.publish([1, 2, 3].map(|subject| history.change(subject, 1)).into());
        assert_eq!(after(&hub, &START), Recent::Unknown);
        for other in [
            Cursor { epoch: 8, ..history.0 },
            Cursor { chain: [9; 16], ..history.0 },
            Cursor { sequence: 99, ..history.0 },
        ] {
            assert_eq!(after(&hub, &other), Recent::Unknown);
        }
        assert!(is_up_to_date(&hub, &history.0));
    }

    #[test]
    fn a_page_that_is_full_ends_before_what_does_not_fit() {
        let (hub, mut history) = hub(100);
        hub.publish((0..20).map(|subject| history.change(subject, 60_000)).collect());
        let first = page(after(&hub, &START));
        assert!(first.len() <= PAGE_BYTES);
        let (to, entries) = versions(&first);
        assert_eq!((to, entries.len()), (at(4, history.0), 4));
        let (to, rest) = versions(&page(hub.changes_after(17, &history.0)));
        assert_eq!((to, rest.len()), (at(20, history.0), 3));
    }

    #[test]
    fn the_ring_is_bounded_in_bytes_too_and_keeps_the_newest_state_of_what_it_has() {
        let bounds = Bounds { frame_bytes: 200_000, ..Bounds::default() };
        let (hub, mut history) = (Hub::new(START, None, bounds), History(START));
        let mut cursors = vec![START];
        for subject in [1, 1, 2, 1, 3] {
            hub.publish(vec![history.change(subject, 60_000)]);
            cursors.push(history.0);
        }
        assert_eq!(after(&hub, &cursors[1]), Recent::Unknown);
        assert_eq!(versions(&page(after(&hub, &cursors[2]))).1, [(2, 3), (1, 4), (3, 5)]);
    }

    #[test]
    fn after_a_gap_only_what_follows_it_is_served() {
        let (hub, mut history) = hub(10);
        hub.publish(vec![history.change(1, 1)]);
        let before = history.0;
        let _missed = history.change(2, 1);
        hub.publish(vec![history.change(3, 1)]);
        let after_gap = history.0;
        hub.publish(vec![history.change(4, 1)]);
        assert_eq!(after(&hub, &before), Recent::Unknown);
        assert_eq!(versions(&page(after(&hub, &after_gap))).1, [(4, 4)]);
    }

    #[test]
    fn what_does_not_follow_the_head_is_left_to_whoever_reads_the_database() {
        let (hub, mut history) = hub(10);
        let (first, second) = (history.change(1, 1), history.change(2, 1));
        assert!(hub.publish_after(&START, vec![first]));
        let head = hub.head();
        assert!(!hub.publish_after(&START, vec![second.clone()]));
        assert!(!hub.publish_after(&history.0, vec![second.clone()]));
        assert_eq!(hub.head(), head);
        assert!(hub.publish_after(&head, vec![second]));
        assert_eq!(versions(&page(after(&hub, &START))).0, at(2, history.0));
    }

    #[test]
    fn a_hub_of_another_history_forgets_its_own_and_wakes_everyone() {
        let (hub, mut history) = hub(10);
        hub.publish(vec![history.change(1, 1), history.change(2, 1)]);
        let _kept = page(after(&hub, &START));
        let known = hub.head();
        let bell = hub.subscribe();
        let restored = Cursor { chain: [9; 16], ..START };
        assert!(!hub.reset(&START, restored, None));
        assert!(hub.reset(&known, restored, None));
        assert!(bell.has_changed().unwrap());
        assert_eq!((after(&hub, &known), after(&hub, &START)), (Recent::Unknown, Recent::Unknown));
        assert!(is_up_to_date(&hub, &restored));
    }

    #[test]
    fn a_publication_rings_the_bell_and_an_empty_one_does_not() {
        let (hub, mut history) = hub(10);
        let bell = hub.subscribe();
        hub.publish(vec![]);
        assert!(!bell.has_changed().unwrap());
        hub.publish(vec![history.change(1, 1)]);
        assert!(bell.has_changed().unwrap());
    }
}
