//! A property test of the feed: fetchers that interleave write by write, die at any point, receive old pages, and
//! follow a database that is restored from a backup. The model remembers what was once revoked, and each plan's
//! content. Records are also corrupted in memory, and pages lack a record although their checksum is valid: with one
//! fetcher left, the edge must detect and repair that; without such faults, it must never report one.

use crate::engine::audit::{Audit, Compared};
use crate::engine::bucket::{self, Stamp};
use crate::engine::feed::{Application, Asked, Now, Progress};
use crate::engine::snapshot::{Found, PlanState, Snapshot};
use crate::engine::store::memory::MemoryStore;
use crate::engine::store::{Names, SharedStore};
use keyward_core::key::digest::Digest;
use keyward_core::key::limit::{Limit, Limits};
use keyward_core::wire::cursor::{Cursor, Position, chain};
use keyward_core::wire::entry::{Body, Entry, Frames, KeyRecord, PlanRecord};
use keyward_core::wire::page::{Extent, Page};
use keyward_core::wire::summary::Summary;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

const BUCKET_BITS: u32 = 2;
const KEYS: u8 = 12;
/// Every third key is on the first plan, every third on the second, the others have no plan.
const PLANS: [&str; 2] = ["a", "b"];
const FETCHERS: usize = 3;
/// A bucket's stamp and its checksum.
const BUCKET_HEADER: usize = 4 + 8 + 16;
const CHANGES_PER_PAGE: usize = 2;
const ENTRIES_PER_PAGE: usize = 3;
const NOW: Now = Now { monotonic_ms: 1_000, wall_ms: 1_000 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Active,
    Paused,
    Revoked,
    Removed,
    /// A plan that allows this many requests a second.
    Plan(u32),
}

/// A control plane that keeps every change, as the real one does.
#[derive(Clone, Default)]
struct Database {
    log: Vec<(Digest, [u8; 16])>,
    current: BTreeMap<Digest, (u64, State)>,
}

impl Database {
    fn change(&mut self, subject: Digest, state: State) {
        let version = self.log.len() as u64 + 1;
        let link = chain(&self.cursor().chain, &encoded(subject, version, state));
        self.log.push((subject, link));
        self.current.insert(subject, (version, state));
    }

    fn cursor(&self) -> Cursor {
        self.cursor_at(self.log.len())
    }

    fn cursor_at(&self, sequence: usize) -> Cursor {
        let chain = sequence.checked_sub(1).map_or([0; 16], |n| self.log[n].1);
        Cursor { epoch: 1, sequence: sequence as u64, chain }
    }

    fn fits(&self, cursor: &Cursor) -> bool {
        let sequence = usize::try_from(cursor.sequence).unwrap();
        sequence <= self.log.len() && self.cursor_at(sequence) == *cursor
    }

    fn answer(&self, position: Position) -> Vec<u8> {
        let answers = match position {
            Position::Changes { seen, .. } | Position::Snapshot { seen, .. } if self.fits(&seen) => position,
            _ => Position::Nothing,
        };
        match answers {
            Position::Changes { applied, .. } => self.changes(answers, applied),
            _ => self.snapshot(answers),
        }
    }

    fn changes(&self, answers: Position, applied: u64) -> Vec<u8> {
        let from = usize::try_from(applied).unwrap();
        let to = (from + CHANGES_PER_PAGE).min(self.log.len());
        let subjects: BTreeSet<Digest> = self.log[from..to].iter().map(|(subject, _)| *subject).collect();
        let entries: Vec<u8> = subjects.iter().flat_map(|subject| self.entry(subject)).collect();
        Page {
            summary: self.summary(),
            answers,
            head: self.cursor(),
            extent: Extent::Changes { to: to as u64 },
            entries: &entries,
        }
        .encode()
    }

    fn snapshot(&self, answers: Position) -> Vec<u8> {
        let start = match answers {
            Position::Snapshot { next, .. } => next,
            _ => Digest([0; 32]),
        };
        let mut subjects = self.current.range(start..).filter(|(_, (_, state))| *state != State::Removed);
        let page: Vec<Digest> = subjects.by_ref().take(ENTRIES_PER_PAGE).map(|(subject, _)| *subject).collect();
        let end = subjects.next().map(|(subject, _)| *subject);
        let entries: Vec<u8> = page.iter().flat_map(|subject| self.entry(subject)).collect();
        Page {
            summary: self.summary(),
            answers,
            head: self.cursor(),
            extent: Extent::Snapshot { end },
            entries: &entries,
        }
        .encode()
    }

