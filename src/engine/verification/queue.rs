//! Requests that wait for the control plane to verify a credential: each credential is verified once at a time, and the
//! number of wrong ones is limited.
//!
//! Wrong credentials are counted by client and selector, the public beginning of a key, so guessing one key does not
//! block others. A client with too many wrong credentials continues in a *slow lane*: a few credentials at a time, and
//! only with selectors for which it has sent no wrong credential. So a legitimate user of the same address waits
//! briefly rather than being refused, and the control plane verifies no more than the lane admits.
//!
//! A response may never arrive, and a waiting stream may disappear: verifications and requests have deadlines, and a
//! closed stream is removed. The queue sends nothing itself; the host takes what [is due](Verifier::to_send), reports
//! the [result](Verifier::ended), and resumes the streams that are [ready](Verifier::take_ready).

use crate::engine::limiter::Limiter;
use crate::engine::store::{Names, SharedStore};
use crate::engine::verification::cache::Verified;
use keyward_core::client_net::ClientNet;
use keyward_core::key::digest::Digest;
use keyward_core::key::limit::Limit;
use keyward_core::key::secret::Secret;
use keyward_core::wire::verify::Answer;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

/// The pending verifications of one worker.
#[derive(Debug)]
pub struct Verifier {
    wrong: Limiter,
    questions: BTreeMap<u64, Question>,
    asked: u64,
    /// Every waiting stream, including those that are ready.
    waiting: BTreeSet<u32>,
    ready: VecDeque<(u32, Arc<Ended>)>,
}

/// What must be verified before a request can be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unverified {
    /// The credential as sent.
    pub credential: Secret,
    /// Its digest.
    pub digest: Digest,
    /// The address of the record that the credential's selector leads to.
    pub subject: Digest,
    /// The secret that the record names.
    pub secret_id: String,
}

/// The result of a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The digest of the verified credential.
    pub digest: Digest,
    /// What is known now.
    pub outcome: Outcome,
}

/// What is known after a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The control plane's answer.
    Answered(Answer),
    /// The control plane did not answer.
    Unavailable {
        /// When to retry, in seconds.
        retry_after_s: u64,
    },
    /// The control plane is overloaded.
    Busy {
        /// When to retry, in seconds.
        retry_after_s: u64,
    },
}

/// The verification is not admitted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much is being verified: try again in {retry_after_s} s")]
pub struct Busy {
    /// When to retry, in seconds.
    pub retry_after_s: u64,
}

#[derive(Debug)]
struct Question {
    what: Unverified,
    /// The client's network.
    client: String,
    /// Whether the question is sent in the client's slow lane.
    is_slow: bool,
    /// The deadline of the response; `None` until sent.
    given_up_ms: Option<u64>,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    stream: u32,
    deadline_ms: u64,
}

/// The timeout of a call to the control plane, in milliseconds.
pub const CALL_TIMEOUT_MS: u64 = 4000;

/// The longest time that a request waits, in milliseconds.
pub const WAIT_MS: u64 = 5000;

/// The limits per worker: credentials being verified, requests that wait for one of them, and waiting requests in all.
pub const MAX_QUESTIONS: usize = 100;
/// See [`MAX_QUESTIONS`].
pub const MAX_WAITERS_PER_QUESTION: usize = 100;
/// See [`MAX_QUESTIONS`].
pub const MAX_WAITERS: usize = 1000;

/// How many wrong credentials with one selector may be verified: of one client, and of all clients together.
pub const WRONG_OF_CLIENT: Limit = Limit::per_minute(5);
/// See [`WRONG_OF_CLIENT`].
pub const WRONG_OF_ALL: Limit = Limit::per_minute(60);
/// How many wrong credentials with any selector a client may have verified before it continues in the slow lane:
/// knowing many selectors must not allow a client to keep the control plane busy.
pub const WRONG_OF_CLIENT_IN_ALL: Limit = Limit::per_minute(30);
/// How many wrong credentials a client may have verified in its slow lane.
pub const WRONG_IN_SLOW_LANE: Limit = Limit::per_ten_seconds(20);
/// How many verifications a client may have sent to an overloaded control plane.
pub const IN_VAIN_OF_CLIENT: Limit = Limit::per_ten_seconds(20);

