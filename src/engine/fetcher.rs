//! The long poll of the feed: when to send a request, how to handle the response, and when a request times out.
//!
//! If a page says that more follows, the next page is requested while the current one is applied, and is held until its
//! turn. A long snapshot thus arrives without pauses although each call does little work.
//!
//! Polls have their own deadline because Envoy drops callouts silently when a listener is replaced.

use crate::engine::audit::{Audit, Compared};
use crate::engine::backoff::Backoff;
use crate::engine::feed::{Application, Asked, NotApplied, Now, Progress};
use crate::engine::leader::Lease;
use crate::engine::store::{Metered, Names, SharedStore};
use keyward_core::FEED_PATH;
use keyward_core::wire::cursor::Position;
use keyward_core::wire::page::UnreadablePage;
use keyward_core::wire::summary::Summary;

/// Keeps the snapshot current while this VM holds the lease.
#[derive(Debug)]
pub struct Fetcher {
    names: Names,
    bucket_bits: u32,
    wait_s: u32,
    lease: Lease,
    /// Whether the VM served requests when it took the lease; it then keeps the lease although requests come.
    took_it_while_serving: bool,
    /// Whether another VM takes over after the poll in flight, so that no change is missed in between.
    hands_over: bool,
    /// The poll in flight; at most one.
    out: Option<Out>,
    applying: Option<Box<Application>>,
    /// The page that follows the one being applied.
    ahead: Option<Ahead>,
    not_before_ms: u64,
    backoff: Backoff,
    from_the_start: bool,
    audit: Audit,
    resnapshot: Resnapshot,
    /// Whether a page was applied. Until then a poll does not wait for changes, since the snapshot may be old.
    has_heard: bool,
    /// Whether the last poll was answered, however late: the next one then has the short timeout.
    was_answered: bool,
    polls: u64,
}

/// Whether to fetch a new snapshot because the current one differs from the control plane's.
///
/// If even a new snapshot differs, fetching it again does not help; so each snapshot that changed nothing doubles the
/// pause before the next.
#[derive(Debug)]
struct Resnapshot {
    is_wanted: bool,
    not_before_ms: u64,
    pause_ms: u64,
}

#[derive(Debug)]
struct Out {
    poll: u64,
    question: Question,
    deadline_ms: u64,
}

/// What a poll requests.
#[derive(Clone, Copy, Debug)]
enum Question {
    /// What follows the cursor.
    Cursor(Asked),
    /// What follows the page being applied, which is the cursor's next position.
    Ahead(Position),
}

/// A page received before its turn.
#[derive(Debug)]
struct Ahead {
    position: Position,
    page: Vec<u8>,
    heard_at_ms: u64,
    age_ms: u64,
}

/// A request to the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Identifies the poll when its response arrives.
    pub id: u64,
    /// Path and query.
    pub path: String,
    /// The timeout of the request, in milliseconds.
    pub timeout_ms: u64,
}

/// The result of a poll.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Status 200.
    Page {
        /// The body.
        bytes: Vec<u8>,
        /// How long ago the relay that sent the page last confirmed with the control plane that there was nothing
        /// newer, in milliseconds; 0 if the control plane itself sent the page.
        age_ms: u64,
    },
    /// Another status, or no response.
    Failed {
        /// The status; 0 without a response.
        status: u32,
    },
}

/// An event for the log and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A page is being applied.
    Page,
    /// A page was applied, with this many unreadable entries.
    Unreadable {
        /// How many entries are treated as refused.
        entries: u64,
    },
    /// A page was not applied.
    PageRefused(NotApplied),
    /// The control plane returned this status; 0 without a response.
    PollFailed {
        /// The status.
        status: u32,
    },
    /// The response timed out.
    PollLost,
    /// The snapshot differs from the control plane's and is fetched again.
    SnapshotMismatch,
}

/// How long a response may take beyond the wait that was requested, in milliseconds. The first value is for polls for
/// changes, so that a lost response is soon requested again; the second for parts of a snapshot, which are long, and
/// after a response that timed out.
const ANSWER_GRACE_MS: (u64, u64) = (1000, 5000);

/// The shortest and the longest backoff after a failure, in milliseconds.
pub const BACKOFF_MS: (u64, u64) = (50, 1000);

/// The shortest and the longest pause between two snapshots fetched because of a difference from the control plane's,
/// in milliseconds.
pub const RESNAPSHOT_PAUSE_MS: (u64, u64) = (60_000, 24 * 60 * 60 * 1000);

/// The cost, in the unit of [`Metered`], after which a call leaves the rest of a page to the next call.
///
/// On a worker's thread, requests wait for as long as a call takes; on the main thread, the next call finds a processor
/// that was free in between. `make bench-million` reports the time in microseconds (`keyward_tick_us`).
const COST_PER_CALL: usize = 96 << 10;

/// The same for a page of changes, which may contain a revocation: falling behind the changes is worse than requests
/// that wait slightly longer.
const COST_PER_CALL_OF_CHANGES: usize = 4 * COST_PER_CALL;

impl Fetcher {
    /// A fetcher without a lease; `seed` must differ between VMs.
    pub fn new(names: Names, bucket_bits: u32, wait_s: u32, seed: u64) -> Self {
        Self {
            names,
            bucket_bits,
            wait_s,
            lease: Lease::new(seed),
            took_it_while_serving: false,
            hands_over: false,
            out: None,
            applying: None,
            ahead: None,
            not_before_ms: 0,
            backoff: Backoff::new(BACKOFF_MS.0, BACKOFF_MS.1, seed),
            from_the_start: false,
            audit: Audit::default(),
            resnapshot: Resnapshot { is_wanted: false, not_before_ms: 0, pause_ms: RESNAPSHOT_PAUSE_MS.0 },
            has_heard: false,
            was_answered: false,
            polls: 0,
        }
    }