    fn entry(&self, subject: &Digest) -> Vec<u8> {
        let (version, state) = self.current[subject];
        encoded(*subject, version, state)
    }

    fn summary(&self) -> Option<Summary> {
        let there = self.current.iter().filter(|(_, (_, state))| *state != State::Removed);
        Some(there.fold(Summary::EMPTY, |sum, (subject, _)| sum.plus(Summary::of(&self.entry(subject)))))
    }

    fn state(&self, subject: &Digest) -> Option<State> {
        self.current.get(subject).map(|(_, state)| *state)
    }
}

fn encoded(subject: Digest, version: u64, state: State) -> Vec<u8> {
    let revoked_at_ms = (state == State::Revoked).then_some(NOW.wall_ms);
    let body = match state {
        State::Removed => Body::Removed,
        State::Plan(requests) => Body::Plan(plan(requests)),
        State::Active | State::Paused | State::Revoked => {
            let (plan, paused) = (plan_of(&subject).map(str::to_owned), state == State::Paused);
            Body::Key(KeyRecord { key_id: "k".into(), revoked_at_ms, plan, paused, ..KeyRecord::default() })
        }
    };
    let mut out = Vec::new();
    Entry { subject, version, body }.encode(&mut out).unwrap();
    out
}

/// Adjacent keys, so that buckets hold several and pages of a snapshot split buckets.
fn subject(key: u8) -> Digest {
    let mut bytes = [key; 32];
    bytes[0] = key.wrapping_mul(21);
    Digest(bytes)
}

fn plan_of(key: &Digest) -> Option<&'static str> {
    PLANS.get(usize::from(key.0[1]) % (PLANS.len() + 1)).copied()
}

fn plan(requests: u32) -> PlanRecord {
    PlanRecord { limits: Some(Limits::new(vec![Limit::new(requests, 1000).unwrap()]).unwrap()) }
}

#[derive(Clone, Debug)]
enum Op {
    Plan(usize, u32),
    Create(u8),
    Pause(u8),
    Resume(u8),
    Revoke(u8),
    Remove(u8),
    Backup,
    Restore,
    Poll(usize),
    /// Requests the page that follows the one being applied.
    PollAhead(usize),
    Replay(usize, usize),
    Step(usize, usize),
    Die(usize),
    /// The record of a key in shared data is lost, or altered into another state.
    Rot(u8, Rot),
    /// The next response lacks its first entry.
    Lack,
    Look(u8),
}

#[derive(Clone, Copy, Debug)]
enum Rot {
    Lost,
    Altered,
    OfAnother,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = || 0..KEYS;
    let fetcher = || 0..FETCHERS;
    let op = prop_oneof![
        2 => (0..PLANS.len(), any::<u32>()).prop_map(|(n, requests)| Op::Plan(n, requests)),
        4 => key().prop_map(Op::Create),
        2 => key().prop_map(Op::Pause),
        2 => key().prop_map(Op::Resume),
        3 => key().prop_map(Op::Revoke),
        1 => key().prop_map(Op::Remove),
        1 => Just(Op::Backup),
        1 => Just(Op::Restore),
        8 => fetcher().prop_map(Op::Poll),
        4 => fetcher().prop_map(Op::PollAhead),
        2 => (fetcher(), any::<prop::sample::Index>()).prop_map(|(f, n)| Op::Replay(f, n.index(64))),
        16 => (fetcher(), 1..4usize).prop_map(|(f, n)| Op::Step(f, n)),
        2 => fetcher().prop_map(Op::Die),
        1 => (key(), prop_oneof![Just(Rot::Lost), Just(Rot::Altered), Just(Rot::OfAnother)])
            .prop_map(|(key, rot)| Op::Rot(key, rot)),
        1 => Just(Op::Lack),
        6 => key().prop_map(Op::Look),
    ];
    prop::collection::vec(op, 1..160)
}

#[derive(Default)]
struct Fetcher {
    from_the_start: bool,
    audit: Audit,
    compared: Option<Compared>,
    applying: Option<Application>,
    /// The time of the page, the cursor position that it follows, and the page.
    ahead: Option<(usize, Position, Vec<u8>)>,
}

