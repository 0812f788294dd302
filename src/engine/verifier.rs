//! Who waits for the control plane to check a credential, and what is asked of it: each credential once at a time, and
//! wrong ones not without end.
//!
//! It refuses to trust that an answer comes or that whoever waits is still there: a question and a request have deadlines,
//! and a stream that goes away is forgotten. It sends nothing itself; the host takes what [is to be sent](Verifier::to_send)
//! and tells how it [ended](Verifier::ended), and answers the streams that are [ready](Verifier::take_ready).

use crate::engine::limiter::Limiter;
use crate::engine::store::{Names, SharedStore};
use crate::engine::verified::Verified;
use keyward_contract::digest::Digest;
use keyward_contract::limit::Limit;
use keyward_contract::secret::Secret;
use keyward_contract::verify::Answer;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::rc::Rc;

/// The questions of one worker.
#[derive(Debug)]
pub struct Verifier {
    wrong: Limiter,
    questions: BTreeMap<u64, Question>,
    asked: u64,
    /// Every stream that waits, also one whose answer is ready.
    waiting: BTreeSet<u32>,
    ready: VecDeque<(u32, Rc<Ended>)>,
}

/// What has to be asked before a request can be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unverified {
    /// The credential as it was sent.
    pub credential: Secret,
    /// Its digest.
    pub digest: Digest,
    /// The address of the record that its public beginning leads to.
    pub subject: Digest,
    /// The secret that the record speaks of.
    pub secret_id: String,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The digest of the credential that was asked about.
    pub digest: Digest,
    /// What is known now.
    pub outcome: Outcome,
}

/// What is known after a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What the control plane said.
    Answered(Answer),
    /// Nothing.
    Unavailable {
        /// After how many seconds to try again.
        retry_after_s: u64,
    },
    /// Nothing, since the control plane has too much to verify.
    Busy {
        /// After how many seconds to try again.
        retry_after_s: u64,
    },
}

/// Nothing more is asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much is being verified: try again in {retry_after_s} s")]
pub struct Busy {
    /// After how many seconds to try again.
    pub retry_after_s: u64,
}

#[derive(Debug)]
struct Question {
    what: Unverified,
    /// The client, as far as it can be told apart.
    client: String,
    /// When no answer is waited for any more; `None` as long as it was not sent.
    given_up_ms: Option<u64>,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    stream: u32,
    deadline_ms: u64,
}

/// How long the control plane may take, in milliseconds.
pub const CALL_TIMEOUT_MS: u64 = 4000;

/// How long a request waits at most, in milliseconds.
pub const WAIT_MS: u64 = 5000;

/// How many credentials one worker has checked at a time, and how many requests wait for one of them and in all.
pub const MAX_QUESTIONS: usize = 100;
/// See [`MAX_QUESTIONS`].
pub const MAX_WAITERS_PER_QUESTION: usize = 100;
/// See [`MAX_QUESTIONS`].
pub const MAX_WAITERS: usize = 1000;

/// How many wrong credentials with one public beginning a client may have checked, and all clients together.
pub const WRONG_OF_CLIENT: Limit = Limit::per_minute(5);
/// See [`WRONG_OF_CLIENT`].
pub const WRONG_OF_ALL: Limit = Limit::per_minute(60);
/// How many wrong credentials with whatever public beginnings a client may have checked: who knows many of them must not
/// keep the control plane busy for all others.
pub const WRONG_OF_CLIENT_IN_ALL: Limit = Limit::per_minute(30);
/// How often a client may have asked a control plane that was too busy.
pub const IN_VAIN_OF_CLIENT: Limit = Limit::per_ten_seconds(20);

/// How much of [`MAX_QUESTIONS`] one client may have, so that something is left for the others.
const MAX_QUESTIONS_OF_CLIENT: usize = MAX_QUESTIONS / 2;

/// After how many seconds to come back where nothing better is known.
const RETRY_S: u64 = 1;