    /// Renews the lease, applies the rest of a page, and returns the next poll when one is due.
    pub fn tick(&mut self, store: &impl SharedStore, now: Now, serves: bool, events: &mut Vec<Event>) -> Option<Poll> {
        if !self.hold_lease(store, now.monotonic_ms, serves) {
            self.forget();
            self.audit.stop();
            self.not_before_ms = now.monotonic_ms;
            return None;
        }
        if self.out.take_if(|out| now.monotonic_ms >= out.deadline_ms).is_some() {
            events.push(Event::PollLost);
            self.was_answered = false;
            self.back_off(now.monotonic_ms);
        }
        if self.applying.is_none()
            && let Some(ahead) = self.ahead.take()
        {
            self.begin_ahead(store, ahead, now.monotonic_ms, events);
        }
        self.apply(store, now, events);
        if !self.is_applying() && self.audit.tick(store, &self.names, self.bucket_bits).is_err() {
            self.differs(now.monotonic_ms, events);
        }
        self.next_poll(store, now.monotonic_ms)
    }

    /// Handles the response to a poll, and returns the next poll if one is due.
    pub fn answer(
        &mut self,
        store: &impl SharedStore,
        now: Now,
        id: u64,
        answer: Answer,
        events: &mut Vec<Event>,
    ) -> Option<Poll> {
        let out = self.out.take_if(|out| out.poll == id)?;
        let now_ms = now.monotonic_ms;
        match (answer, out.question) {
            (Answer::Failed { status }, _) => {
                events.push(Event::PollFailed { status });
                self.was_answered = status != 0;
                // Retrying a position that this control plane cannot parse does not help.
                self.from_the_start |= status == 400;
                self.back_off(now_ms);
            }
            (Answer::Page { bytes, age_ms }, Question::Cursor(asked)) => {
                self.begin(store, &asked, bytes, (now_ms, age_ms), events);
                self.apply(store, now, events);
            }
            (Answer::Page { bytes, age_ms }, Question::Ahead(position)) => {
                let ahead = Ahead { position, page: bytes, heard_at_ms: now_ms, age_ms };
                if self.applying.is_some() {
                    self.ahead = Some(ahead);
                } else {
                    self.begin_ahead(store, ahead, now_ms, events);
                    self.apply(store, now, events);
                }
            }
        }
        if !self.lease.is_held(now_ms) {
            return None;
        }
        self.next_poll(store, now_ms)
    }

    /// Whether a page is being applied, so that the next call should come soon.
    pub fn is_applying(&self) -> bool {
        self.applying.is_some() || self.ahead.is_some()
    }

    /// Records that the poll could not be sent.
    pub fn not_sent(&mut self, now_ms: u64) -> Event {
        self.out = None;
        self.back_off(now_ms);
        Event::PollFailed { status: 0 }
    }

    /// Releases the lease, because this VM's context is being destroyed.
    pub fn release(&mut self, store: &impl SharedStore, now_ms: u64) {
        self.lease.release(store, &self.names, now_ms);
        self.hands_over = false;
        self.forget();
        self.audit.stop();
        self.not_before_ms = 0;
    }

    fn hold_lease(&mut self, store: &impl SharedStore, now_ms: u64, serves: bool) -> bool {
        let held = self.lease.is_held(now_ms);
        // Taken before the first request: the main thread, which never serves requests, is the better place.
        self.hands_over = held && serves && !self.took_it_while_serving;
        let holds = self.lease.hold(store, &self.names, now_ms, serves);
        if holds && !held {
            self.took_it_while_serving = serves;
        }
        holds
    }

    fn next_poll(&mut self, store: &impl SharedStore, now_ms: u64) -> Option<Poll> {
        if self.hands_over {
            if self.out.is_none() && !self.is_applying() {
                self.release(store, now_ms);
            }
            return None;
        }
        if self.out.is_some() || self.ahead.is_some() || now_ms < self.not_before_ms {
            return None;
        }
        let question = match &self.applying {
            Some(application) => Question::Ahead(application.followed_at()?),
            None => {
                let from_the_start = self.from_the_start || self.resnapshot.is_wanted;
                Question::Cursor(Asked::read(store, &self.names, from_the_start))
            }
        };
        let position = match question {
            Question::Cursor(asked) => asked.position,
            Question::Ahead(position) => position,
        };
        let wait_s = if self.has_heard { self.wait_s } else { 0 };
        let is_short = matches!(question, Question::Cursor(_)) && matches!(position, Position::Changes { .. });
        let grace_ms = if is_short && self.was_answered { ANSWER_GRACE_MS.0 } else { ANSWER_GRACE_MS.1 };
        let timeout_ms = u64::from(wait_s) * 1000 + grace_ms;
        self.polls += 1;
        // Envoy's own timeout normally comes first; this deadline is for responses that never arrive.
        self.out = Some(Out { poll: self.polls, question, deadline_ms: now_ms + timeout_ms + 1000 });
        let path = format!("{FEED_PATH}?after={position}&wait={wait_s}");
        Some(Poll { id: self.polls, path, timeout_ms })
    }

    /// Starts to apply a page that was requested early, if it is that page's turn.
    fn begin_ahead(&mut self, store: &impl SharedStore, ahead: Ahead, now_ms: u64, events: &mut Vec<Event>) {
        let asked = Asked::read(store, &self.names, false);
        if asked.position == ahead.position {
            self.begin(store, &asked, ahead.page, (ahead.heard_at_ms, ahead.age_ms), events);
        } else {
            self.refuse(NotApplied::Superseded, now_ms, events);
        }
    }