struct World {
    database: Database,
    backup: Database,
    /// Every page that may still be in flight, with its time.
    pages: Vec<(usize, Vec<u8>)>,
    /// When a key was last revoked.
    revoked_at: HashMap<Digest, usize>,
    time: usize,
    store: MemoryStore,
    names: Names,
    fetchers: Vec<Fetcher>,
    worker: Snapshot,
    seen_revoked: BTreeSet<Digest>,
    stamps: HashMap<u32, Stamp>,
    /// Whether the next response lacks an entry, and whether one ever did.
    lacks: bool,
    ever_lacked: bool,
    ever_rotted: bool,
}

impl World {
    fn new() -> Self {
        let names = Names::new("c", "a", BUCKET_BITS);
        Self {
            database: Database::default(),
            backup: Database::default(),
            pages: Vec::new(),
            revoked_at: HashMap::new(),
            time: 0,
            store: MemoryStore::default(),
            worker: Snapshot::new(names.clone(), BUCKET_BITS, 100),
            names,
            fetchers: (0..FETCHERS).map(|_| Fetcher::default()).collect(),
            seen_revoked: BTreeSet::new(),
            stamps: HashMap::new(),
            lacks: false,
            ever_lacked: false,
            ever_rotted: false,
        }
    }

    fn run(&mut self, op: &Op) {
        self.time += 1;
        match *op {
            Op::Plan(n, requests) => self.database.change(Digest::of_plan(PLANS[n]), State::Plan(requests)),
            Op::Create(key) => {
                if self.database.state(&subject(key)).is_none() {
                    // A plan precedes its keys, as in the real feed.
                    if let Some(plan) = plan_of(&subject(key)).map(Digest::of_plan)
                        && self.database.state(&plan).is_none()
                    {
                        self.database.change(plan, State::Plan(0));
                    }
                    self.database.change(subject(key), State::Active);
                }
            }
            Op::Pause(key) => {
                if self.database.state(&subject(key)) == Some(State::Active) {
                    self.database.change(subject(key), State::Paused);
                }
            }
            Op::Resume(key) => {
                if self.database.state(&subject(key)) == Some(State::Paused) {
                    self.database.change(subject(key), State::Active);
                }
            }
            Op::Revoke(key) => {
                if matches!(self.database.state(&subject(key)), Some(State::Active | State::Paused)) {
                    self.database.change(subject(key), State::Revoked);
                    self.revoked_at.insert(subject(key), self.time);
                }
            }
            Op::Remove(key) => {
                // A record is removed after its retention; no backup is that old, and no page is in flight for that
                // long.
                let subject = subject(key);
                if self.database.state(&subject) == Some(State::Revoked)
                    && self.backup.state(&subject) == Some(State::Revoked)
                {
                    self.database.change(subject, State::Removed);
                    let revoked_at = self.revoked_at.get(&subject).copied().unwrap_or_default();
                    self.pages.retain(|(made_at, _)| *made_at > revoked_at);
                    for fetcher in &mut self.fetchers {
                        fetcher.ahead.take_if(|(made_at, ..)| *made_at <= revoked_at);
                    }
                }
            }
            Op::Backup => self.backup = self.database.clone(),
            Op::Restore => self.database = self.backup.clone(),
            Op::Poll(n) => {
                let from_the_start = self.fetchers[n].from_the_start;
                let asked = Asked::read(&self.store, &self.names, from_the_start);
                let page = self.answer(asked.position);
                self.begin(n, &asked, &page);
                self.pages.push((self.time, page));
            }
            Op::PollAhead(n) => {
                let position = self.fetchers[n].applying.as_ref().and_then(Application::followed_at);
                self.fetchers[n].ahead = position.map(|position| (self.time, position, self.answer(position)));
            }
            Op::Replay(n, page) => {
                if let Some((_, page)) = self.pages.get(page).cloned() {
                    let asked = Asked::read(&self.store, &self.names, false);
                    self.begin(n, &asked, &page);
                }
            }
            Op::Step(n, steps) => (0..steps).for_each(|_| self.step(n)),
            Op::Die(n) => self.fetchers[n] = Fetcher::default(),
            Op::Rot(key, rot) => self.rot(key, rot),
            Op::Lack => self.lacks = true,
            Op::Look(key) => {
                self.worker.poll(&self.store, NOW.monotonic_ms);
                self.worker.find(&self.store, &subject(key), [subject(key)]);
            }
        }
        self.check_invariants();
    }

