//! Requests with a key that only the control plane can verify, handled by two workers that share a store.

use crate::engine::auth_throttle::AuthThrottle;
use crate::engine::bucket::{self, Input, Stamp};
use crate::engine::credential::Header;
use crate::engine::decide::{Authorizer, Decision};
use crate::engine::digests::Digests;
use crate::engine::feed::Now;
use crate::engine::limiter::Limiter;
use crate::engine::policy::Policy;
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
use std::sync::Arc;

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
    /// A process with one key that needs verification.
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

    /// Answers the verification that a request requires; returns the result that the request waited for.
    fn ask(&mut self, worker: usize, credential: &str, outcome: Outcome) -> Arc<Ended> {
        let Decision::Verify(what) = self.decide(worker, credential) else { panic!("expected a verification") };
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

    /// The verdict on a request that waits for this result.
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
fn key_is_verified_once_for_every_worker() {
    let mut process = Process::new();
    assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "allow");
    assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], ["allow", "allow"]);
    process.pass_ms(RIGHT_MS - 1);
    assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], ["allow", "allow"]);
    process.pass_ms(1);
    assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], ["verify", "verify"]);
}

#[test]
fn verified_key_in_the_cache_costs_no_look_up() {
    let mut process = Process::new();
    assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "allow");
    let before = process.store.calls.get();
    assert_eq!((process.verdict(0, KEY), process.store.calls.get() - before), ("allow", 0));
}

#[test]
fn wrong_secret_is_unknown_and_cached_for_a_while() {
    let mut process = Process::new();
    assert_eq!(process.verdict_after(0, GUESS, WRONG), "unknown");
    assert_eq!([process.verdict(0, GUESS), process.verdict(1, GUESS)], ["unknown", "unknown"]);
    assert_eq!(process.decide(0, GUESS).key_id(), None, "the key id of a wrong secret must not be shown");
    process.pass_ms(WRONG_MS);
    assert_eq!(process.verdict(1, GUESS), "verify");
    assert_eq!(process.verdict_after(1, KEY, right("sec_1")), "allow");
}

#[test]
fn credential_without_a_record_is_never_verified() {
    let mut process = Process::new();
    assert_eq!(process.verdict(0, &KEY.replace("0123", "zzzz")), "unknown");
    assert_eq!(process.verdict(0, &KEY.replace("team", "user")), "unknown");
    assert_eq!(process.verdict(0, &KEY[..KEY.len() - 1]), "malformed");
}

#[test]
fn record_without_verification_flag_is_still_verified() {
    let mut process = Process::new();
    process.key(|key| key.needs_verification = false);
    assert_eq!(process.verdict(0, KEY), "verify", "the selector of a key is not accepted as a key");
}

#[test]
fn key_found_by_sha_256_is_not_verified() {
    let mut process = Process::new();
    process.put(Digest::of_key(KEY.as_bytes()), Process::record(|key| key.needs_verification = false));
    assert_eq!(process.verdict(0, KEY), "allow");
    assert_eq!(process.verdict(0, GUESS), "verify");
}

/// A record for the SHA-256 takes precedence on every worker, even if the key was verified before.
#[test]
fn sha_256_record_takes_precedence_on_every_worker() {
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
fn revocation_and_expiry_are_shown_to_holders_only() {
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
        assert_eq!(process.verdict(0, KEY), "unknown", "no verification is sent");
    }
}

/// A pause does not end a key, so it is verified meanwhile, and nothing of the pause is left once it is resumed.
#[test]
fn paused_key_is_verified_and_guesses_learn_nothing() {
    let mut process = Process::new();
    process.key(|key| key.paused = true);
    assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "paused");
    assert_eq!(process.verdict_after(0, GUESS, Outcome::Answered(Answer::Wrong)), "unknown");
    process.key(|_| {});
    assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], ["allow", "allow"]);
}

#[test]
fn cached_result_belongs_to_one_secret() {
    let mut process = Process::new();
    assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "allow");
    process.key(|key| key.secret_id = "sec_2".into());
    assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], ["verify", "verify"]);
    process.key(|_| {});
    assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], ["allow", "allow"]);
}

#[test]
fn waiting_request_is_decided_by_the_current_state() {
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
    assert_eq!(process.decide_after(0, KEY, Some(&ended)).verdict(), "unavailable", "a different secret was verified");
}

#[test]
fn request_never_waits_twice() {
    let mut process = Process::new();
    let ended = process.ask(0, KEY, right("sec_9"));
    assert_eq!(process.decide_after(0, KEY, Some(&ended)).verdict(), "unavailable");
    let of_another = process.ask(0, GUESS, WRONG);
    assert_eq!(process.decide_after(0, KEY, Some(&of_another)).verdict(), "unavailable");
}

#[test]
fn unavailability_has_a_retry_time_and_is_not_cached() {
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
fn result_learned_by_another_worker_is_enough() {
    let mut process = Process::new();
    let ended = process.ask(0, KEY, Outcome::Unavailable { retry_after_s: 7 });
    assert_eq!(process.verdict_after(1, KEY, right("sec_1")), "allow");
    assert_eq!(process.decide_after(0, KEY, Some(&ended)).verdict(), "allow");
}

#[test]
fn waiting_request_is_counted_once() {
    let mut process = Process::new();
    process.key(|key| key.limits = Some(Limits::new(vec!["1/h".parse().unwrap()]).unwrap()));
    assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "allow");
    assert_eq!(process.verdict(1, KEY), "rate_limited");
}

/// Each request with a wrong secret counts as a guess once the secret is known to be wrong.
#[test]
fn each_request_with_a_wrong_secret_counts_as_a_guess() {
    let mut process = Process::new();
    process.guessing = Some(AuthThrottle::new(process.names.guesses(), "2/min".parse().unwrap()));
    let ended = process.ask(0, GUESS, Outcome::Unavailable { retry_after_s: 7 });
    for _ in 0..9 {
        assert_eq!(process.decide_after(0, GUESS, Some(&ended)).verdict(), "unavailable", "the result is unknown");
        assert_eq!(process.verdict(0, GUESS), "verify");
    }
    let ended = process.ask(0, GUESS, WRONG);
    let verdicts = [0; 2].map(|_| process.decide_after(0, GUESS, Some(&ended)).verdict());
    assert_eq!(verdicts, ["unknown", "unknown"]);
    let decision = process.decide_after(0, GUESS, Some(&ended));
    let Decision::Refuse(refused) = &decision else { panic!("{decision:?}") };
    assert_eq!((refused.refusal, decision.key_id()), (Refusal::RateLimited, None));
    assert_eq!(process.verdict(0, GUESS), "rate_limited", "a cached wrong secret counts as a guess too");
    assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "allow", "a valid key is not throttled");
}

#[test]
fn record_conditions_apply_to_verified_keys_too() {
    let mut process = Process::new();
    assert_eq!(process.verdict_after(0, KEY, right("sec_1")), "allow");
    process.put(Digest::of_owner("acme"), Body::Owner(OwnerRecord { disabled: true, permissions: None }));
    assert_eq!([process.verdict(0, KEY), process.verdict(1, KEY)], ["unassociated", "unassociated"]);
}