    /// Starts to apply a page; its time of arrival and its age then are in milliseconds.
    fn begin(
        &mut self,
        store: &impl SharedStore,
        asked: &Asked,
        page: Vec<u8>,
        (heard_at_ms, age_ms): (u64, u64),
        events: &mut Vec<Event>,
    ) {
        match Application::begin(store, &self.names, self.bucket_bits, asked, page) {
            Ok(application) => {
                events.push(Event::Page);
                if !application.is_of_changes() {
                    self.audit.stop();
                    self.resnapshot.is_wanted = false;
                }
                self.applying = Some(Box::new(application.heard(heard_at_ms, age_ms)));
            }
            Err(refused) => self.refuse(refused, heard_at_ms, events),
        }
    }

    fn apply(&mut self, store: &impl SharedStore, now: Now, events: &mut Vec<Event>) {
        let store = Metered::new(store);
        while let Some(application) = &mut self.applying {
            let most = if application.is_of_changes() { COST_PER_CALL_OF_CHANGES } else { COST_PER_CALL };
            if store.cost() >= most {
                application.announce(&store, &self.names);
                return;
            }
            let progress = application.step(&store, &self.names, now);
            let mut was_damaged = false;
            if let Some(written) = application.take_written() {
                self.audit.note(&written);
                was_damaged = written.was_damaged;
            }
            // A snapshot repairs the damage that it finds.
            was_damaged &= application.is_of_changes();
            match progress {
                Ok(Progress::More) => {}
                Ok(Progress::Done) => {
                    let (generation, theirs) = (application.generation(), application.summary_at_head());
                    let follows = application.followed_at().is_some();
                    if application.unreadable() > 0 {
                        events.push(Event::Unreadable { entries: application.unreadable() });
                    }
                    self.backoff.reset();
                    self.from_the_start = false;
                    self.has_heard = true;
                    self.was_answered = true;
                    self.applying = None;
                    self.compare(generation, theirs, follows, now.monotonic_ms, events);
                }
                Err(refused) => self.refuse(refused, now.monotonic_ms, events),
            }
            if was_damaged {
                self.differs(now.monotonic_ms, events);
            }
        }
    }

    /// Compares the snapshot with the control plane's summary, once a page is applied.
    fn compare(
        &mut self,
        generation: u32,
        theirs: Option<Summary>,
        is_followed: bool,
        now_ms: u64,
        events: &mut Vec<Event>,
    ) {
        if self.audit.generation() != Some(generation) {
            // An incomplete snapshot cannot be audited.
            if !is_followed || self.audit.generation().is_some() {
                self.audit.begin(generation);
            }
            return;
        }
        match self.audit.compare(theirs) {
            Compared::Not | Compared::Suspicious => {}
            Compared::Same => self.resnapshot.pause_ms = RESNAPSHOT_PAUSE_MS.0,
            Compared::Different => self.differs(now_ms, events),
        }
    }

    /// Handles a snapshot that differs from the control plane's.
    fn differs(&mut self, now_ms: u64, events: &mut Vec<Event>) {
        let resnapshot = &mut self.resnapshot;
        if resnapshot.is_wanted {
            return;
        }
        events.push(Event::SnapshotMismatch);
        if now_ms >= resnapshot.not_before_ms {
            resnapshot.is_wanted = true;
            resnapshot.not_before_ms = now_ms.saturating_add(resnapshot.pause_ms);
            resnapshot.pause_ms = resnapshot.pause_ms.saturating_mul(2).min(RESNAPSHOT_PAUSE_MS.1);
        }
        if let Some(generation) = self.audit.generation() {
            self.audit.begin(generation);
        }
    }

    fn refuse(&mut self, refused: NotApplied, now_ms: u64, events: &mut Vec<Event>) {
        events.push(Event::PageRefused(refused));
        self.forget();
        if refused == NotApplied::Superseded {
            // The sum does not contain the writes of another fetcher.
            self.audit.stop();
        }
        // A page that does not follow on the cursor requires a new snapshot. A page that was damaged in transit is
        // requested again unchanged, and a page of another version would have that version again.
        self.from_the_start = match refused {
            NotApplied::Superseded => false,
            NotApplied::Unreadable(
                UnreadablePage::Damaged | UnreadablePage::UnknownVersion(_) | UnreadablePage::NotAPage,
            ) => self.from_the_start,
            NotApplied::Unreadable(UnreadablePage::BrokenFraming) | NotApplied::DoesNotFollow => true,
        };
        self.back_off(now_ms);
    }

    /// Drops the work in progress; a late response is ignored.
    fn forget(&mut self) {
        self.out = None;
        self.applying = None;
        self.ahead = None;
    }