    fn answer(&mut self, position: Position) -> Vec<u8> {
        let page = self.database.answer(position);
        if !std::mem::take(&mut self.lacks) {
            return page;
        }
        self.ever_lacked = true;
        let page = Page::decode(&page).unwrap();
        let first = Frames::new(page.entries).next().map_or(0, |frame| frame.unwrap().encoded_length());
        Page { entries: &page.entries[first..], ..page }.encode()
    }

    fn rot(&mut self, key: u8, rot: Rot) {
        let name = self.names.bucket(subject(key).leading_bits(BUCKET_BITS));
        let Some(stored) = self.store.get(&name) else { return };
        let (header, frames) = stored.bytes.split_at(BUCKET_HEADER);
        let mut rotted = header.to_vec();
        for frame in Frames::new(frames) {
            let frame = frame.unwrap();
            let (mut record, mut subject) = (Vec::new(), frame.subject);
            frame.encode_with_version(frame.version, &mut record);
            if subject == self::subject(key) {
                let Ok(Body::Key(found)) = frame.decode() else { return };
                let other = if found.revoked_at_ms.is_some() { State::Active } else { State::Revoked };
                match rot {
                    Rot::Lost => record.clear(),
                    Rot::Altered => record = encoded(subject, frame.version, other),
                    Rot::OfAnother => {
                        subject.0[31] ^= 1;
                        record = encoded(subject, frame.version, other);
                    }
                }
            }
            rotted.extend_from_slice(&record);
        }
        if rotted != stored.bytes {
            self.ever_rotted = true;
            self.store.put(&name, &rotted, Some(stored.tag)).unwrap();
        }
    }

    fn is_damaged(&self, bucket: u32) -> bool {
        let stored = self.store.get(&self.names.bucket(bucket));
        stored.is_some_and(|stored| bucket::inspect(&stored.bytes, 0).is_none())
    }

    fn begin(&mut self, n: usize, asked: &Asked, page: &[u8]) {
        match Application::begin(&self.store, &self.names, BUCKET_BITS, asked, page.to_vec()) {
            Ok(application) => {
                let mut audit = std::mem::take(&mut self.fetchers[n].audit);
                if !application.is_of_changes() {
                    audit.stop();
                }
                self.fetchers[n] = Fetcher { applying: Some(application), audit, ..Fetcher::default() };
            }
            Err(_) => self.fetchers[n].from_the_start = true,
        }
    }

    fn step(&mut self, n: usize) {
        let fetcher = &mut self.fetchers[n];
        if let Some(application) = &mut fetcher.applying {
            let progress = application.step(&self.store, &self.names, NOW);
            if let Some(written) = application.take_written() {
                fetcher.audit.note(&written);
                fetcher.from_the_start |= written.was_damaged && application.is_of_changes();
            }
            match progress {
                Ok(Progress::More) => {}
                Ok(Progress::Done) => {
                    let (generation, theirs) = (application.generation(), application.summary_at_head());
                    if fetcher.audit.generation() == Some(generation) {
                        let compared = fetcher.audit.compare(theirs);
                        fetcher.from_the_start |= compared == Compared::Different;
                        fetcher.compared = Some(compared);
                    } else if application.followed_at().is_none() {
                        fetcher.audit.begin(generation);
                    }
                    fetcher.applying = None;
                }
                Err(_) => *fetcher = Fetcher::default(),
            }
        } else if let Some((_, position, page)) = fetcher.ahead.take() {
            let asked = Asked::read(&self.store, &self.names, false);
            if asked.position == position {
                self.begin(n, &asked, &page);
            }
        }
    }

    /// Always: a key once revoked here is neither accepted nor merely paused again, and no bucket's stamp decreases.
    fn check_invariants(&mut self) {
        let damaged: Vec<u32> = (0..1 << BUCKET_BITS).filter(|index| self.is_damaged(*index)).collect();
        for index in 0..1 << BUCKET_BITS {
            let Some(stored) = self.store.get(&self.names.bucket(index)) else { continue };
            if damaged.contains(&index) {
                // A damaged bucket's stamp is unreliable, and a snapshot replaces it.
                self.stamps.remove(&index);
                self.seen_revoked.retain(|subject| subject.leading_bits(BUCKET_BITS) != index);
                continue;
            }
            let stamp = bucket::stamp_of(&stored.bytes);
            let before = self.stamps.insert(index, stamp).unwrap_or_default();
            assert!(before <= stamp, "bucket {index} went from {before:?} to {stamp:?}");
        }
        for key in 0..KEYS {
            if damaged.contains(&subject(key).leading_bits(BUCKET_BITS)) {
                continue;
            }
            match self.state(key) {
                Some(State::Revoked) => {
                    self.seen_revoked.insert(subject(key));
                }
                Some(state @ (State::Active | State::Paused)) => {
                    assert!(!self.seen_revoked.contains(&subject(key)), "the revoked key {key} is {state:?} again");
                }
                _ => {}
            }
        }
    }