/// The longest that the control plane may tell a client to stay away, in seconds.
const MAX_RETRY_S: u64 = 30;

const WRONG_BUCKET_BITS: u32 = 8;

impl Verifier {
    /// One that has asked nothing.
    pub fn new(names: &Names) -> Self {
        Self {
            wrong: Limiter::new(names.wrong(), WRONG_BUCKET_BITS),
            questions: BTreeMap::new(),
            asked: 0,
            waiting: BTreeSet::new(),
            ready: VecDeque::new(),
        }
    }

    /// Lets a stream wait for what becomes of its credential, and has that asked unless it is being asked.
    ///
    /// # Errors
    /// If too much waits, or this client, or all, had too many wrong credentials with this public beginning.
    pub fn wait(
        &mut self,
        store: &impl SharedStore,
        what: &Unverified,
        client: Option<IpAddr>,
        stream: u32,
        now_ms: u64,
    ) -> Result<(), Busy> {
        let busy = Err(Busy { retry_after_s: RETRY_S });
        if self.waiting.len() >= MAX_WAITERS {
            return busy;
        }
        let waiter = Waiter { stream, deadline_ms: now_ms.saturating_add(WAIT_MS) };
        if let Some(question) = self.questions.values_mut().find(|question| question.what.digest == what.digest) {
            if question.waiters.len() >= MAX_WAITERS_PER_QUESTION {
                return busy;
            }
            question.waiters.push(waiter);
        } else {
            if self.questions.len() >= MAX_QUESTIONS {
                return busy;
            }
            let client = told_apart(client);
            let of_client = self.questions.values().filter(|question| question.client == client).count();
            if client != UNKNOWN && of_client >= MAX_QUESTIONS_OF_CLIENT {
                return busy;
            }
            self.have_budget(store, what, &client, now_ms)?;
            self.asked += 1;
            let question = Question { what: what.clone(), client, given_up_ms: None, waiters: vec![waiter] };
            self.questions.insert(self.asked, question);
        }
        self.waiting.insert(stream);
        Ok(())
    }

    /// What this worker is asking with one public beginning counts as if it were wrong already, so that many at once get no
    /// further than one after another. (Not what a client asks with several: they may be the keys of many behind one address.)
    fn have_budget(&self, store: &impl SharedStore, what: &Unverified, client: &str, now_ms: u64) -> Result<(), Busy> {
        let with_subject = self.questions.values().filter(|question| question.what.subject == what.subject);
        let of_all = with_subject.clone().count();
        let of_client = with_subject.filter(|question| question.client == client).count();
        let wrong = wrong_of(&what.subject, client).zip([of_client, of_all, 0]);
        let in_vain = in_vain_of(client).map(|of| ((of, IN_VAIN_OF_CLIENT), 0));
        for ((of, limit), open) in wrong.chain(in_vain) {
            let cost = u32::try_from(open).unwrap_or(u32::MAX).saturating_add(1);
            if cost > limit.requests() {
                return Err(Busy { retry_after_s: RETRY_S });
            }
            let wait_ms = self.wrong.wait_ms(store, &of, limit, cost, now_ms);
            if wait_ms > 0 {
                return Err(Busy { retry_after_s: wait_ms.div_ceil(1000) });
            }
        }
        Ok(())
    }

    /// Whether a stream waits.
    pub fn waits(&self, stream: u32) -> bool {
        self.waiting.contains(&stream)
    }

    /// Forgets a stream. A question that was sent goes on: its answer is remembered for the next.
    pub fn leave(&mut self, stream: u32) {
        if !self.waiting.remove(&stream) {
            return;
        }
        self.ready.retain(|(ready, _)| *ready != stream);
        for question in self.questions.values_mut() {
            question.waiters.retain(|waiter| waiter.stream != stream);
        }
        self.questions.retain(|_, question| question.given_up_ms.is_some() || !question.waiters.is_empty());
    }

