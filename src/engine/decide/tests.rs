//! Each verdict, and what decides between two.

use super::*;
use crate::engine::bucket::{self, Input, Stamp};
use crate::engine::digests::{HmacKey, KeyDigest};
use crate::engine::rate_limit_headers::RateLimitHeaders;
use crate::engine::shared_state::Status;
use crate::engine::store::memory::MemoryStore;
use crate::engine::store::{Names, update};
use crate::policy::Config;
use hmac::{Hmac, Mac as _};
use keyward_core::key::limit::Limits;
use keyward_core::wire::entry::{Body, Entry, Frames, OwnerRecord, PlanRecord};
use sha2::{Digest as _, Sha256, Sha512};
use std::cell::Cell;

const KEY: &str = "exo_live_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
const NOW: Now = Now { monotonic_ms: 100_000, wall_ms: 1_700_000_000_000 };
const BITS: u32 = 4;

struct Fixture {
    policy: Policy,
    digests: Digests,
    store: MemoryStore,
    names: Names,
    snapshot: Snapshot,
    limiter: Limiter,
    guessing: Option<AuthThrottle>,
    verified: Verified,
    version: u64,
}

impl Fixture {
    fn new(rules: &str) -> Self {
        let text = format!(
            r#"{{"dialect": "exona", "control_plane": {{"cluster": "c", "max_staleness_s": 60}}, "rules": {rules}}}"#
        );
        let names = Names::new("c", "a", BITS);
        let snapshot = Snapshot::new(names.clone(), BITS, 100);
        let policy = Config::parse(text.as_bytes()).unwrap().policy;
        let edge = Self {
            policy,
            digests: Digests::default(),
            store: MemoryStore::default(),
            limiter: Limiter::new(names.limits(), 4),
            guessing: None,
            verified: Verified::new(names.verified(), 100, Some([7; 32])),
            names,
            snapshot,
            version: 0,
        };
        edge.status(|status| {
            status.generation = 1;
            status.answered_ms = u64::MAX;
            status.contact_ms = NOW.monotonic_ms.cast_signed();
        });
        edge
    }

    fn open() -> Self {
        Self::new(r#"[{"path": {"prefix": "/"}, "access": "key"}]"#)
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
        self.put_frame(subject, &frame);
    }

    fn unreadable(&mut self, subject: Digest) {
        self.version += 1;
        let mut frame = Vec::new();
        Entry { subject, version: self.version, body: Body::Removed }.encode(&mut frame).unwrap();
        *frame.last_mut().unwrap() = 200;
        self.put_frame(subject, &frame);
    }

    fn put_frame(&self, subject: Digest, frame: &[u8]) {
        let index = subject.leading_bits(BITS);
        let stamp = Stamp { generation: 1, sequence: self.version };
        update(&self.store, &self.names.bucket(index), |current| {
            let frames = Frames::new(frame).map(Result::unwrap);
            (bucket::merge(current.unwrap_or_default(), stamp, frames, Input::Changes, NOW.wall_ms).rewritten, ())
        });
        self.status(|status| status.stripes[Status::stripe_of(index)] += 1);
    }

    fn key(&mut self, change: impl Fn(&mut KeyRecord)) {
        let mut key = KeyRecord { key_id: "key_1".into(), kind: "key".into(), ..KeyRecord::default() };
        change(&mut key);
        self.put(Digest::of_key(KEY.as_bytes()), Body::Key(key));
    }

    fn plan(&mut self, name: &str, limit: Option<&str>) {
        let limits = limit.map(|limit| Limits::new(vec![limit.parse().unwrap()]).unwrap());
        self.put(Digest::of_plan(name), Body::Plan(PlanRecord { limits }));
    }

    /// A key that was imported as a digest, found at this address.
    fn imported(&mut self, address: Digest, key_id: &str) {
        self.put(address, Body::Key(KeyRecord { key_id: key_id.to_owned(), ..KeyRecord::default() }));
    }

    fn decide(&mut self, path: &str, authorization: Option<&str>, client: Option<&str>) -> Decision {
        let mut headers = vec![(":path", path.as_bytes())];
        headers.extend(authorization.map(|value| ("authorization", value.as_bytes())));
        let client = client.map(|address| address.parse().unwrap());
        self.snapshot.poll(&self.store, NOW.monotonic_ms);
        self.edge().decide(&headers, NOW, || client)
    }

    fn edge(&mut self) -> Authorizer<'_, MemoryStore> {
        let Self { policy, digests, snapshot, limiter, guessing, verified, store, .. } = self;
        Authorizer { policy, digests, snapshot, limiter, guessing: guessing.as_ref(), verified, store }
    }