/// One client's maximum share of [`MAX_QUESTIONS`], so that others are not locked out.
const MAX_QUESTIONS_OF_CLIENT: usize = MAX_QUESTIONS / 2;

/// How many credentials of one client a worker verifies at once in the slow lane, and how many wait for that.
const MAX_SLOW_AT_ONCE: usize = 4;
/// See [`MAX_SLOW_AT_ONCE`].
const MAX_SLOW_OF_CLIENT: usize = 16;
/// How many credentials wait in the slow lanes of all clients, since they wait longer than others.
const MAX_SLOW: usize = MAX_QUESTIONS / 2;

/// The default time until a retry, in seconds.
const RETRY_S: u64 = 1;

/// The longest time until a retry that the control plane may request, in seconds.
const MAX_RETRY_S: u64 = 30;

const WRONG_BUCKET_BITS: u32 = 8;

impl Verifier {
    /// An empty queue.
    pub fn new(names: &Names) -> Self {
        Self {
            wrong: Limiter::new(names.wrong(), WRONG_BUCKET_BITS),
            questions: BTreeMap::new(),
            asked: 0,
            waiting: BTreeSet::new(),
            ready: VecDeque::new(),
        }
    }

    /// Adds a stream that waits for its credential's verification, and starts the verification if it is not pending
    /// yet.
    ///
    /// # Errors
    /// If too many streams wait, or this client, or all clients, sent too many wrong credentials with this selector.
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
            let client = network_of(client);
            let of_client = self.questions.values().filter(|question| question.client == client).count();
            if client != UNKNOWN && of_client >= MAX_QUESTIONS_OF_CLIENT {
                return busy;
            }
            let is_slow = self.have_budget(store, what, &client, now_ms)?;
            self.asked += 1;
            let question = Question { what: what.clone(), client, is_slow, given_up_ms: None, waiters: vec![waiter] };
            self.questions.insert(self.asked, question);
        }
        self.waiting.insert(stream);
        Ok(())
    }

    /// Whether a credential goes into its client's slow lane.
    ///
    /// Pending verifications with one selector count as wrong, so that parallel guesses gain nothing over sequential
    /// ones. (Pending verifications with several selectors do not: they may be the keys of many users behind one
    /// address.)
    ///
    /// # Errors
    /// If the verification is not admitted now.
    fn have_budget(
        &self,
        store: &impl SharedStore,
        what: &Unverified,
        client: &str,
        now_ms: u64,
    ) -> Result<bool, Busy> {
        let with_subject = self.questions.values().filter(|question| question.what.subject == what.subject);
        let of_all = with_subject.clone().count();
        let of_client = with_subject.filter(|question| question.client == client).count();
        let [here, everywhere] = wrong_with(&what.subject, client);
        let in_vain = in_vain_of(client).map(|of| ((of, IN_VAIN_OF_CLIENT), 0));
        let counted = [(here.clone(), of_client), (everywhere, of_all)];
        for ((of, limit), open) in counted.into_iter().chain(in_vain) {
            let cost = u32::try_from(open).unwrap_or(u32::MAX).saturating_add(1);
            if cost > limit.requests() {
                return Err(Busy { retry_after_s: RETRY_S });
            }
            let wait_ms = self.wrong.wait_ms(store, &of, limit, cost, now_ms);
            if wait_ms > 0 {
                return Err(Busy { retry_after_s: limit.wait_s(wait_ms) });
            }
        }
        let Some((in_all, limit)) = wrong_in_all(client) else { return Ok(false) };
        let wait_ms = self.wrong.wait_ms(store, &in_all, limit, 1, now_ms);
        if wait_ms == 0 {
            return Ok(false);
        }
        // The client sent a wrong credential with this selector if its budget is not full.
        let (of, limit) = here;
        let suspected_ms = self.wrong.wait_ms(store, &of, limit, limit.requests(), now_ms);
        if suspected_ms > 0 {
            return Err(Busy { retry_after_s: limit.wait_s(suspected_ms.min(wait_ms)) });
        }
        let slow = || self.questions.values().filter(|question| question.is_slow);
        let slow_of_client = slow().filter(|question| question.client == client).count();
        if of_client > 0 || slow_of_client >= MAX_SLOW_OF_CLIENT || slow().count() >= MAX_SLOW {
            return Err(Busy { retry_after_s: RETRY_S });
        }
        Ok(true)
    }

    /// Whether a client's slow lane is full at the moment. Pending verifications count as wrong.
    fn is_lane_full(&self, store: &impl SharedStore, client: &str, now_ms: u64) -> bool {
        let is_open =
            |question: &&Question| question.is_slow && question.given_up_ms.is_some() && question.client == client;
        let open = self.questions.values().filter(is_open).count();
        let cost = u32::try_from(open).unwrap_or(u32::MAX).saturating_add(1);
        open >= MAX_SLOW_AT_ONCE || self.wrong.wait_ms(store, &lane_of(client), WRONG_IN_SLOW_LANE, cost, now_ms) > 0
    }

    /// Whether a stream is waiting.
    pub fn waits(&self, stream: u32) -> bool {
        self.waiting.contains(&stream)
    }

    /// Removes a stream. A verification in flight continues: its result is cached for the next request.
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

    /// The next verification to send, which then counts as sent: its id and the credential.
    pub fn to_send(&mut self, store: &impl SharedStore, now_ms: u64) -> Option<(u64, Secret)> {
        let mut full = BTreeSet::new();
        let mut may_be_sent = |question: &Question| {
            if question.given_up_ms.is_some() || full.contains(&question.client) {
                return false;
            }
            let is_held = question.is_slow && self.is_lane_full(store, &question.client, now_ms);
            if is_held {
                full.insert(question.client.clone());
            }
            !is_held
        };
        let id = self.questions.iter().find(|(_, question)| may_be_sent(question)).map(|(id, _)| *id)?;
        let question = self.questions.get_mut(&id)?;
        question.given_up_ms = Some(now_ms.saturating_add(WAIT_MS));
        Some((id, question.what.credential.clone()))
    }

    /// Whether the response to a verification is still expected.
    pub fn is_open(&self, id: u64) -> bool {
        self.questions.contains_key(&id)
    }

    /// Handles the result of a verification: caches it, and marks the streams that waited for it as ready.
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
                let in_lane = question.is_slow.then(|| (lane_of(&question.client), WRONG_IN_SLOW_LANE));
                let counted = wrong_with(&what.subject, &question.client).into_iter();
                for (of, limit) in counted.chain(wrong_in_all(&question.client)).chain(in_lane) {
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
        let ended = Arc::new(Ended { digest: what.digest, outcome: outcome.bounded() });
        self.ready.extend(question.waiters.iter().map(|waiter| (waiter.stream, Arc::clone(&ended))));
    }

    /// Times out verifications and waiting requests.
    pub fn tick(&mut self, now_ms: u64) {
        let unavailable = Outcome::Unavailable { retry_after_s: RETRY_S };
        for question in self.questions.values_mut() {
            let ended = Arc::new(Ended { digest: question.what.digest, outcome: unavailable.clone() });
            // Envoy may drop a call silently; the verification then times out like one without a response.
            let is_given_up = question.given_up_ms.is_some_and(|at| now_ms >= at);
            question.waiters.retain(|waiter| {
                let stays = !is_given_up && now_ms < waiter.deadline_ms;
                if !stays {
                    self.ready.push_back((waiter.stream, Arc::clone(&ended)));
                }
                stays
            });
        }
        self.questions.retain(|_, question| match question.given_up_ms {
            Some(given_up_ms) => now_ms < given_up_ms,
            None => !question.waiters.is_empty(),
        });
    }

    /// At most `most` streams whose verification is complete, each once; they no longer wait.
    pub fn take_ready(&mut self, most: usize) -> Vec<(u32, Arc<Ended>)> {
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

/// The counters of wrong credentials with a selector, by client and for all clients, with their limits.
fn wrong_with(subject: &Digest, client: &str) -> [(String, Limit); 2] {
    let subject = hex::encode(subject.0);
    [(format!("{subject} {client}"), WRONG_OF_CLIENT), (subject, WRONG_OF_ALL)]
}

/// The counter of wrong credentials with any selector.
fn wrong_in_all(client: &str) -> Option<(String, Limit)> {
    (client != UNKNOWN).then(|| (format!("all {client}"), WRONG_OF_CLIENT_IN_ALL))
}

fn lane_of(client: &str) -> String {
    format!("lane {client}")
}

fn in_vain_of(client: &str) -> Option<String> {
    (client != UNKNOWN).then(|| format!("in vain {client}"))
}

/// Clients without an address, which may be all clients.
const UNKNOWN: &str = "";

/// The client's network.
fn network_of(client: Option<IpAddr>) -> String {
    client.map_or_else(|| UNKNOWN.to_owned(), |client| ClientNet::of(client).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::snapshot::ReadVersions;
    use crate::engine::store::memory::MemoryStore;
    use crate::engine::verification::cache;
    use proptest::prelude::*;
    use std::net::Ipv6Addr;

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

        /// A new stream waits for a credential.
        fn wait_from(&mut self, credential: &str, client: Option<IpAddr>, now_ms: u64) -> Result<u32, Busy> {
            self.streams += 1;
            let what = unverified(credential);
            self.verifier.wait(&self.store, &what, client, self.streams, now_ms).map(|()| self.streams)
        }

        fn wait(&mut self, credential: &str) -> Result<u32, Busy> {
            self.wait_from(credential, CLIENT, NOW)
        }

        fn send(&mut self) -> Option<(u64, String)> {
            self.verifier.to_send(&self.store, NOW).map(|(id, credential)| (id, credential.expose().to_owned()))
        }

        fn end(&mut self, id: u64, outcome: Outcome, now_ms: u64) {
            self.verifier.ended(&self.store, &mut self.verified, id, outcome, now_ms);
        }

        fn ready(&mut self) -> Vec<u32> {
            self.verifier.take_ready(usize::MAX).into_iter().map(|(stream, _)| stream).collect()
        }

        /// A verification from beginning to end.
        fn guess(&mut self, credential: &str, client: Option<IpAddr>, now_ms: u64) -> Result<(), Busy> {
            self.wait_from(credential, client, now_ms)?;
            let (id, _) = self.verifier.to_send(&self.store, now_ms).ok_or(Busy { retry_after_s: 0 })?;
            self.end(id, Outcome::Answered(Answer::Wrong), now_ms);
            assert_eq!(self.ready().len(), 1);
            Ok(())
        }
    }

    /// A credential whose first character is its selector.
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
    fn credential_is_verified_once_for_all_its_streams() {
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
    fn closed_stream_is_removed_and_others_get_the_result() {
        let mut fixture = Fixture::new();
        let (first, second) = (fixture.wait("a1").unwrap(), fixture.wait("a1").unwrap());
        let alone = fixture.wait("b1").unwrap();
        fixture.verifier.leave(first);
        fixture.verifier.leave(alone);
        fixture.verifier.leave(999);
        let (id, asked) = fixture.send().unwrap();
        assert_eq!((asked.as_str(), fixture.send()), ("a1", None), "no stream waits for the other");
        fixture.end(id, right(), NOW);
        assert_eq!(fixture.ready(), [second]);
    }

    #[test]
    fn result_without_waiting_streams_is_cached() {
        let mut fixture = Fixture::new();
        let stream = fixture.wait("a1").unwrap();
        let (id, _) = fixture.send().unwrap();
        fixture.verifier.leave(stream);
        assert!(fixture.verifier.is_open(id));
        fixture.end(id, right(), NOW);
        assert!(fixture.ready().is_empty());
        let what = unverified("a1");
        let Unverified { digest, subject, .. } = what;
        let credential = cache::Credential { text: b"a1", digest, subject, before: &ReadVersions::default() };
        assert!(fixture.verified.recall(&fixture.store, &credential, "sec_1", NOW).is_some());
    }

    #[test]
    fn stream_closed_when_ready_is_not_resumed() {
        let mut fixture = Fixture::new();
        let (first, second) = (fixture.wait("a1").unwrap(), fixture.wait("a1").unwrap());
        let (id, _) = fixture.send().unwrap();
        fixture.end(id, right(), NOW);
        fixture.verifier.leave(first);
        assert_eq!(fixture.ready(), [second]);
    }

    #[test]
    fn requests_and_verifications_have_deadlines() {
        let mut fixture = Fixture::new();
        let unsent = fixture.wait("b1").unwrap();
        fixture.verifier.tick(NOW + WAIT_MS - 1);
        assert!(fixture.ready().is_empty());
        fixture.verifier.tick(NOW + WAIT_MS);
        assert_eq!(fixture.ready(), [unsent]);
        assert_eq!(fixture.send(), None, "a question without waiters is not sent");

        let early = fixture.wait("a1").unwrap();
        let (id, _) = fixture.send().unwrap();
        let late = fixture.wait_from("a1", CLIENT, NOW + 4000).unwrap();
        fixture.verifier.tick(NOW + WAIT_MS);
        assert_eq!(fixture.ready(), [early, late], "Envoy lost the call, so the streams time out");
        assert!(!fixture.verifier.is_open(id));
        fixture.end(id, right(), NOW + WAIT_MS);
        fixture.wait("a1").unwrap();
        assert!(fixture.send().is_some(), "the credential can be verified again");
    }

    #[test]
    fn waiting_is_bounded() {
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
    fn guessing_client_is_stopped_and_others_are_not() {
        let mut fixture = Fixture::new();
        for n in 0..5 {
            fixture.guess(&format!("a{n}"), v6(n), NOW).unwrap();
        }
        let Err(Busy { retry_after_s }) = fixture.guess("a5", v6(99), NOW + 100) else {
            panic!("expected a refusal for the same /64")
        };
        assert_eq!(retry_after_s, 60);
        fixture.guess("b5", v6(1), NOW).unwrap();
        fixture.guess("a5", v6(1 << 64), NOW).unwrap();
        fixture.guess("a6", CLIENT, NOW).unwrap();
        fixture.guess("a7", v6(1), NOW + 60_001).unwrap();
    }

    #[test]
    fn guesses_of_all_clients_together_are_limited() {
        let mut fixture = Fixture::new();
        let allowed = (0..100).filter(|n| fixture.guess(&format!("a{n}"), v6(n << 64), NOW).is_ok()).count();
        assert_eq!(allowed, 60);
    }

    #[test]
    fn client_with_many_selectors_does_not_block_others() {
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
        assert_eq!(checked, 30 + 20, "the rest in the slow lane");
        fixture.guess("A1", v6(0), NOW).unwrap();
        fixture.guess("A1", CLIENT, NOW + 60_001).unwrap();
    }

    /// Six keys, five wrong endings each, in one minute from one address.
    fn guessed_at() -> Fixture {
        let mut fixture = Fixture::new();
        for c in 'a'..='f' {
            for n in 0..5 {
                fixture.guess(&format!("{c}{n}"), CLIENT, NOW).unwrap();
            }
        }
        fixture
    }

    impl Fixture {
        /// The first use of a key from beginning to end; the verification must be sent at once.
        fn first_use(&mut self, credential: &str, now_ms: u64) -> Result<(), Busy> {
            self.wait_from(credential, CLIENT, now_ms)?;
            let (id, sent) = self.verifier.to_send(&self.store, now_ms).ok_or(Busy { retry_after_s: 0 })?;
            assert_eq!(sent.expose(), credential);
            self.end(id, right(), now_ms);
            assert_eq!(self.ready().len(), 1);
            Ok(())
        }
    }

    #[test]
    fn guessing_address_may_first_use_other_keys() {
        let mut fixture = guessed_at();
        for n in 0..200u8 {
            let key = char::from_u32(0x100 + u32::from(n)).unwrap().to_string();
            let what = Unverified { subject: Digest::of_selector(key.as_bytes()), ..unverified("x") };
            let what = Unverified { digest: Digest::of_key(key.as_bytes()), ..what };
            fixture.verifier.wait(&fixture.store, &what, CLIENT, 1, NOW + 1).unwrap();
            let (id, _) = fixture.verifier.to_send(&fixture.store, NOW + 1).expect("sent at once");
            fixture.end(id, right(), NOW + 1);
            assert_eq!(fixture.ready(), [1]);
        }
        let Err(Busy { retry_after_s }) = fixture.first_use("a9", NOW + 1) else {
            panic!("expected a refusal of the guessed selector")
        };
        assert_eq!(retry_after_s, 60);
        fixture.wait_from("a9", v6(0), NOW + 1).unwrap();
    }

    /// A selector for which the client sent one wrong credential is refused beyond the client's total bound.
    #[test]
    fn selector_guessed_once_is_refused_beyond_the_bound() {
        let mut fixture = guessed_at();
        fixture.guess("g0", CLIENT, NOW + 1000).unwrap();
        let Err(Busy { retry_after_s }) = fixture.first_use("g1", NOW + 1000) else {
            panic!("expected a refusal of the guessed selector")
        };
        assert_eq!(retry_after_s, 60, "until the client's bound or the selector's recovers, whichever is first");
        fixture.first_use("h1", NOW + 1000).unwrap();
        fixture.first_use("g1", NOW + 60_001).unwrap();
    }

    #[test]
    fn slow_lane_is_bounded_and_overflow_waits() {
        let mut fixture = guessed_at();
        let other = fixture.wait_from("A", v6(0), NOW).unwrap();
        let slow: Vec<_> = ('g'..='z').filter_map(|c| fixture.wait(&c.to_string()).ok()).collect();
        assert_eq!(slow.len(), MAX_SLOW_OF_CLIENT);
        let mut open: VecDeque<u64> = VecDeque::new();
        while let Some((id, _)) = fixture.send() {
            open.push_back(id);
        }
        assert_eq!(open.len(), 1 + MAX_SLOW_AT_ONCE, "another client is not held back");
        fixture.end(open.pop_front().unwrap(), right(), NOW);
        assert_eq!(fixture.ready(), [other]);
        while let Some(id) = open.pop_front() {
            fixture.end(id, Outcome::Answered(Answer::Wrong), NOW);
            open.extend(fixture.send().map(|(id, _)| id));
        }
        assert_eq!(fixture.ready().len(), MAX_SLOW_OF_CLIENT);
        // Wrong credentials use up the lane for ten seconds; correct ones do not.
        let allowed = ('A'..='Z').filter(|c| fixture.guess(&c.to_string(), CLIENT, NOW).is_ok()).count();
        assert_eq!(MAX_SLOW_OF_CLIENT + allowed, 20);
        fixture.verifier.tick(NOW + WAIT_MS);
        fixture.ready();
        assert!(fixture.first_use("0", NOW + 9000).is_err());
        fixture.verifier.tick(NOW + 9000 + WAIT_MS);
        fixture.ready();
        fixture.first_use("1", NOW + 10_001 + WAIT_MS).unwrap();
    }

    /// A client that an overloaded control plane rejects repeatedly is rejected without asking the control plane.
    #[test]
    fn client_rejected_as_busy_repeatedly_is_not_sent_on() {
        let mut fixture = Fixture::new();
        let mut ask = |n: u32, client, outcome: &Outcome, now_ms| {
            fixture.wait_from(&format!("a{n}"), client, now_ms)?;
            let (id, _) = fixture.verifier.to_send(&fixture.store, now_ms).unwrap();
            fixture.end(id, outcome.clone(), now_ms);
            fixture.ready();
            Ok(())
        };
        let [busy, unavailable] = [Outcome::Busy { retry_after_s: 1 }, Outcome::Unavailable { retry_after_s: 1 }];
        assert!(
            (0..100).all(|n| ask(n, CLIENT, &unavailable, NOW).is_ok()),
            "unavailability does not count against a client"
        );
        assert!((0..100).all(|n| ask(n, None, &busy, NOW).is_ok()), "clients without an address are not limited");
        assert_eq!((0..100).filter(|n| ask(*n, CLIENT, &busy, NOW).is_ok()).count(), 20);
        assert_eq!(ask(0, CLIENT, &busy, NOW), Err(Busy { retry_after_s: 10 }), "never longer than the window");
        ask(0, v6(0), &busy, NOW).unwrap();
        ask(0, CLIENT, &busy, NOW + 10_001).unwrap();
    }

    #[test]
    fn parallel_guesses_gain_nothing_over_sequential_ones() {
        let mut fixture = Fixture::new();
        let allowed = (0..20).filter(|n| fixture.wait(&format!("a{n}")).is_ok()).count();
        assert_eq!(allowed, 5);
        let (id, _) = fixture.send().unwrap();
        fixture.end(id, Outcome::Answered(Answer::Wrong), NOW);
        assert!(fixture.wait("ax").is_err(), "one was wrong, four are pending");
        let (id, _) = fixture.send().unwrap();
        fixture.end(id, right(), NOW);
        fixture.wait("ax").unwrap();
    }

    #[test]
    fn retry_time_from_the_control_plane_is_bounded() {
        let mut fixture = Fixture::new();
        for (requested, expected) in [(0, 1), (7, 7), (1 << 40, 30)] {
            fixture.wait("a1").unwrap();
            let (id, _) = fixture.send().unwrap();
            fixture.end(id, Outcome::Unavailable { retry_after_s: requested }, NOW);
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
        fn each_stream_ends_once_and_none_waits_for_ever(steps in steps(), has_guessed: bool) {
            let mut fixture = if has_guessed { guessed_at() } else { Fixture::new() };
            let before = fixture.streams;
            let (mut waiting, mut now_ms) = (BTreeSet::new(), NOW);
            let end = |taken: Vec<(u32, Arc<Ended>)>, waiting: &mut BTreeSet<u32>| {
                for (stream, _) in taken {
                    prop_assert!(waiting.remove(&stream), "{} did not wait", stream);
                }
                Ok(())
            };
            for step in steps {
                match step {
                    Step::Wait(n) => {
                        let credential = format!("{}{n}", char::from(if has_guessed { b'g' + n } else { b'a' + n % 2 }));
                        if let Ok(stream) = fixture.wait_from(&credential, CLIENT, now_ms) {
                            waiting.insert(stream);
                        }
                    }
                    Step::Leave(stream) => {
                        let stream = before + stream;
                        fixture.verifier.leave(stream);
                        waiting.remove(&stream);
                    }
                    Step::Send => drop(fixture.verifier.to_send(&fixture.store, now_ms)),
                    Step::End(id, outcome) => {
                        let outcome = match outcome {
                            0 => right(),
                            1 => Outcome::Answered(Answer::Wrong),
                            _ => Outcome::Unavailable { retry_after_s: 1 },
                        };
                        fixture.end(u64::from(before) + id, outcome, now_ms);
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