    fn back_off(&mut self, now_ms: u64) {
        self.not_before_ms = now_ms + self.backoff.after_failure();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::bucket;
    use crate::engine::shared_state::Status;
    use crate::engine::snapshot::Snapshot;
    use crate::engine::store::memory::MemoryStore;
    use keyward_core::MAX_PAGE_BYTES;
    use keyward_core::key::digest::Digest;
    use keyward_core::wire::cursor::{Cursor, Position};
    use keyward_core::wire::entry::{Body, Entry, KeyRecord};
    use keyward_core::wire::page::{Extent, MAX_HEADER_BYTES, Page};

    const BITS: u32 = 4;
    const HEAD: Cursor = Cursor { epoch: 1, sequence: 5, chain: [1; 16] };

    struct Process {
        store: MemoryStore,
        names: Names,
        now_ms: u64,
        events: Vec<Event>,
    }

    impl Process {
        fn new() -> Self {
            let names = Names::new("c", "a", BITS);
            Self { store: MemoryStore::default(), names, now_ms: 1000, events: Vec::new() }
        }

        fn fetcher(&self, seed: u64) -> Fetcher {
            Fetcher::new(self.names.clone(), BITS, 20, seed)
        }

        fn now(&self) -> Now {
            Now { monotonic_ms: self.now_ms, wall_ms: self.now_ms }
        }

        fn tick(&mut self, fetcher: &mut Fetcher, serves: bool) -> Option<Poll> {
            fetcher.tick(&self.store, self.now(), serves, &mut self.events)
        }

        fn answer(&mut self, fetcher: &mut Fetcher, id: u64, answer: Answer) -> Option<Poll> {
            fetcher.answer(&self.store, self.now(), id, answer, &mut self.events)
        }

        /// Ticks every 25 ms until there is a poll; returns the poll, or `None` after `ms`.
        fn poll_within(&mut self, fetcher: &mut Fetcher, ms: u64) -> Option<Poll> {
            let end = self.now_ms + ms;
            while self.now_ms < end {
                self.now_ms += 25;
                if let Some(poll) = self.tick(fetcher, false) {
                    return Some(poll);
                }
            }
            None
        }

        fn status(&self) -> Status {
            self.store.get(&self.names.status).map_or(Status::START, |stored| Status::decode(&stored.bytes))
        }
    }

    fn snapshot() -> Vec<u8> {
        Page {
            summary: None,
            answers: Position::Nothing,
            head: HEAD,
            extent: Extent::Snapshot { end: None },
            entries: &[],
        }
        .encode()
    }

    fn page(bytes: Vec<u8>) -> Answer {
        Answer::Page { bytes, age_ms: 0 }
    }

    #[test]
    fn first_poll_asks_for_a_snapshot_then_for_changes() {
        let mut process = Process::new();
        let mut fetcher = process.fetcher(1);
        let poll = process.tick(&mut fetcher, false).unwrap();
        assert_eq!(poll.path, "/v1/edge/feed?after=00&wait=0");
        assert_eq!(process.tick(&mut fetcher, false), None, "one poll at a time");
        let next = process.answer(&mut fetcher, poll.id, page(snapshot())).unwrap();
        let position = Position::Changes { applied: 5, seen: HEAD };
        assert_eq!(next.path, format!("/v1/edge/feed?after={position}&wait=20"));
        assert_eq!((process.status().generation, process.status().contact_ms), (1, 1000));
    }

    #[test]
    fn relayed_page_is_as_old_as_the_relay_says() {
        let mut process = Process::new();
        let mut fetcher = process.fetcher(1);
        let poll = process.tick(&mut fetcher, false).unwrap();
        let first = Answer::Page { bytes: snapshot(), age_ms: 5000 };
        let poll = process.answer(&mut fetcher, poll.id, first).unwrap();
        assert_eq!(
            process.status().contact_ms,
            -4000,
            "the relay lost the control plane before the monotonic clock started"
        );
        assert_eq!(process.status().age_ms(process.now_ms), 5000);
        let answers = Position::Changes { applied: 5, seen: HEAD };
        let nothing =
            Page { summary: None, answers, head: HEAD, extent: Extent::Changes { to: 5 }, entries: &[] }.encode();
        let mut poll = process.answer(&mut fetcher, poll.id, page(nothing.clone())).unwrap();
        assert_eq!(process.status().age_ms(process.now_ms), 0);
        for age_ms in [3000, u64::MAX] {
            let older = Answer::Page { bytes: nothing.clone(), age_ms };
            poll = process.answer(&mut fetcher, poll.id, older).unwrap();
            assert_eq!(process.status().age_ms(process.now_ms), 0, "{age_ms}");
        }
    }

    #[test]
    fn lost_response_times_out_and_is_requested_again() {
        let mut process = Process::new();
        let mut fetcher = process.fetcher(1);
        let lost = process.tick(&mut fetcher, false).unwrap();
        assert_eq!(process.poll_within(&mut fetcher, 5_000), None);
        let poll = process.poll_within(&mut fetcher, 3_000).unwrap();
        assert!(process.events.contains(&Event::PollLost));
        assert_eq!(process.answer(&mut fetcher, lost.id, page(snapshot())), None, "the lost response arrives late");
        assert_eq!(process.status(), Status::START);
        assert!(process.answer(&mut fetcher, poll.id, page(snapshot())).is_some());
    }

    /// A lost response to a poll for changes is requested again after one second, and then with a longer timeout.
    #[test]
    fn timeout_is_short_once_and_longer_after_a_loss() {
        let mut process = Process::new();
        let mut fetcher = Fetcher::new(process.names.clone(), BITS, 2, 1);
        let first = process.tick(&mut fetcher, false).unwrap();
        assert_eq!(first.timeout_ms, 5000, "a snapshot has the long timeout");
        let lost = process.answer(&mut fetcher, first.id, page(snapshot())).unwrap();
        assert_eq!(lost.timeout_ms, 3000);
        // As Envoy reports a call that has timed out.
        process.now_ms += lost.timeout_ms;
        process.answer(&mut fetcher, lost.id, Answer::Failed { status: 0 });
        let again = process.poll_within(&mut fetcher, 100).expect("the poll is repeated at once");
        assert_eq!((&again.path, again.timeout_ms), (&lost.path, 7000), "the second attempt has the long timeout");
        let answers = Position::Changes { applied: 5, seen: HEAD };
        let nothing = Page { summary: None, answers, head: HEAD, extent: Extent::Changes { to: 5 }, entries: &[] };
        let next = process.answer(&mut fetcher, again.id, page(nothing.encode())).unwrap();
        assert_eq!(next.timeout_ms, 3000);
        // If that response never arrives either, as after a listener was replaced.
        assert!(process.poll_within(&mut fetcher, 4_200).is_some());
        assert_eq!(process.events.last(), Some(&Event::PollLost));
    }

    #[test]
    fn failures_are_retried_with_backoff_without_end() {
        let mut process = Process::new();
        let mut fetcher = process.fetcher(1);
        let mut poll = process.tick(&mut fetcher, false).unwrap();
        for _ in 0..50 {
            assert_eq!(process.answer(&mut fetcher, poll.id, Answer::Failed { status: 503 }), None);
            poll = process.poll_within(&mut fetcher, 1_100).expect("a poll within the longest pause");
        }
        assert!(process.now_ms > 1000 + 40 * 500, "expected pauses of at least half the longest: {}", process.now_ms);
        assert!(process.answer(&mut fetcher, poll.id, page(snapshot())).is_some());
    }

    /// A page that does not follow on the cursor leads to a snapshot; a page of another version does not.
    #[test]
    fn page_that_does_not_follow_leads_to_a_snapshot() {
        let mut process = Process::new();
        let mut fetcher = process.fetcher(1);
        let first = process.tick(&mut fetcher, false).unwrap();
        let poll = process.answer(&mut fetcher, first.id, page(snapshot())).unwrap();
        let mut other_version = snapshot();
        other_version[4] = 9;
        process.answer(&mut fetcher, poll.id, page(other_version));
        let again = process.poll_within(&mut fetcher, 1_100).unwrap();
        assert_eq!(again.path, poll.path);
        let extent = Extent::Snapshot { end: Some(Digest([0; 32])) };
        let contradicts_itself = Page { summary: None, answers: Position::Nothing, head: HEAD, extent, entries: &[] };
        process.answer(&mut fetcher, again.id, page(contradicts_itself.encode()));
        let repeated = process.poll_within(&mut fetcher, 1_100).unwrap();
        assert_eq!(repeated.path, first.path.replace("wait=0", "wait=20"));
        assert!(process.answer(&mut fetcher, repeated.id, page(snapshot())).is_some());
        assert_eq!(process.status().generation, 2);
    }

    #[test]
    fn flipped_bit_rejects_the_page_and_repeats_the_poll() {
        let mut process = Process::new();
        let mut fetcher = process.fetcher(1);
        let first = process.tick(&mut fetcher, false).unwrap();
        let first = process.answer(&mut fetcher, first.id, page(snapshot())).unwrap();
        let mut entries = Vec::new();
        let body = Body::Key(KeyRecord { revoked_at_ms: Some(1), ..KeyRecord::default() });
        Entry { subject: Digest([7; 32]), version: 6, body }.encode(&mut entries).unwrap();
        let answers = Position::Changes { applied: 5, seen: HEAD };
        let head = Cursor { sequence: 6, ..HEAD };
        let whole =
            Page { summary: None, answers, head, extent: Extent::Changes { to: 6 }, entries: &entries }.encode();
        let mut poll = first.clone();
        let before = process.store.values().len();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            process.events.clear();
            assert_eq!(process.answer(&mut fetcher, poll.id, page(damaged)), None);
            assert!(matches!(process.events[..], [Event::PageRefused(NotApplied::Unreadable(_))]), "bit {bit}");
            poll = process.poll_within(&mut fetcher, 1_100).expect("the poll is repeated soon");
            assert_eq!((&poll.path, process.store.values().len()), (&first.path, before), "bit {bit}");
        }
        process.answer(&mut fetcher, poll.id, page(whole)).unwrap();
        assert_eq!((process.status().sequence, process.status().records), (6, 1));
    }