    fn verdict(&mut self) -> &'static str {
        self.decide("/", Some(&format!("Bearer {KEY}")), None).verdict()
    }

    fn verdict_from(&mut self, client: &str) -> &'static str {
        self.decide("/", Some(&format!("Bearer {KEY}")), Some(client)).verdict()
    }
}

fn with(authorization: &str) -> [(&str, &[u8]); 2] {
    [(":path", b"/"), ("authorization", authorization.as_bytes())]
}

#[test]
fn without_a_snapshot_or_with_a_stale_one_even_a_request_without_a_key_is_unavailable() {
    let mut edge = Fixture::open();
    edge.key(|_| {});
    assert_eq!(edge.verdict(), "allow");
    edge.status(|status| status.contact_ms = NOW.monotonic_ms.cast_signed() - 60_001);
    assert_eq!(edge.verdict(), "unavailable");
    edge.status(|status| {
        status.contact_ms = NOW.monotonic_ms.cast_signed();
        status.generation = 0;
    });
    assert_eq!(edge.verdict(), "unavailable");
    assert_eq!(edge.decide("/", None, None).verdict(), "unavailable");
}

#[test]
fn once_one_worker_can_decide_every_other_can() {
    let mut edge = Fixture::open();
    edge.key(|_| {});
    edge.status(|status| status.generation = 0);
    assert_eq!(edge.verdict(), "unavailable");
    edge.status(|status| status.generation = 1);
    let bearer = format!("Bearer {KEY}");
    let headers = with(&bearer);
    assert_eq!(edge.edge().decide(&headers, NOW, || None).verdict(), "allow", "without a tick in between");
}

#[test]
fn each_bad_credential_has_its_verdict() {
    let mut edge = Fixture::open();
    edge.key(|_| {});
    let mut verdict = |authorization| edge.decide("/", authorization, None).verdict();
    assert_eq!(verdict(None), "missing");
    assert_eq!(verdict(Some("Bearer nonsense")), "malformed");
    assert_eq!(verdict(Some("Bearer eyJhbGciOiJub25lIn0.e30.")), "jwt");
    assert_eq!(verdict(Some("Bearer exo_live_yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy")), "unknown");
}

#[test]
fn a_key_is_refused_from_the_moment_it_is_revoked_or_ends() {
    let mut edge = Fixture::open();
    edge.key(|key| key.expires_at_ms = Some(NOW.wall_ms + 1));
    assert_eq!(edge.verdict(), "allow");
    edge.key(|key| key.expires_at_ms = Some(NOW.wall_ms));
    assert_eq!(edge.verdict(), "expired");
    edge.key(|key| key.secret_not_after_ms = Some(NOW.wall_ms + 1));
    assert_eq!(edge.verdict(), "allow");
    edge.key(|key| key.secret_not_after_ms = Some(NOW.wall_ms));
    assert_eq!(edge.verdict(), "revoked");
    edge.key(|key| {
        key.revoked_at_ms = Some(1);
        key.expires_at_ms = Some(1);
    });
    assert_eq!(edge.verdict(), "revoked");
}