    /// The next question that is to be sent, which then counts as sent: its number, and the credential.
    pub fn to_send(&mut self, now_ms: u64) -> Option<(u64, Secret)> {
        let (id, question) = self.questions.iter_mut().find(|(_, question)| question.given_up_ms.is_none())?;
        question.given_up_ms = Some(now_ms.saturating_add(WAIT_MS));
        Some((*id, question.what.credential.clone()))
    }

    /// Whether an answer to a question is still waited for.
    pub fn is_open(&self, id: u64) -> bool {
        self.questions.contains_key(&id)
    }

    /// Takes what became of a question: remembers it, and makes those that waited for it ready.
    pub fn ended(&mut self, store: &impl SharedStore, verified: &mut Verified, id: u64, outcome: Outcome, now_ms: u64) {
        let Some(question) = self.questions.remove(&id) else { return };
        let what = &question.what;
        let credential = what.credential.expose().as_bytes();
        match &outcome {
            Outcome::Answered(Answer::Right { secret_id }) => {
                verified.remember(store, credential, secret_id, true, now_ms);
            }
            Outcome::Answered(Answer::Wrong) => {
                verified.remember(store, credential, &what.secret_id, false, now_ms);
                for (of, limit) in wrong_of(&what.subject, &question.client) {
                    self.wrong.admit(store, &of, &[limit], NonZeroU32::MIN, now_ms);
                }
            }
            Outcome::Busy { .. } => {
                if let Some(of) = in_vain_of(&question.client) {
                    self.wrong.admit(store, &of, &[IN_VAIN_OF_CLIENT], NonZeroU32::MIN, now_ms);
                }
            }
            Outcome::Unavailable { .. } => {}
        }
        let ended = Rc::new(Ended { digest: what.digest, outcome: outcome.bounded() });
        self.ready.extend(question.waiters.iter().map(|waiter| (waiter.stream, Rc::clone(&ended))));
    }

    /// Gives up what was waited for too long.
    pub fn tick(&mut self, now_ms: u64) {
        let unavailable = Outcome::Unavailable { retry_after_s: RETRY_S };
        for question in self.questions.values_mut() {
            let ended = Rc::new(Ended { digest: question.what.digest, outcome: unavailable.clone() });
            // Envoy may drop a call without a word; then nobody waits for it any longer than for one that it lost.
            let is_given_up = question.given_up_ms.is_some_and(|at| now_ms >= at);
            question.waiters.retain(|waiter| {
                let stays = !is_given_up && now_ms < waiter.deadline_ms;
                if !stays {
                    self.ready.push_back((waiter.stream, Rc::clone(&ended)));
                }
                stays
            });
        }
        self.questions.retain(|_, question| match question.given_up_ms {
            Some(given_up_ms) => now_ms < given_up_ms,
            None => !question.waiters.is_empty(),
        });
    }

    /// At most so many streams whose credential was decided on, each once; they wait no longer.
    pub fn take_ready(&mut self, most: usize) -> Vec<(u32, Rc<Ended>)> {
        let ready: Vec<_> = self.ready.drain(..most.min(self.ready.len())).collect();
        for (stream, _) in &ready {
            self.waiting.remove(stream);
        }
        ready
    }
}

impl Outcome {
    fn bounded(self) -> Self {
        match self {
            Self::Unavailable { retry_after_s } => {
                Self::Unavailable { retry_after_s: retry_after_s.clamp(RETRY_S, MAX_RETRY_S) }
            }
            Self::Busy { retry_after_s } => Self::Busy { retry_after_s: retry_after_s.clamp(RETRY_S, MAX_RETRY_S) },
            answered @ Self::Answered(_) => answered,
        }
    }
}

