//! The whole way of a request whose key only the control plane can check, as two workers that share a store walk it.

use crate::engine::auth_throttle::AuthThrottle;
use crate::engine::bucket::{self, Input, Stamp};
use crate::engine::credential::Header;
use crate::engine::decide::{Authorizer, Decision, Policy};
use crate::engine::digests::Digests;
use crate::engine::feed::Now;
use crate::engine::limiter::Limiter;
use crate::engine::shared_state::Status;
use crate::engine::snapshot::Snapshot;
use crate::engine::store::memory::MemoryStore;
use crate::engine::store::{Names, update};
use crate::engine::verification::cache::{RIGHT_MS, Verified, WRONG_MS};
use crate::engine::verification::queue::{Ended, Outcome, Verifier};
use crate::policy::Config;
use keyward_core::key::digest::Digest;
use keyward_core::key::limit::Limits;
use keyward_core::refusal::Refusal;
use keyward_core::wire::entry::{Body, Entry, Frames, KeyRecord, OwnerRecord};
use keyward_core::wire::verify::Answer;
use std::net::IpAddr;
use std::rc::Rc;

const KEY: &str = "team.0123456789abcdefABCDEFGHIJKLMNOPQRSTUVWXYZabcdef";
const GUESS: &str = "team.0123456789abcdefABCDEFGHIJKLMNOPQRSTUVWXYZabcdeX";
const SELECTOR: &[u8] = b"team.0123456789abcdef";
const START: Now = Now { monotonic_ms: 100_000, wall_ms: 1_700_000_000_000 };
const BITS: u32 = 4;
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

struct Worker {
    snapshot: Snapshot,
    verified: Verified,
    verifier: Verifier,
}

struct Process {
    policy: Policy,
    store: MemoryStore,
    names: Names,
    limiter: Limiter,
    guessing: Option<AuthThrottle>,
    workers: [Worker; 2],
    version: u64,
    now: Now,
    streams: u32,
}

impl Process {
    /// With one key, which needs verification.
    fn new() -> Self {
        let text = r#"{"dialect": "auxot", "control_plane": {"cluster": "c"}}"#;
        let names = Names::new("c", "a", BITS);
        let worker = |n| Worker {
            snapshot: Snapshot::new(names.clone(), BITS, 100),
            verified: Verified::new(names.verified(), 100, Some([n; 32])),
            verifier: Verifier::new(&names),
        };
        let mut process = Self {
            policy: Config::parse(text.as_bytes()).unwrap().policy,
            store: MemoryStore::default(),
            limiter: Limiter::new(names.limits(), BITS),
            guessing: None,
            workers: [worker(1), worker(2)],
            names,
            version: 0,
            now: START,
            streams: 0,
        };
        process.status(|status| (status.generation, status.answered_ms) = (1, u64::MAX));
        process.put(Digest::of_owner("acme"), Body::Owner(OwnerRecord::default()));
        process.key(|_| {});
        process
    }

    fn status(&self, change: impl Fn(&mut Status)) {
        update(&self.store, &self.names.status, |current| {
            let mut status = current.map_or(Status::START, Status::decode);
            change(&mut status);
            (Some(status.encode()), ())
        });
    }

    fn put(&mut self, subject: Digest, body: Body) {
        self.version += 1;
        let mut frame = Vec::new();
        Entry { subject, version: self.version, body }.encode(&mut frame).unwrap();
        let index = subject.leading_bits(BITS);
        let stamp = Stamp { generation: 1, sequence: self.version };
        update(&self.store, &self.names.bucket(index), |current| {
            let frames = Frames::new(&frame).map(Result::unwrap);
            let merged = bucket::merge(current.unwrap_or_default(), stamp, frames, Input::Changes, self.now.wall_ms);
            (merged.rewritten, ())
        });
        self.status(|status| status.stripes[Status::stripe_of(index)] += 1);
        for worker in &mut self.workers {
            worker.snapshot.poll(&self.store, self.now.monotonic_ms);
        }
    }

    fn record(change: impl FnOnce(&mut KeyRecord)) -> Body {
        let mut key = KeyRecord {
            key_id: "key_1".into(),
            secret_id: "sec_1".into(),
            kind: "team".into(),
            owner: Some("acme".into()),
            needs_verification: true,
            ..KeyRecord::default()
        };
        change(&mut key);
        Body::Key(key)
    }

    fn key(&mut self, change: impl FnOnce(&mut KeyRecord)) {
        self.put(Digest::of_selector(SELECTOR), Self::record(change));
    }

    fn pass_ms(&mut self, ms: u64) {
        self.now.monotonic_ms += ms;
        self.now.wall_ms += ms;
    }