    /// The only record in the control plane.
    fn record() -> Vec<u8> {
        let mut record = Vec::new();
        let body = Body::Key(KeyRecord { key_id: "key_a".into(), ..KeyRecord::default() });
        Entry { subject: Digest([7; 32]), version: 5, body }.encode(&mut record).unwrap();
        record
    }

    /// Answers each poll with all there is, or with nothing new; returns how many snapshots were requested.
    fn follow(process: &mut Process, fetcher: &mut Fetcher, poll: &mut Option<Poll>, ms: u64, there: &[u8]) -> usize {
        let summary = Some(Summary::of(&record()));
        let mut snapshots = 0;
        let end = process.now_ms + ms;
        while process.now_ms < end {
            if let Some(asked) = poll.take() {
                let nothing = Position::Changes { applied: 5, seen: HEAD };
                let (answers, extent, entries) = if asked.path.contains("after=00&") {
                    snapshots += 1;
                    (Position::Nothing, Extent::Snapshot { end: None }, there)
                } else {
                    (nothing, Extent::Changes { to: 5 }, &[][..])
                };
                let answer = page(Page { answers, head: HEAD, summary, extent, entries }.encode());
                // A long poll waits before it is answered.
                process.now_ms += 1000;
                *poll = process.answer(fetcher, asked.id, answer);
            }
            process.now_ms += 25;
            *poll = poll.take().or(process.tick(fetcher, false));
        }
        snapshots
    }

    #[test]
    fn record_corrupted_in_memory_is_restored_by_snapshot() {
        let mut process = Process::new();
        let mut fetcher = process.fetcher(1);
        let mut poll = process.tick(&mut fetcher, false);
        assert_eq!(follow(&mut process, &mut fetcher, &mut poll, 60_000, &record()), 1, "nothing differs");
        let name = process.names.bucket(Digest([7; 32]).leading_bits(BITS));
        let bucket = process.store.get(&name).unwrap();
        let mut rotted = bucket.bytes.clone();
        *rotted.last_mut().unwrap() ^= 1;
        process.store.put(&name, &rotted, Some(bucket.tag)).unwrap();
        assert_eq!(follow(&mut process, &mut fetcher, &mut poll, 60_000, &record()), 1);
        assert_eq!(process.events.iter().filter(|event| **event == Event::SnapshotMismatch).count(), 1);
        let found = process.store.get(&name).unwrap().bytes;
        assert!(bucket::inspect(&found, 2).is_some_and(|content| content.summary == Summary::of(&record())));
    }