    fn state(&self, key: u8) -> Option<State> {
        let mut snapshot = Snapshot::new(self.names.clone(), BUCKET_BITS, 0);
        snapshot.poll(&self.store, NOW.monotonic_ms);
        state_of(&snapshot.find(&self.store, &subject(key), [subject(key)]))
    }

    /// Left alone with one fetcher, the snapshot reaches the database's state, in warm caches too. Returns whether the
    /// audit could confirm that: it cannot where the process has kept records that a restored database does not have.
    fn settle(&mut self) -> bool {
        self.fetchers.iter_mut().for_each(|fetcher| *fetcher = Fetcher::default());
        self.lacks = false;
        for _ in 0..400 {
            let asked = Asked::read(&self.store, &self.names, self.fetchers[0].from_the_start);
            let head = self.database.cursor();
            let is_level = asked.position == (Position::Changes { applied: head.sequence, seen: head });
            let was_looked_at = self.fetchers[0].audit.has_looked();
            self.run(&Op::Poll(0));
            while self.fetchers[0].applying.is_some() {
                self.run(&Op::Step(0, 1));
            }
            let fetcher = &mut self.fetchers[0];
            if is_level && was_looked_at && !fetcher.from_the_start {
                match fetcher.compared {
                    Some(Compared::Same) => return true,
                    Some(Compared::Not) => return false,
                    _ => assert!(self.ever_rotted || self.ever_lacked, "unexpected difference"),
                }
            }
            let fetcher = &mut self.fetchers[0];
            // The number of ticks between two audit steps.
            for _ in 0..17 {
                if fetcher.audit.tick(&self.store, &self.names, BUCKET_BITS).is_err() {
                    assert!(self.ever_rotted, "unexpected damage");
                    fetcher.from_the_start = true;
                }
            }
        }
        panic!("the feed stopped");
    }

    fn check_settled(&mut self) {
        self.worker.poll(&self.store, NOW.monotonic_ms);
        assert!(self.worker.is_usable(NOW.monotonic_ms, Some(0)));
        for key in 0..KEYS {
            let expected = match self.database.state(&subject(key)) {
                _ if self.seen_revoked.contains(&subject(key)) => None,
                Some(State::Removed) => None,
                state => state,
            };
            let found = self.worker.find(&self.store, &subject(key), [subject(key)]);
            let found = match state_of(&found) {
                // Revoked here, and active or unknown in a restored database: stays revoked or is removed.
                Some(State::Revoked) if self.seen_revoked.contains(&subject(key)) => None,
                state => state,
            };
            assert_eq!(found, expected, "key {key}");
            if expected.is_some() {
                self.check_plan(key);
            }
        }
    }

    fn check_plan(&mut self, key: u8) {
        let found = self.worker.find(&self.store, &subject(key), [subject(key)]);
        let Found::Key(holder) = found else { panic!("expected the key") };
        let expected = match plan_of(&subject(key)).map(|name| self.database.state(&Digest::of_plan(name))) {
            None => PlanState::NoPlan,
            Some(Some(State::Plan(requests))) => PlanState::Known(plan(requests)),
            Some(state) => panic!("a key on a plan that is {state:?}"),
        };
        assert_eq!(holder.plan, expected, "key {key}");
    }
}

fn state_of(found: &Found) -> Option<State> {
    match found {
        Found::Key(holder) if holder.key.revoked_at_ms.is_some() => Some(State::Revoked),
        Found::Key(holder) if holder.key.paused => Some(State::Paused),
        Found::Key(_) => Some(State::Active),
        Found::Nothing => None,
        Found::Unreadable => panic!("an unreadable record"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No interleaving restores a revoked key or stops the feed.
    #[test]
    fn no_interleaving_restores_a_revoked_key(ops in ops()) {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
        }
        let compared = world.settle();
        // A missing entry is not detected where the audit cannot compare.
        if compared || !world.ever_lacked {
            world.check_settled();
        }
    }
}