    fn decide_after(&mut self, worker: usize, credential: &str, ended: Option<&Ended>) -> Decision {
        let Worker { snapshot, verified, .. } = &mut self.workers[worker];
        let (policy, limiter, guessing, store) = (&self.policy, &self.limiter, self.guessing.as_ref(), &self.store);
        let bearer = format!("Bearer {credential}");
        let headers: [Header<'_>; 2] = [(":path", b"/"), ("authorization", bearer.as_bytes())];
        let digests = &Digests::default();
        let mut edge = Authorizer { policy, digests, snapshot, limiter, guessing, verified, store };
        edge.decide_after(&headers, self.now, || Some(CLIENT), ended)
    }

    fn decide(&mut self, worker: usize, credential: &str) -> Decision {
        self.decide_after(worker, credential, None)
    }

    fn verdict(&mut self, worker: usize, credential: &str) -> &'static str {
        self.decide(worker, credential).verdict()
    }

    /// A question that a request made necessary, answered; what the request waited for.
    fn ask(&mut self, worker: usize, credential: &str, outcome: Outcome) -> Rc<Ended> {
        let Decision::Verify(what) = self.decide(worker, credential) else { panic!("there is nothing to ask") };
        self.streams += 1;
        let (now_ms, stream) = (self.now.monotonic_ms, self.streams);
        let Worker { verified, verifier, .. } = &mut self.workers[worker];
        verifier.wait(&self.store, &what, None, stream, now_ms).unwrap();
        let (id, asked) = verifier.to_send(&self.store, now_ms).unwrap();
        assert_eq!(asked.expose(), credential);
        verifier.ended(&self.store, verified, id, outcome, now_ms);
        let (ready, ended) = verifier.take_ready(1).remove(0);
        assert_eq!(ready, stream);
        ended
    }

    /// The verdict on a request that waits for this.
    fn verdict_after(&mut self, worker: usize, credential: &str, outcome: Outcome) -> &'static str {
        let ended = self.ask(worker, credential, outcome);
        self.decide_after(worker, credential, Some(&ended)).verdict()
    }
}

fn right(secret_id: &str) -> Outcome {
    Outcome::Answered(Answer::Right { secret_id: secret_id.to_owned() })
}

const WRONG: Outcome = Outcome::Answered(Answer::Wrong);

#[test]
fn a_key_is_verified_once_and_every_worker_knows_it() {
    let mut process = Process::new();
    assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "allow");
    assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], ["allow", "allow"]);
    process.pass_ms(RIGHT_MS - 1);
    assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], ["allow", "allow"]);
    process.pass_ms(1);
    assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], ["verify", "verify"]);
}

#[test]
fn a_verified_key_in_the_cache_costs_no_look_up() {
    let mut process = Process::new();
    assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "allow");
    let before = process.store.calls.get();
    assert_eq!((process.verdict(0, KEY), process.store.calls.get() - before), ("allow", 0));
}

#[test]
fn a_wrong_secret_is_unknown_and_for_a_while_not_asked_about_again() {
    let mut process = Process::new();
    assert_eq!(process.verdict_after(0, GUESS, WRONG), "unknown");
    assert_eq!([process.verdict(0, GUESS), process.verdict(1, GUESS)], ["unknown", "unknown"]);
    assert_eq!(process.decide(0, GUESS).key_id(), None, "whose key it is not is nobody's business");
    process.pass_ms(WRONG_MS);
    assert_eq!(process.verdict(1, GUESS), "verify");
    assert_eq!(process.verdict_after(1, KEY, right("sec_1")), "allow");
}

#[test]
fn a_credential_that_leads_to_no_record_is_never_asked_about() {
    let mut process = Process::new();
    assert_eq!(process.verdict(0, &KEY.replace("0123", "zzzz")), "unknown");
    assert_eq!(process.verdict(0, &KEY.replace("team", "user")), "unknown");
    assert_eq!(process.verdict(0, &KEY[..KEY.len() - 1]), "malformed");
}

#[test]
fn a_record_that_forgets_to_say_so_is_verified_all_the_same() {
    let mut process = Process::new();
    process.key(|key| key.needs_verification = false);
    assert_eq!(process.verdict(0, KEY), "verify", "the public beginning of a key is no key");
}

#[test]
fn a_key_of_which_the_sha_256_is_known_is_not_asked_about() {
    let mut process = Process::new();
    process.put(Digest::of_key(KEY.as_bytes()), Process::record(|key| key.needs_verification = false));
    assert_eq!(process.verdict(0, KEY), "allow");
    assert_eq!(process.verdict(0, GUESS), "verify");
}

#[test]
fn a_record_for_the_sha_256_comes_first_on_every_worker_although_the_key_was_verified() {
    let mut process = Process::new();
    assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "allow");
    process.put(
        Digest::of_key(KEY.as_bytes()),
        Process::record(|key| {
            key.needs_verification = false;
            key.revoked_at_ms = Some(1);
        }),
    );
    assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], ["revoked", "revoked"]);
}