    #[test]
    fn differing_snapshot_is_refetched_with_backoff() {
        let mut process = Process::new();
        let mut fetcher = process.fetcher(1);
        let mut poll = process.tick(&mut fetcher, false);
        // The control plane sends records that contradict its own summary.
        const HOUR_MS: u64 = 60 * 60 * 1000;
        let first = follow(&mut process, &mut fetcher, &mut poll, HOUR_MS, &[]);
        assert!((5..=8).contains(&first), "{first} in the first hour");
        let later = follow(&mut process, &mut fetcher, &mut poll, 24 * HOUR_MS, &[]);
        assert!((1..=6).contains(&later), "{later} in the day that follows");
        assert!(process.events.contains(&Event::SnapshotMismatch));
        assert_eq!(
            follow(&mut process, &mut fetcher, &mut poll, 48 * HOUR_MS, &record()),
            1,
            "the next snapshot is consistent"
        );
    }

    #[test]
    fn page_followed_by_more_does_not_count_as_current() {
        let mut process = Process::new();
        let mut fetcher = process.fetcher(1);
        let poll = process.tick(&mut fetcher, false).unwrap();
        let poll = process.answer(&mut fetcher, poll.id, page(snapshot())).unwrap();
        let contact_ms = process.status().contact_ms;
        process.now_ms += 1000;
        let head = Cursor { sequence: 7, ..HEAD };
        let page = |applied, seen, to| {
            let answers = Position::Changes { applied, seen };
            self::page(Page { summary: None, answers, head, extent: Extent::Changes { to }, entries: &[] }.encode())
        };
        let poll = process.answer(&mut fetcher, poll.id, page(5, HEAD, 6)).unwrap();
        assert_eq!(process.status().contact_ms, contact_ms);
        process.answer(&mut fetcher, poll.id, page(6, head, 7)).unwrap();
        assert_eq!(process.status().contact_ms, contact_ms + 1000);
    }

    /// A page of changes up to `to` with too many entries to be written in one call.
    fn long_page(applied: u64, to: u64, head: u64) -> Answer {
        let mut entries = Vec::new();
        for n in 0..4000 {
            let subject = Digest::of_key(format!("{to} {n}").as_bytes());
            let record = KeyRecord { key_id: "key_a".into(), ..KeyRecord::default() };
            Entry { subject, version: to, body: Body::Key(record) }.encode(&mut entries).unwrap();
        }
        let head = Cursor { sequence: head, ..HEAD };
        let answers = Position::Changes { applied, seen: if applied == HEAD.sequence { HEAD } else { head } };
        page(Page { summary: None, answers, head, extent: Extent::Changes { to }, entries: &entries }.encode())
    }

    /// A fetcher with a snapshot that has started to apply a page followed by more, and has requested the next.
    fn asking_ahead(process: &mut Process) -> (Fetcher, Poll) {
        let mut fetcher = Fetcher::new(process.names.clone(), 12, 20, 1);
        let poll = process.tick(&mut fetcher, false).unwrap();
        let poll = process.answer(&mut fetcher, poll.id, page(snapshot())).unwrap();
        let poll =
            process.answer(&mut fetcher, poll.id, long_page(5, 6, 7)).expect("the next page is requested at once");
        assert!(fetcher.is_applying());
        (fetcher, poll)
    }

    /// Ticks until no page is being applied; returns the polls that were sent meanwhile.
    fn finish(process: &mut Process, fetcher: &mut Fetcher) -> Vec<Poll> {
        let mut polls = Vec::new();
        while fetcher.is_applying() {
            process.now_ms += 1;
            polls.extend(process.tick(fetcher, false));
        }
        polls
    }

    #[test]
    fn next_page_is_requested_early_and_applied_in_turn() {
        for answered_early in [true, false] {
            let mut process = Process::new();
            let (mut fetcher, poll) = asking_ahead(&mut process);
            let position = Position::Changes { applied: 6, seen: Cursor { sequence: 7, ..HEAD } };
            assert_eq!(poll.path, format!("/v1/edge/feed?after={position}&wait=20"));
            if !answered_early {
                assert_eq!(finish(&mut process, &mut fetcher), [], "one poll at a time");
            }
            process.now_ms += 1000;
            let heard_at_ms = process.now_ms;
            let mut polls = Vec::from_iter(process.answer(&mut fetcher, poll.id, long_page(6, 7, 7)));
            assert_eq!((process.status().sequence, polls.len()), (if answered_early { 5 } else { 6 }, 0));
            process.now_ms += 1000;
            polls.extend(finish(&mut process, &mut fetcher));
            assert_eq!((process.status().sequence, polls.len()), (7, 1), "no poll follows the last page early");
            assert_eq!(
                process.status().contact_ms,
                i64::try_from(heard_at_ms).unwrap(),
                "as old as when the page arrived"
            );
            assert_eq!(process.events, vec![Event::Page; 3]);
        }
    }

    #[test]
    fn early_page_is_dropped_if_another_fetcher_was_first() {
        for answered_early in [true, false] {
            let mut process = Process::new();
            let (mut fetcher, poll) = asking_ahead(&mut process);
            if answered_early {
                process.answer(&mut fetcher, poll.id, long_page(6, 7, 7));
            }
            // Another fetcher takes the lease for its own and receives a snapshot.
            let mut other = Fetcher::new(process.names.clone(), 12, 20, 1);
            let first = process.tick(&mut other, false).unwrap();
            process.answer(&mut other, first.id, page(snapshot()));
            finish(&mut process, &mut other);
            finish(&mut process, &mut fetcher);
            assert_eq!(process.events.last(), Some(&Event::PageRefused(NotApplied::Superseded)));
            assert_eq!(process.answer(&mut fetcher, poll.id, long_page(6, 7, 7)), None, "the late response is ignored");
            assert_eq!((process.status().generation, process.status().sequence), (2, 5));
            let again = process.poll_within(&mut fetcher, 1_100).unwrap();
            let position = Position::Changes { applied: 5, seen: HEAD };
            assert_eq!(again.path, format!("/v1/edge/feed?after={position}&wait=20"));
        }
    }

