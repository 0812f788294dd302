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
    closed: bool,
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
    asker: String,
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
            closed: false,
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
        if self.closed || self.waiting.len() >= MAX_WAITERS {
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
            let asker = asker(&what.subject, client);
            self.have_budget(store, what, &asker, now_ms)?;
            self.asked += 1;
            let question = Question { what: what.clone(), asker, given_up_ms: None, waiters: vec![waiter] };
            self.questions.insert(self.asked, question);
        }
        self.waiting.insert(stream);
        Ok(())
    }

    /// What this worker is asking counts as if it were wrong already, so that many at once get no further than one
    /// after another.
    fn have_budget(&self, store: &impl SharedStore, what: &Unverified, asker: &str, now_ms: u64) -> Result<(), Busy> {
        let with_subject = self.questions.values().filter(|question| question.what.subject == what.subject);
        let of_all = with_subject.clone().count();
        let of_client = with_subject.filter(|question| question.asker == asker).count();
        let of_subject = hex::encode(what.subject.0);
        for (of, limit, open) in [(asker, WRONG_OF_CLIENT, of_client), (&of_subject, WRONG_OF_ALL, of_all)] {
            let cost = u32::try_from(open).unwrap_or(u32::MAX).saturating_add(1);
            if cost > limit.requests() {
                return Err(Busy { retry_after_s: RETRY_S });
            }
            let wait_ms = self.wrong.wait_ms(store, of, limit, cost, now_ms);
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
                for (of, limit) in [(&question.asker, WRONG_OF_CLIENT), (&hex::encode(what.subject.0), WRONG_OF_ALL)] {
                    self.wrong.admit(store, of, &[limit], NonZeroU32::MIN, now_ms);
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

    /// Gives up everything, and accepts nothing more: nobody will tick any longer.
    pub fn close(&mut self) {
        self.closed = true;
        self.tick(u64::MAX);
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
            answered @ Self::Answered(_) => answered,
        }
    }
}

/// A client, as far as it can be told apart, at one public beginning. Whoever has an IPv6 address has 2^64 of them.
fn asker(subject: &Digest, client: Option<IpAddr>) -> String {
    let client = match client.map(|client| client.to_canonical()) {
        Some(IpAddr::V6(address)) => Some(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64))),
        other => other,
    };
    format!("{} {}", hex::encode(subject.0), client.map_or_else(String::new, |client| client.to_string()))
}