#[test]
fn a_paused_key_is_refused_until_it_is_resumed() {
    let mut edge = Fixture::open();
    edge.key(|key| key.paused = true);
    assert_eq!(edge.verdict(), "paused");
    edge.key(|_| {});
    assert_eq!(edge.verdict(), "allow");
    edge.key(|key| (key.paused, key.revoked_at_ms) = (true, Some(1)));
    assert_eq!(edge.verdict(), "revoked");
}

#[test]
fn an_owner_decides_for_its_keys() {
    let mut edge = Fixture::open();
    edge.key(|key| key.owner = Some("acme".into()));
    assert_eq!(edge.verdict(), "unassociated", "an owner that is not known");
    edge.put(Digest::of_owner("acme"), Body::Owner(OwnerRecord::default()));
    assert_eq!(edge.verdict(), "allow");
    edge.put(Digest::of_owner("acme"), Body::Owner(OwnerRecord { disabled: true, permissions: None }));
    assert_eq!(edge.verdict(), "unassociated");
}

#[test]
fn a_key_that_must_have_an_owner_and_has_none_is_unassociated() {
    let mut edge = Fixture::open();
    edge.policy.dialect.owner_required = true;
    edge.key(|_| {});
    assert_eq!(edge.verdict(), "unassociated");
}