    /// An early request that fails is repeated, and the page being applied is not affected.
    #[test]
    fn failed_early_request_is_repeated_while_applying() {
        for is_lost in [true, false] {
            let mut process = Process::new();
            let (mut fetcher, poll) = asking_ahead(&mut process);
            if is_lost {
                process.now_ms += 26_000;
            } else {
                assert_eq!(process.answer(&mut fetcher, poll.id, Answer::Failed { status: 503 }), None);
            }
            let again = process.poll_within(&mut fetcher, 1_100).unwrap();
            assert!(again.path == poll.path && again.id != poll.id);
            finish(&mut process, &mut fetcher);
            assert_eq!(process.status().sequence, 6);
        }
    }

    #[test]
    fn snapshot_followed_by_changes_is_not_yet_current() {
        let mut process = Process::new();
        let mut fetcher = process.fetcher(1);
        let poll = process.tick(&mut fetcher, false).unwrap();
        let middle = Digest([0x80; 32]);
        let first = Page {
            summary: None,
            answers: Position::Nothing,
            head: HEAD,
            extent: Extent::Snapshot { end: Some(middle) },
            entries: &[],
        };
        let poll = process.answer(&mut fetcher, poll.id, page(first.encode())).unwrap();
        let head = Cursor { sequence: 6, ..HEAD };
        let last =
            Page { summary: None, answers: first.next(), head, extent: Extent::Snapshot { end: None }, entries: &[] };
        let poll = process.answer(&mut fetcher, poll.id, page(last.encode())).unwrap();
        let status = process.status();
        assert_eq!((status.generation, status.contact_ms, status.answered_ms), (1, i64::MIN, 0));
        let changes =
            Page { summary: None, answers: last.next(), head, extent: Extent::Changes { to: 6 }, entries: &[] };
        process.answer(&mut fetcher, poll.id, page(changes.encode())).unwrap();
        assert_eq!((process.status().contact_ms, process.status().answered_ms), (1000, 1000));
    }

    /// Whether a worker that starts now would serve requests.
    fn serves(process: &Process) -> bool {
        let mut snapshot = Snapshot::new(process.names.clone(), BITS, 0);
        snapshot.is_usable_now(&process.store, process.now_ms, None)
    }

    /// A snapshot that was abandoned for a while serves no requests until the feed has answered.
    #[test]
    fn abandoned_snapshot_serves_after_the_feed_answers() {
        let mut process = Process::new();
        let mut fetcher = process.fetcher(1);
        let first = process.tick(&mut fetcher, false).unwrap();
        assert!(!serves(&process), "there is no snapshot yet");
        process.answer(&mut fetcher, first.id, page(snapshot()));
        assert!(serves(&process));

        // The configuration is replaced by one for another control plane, and restored after a while.
        fetcher.release(&process.store, process.now_ms);
        assert!(serves(&process), "during a possible handover");
        process.now_ms += 60_000;
        assert!(!serves(&process), "a key may have been revoked meanwhile");
        let mut early = Snapshot::new(process.names.clone(), BITS, 0);
        early.poll(&process.store, process.now_ms);
        let mut back = process.fetcher(2);
        let poll = process.tick(&mut back, false).unwrap();
        assert!(poll.path.ends_with("&wait=0"), "the poll does not wait for changes: {}", poll.path);
        assert!(!serves(&process));
        let answers = Position::Changes { applied: 5, seen: HEAD };
        let nothing =
            Page { summary: None, answers, head: HEAD, extent: Extent::Changes { to: 5 }, entries: &[] }.encode();
        let old = Answer::Page { bytes: nothing, age_ms: 30_000 };
        assert!(process.answer(&mut back, poll.id, old).unwrap().path.ends_with("&wait=20"));
        assert!(serves(&process) && early.is_usable_now(&process.store, process.now_ms, None));
    }

    #[test]
    fn maintained_snapshot_serves_without_control_plane() {
        let mut process = Process::new();
        let mut fetcher = process.fetcher(1);
        let mut poll = process.tick(&mut fetcher, false);
        poll = process.answer(&mut fetcher, poll.unwrap().id, page(snapshot()));
        for _ in 0..10 {
            process.answer(&mut fetcher, poll.unwrap().id, Answer::Failed { status: 503 });
            poll = process.poll_within(&mut fetcher, 1_100);
            assert!(poll.is_some() && serves(&process));
        }
    }

    #[test]
    fn silent_fetcher_is_replaced_within_the_lease() {
        let mut process = Process::new();
        let (mut silent, mut other) = (process.fetcher(1), process.fetcher(2));
        assert!(process.tick(&mut silent, false).is_some());
        assert_eq!(process.tick(&mut other, false), None);
        let before = process.now_ms;
        assert!(process.poll_within(&mut other, 10_000).is_some());
        assert!(process.now_ms - before <= crate::engine::leader::LEASE_MS + 25);
    }

    #[test]
    fn fetcher_whose_context_is_destroyed_is_replaced() {
        let mut process = Process::new();
        let (mut old, mut new) = (process.fetcher(1), process.fetcher(2));
        assert!(process.tick(&mut old, false).is_some());
        old.release(&process.store, process.now_ms);
        assert!(process.tick(&mut new, false).is_some());
    }

    #[test]
    fn worker_hands_over_to_a_vm_without_requests() {
        let mut process = Process::new();
        let (mut worker, mut main) = (process.fetcher(1), process.fetcher(2));
        let poll = process.tick(&mut worker, false).unwrap();
        assert_eq!(process.tick(&mut worker, true), None, "its first request arrived");
        assert_eq!(process.tick(&mut main, false), None, "the poll in flight is not wasted");
        assert_eq!(process.answer(&mut worker, poll.id, page(snapshot())), None);
        assert_eq!(process.status().generation, 1, "and its page is applied");
        assert!(process.tick(&mut main, false).is_some());
        assert_eq!(process.tick(&mut worker, true), None, "the worker does not take the lease again");
    }