/// What a wrong credential counts for, and how many there may be.
fn wrong_of(subject: &Digest, client: &str) -> impl Iterator<Item = (String, Limit)> {
    let subject = hex::encode(subject.0);
    let of_client = (format!("{subject} {client}"), WRONG_OF_CLIENT);
    let in_all = (client != UNKNOWN).then(|| (format!("all {client}"), WRONG_OF_CLIENT_IN_ALL));
    [of_client, (subject, WRONG_OF_ALL)].into_iter().chain(in_all)
}

fn in_vain_of(client: &str) -> Option<String> {
    (client != UNKNOWN).then(|| format!("in vain {client}"))
}

/// Clients without an address, who may be all there are.
const UNKNOWN: &str = "";

/// A client, as far as it can be told apart. Whoever has an IPv6 address has 2^64 of them.
fn told_apart(client: Option<IpAddr>) -> String {
    let client = match client.map(|client| client.to_canonical()) {
        Some(IpAddr::V6(address)) => Some(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64))),
        other => other,
    };
    client.map_or_else(|| UNKNOWN.to_owned(), |client| client.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::snapshot::Reading;
    use crate::engine::store::memory::MemoryStore;
    use crate::engine::verified;
    use proptest::prelude::*;

    const CLIENT: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    const NOW: u64 = 1000;

    struct Fixture {
        store: MemoryStore,
        verified: Verified,
        verifier: Verifier,
        streams: u32,
    }

    impl Fixture {
        fn new() -> Self {
            let names = Names::new("c", "a", 4);
            let verified = Verified::new(names.verified(), 100, Some([7; 32]));
            Self { store: MemoryStore::default(), verified, verifier: Verifier::new(&names), streams: 0 }
        }

        /// A stream of its own waits for a credential.
        fn wait_from(&mut self, credential: &str, client: Option<IpAddr>, now_ms: u64) -> Result<u32, Busy> {
            self.streams += 1;
            let what = unverified(credential);
            self.verifier.wait(&self.store, &what, client, self.streams, now_ms).map(|()| self.streams)
        }

        fn wait(&mut self, credential: &str) -> Result<u32, Busy> {
            self.wait_from(credential, CLIENT, NOW)
        }

        fn send(&mut self) -> Option<(u64, String)> {
            self.verifier.to_send(NOW).map(|(id, credential)| (id, credential.expose().to_owned()))
        }

        fn end(&mut self, id: u64, outcome: Outcome, now_ms: u64) {
            self.verifier.ended(&self.store, &mut self.verified, id, outcome, now_ms);
        }

        fn ready(&mut self) -> Vec<u32> {
            self.verifier.take_ready(usize::MAX).into_iter().map(|(stream, _)| stream).collect()
        }

        /// A question from beginning to end.
        fn guess(&mut self, credential: &str, client: Option<IpAddr>, now_ms: u64) -> Result<(), Busy> {
            self.wait_from(credential, client, now_ms)?;
            let (id, _) = self.verifier.to_send(now_ms).unwrap();
            self.end(id, Outcome::Answered(Answer::Wrong), now_ms);
            assert_eq!(self.ready().len(), 1);
            Ok(())
        }
    }

    /// Its first character is its public beginning.
    fn unverified(credential: &str) -> Unverified {
        Unverified {
            credential: Secret::new(credential.to_owned()),
            digest: Digest::of_key(credential.as_bytes()),
            subject: Digest::of_selector(&credential.as_bytes()[..1]),
            secret_id: "sec_1".to_owned(),
        }
    }

    fn right() -> Outcome {
        Outcome::Answered(Answer::Right { secret_id: "sec_1".to_owned() })
    }

    fn v6(last: u128) -> Option<IpAddr> {
        Some(IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | last)))
    }

    #[test]
    fn a_credential_is_asked_about_once_whoever_waits_for_it() {
        let mut fixture = Fixture::new();
        let waiting = [fixture.wait("a1").unwrap(), fixture.wait("a1").unwrap()];
        let other = fixture.wait("b1").unwrap();
        let (first, asked) = fixture.send().unwrap();
        assert_eq!(asked, "a1");
        let late = fixture.wait("a1").unwrap();
        assert_eq!(fixture.send().map(|(_, asked)| asked), Some("b1".to_owned()));
        assert_eq!(fixture.send(), None);
        fixture.end(first, right(), NOW);
        assert!(fixture.verifier.waits(late));
        assert_eq!(fixture.ready(), [waiting[0], waiting[1], late]);
        assert!(!fixture.verifier.waits(late) && fixture.verifier.waits(other));
        fixture.end(first, right(), NOW);
        assert!(fixture.ready().is_empty(), "a second answer to the same question");
    }

    #[test]
    fn a_stream_that_goes_away_is_forgotten_and_others_get_the_answer() {
        let mut fixture = Fixture::new();
        let (first, second) = (fixture.wait("a1").unwrap(), fixture.wait("a1").unwrap());
        let alone = fixture.wait("b1").unwrap();
        fixture.verifier.leave(first);
        fixture.verifier.leave(alone);
        fixture.verifier.leave(999);
        let (id, asked) = fixture.send().unwrap();
        assert_eq!((asked.as_str(), fixture.send()), ("a1", None), "nobody waits for the other");
        fixture.end(id, right(), NOW);
        assert_eq!(fixture.ready(), [second]);
    }

    #[test]
    fn an_answer_that_nobody_waits_for_any_longer_is_remembered() {
        let mut fixture = Fixture::new();
        let stream = fixture.wait("a1").unwrap();
        let (id, _) = fixture.send().unwrap();
        fixture.verifier.leave(stream);
        assert!(fixture.verifier.is_open(id));
        fixture.end(id, right(), NOW);
        assert!(fixture.ready().is_empty());
        let what = unverified("a1");
        let Unverified { digest, subject, .. } = what;
        let credential = verified::Credential { text: b"a1", digest, subject, before: &Reading::default() };
        assert!(fixture.verified.recall(&fixture.store, &credential, "sec_1", NOW).is_some());
    }

    #[test]
    fn a_stream_that_goes_away_once_it_is_ready_is_not_touched() {
        let mut fixture = Fixture::new();
        let (first, second) = (fixture.wait("a1").unwrap(), fixture.wait("a1").unwrap());
        let (id, _) = fixture.send().unwrap();
        fixture.end(id, right(), NOW);
        fixture.verifier.leave(first);
        assert_eq!(fixture.ready(), [second]);
    }

    #[test]
    fn a_request_and_a_question_have_deadlines() {
        let mut fixture = Fixture::new();
        let unsent = fixture.wait("b1").unwrap();
        fixture.verifier.tick(NOW + WAIT_MS - 1);
        assert!(fixture.ready().is_empty());
        fixture.verifier.tick(NOW + WAIT_MS);
        assert_eq!(fixture.ready(), [unsent]);
        assert_eq!(fixture.send(), None, "what nobody waits for is not asked");

        let early = fixture.wait("a1").unwrap();
        let (id, _) = fixture.send().unwrap();
        let late = fixture.wait_from("a1", CLIENT, NOW + 4000).unwrap();
        fixture.verifier.tick(NOW + WAIT_MS);
        assert_eq!(fixture.ready(), [early, late], "Envoy lost the call, so nobody waits for it any longer");
        assert!(!fixture.verifier.is_open(id));
        fixture.end(id, right(), NOW + WAIT_MS);
        fixture.wait("a1").unwrap();
        assert!(fixture.send().is_some(), "and it can be asked again");
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut fixture = Fixture::new();
        let client = |n: usize| v6((n as u128) << 64);
        for _ in 0..MAX_WAITERS_PER_QUESTION {
            fixture.wait("a1").unwrap();
        }
        assert_eq!(fixture.wait("a1"), Err(Busy { retry_after_s: 1 }));
        for n in 1..MAX_QUESTIONS {
            let public = char::from(b'A' + u8::try_from(n / 50).unwrap());
            fixture.wait_from(&format!("{public}{n}"), client(n), NOW).unwrap();
        }
        assert!(fixture.wait_from("z", client(0), NOW).is_err(), "too many questions");
        for n in 0..MAX_WAITERS - MAX_WAITERS_PER_QUESTION - (MAX_QUESTIONS - 1) {
            let n = 1 + n % (MAX_QUESTIONS - 1);
            let public = char::from(b'A' + u8::try_from(n / 50).unwrap());
            fixture.wait_from(&format!("{public}{n}"), client(n), NOW).unwrap();
        }
        assert!(fixture.wait("A1").is_err(), "too many in all");
    }

    #[test]
    fn a_client_that_guesses_is_stopped_and_others_are_not() {
        let mut fixture = Fixture::new();
        for n in 0..5 {
            fixture.guess(&format!("a{n}"), v6(n), NOW).unwrap();
        }
        let Err(Busy { retry_after_s }) = fixture.guess("a5", v6(99), NOW + 100) else { panic!("the same /64") };
        assert_eq!(retry_after_s, 60);
        fixture.guess("b5", v6(1), NOW).unwrap();
        fixture.guess("a5", v6(1 << 64), NOW).unwrap();
        fixture.guess("a6", CLIENT, NOW).unwrap();
        fixture.guess("a7", v6(1), NOW + 60_001).unwrap();
    }

    #[test]
    fn all_clients_together_are_stopped_too() {
        let mut fixture = Fixture::new();
        let allowed = (0..100).filter(|n| fixture.guess(&format!("a{n}"), v6(n << 64), NOW).is_ok()).count();
        assert_eq!(allowed, 60);
    }

    #[test]
    fn a_client_that_knows_many_public_beginnings_leaves_enough_for_others() {
        let mut fixture = Fixture::new();
        let beginnings = || ('A'..='Z').chain('a'..='z').chain('0'..='9');
        let asked = beginnings().filter(|c| fixture.wait(&c.to_string()).is_ok()).count();
        assert_eq!(asked, MAX_QUESTIONS_OF_CLIENT);
        fixture.wait_from("A", v6(0), NOW).unwrap();
        fixture.wait_from("z0", v6(0), NOW).unwrap();
        while let Some((id, _)) = fixture.send() {
            fixture.end(id, Outcome::Answered(Answer::Wrong), NOW);
        }
        fixture.ready();

        let mut fixture = Fixture::new();
        let checked = beginnings().filter(|c| fixture.guess(&c.to_string(), CLIENT, NOW).is_ok()).count();
        assert_eq!(checked, 30);
        fixture.guess("A1", v6(0), NOW).unwrap();
        fixture.guess("A1", CLIENT, NOW + 60_001).unwrap();
    }

    #[test]
    fn a_client_that_is_told_to_come_back_again_and_again_is_told_so_without_being_asked_about() {
        let mut fixture = Fixture::new();
        let mut ask = |n: u32, client, outcome: &Outcome, now_ms| {
            fixture.wait_from(&format!("a{n}"), client, now_ms)?;
            let (id, _) = fixture.verifier.to_send(now_ms).unwrap();
            fixture.end(id, outcome.clone(), now_ms);
            fixture.ready();
            Ok(())
        };
        let [busy, away] = [Outcome::Busy { retry_after_s: 1 }, Outcome::Unavailable { retry_after_s: 1 }];
        assert!((0..100).all(|n| ask(n, CLIENT, &away, NOW).is_ok()), "it is nobody's fault");
        assert!((0..100).all(|n| ask(n, None, &busy, NOW).is_ok()), "that may be anybody");
        assert_eq!((0..100).filter(|n| ask(*n, CLIENT, &busy, NOW).is_ok()).count(), 20);
        assert_eq!(ask(0, CLIENT, &busy, NOW + 1), Err(Busy { retry_after_s: 10 }));
        ask(0, v6(0), &busy, NOW).unwrap();
        ask(0, CLIENT, &busy, NOW + 10_001).unwrap();
    }

    #[test]
    fn guesses_at_once_get_no_further_than_one_after_another() {
        let mut fixture = Fixture::new();
        let allowed = (0..20).filter(|n| fixture.wait(&format!("a{n}")).is_ok()).count();
        assert_eq!(allowed, 5);
        let (id, _) = fixture.send().unwrap();
        fixture.end(id, Outcome::Answered(Answer::Wrong), NOW);
        assert!(fixture.wait("ax").is_err(), "one was wrong, four are open");
        let (id, _) = fixture.send().unwrap();
        fixture.end(id, right(), NOW);
        fixture.wait("ax").unwrap();
    }

    #[test]
    fn what_the_control_plane_asks_for_is_bounded() {
        let mut fixture = Fixture::new();
        for (told, expected) in [(0, 1), (7, 7), (1 << 40, 30)] {
            fixture.wait("a1").unwrap();
            let (id, _) = fixture.send().unwrap();
            fixture.end(id, Outcome::Unavailable { retry_after_s: told }, NOW);
            let (_, ended) = fixture.verifier.take_ready(1).remove(0);
            assert_eq!(ended.outcome, Outcome::Unavailable { retry_after_s: expected });
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u8),
        Leave(u32),
        Send,
        End(u64, u8),
        Tick(u64),
        Take(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..6u8).prop_map(Step::Wait),
            1 => (1..40u32).prop_map(Step::Leave),
            2 => Just(Step::Send),
            2 => (0..20u64, 0..3u8).prop_map(|(id, outcome)| Step::End(id, outcome)),
            1 => (0..3000u64).prop_map(Step::Tick),
            2 => (0..4usize).prop_map(Step::Take),
        ];
        proptest::collection::vec(step, 0..80)
    }

    proptest! {
        #[test]
        fn in_any_order_of_events_each_stream_ends_once_and_none_is_held_for_ever(steps in steps()) {
            let mut fixture = Fixture::new();
            let (mut waiting, mut now_ms) = (BTreeSet::new(), NOW);
            let end = |taken: Vec<(u32, Rc<Ended>)>, waiting: &mut BTreeSet<u32>| {
                for (stream, _) in taken {
                    prop_assert!(waiting.remove(&stream), "{} did not wait", stream);
                }
                Ok(())
            };
            for step in steps {
                match step {
                    Step::Wait(n) => {
                        let credential = format!("{}{n}", char::from(b'a' + n % 2));
                        if let Ok(stream) = fixture.wait_from(&credential, CLIENT, now_ms) {
                            waiting.insert(stream);
                        }
                    }
                    Step::Leave(stream) => {
                        fixture.verifier.leave(stream);
                        waiting.remove(&stream);
                    }
                    Step::Send => drop(fixture.verifier.to_send(now_ms)),
                    Step::End(id, outcome) => {
                        let outcome = match outcome {
                            0 => right(),
                            1 => Outcome::Answered(Answer::Wrong),
                            _ => Outcome::Unavailable { retry_after_s: 1 },
                        };
                        fixture.end(id, outcome, now_ms);
                    }
                    Step::Tick(ms) => {
                        now_ms += ms;
                        fixture.verifier.tick(now_ms);
                    }
                    Step::Take(most) => end(fixture.verifier.take_ready(most), &mut waiting)?,
                }
                for stream in 1..=fixture.streams {
                    prop_assert_eq!(fixture.verifier.waits(stream), waiting.contains(&stream));
                }
            }
            fixture.verifier.tick(now_ms + WAIT_MS);
            end(fixture.verifier.take_ready(usize::MAX), &mut waiting)?;
            prop_assert!(waiting.is_empty() && fixture.verifier.questions.is_empty());
        }
    }
}