#[test]
fn an_allowlist_is_held_against_the_client_in_both_families() {
    let mut edge = Fixture::open();
    edge.key(|key| key.allowlist = vec!["10.1.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
    for (client, expected) in [
        ("10.1.2.3", "allow"),
        ("::ffff:10.1.2.3", "allow"),
        ("2001:db8::1", "allow"),
        ("10.2.0.1", "forbidden_ip"),
        ("::ffff:10.2.0.1", "forbidden_ip"),
        ("2001:db9::1", "forbidden_ip"),
    ] {
        assert_eq!(edge.verdict_from(client), expected, "{client}");
    }
    assert_eq!(edge.verdict(), "forbidden_ip", "an address that is not known");
}

#[test]
fn the_clients_address_is_not_asked_for_without_an_allowlist() {
    let mut edge = Fixture::open();
    edge.key(|_| {});
    let asked = Cell::new(false);
    let bearer = format!("Bearer {KEY}");
    let headers = with(&bearer);
    let decision = edge.edge().decide(&headers, NOW, || {
        asked.set(true);
        None
    });
    assert_eq!((decision.verdict(), asked.get()), ("allow", false));
}

#[test]
fn a_key_in_the_cache_costs_no_look_up() {
    let mut edge = Fixture::open();
    edge.key(|key| {
        key.owner = Some("acme".into());
        key.plan = Some("pro".into());
    });
    edge.put(Digest::of_owner("acme"), Body::Owner(OwnerRecord::default()));
    edge.plan("pro", None);
    assert_eq!(edge.verdict(), "allow");
    let bearer = format!("Bearer {KEY}");
    let headers = with(&bearer);
    let before = edge.store.calls.get();
    let decision = edge.edge().decide(&headers, NOW, || None);
    assert_eq!((decision.verdict(), edge.store.calls.get() - before), ("allow", 0));
}

#[test]
fn a_status_that_is_too_old_is_read_again_before_a_cached_key_is_believed() {
    let mut edge = Fixture::open();
    edge.key(|_| {});
    assert_eq!(edge.verdict(), "allow");
    edge.key(|key| key.revoked_at_ms = Some(1));
    let bearer = format!("Bearer {KEY}");
    let headers = with(&bearer);
    let mut at = |ms| {
        let now = Now { monotonic_ms: NOW.monotonic_ms + ms, ..NOW };
        edge.edge().decide(&headers, now, || None).verdict()
    };
    assert_eq!(at(50), "allow");
    assert_eq!(at(51), "revoked");
}

#[test]
fn scopes_and_kinds_are_asked_of_the_key_and_bounded_by_its_owner() {
    let mut edge = Fixture::new(
        r#"[{"path": {"prefix": "/admin"}, "access": "key", "scopes": ["read", "admin"]},
            {"path": {"prefix": "/hooks"}, "access": "key", "kinds": []},
            {"path": {"exact": "/open"}, "access": "public"}, {"path": {"prefix": "/mcp"}, "access": "delegated"}]"#,
    );
    let bearer = format!("Bearer {KEY}");
    edge.key(|key| key.scopes = vec!["read".into()]);
    let decision = edge.decide("/admin/x", Some(&bearer), None);
    let Decision::Refuse(refused) = &decision else { panic!("{decision:?}") };
    assert_eq!((refused.refusal, refused.scope.as_str()), (Refusal::InsufficientScope, "admin"));
    assert_eq!(decision.key_id(), Some("key_1"));
    assert_eq!(edge.decide("/hooks", Some(&bearer), None).verdict(), "wrong_kind");
    assert_eq!(edge.decide("/open", None, None).verdict(), "public");
    assert_eq!(edge.decide("/mcp", None, None).verdict(), "delegated");
    assert_eq!(edge.decide("/elsewhere", Some(&bearer), None).verdict(), "wrong_kind", "no rule matches");
    assert_eq!(edge.decide("/elsewhere", None, None).verdict(), "missing");
    edge.key(|key| {
        key.scopes = vec!["read".into(), "admin".into()];
        key.owner = Some("acme".into());
    });
    edge.put(Digest::of_owner("acme"), Body::Owner(OwnerRecord::default()));
    assert_eq!(edge.decide("/admin", Some(&bearer), None).verdict(), "allow");
    let permissions = Some(vec!["read".to_owned()]);
    edge.put(Digest::of_owner("acme"), Body::Owner(OwnerRecord { disabled: false, permissions }));
    assert_eq!(edge.decide("/admin", Some(&bearer), None).verdict(), "insufficient_scope");
}

#[test]
fn a_route_that_keeps_the_credential_checks_it_as_any_other() {
    let mut edge = Fixture::new(
        r#"[{"path": {"prefix": "/self"}, "access": "key", "credential": "keep", "scopes": ["self"]},
            {"path": {"prefix": "/maybe"}, "access": "optional", "credential": "keep"},
            {"path": {"prefix": "/"}, "access": "key"}]"#,
    );
    let bearer = format!("Bearer {KEY}");
    edge.key(|_| {});
    assert_eq!(edge.decide("/self", Some(&bearer), None).verdict(), "insufficient_scope");
    assert_eq!(edge.decide("/self", None, None).verdict(), "missing");
    assert_eq!(edge.decide("/maybe", None, None), Decision::Public);
    edge.key(|key| key.scopes = vec!["self".into()]);
    let mut strip = |path| match edge.decide(path, Some(&bearer), None) {
        Decision::Allow { strip, .. } => strip,
        decision => panic!("{decision:?}"),
    };
    assert_eq!(strip("/self"), Strip::IdentityAndUnread);
    assert_eq!(strip("/maybe"), Strip::IdentityAndUnread);
    assert_eq!(strip("/"), Strip::IdentityAndCredentials);
    let other = bearer.replace('x', "y");
    let headers = [(":path", "/self"), ("authorization", &bearer), ("authorization", &other)];
    let headers = headers.map(|(name, value)| (name, value.as_bytes()));
    assert_eq!(edge.edge().decide(&headers, NOW, || None).verdict(), "malformed", "two that differ");
}