    #[test]
    fn single_worker_fetches_although_it_serves() {
        let mut process = Process::new();
        let mut worker = process.fetcher(1);
        let mut polls = 0;
        for _ in 0..400 {
            process.now_ms += 25;
            if let Some(poll) = process.tick(&mut worker, true) {
                polls += 1;
                process.answer(&mut worker, poll.id, Answer::Failed { status: 0 });
            }
        }
        assert!(polls > 5, "{polls} polls in ten seconds");
    }

    /// The total cost of the store's calls during `work`.
    fn cost_of<T>(process: &mut Process, work: impl FnOnce(&mut Process) -> T) -> (usize, T) {
        let (calls, bytes) = (process.store.calls.get(), process.store.moved.get());
        let done = work(process);
        let calls = process.store.calls.get() - calls;
        (calls * Metered::<MemoryStore>::CALL + process.store.moved.get() - bytes, done)
    }

    /// The cost in addition to what is applied: the lease, the cursor before and after, the status.
    const BESIDE: usize = 8 * 1024;

    #[test]
    fn unchanged_buckets_are_visited_over_several_ticks() {
        let mut process = Process::new();
        let mut fetcher = Fetcher::new(process.names.clone(), 16, 20, 1);
        let first = process.tick(&mut fetcher, false).unwrap();
        process.answer(&mut fetcher, first.id, page(snapshot())).unwrap();
        fetcher.from_the_start = true;
        fetcher.out = None;
        let second = process.tick(&mut fetcher, false).unwrap();
        // From the second snapshot on, every bucket is visited.
        assert!(process.answer(&mut fetcher, second.id, page(snapshot())).is_none());
        while fetcher.is_applying() {
            let (cost, _) = cost_of(&mut process, |process| process.tick(&mut fetcher, false));
            assert!(cost <= COST_PER_CALL + BESIDE, "{cost}");
            process.now_ms += 1;
        }
        assert_eq!(process.status().generation, 2);
    }

    /// A page of the maximum size whose keys each make a bucket longer.
    fn longest_page(answers: Position, version: u64) -> Vec<u8> {
        let mut entries = Vec::new();
        for n in 0..u16::MAX {
            let mut subject = Digest([0; 32]);
            subject.0[..2].copy_from_slice(&n.to_be_bytes());
            subject.0[2..10].copy_from_slice(&version.to_be_bytes());
            let record = KeyRecord { key_id: "key_aaaaaaaaaaaaaaaaaaaa".into(), ..KeyRecord::default() };
            let length = entries.len();
            Entry { subject, version, body: Body::Key(record) }.encode(&mut entries).unwrap();
            if entries.len() + MAX_HEADER_BYTES > MAX_PAGE_BYTES {
                entries.truncate(length);
                break;
            }
        }
        let head = Cursor { epoch: 1, sequence: version, chain: [1; 16] };
        let extent = match answers {
            Position::Nothing => Extent::Snapshot { end: None },
            _ => Extent::Changes { to: version },
        };
        Page { summary: None, answers, head, extent, entries: &entries }.encode()
    }

    /// Whatever a page holds, no call costs more than its limit plus one bucket.
    #[test]
    fn no_call_exceeds_its_cost_by_more_than_a_bucket() {
        let mut process = Process::new();
        let mut fetcher = Fetcher::new(process.names.clone(), 8, 20, 1);
        let mut poll = process.tick(&mut fetcher, false).unwrap();
        let mut answers = Position::Nothing;
        for version in 1..=10 {
            let page = longest_page(answers, version);
            answers = Page::decode(&page).unwrap().next();
            let most = if version == 1 { COST_PER_CALL } else { COST_PER_CALL_OF_CHANGES };
            let announced = process.status().stripes;
            let (cost, next) = cost_of(&mut process, |p| p.answer(&mut fetcher, poll.id, self::page(page)));
            let bucket = |process: &Process| 2 * process.store.longest();
            assert!(cost <= most + BESIDE + bucket(&process), "{cost} for an answer");
            assert!(
                next.is_none() && process.status().stripes != announced,
                "written buckets are announced before the page is complete"
            );
            let mut next = next;
            let mut ticks = 0;
            while next.is_none() {
                process.now_ms += 1;
                let (cost, polled) = cost_of(&mut process, |process| process.tick(&mut fetcher, false));
                assert!(cost <= most + BESIDE + bucket(&process), "{cost} for a tick");
                next = polled;
                ticks += 1;
            }
            assert!((4..500).contains(&ticks), "{ticks} ticks for a page");
            poll = next.unwrap();
        }
        assert!(process.status().records > 100_000);
    }

    /// In shared data, a record takes as many bytes as its entry plus its share of the bucket's overhead.
    #[test]
    fn record_takes_its_entry_plus_share_of_its_bucket() {
        let mut process = Process::new();
        let mut fetcher = Fetcher::new(process.names.clone(), 8, 20, 1);
        let poll = process.tick(&mut fetcher, false).unwrap();
        let page = longest_page(Position::Nothing, 1);
        let entries = Page::decode(&page).unwrap().entries.len();
        let mut next = process.answer(&mut fetcher, poll.id, self::page(page));
        while next.is_none() {
            process.now_ms += 1;
            next = process.tick(&mut fetcher, false);
        }
        let cells = [&process.names.status, &process.names.cursor, &process.names.lease]
            .map(|name| name.len() + process.store.get(name).unwrap().bytes.len());
        let stored = process.store.bytes() - cells.iter().sum::<usize>();
        // A bucket's stamp, its checksum and its name.
        let per_bucket = 28 + process.names.bucket(255).len();
        assert!(stored <= entries + 256 * per_bucket, "{stored} bytes for {entries}");
    }
}