#[test]
fn only_who_has_the_key_learns_that_it_is_revoked_or_has_ended() {
    type Change = fn(&mut KeyRecord);
    let changes: [(&str, Change); 3] = [
        ("revoked", |key| key.revoked_at_ms = Some(1)),
        ("revoked", |key| key.secret_not_after_ms = Some(START.wall_ms)),
        ("expired", |key| key.expires_at_ms = Some(START.wall_ms)),
    ];
    for (expected, change) in changes {
        let mut process = Process::new();
        assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "allow");
        process.key(change);
        assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], [expected, expected]);
        assert_eq!(process.verdict(0, GUESS), "unknown");
        let mut process = Process::new();
        process.key(change);
        assert_eq!(process.verdict(0, KEY), "unknown", "nothing is asked about it");
    }
}

#[test]
fn what_is_remembered_belongs_to_one_secret() {
    let mut process = Process::new();
    assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "allow");
    process.key(|key| key.secret_id = "sec_2".into());
    assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], ["verify", "verify"]);
    process.key(|_| {});
    assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], ["allow", "allow"]);
}

#[test]
fn a_request_that_waited_is_decided_by_what_is_true_then() {
    let mut process = Process::new();
    let ended = process.ask(0, KEY, right("sec_1"));
    process.key(|key| key.revoked_at_ms = Some(1));
    assert_eq!(process.decide_after(0, KEY, Some(&ended)).verdict(), "revoked");

    let mut process = Process::new();
    let ended = process.ask(0, KEY, right("sec_1"));
    process.put(Digest::of_selector(SELECTOR), Body::Removed);
    assert_eq!(process.decide_after(0, KEY, Some(&ended)).verdict(), "unknown");

    let mut process = Process::new();
    let ended = process.ask(0, KEY, right("sec_1"));
    process.key(|key| key.secret_id = "sec_2".into());
    assert_eq!(process.decide_after(0, KEY, Some(&ended)).verdict(), "unavailable", "another secret was verified");
}

#[test]
fn a_request_never_waits_twice() {
    let mut process = Process::new();
    let ended = process.ask(0, KEY, right("sec_9"));
    assert_eq!(process.decide_after(0, KEY, Some(&ended)).verdict(), "unavailable");
    let of_another = process.ask(0, GUESS, WRONG);
    assert_eq!(process.decide_after(0, KEY, Some(&of_another)).verdict(), "unavailable");
}

#[test]
fn that_nothing_could_be_learned_is_told_with_when_to_come_back_and_not_remembered() {
    let mut process = Process::new();
    let ended = process.ask(0, KEY, Outcome::Unavailable { retry_after_s: 7 });
    let decision = process.decide_after(0, KEY, Some(&ended));
    let Decision::Refuse(refused) = &decision else { panic!("{decision:?}") };
    assert_eq!(decision.verdict(), "unavailable");
    let rendered = refused.render(&process.policy, &[]);
    assert!(rendered.headers.contains(&("retry-after".into(), "7".into())), "{rendered:?}");
    assert_eq!(process.verdict(0, KEY), "verify");
}

#[test]
fn another_worker_that_learned_it_meanwhile_is_enough() {
    let mut process = Process::new();
    let ended = process.ask(0, KEY, Outcome::Unavailable { retry_after_s: 7 });
    assert_eq!(process.verdict_after(1, KEY, right("sec_1")), "allow");
    assert_eq!(process.decide_after(0, KEY, Some(&ended)).verdict(), "allow");
}

#[test]
fn a_request_that_waits_is_counted_once() {
    let mut process = Process::new();
    process.key(|key| key.limits = Some(Limits::new(vec!["1/h".parse().unwrap()]).unwrap()));
    assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "allow");
    assert_eq!(process.verdict(1, KEY), "rate_limited");
}

#[test]
fn a_wrong_secret_is_a_guess_once_that_is_known_and_each_request_with_it_is_one() {
    let mut process = Process::new();
    process.guessing = Some(AuthThrottle::new(process.names.guesses(), "2/min".parse().unwrap()));
    let ended = process.ask(0, GUESS, Outcome::Unavailable { retry_after_s: 7 });
    for _ in 0..9 {
        assert_eq!(process.decide_after(0, GUESS, Some(&ended)).verdict(), "unavailable", "nothing is known");
        assert_eq!(process.verdict(0, GUESS), "verify");
    }
    let ended = process.ask(0, GUESS, WRONG);
    let verdicts = [0; 2].map(|_| process.decide_after(0, GUESS, Some(&ended)).verdict());
    assert_eq!(verdicts, ["unknown", "unknown"]);
    let decision = process.decide_after(0, GUESS, Some(&ended));
    let Decision::Refuse(refused) = &decision else { panic!("{decision:?}") };
    assert_eq!((refused.refusal, decision.key_id()), (Refusal::RateLimited, None));
    assert_eq!(process.verdict(0, GUESS), "rate_limited", "what is remembered to be wrong is a guess too");
    assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "allow", "a good key is not held back");
}

#[test]
fn what_the_record_says_of_the_request_is_asked_of_verified_keys_too() {
    let mut process = Process::new();
    assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "allow");
    process.put(Digest::of_owner("acme"), Body::Owner(OwnerRecord { disabled: true, permissions: None }));
    assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], ["unassociated", "unassociated"]);
}