#[test]
fn a_key_is_held_to_its_limits_and_to_the_dialects_where_it_has_none() {
    let mut edge = Fixture::open();
    edge.policy.dialect.limits = Limits::new(vec!["2/s".parse().unwrap()]).unwrap();
    edge.key(|_| {});
    assert_eq!([edge.verdict(), edge.verdict(), edge.verdict()], ["allow", "allow", "rate_limited"]);
    edge.key(|key| {
        key.key_id = "key_2".into();
        key.limits = Some(Limits::new(vec!["1/s".parse().unwrap(), "9/min".parse().unwrap()]).unwrap());
    });
    assert_eq!(edge.verdict(), "allow");
    let decision = edge.decide("/", Some(&format!("Bearer {KEY}")), None);
    let Decision::Refuse(refused) = &decision else { panic!("{decision:?}") };
    let exhausted = refused.exhausted.as_ref().unwrap();
    assert_eq!((exhausted.limit.to_string().as_str(), exhausted.windows.len()), ("1/s", 2));
    assert!((1..=2).contains(&exhausted.retry_after_s), "{exhausted:?}");
    let rendered = refused.render(&edge.policy, &[]);
    assert_eq!(rendered.status, 429);
    assert!(rendered.headers.iter().any(|(name, _)| name == "ratelimit-policy"), "{rendered:?}");
}

#[test]
fn a_plan_limits_its_keys_that_have_no_limits_of_their_own() {
    let mut edge = Fixture::open();
    edge.policy.dialect.limits = Limits::new(vec!["3/s".parse().unwrap()]).unwrap();
    edge.plan("pro", Some("2/s"));
    let on_plan = |key_id: &str, limits: Option<&str>| {
        let limits = limits.map(|limit| Limits::new(vec![limit.parse().unwrap()]).unwrap());
        let (key_id, plan) = (key_id.to_owned(), Some("pro".to_owned()));
        move |key: &mut KeyRecord| {
            (key.key_id, key.plan, key.limits) = (key_id.clone(), plan.clone(), limits.clone());
        }
    };
    edge.key(on_plan("key_1", None));
    assert_eq!([edge.verdict(), edge.verdict(), edge.verdict()], ["allow", "allow", "rate_limited"]);
    edge.key(on_plan("key_2", Some("1/s")));
    assert_eq!([edge.verdict(), edge.verdict()], ["allow", "rate_limited"], "the key's own");
    edge.plan("pro", None);
    edge.key(on_plan("key_3", None));
    let verdicts = [edge.verdict(), edge.verdict(), edge.verdict(), edge.verdict()];
    assert_eq!(verdicts, ["allow", "allow", "allow", "rate_limited"], "the dialect's");
}

#[test]
fn a_change_of_a_plan_reaches_a_key_in_the_cache() {
    let mut edge = Fixture::open();
    edge.plan("pro", Some("0/s"));
    edge.key(|key| key.plan = Some("pro".into()));
    assert_eq!(edge.verdict(), "rate_limited");
    edge.plan("pro", Some("1000/s"));
    assert_eq!(edge.verdict(), "allow");
    edge.put(Digest::of_plan("pro"), Body::Removed);
    assert_eq!(edge.verdict(), "unavailable");
}

#[test]
fn a_key_whose_plan_is_not_known_or_not_a_plan_is_unavailable() {
    let mut edge = Fixture::open();
    edge.key(|key| key.plan = Some("pro".into()));
    assert_eq!(edge.verdict(), "unavailable");
    edge.plan("other", None);
    assert_eq!(edge.verdict(), "unavailable");
    edge.put(Digest::of_plan("pro"), Body::Owner(OwnerRecord::default()));
    assert_eq!(edge.verdict(), "unavailable");
    edge.plan("pro", None);
    assert_eq!(edge.verdict(), "allow");
}

#[test]
fn a_route_costs_what_it_says_and_used_up_credits_are_told() {
    let mut edge = Fixture::new(r#"[{"path": {"prefix": "/"}, "access": "key", "cost": 5}]"#);
    edge.key(|key| key.limits = Some(Limits::new(vec!["9/min".parse().unwrap()]).unwrap()));
    assert_eq!([edge.verdict(), edge.verdict()], ["allow", "rate_limited"]);
    edge.key(|key| {
        key.limits = Some(Limits::default());
        key.credits_exhausted = true;
    });
    assert_eq!(edge.verdict(), "quota_exhausted");
}

fn limits(limits: &[&str]) -> Option<Limits> {
    Some(Limits::new(limits.iter().map(|limit| limit.parse().unwrap()).collect()).unwrap())
}

/// The answer to a request with the key, if it is refused here.
fn answer(edge: &mut Fixture) -> Option<Rendered> {
    match edge.decide("/", Some(&format!("Bearer {KEY}")), None) {
        Decision::Refuse(refused) => Some(refused.render(&edge.policy, &[])),
        _ => None,
    }
}

fn field<'a>(rendered: &'a Rendered, name: &str) -> Option<&'a str> {
    rendered.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
}

#[test]
fn what_never_passes_is_told_to_come_back_after_a_window() {
    for (of_key, cost, retry_after) in [("0/s", 1, "1"), ("0/d", 1, "86400"), ("5/min", 6, "60")] {
        let mut edge = Fixture::new(&format!(r#"[{{"path": {{"prefix": "/"}}, "access": "key", "cost": {cost}}}]"#));
        edge.key(|key| key.limits = limits(&[of_key]));
        let refused = answer(&mut edge).unwrap();
        assert_eq!((refused.status, field(&refused, "retry-after")), (429, Some(retry_after)), "{of_key}");
    }
}

#[test]
fn whoever_waits_as_long_as_told_gets_through_and_the_wall_clock_does_not_matter() {
    let mut edge = Fixture::open();
    edge.key(|key| key.limits = limits(&["2/s", "3/min"]));
    let bearer = format!("Bearer {KEY}");
    let headers = with(&bearer);
    let mut now = NOW;
    let mut passed = Vec::new();
    for step in [3_600_000i64, -7_200_000, 0, 86_400_000, -1, 5000, 0, 0, -86_400_000, 1] {
        now.wall_ms = now.wall_ms.checked_add_signed(step).unwrap();
        edge.status(|status| status.contact_ms = now.monotonic_ms.cast_signed());
        match edge.edge().decide(&headers, now, || None) {
            Decision::Refuse(refused) => {
                // Seconds are never more than the window; the millisecond is the way of the answer and the next request.
                now.monotonic_ms += 1000 * refused.exhausted.unwrap().retry_after_s + 1;
                edge.status(|status| status.contact_ms = now.monotonic_ms.cast_signed());
                let verdict = edge.edge().decide(&headers, now, || None).verdict();
                assert_eq!(verdict, "allow", "after {step}");
            }
            decision => assert_eq!(decision.verdict(), "allow"),
        }
        passed.push(now.monotonic_ms);
    }
    assert!(passed.windows(4).all(|four| four[3] - four[0] > 60_000), "{passed:?}");
}

#[test]
fn what_a_429_tells_of_limits_is_as_configured() {
    let told = |rate_limit_headers: RateLimitHeaders| {
        let mut edge = Fixture::open();
        edge.policy.rate_limit_headers = rate_limit_headers;
        edge.key(|key| key.limits = limits(&["1/s", "9/min"]));
        assert_eq!(answer(&mut edge), None);
        let refused = answer(&mut edge).unwrap();
        assert!(field(&refused, "retry-after").is_some());
        let names = refused.headers.iter().map(|(name, _)| name.to_string());
        names.filter(|name| name.contains("ratelimit")).collect::<Vec<_>>()
    };
    let standard = ["ratelimit-policy", "ratelimit"];
    let x = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
    assert_eq!(told(RateLimitHeaders::default()), standard);
    assert_eq!(told(RateLimitHeaders { standard: When::Never, x: When::Never }), [""; 0]);
    assert_eq!(told(RateLimitHeaders { standard: When::Never, x: When::Refused }), x);
    assert_eq!(told(RateLimitHeaders { standard: When::Always, x: When::Always }), [&standard[..], &x].concat());
}

#[test]
fn an_allowed_request_remembers_its_windows_where_they_are_to_be_told() {
    let mut edge = Fixture::open();
    edge.key(|key| key.limits = limits(&["5/s"]));
    let mut windows = |told| {
        edge.policy.rate_limit_headers = told;
        match edge.decide("/", Some(&format!("Bearer {KEY}")), None) {
            Decision::Allow { windows, .. } => windows,
            decision => panic!("{decision:?}"),
        }
    };
    let always = RateLimitHeaders { standard: When::Never, x: When::Always };
    assert_eq!(windows(always), [Window { limit: "5/s".parse().unwrap(), remaining: 4, reset_s: 1 }]);
    assert_eq!(windows(RateLimitHeaders::default()), []);
}

const UNKNOWN: &str = "Bearer exo_live_yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy";

#[test]
fn who_sends_too_many_bad_keys_is_held_back_and_a_good_key_from_there_passes() {
    let mut edge = Fixture::open();
    edge.key(|_| {});
    edge.guessing = Some(AuthThrottle::new("g.", "3/min".parse().unwrap()));
    let here = Some("192.0.2.1");
    for bad in [UNKNOWN, "Bearer exo_live_short", UNKNOWN] {
        assert_ne!(edge.decide("/", Some(bad), here).verdict(), "rate_limited");
    }
    for bad in [UNKNOWN, "Bearer exo_live_short"] {
        let Decision::Refuse(refused) = edge.decide("/", Some(bad), here) else { panic!("passed") };
        assert_eq!((refused.refusal, refused.holder.is_none()), (Refusal::RateLimited, true));
        let rendered = refused.render(&edge.policy, &[]);
        assert_eq!((rendered.status, field(&rendered, "retry-after")), (429, Some("60")));
        assert_eq!(field(&rendered, "ratelimit"), Some(r#""3/min";r=0;t=60"#));
    }
    assert_eq!(edge.verdict_from("192.0.2.1"), "allow");
    assert_eq!(edge.decide("/", Some(UNKNOWN), Some("192.0.2.2")).verdict(), "unknown", "another client");
    assert_eq!(edge.decide("/", Some(UNKNOWN), None).verdict(), "unknown", "an address that is not known");
    assert_eq!(edge.decide("/", Some("Bearer nonsense"), here).verdict(), "malformed", "no guess");
    assert_eq!(edge.decide("/", None, here).verdict(), "missing");
    edge.key(|key| key.revoked_at_ms = Some(1));
    assert_eq!(edge.verdict_from("192.0.2.1"), "revoked", "whoever has had a key need not guess");
}

#[test]
fn a_bad_key_that_is_counted_costs_one_read_more_and_a_good_one_none() {
    let mut edge = Fixture::open();
    edge.key(|_| {});
    let mut calls = |authorization: &str| {
        edge.decide("/", Some(authorization), Some("192.0.2.1"));
        let before = edge.store.calls.get();
        edge.decide("/", Some(authorization), Some("192.0.2.1"));
        // The fixture polls the status itself.
        edge.store.calls.get() - before - 1
    };
    let good = format!("Bearer {KEY}");
    assert_eq!((calls(&good), calls(UNKNOWN)), (0, 1));
    edge.guessing = Some(AuthThrottle::new("g.", "1/min".parse().unwrap()));
    let mut calls = |authorization: &str| {
        edge.decide("/", Some(authorization), Some("192.0.2.1"));
        let before = edge.store.calls.get();
        edge.decide("/", Some(authorization), Some("192.0.2.1"));
        edge.store.calls.get() - before - 1
    };
    assert_eq!((calls(&good), calls(UNKNOWN)), (0, 2));
}

fn of_sha512() -> Digest {
    Digest::of_sha512(&Sha512::digest(KEY).into())
}

fn of_hmac(pepper: &[u8]) -> Digest {
    let hmac = Hmac::<Sha256>::new_from_slice(pepper).unwrap().chain_update(KEY);
    Digest::of_hmac_sha256(&hmac.finalize().into_bytes().into())
}

/// Looks a key up by SHA-256, SHA-512 and HMAC-SHA-256 under "a" and "b".
fn with_all_digests() -> Fixture {
    let hmac = |pepper: &[u8]| KeyDigest::HmacSha256(HmacKey::new(pepper).unwrap());
    let digests = Digests::new(vec![KeyDigest::Sha256, KeyDigest::Sha512, hmac(b"a"), hmac(b"b")]);
    Fixture { digests, ..Fixture::open() }
}

#[test]
fn a_key_imported_as_another_digest_is_found_by_it_where_it_is_configured() {
    for address in [of_sha512(), of_hmac(b"a"), of_hmac(b"b")] {
        let mut edge = with_all_digests();
        edge.imported(address, "key_1");
        assert_eq!(edge.verdict(), "allow");
        edge.digests = Digests::default();
        edge.snapshot = Snapshot::new(edge.names.clone(), BITS, 100);
        assert_eq!(edge.verdict(), "unknown");
    }
    let mut edge = with_all_digests();
    edge.imported(of_hmac(b"another"), "key_1");
    assert_eq!(edge.verdict(), "unknown");
}

#[test]
fn an_imported_key_in_the_cache_costs_no_look_up_and_an_unknown_one_one_for_each_digest() {
    let mut edge = with_all_digests();
    let bearer = format!("Bearer {KEY}");
    let look_ups = |edge: &mut Fixture| {
        let headers = with(&bearer);
        edge.snapshot.poll(&edge.store, NOW.monotonic_ms);
        let before = edge.store.calls.get();
        let verdict = edge.edge().decide(&headers, NOW, || None).verdict();
        (verdict, edge.store.calls.get() - before)
    };
    assert_eq!(look_ups(&mut edge), ("unknown", 4));
    edge.imported(of_hmac(b"b"), "key_1");
    assert_eq!(look_ups(&mut edge), ("allow", 4));
    assert_eq!(look_ups(&mut edge), ("allow", 0));
}

#[test]
fn the_first_digest_with_a_record_decides_for_a_key_in_the_cache_too() {
    let mut edge = with_all_digests();
    edge.imported(of_hmac(b"a"), "key_3");
    for (address, expected) in [(of_sha512(), "key_2"), (Digest::of_key(KEY.as_bytes()), "key_1")] {
        assert_eq!(edge.verdict(), "allow");
        edge.imported(address, expected);
        assert_eq!(edge.decide("/", Some(&format!("Bearer {KEY}")), None).key_id(), Some(expected));
    }
    edge.key(|key| key.revoked_at_ms = Some(1));
    assert_eq!(edge.verdict(), "revoked", "though it is active elsewhere");
    edge.put(Digest::of_key(KEY.as_bytes()), Body::Removed);
    edge.put(of_sha512(), Body::Removed);
    assert_eq!(edge.decide("/", Some(&format!("Bearer {KEY}")), None).key_id(), Some("key_3"));
    edge.put(of_hmac(b"a"), Body::Removed);
    assert_eq!(edge.verdict(), "unknown");
}

#[test]
fn an_entry_that_cannot_be_understood_refuses_though_a_later_digest_has_one_that_can() {
    let mut edge = with_all_digests();
    edge.imported(of_hmac(b"a"), "key_1");
    edge.unreadable(of_sha512());
    assert_eq!(edge.verdict(), "unavailable");
}

#[test]
fn a_key_that_only_the_control_plane_can_check_is_refused_here() {
    let mut edge = Fixture::open();
    edge.key(|key| key.needs_verification = true);
    assert_eq!(edge.verdict(), "unavailable");
    edge.key(|key| {
        key.needs_verification = true;
        key.revoked_at_ms = Some(1);
    });
    assert_eq!(edge.verdict(), "unavailable", "whoever sends it has proved nothing, and learns nothing");
}

#[test]
fn an_entry_that_cannot_be_understood_refuses() {
    let mut edge = Fixture::open();
    edge.key(|_| {});
    edge.unreadable(Digest::of_key(KEY.as_bytes()));
    assert_eq!(edge.verdict(), "unavailable");
}
