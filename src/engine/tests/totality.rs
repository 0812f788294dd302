//! Every request, whatever its bytes, gets exactly one verdict, and passes in a key's name only if it contains a key
//! that may be used. The model knows which keys exist in which state, and searches the requests for them independently.

use crate::engine::auth_throttle::AuthThrottle;
use crate::engine::bucket::{self, Input, Stamp};
use crate::engine::credential::Header;
use crate::engine::decide::{Authorizer, Decision};
use crate::engine::digests::{Digests, HmacKey, KeyDigest};
use crate::engine::feed::Now;
use crate::engine::limiter::Limiter;
use crate::engine::policy::Policy;
use crate::engine::rules::Strip;
use crate::engine::shared_state::Status;
use crate::engine::snapshot::Snapshot;
use crate::engine::store::memory::MemoryStore;
use crate::engine::store::{Names, SharedStore};
use crate::engine::upstream_headers;
use crate::engine::verification::cache::Verified;
use crate::engine::verification::queue::{Ended, Outcome, Unverified};
use crate::policy::Config;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use keyward_core::dialect::{BasicPart, Dialect, Source};
use keyward_core::key::digest::Digest;
use keyward_core::key::limit::Limits;
use keyward_core::refusal::Refusal;
use keyward_core::wire::entry::{Body, Entry, Frames, KeyRecord, OwnerRecord, PlanRecord};
use keyward_core::wire::verify::Answer;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{TestCaseResult, TestRunner};
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const CASES: u32 = 4000;
const BITS: u32 = 2;
const NOW: Now = Now { monotonic_ms: 100_000, wall_ms: 1_700_000_000_000 };
/// The fields that every request begins with.
const TARGET_FIELDS: usize = 3;
/// The query parameter and cookie of the dialects to which every kind of source is added.
const NAMED: &str = "key";

const PEPPER: &[u8] = b"a pepper";

const RULES: &str = r#"[
    {"path": {"exact": "/open"}, "access": "public"},
    {"path": {"prefix": "/mcp"}, "access": "delegated", "protected_resource": {"resource": "https://h/mcp"}},
    {"path": {"prefix": "/other"}, "access": "delegated"},
    {"path": {"prefix": "/maybe"}, "access": "optional"},
    {"path": {"prefix": "/team"}, "access": "key", "kinds": []},
    {"path": {"prefix": "/admin"}, "access": "key", "scopes": ["admin"], "errors": "openai"},
    {"path": {"template": "/keys/{id}"}, "methods": ["GET"], "access": "key", "scopes": {"GET": ["read"], "*": ["admin"]}},
    {"path": {"prefix": "/files"}, "ambiguous_paths": true, "access": "key"},
    {"path": {"prefix": "/self"}, "access": "optional", "credential": "keep"},
    {"path": {"prefix": "/v1"}, "hosts": ["api.example.com"], "access": "key", "cost": 2}
]"#;
/// The paths that some key may access; no key has the permissions of `/team` and `/admin`.
const ALLOWED_BY_KEYS: [&str; 5] = ["/maybe", "/self", "/keys", "/files", "/v1"];
const PATHS: [&str; 20] = [
    "/open",
    "/mcp",
    "/.well-known/oauth-protected-resource/mcp",
    "/other/x",
    "/maybe",
    "/maybe/x",
    "/team",
    "/admin",
    "/%61dmin",
    "/keys/1",
    "/files/a",
    "/self",
    "/files/..%2fadmin",
    "/v1",
    "/v1/x",
    "/other/../v1",
    "/other/%2e%2e/v1",
    "/open/",
    "//v1",
    "/",
];
const NAMES: [&str; 16] = [
    "authorization",
    "x-api-key",
    "x_api_key",
    "cookie",
    ":path",
    ":method",
    ":authority",
    "connection",
    "x-keyward-key-id",
    "x_keyward_owner",
    "x-keyward.scopes",
    "x-keyward",
    "x-keywarden",
    "x-request-id",
    "content-type",
    "accept",
];
const VALUES: [&[u8]; 14] = [
    b"",
    b" ",
    b"Bearer",
    b"Bearer ",
    b"bEARER abc",
    b"Bearer abc, Bearer def",
    b"Basic a2V5OmFiYzpk",
    b"Basic a2V5OmFiYw==",
    b"Basic !",
    b"close, X-Keyward-Key-Id ,x_keyward_kind",
    b"a=b; key=abc;c",
    b"/v1?key=abc&key",
    b"\xff\xfe",
    b"a\"b\\c\r\nx: y",
];

/// The state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Active,
    /// Accepted from 10.0.0.0/8 only.
    Pinned,
    /// Limited to one request per hour.
    Limited,
    Revoked,
    Rotated,
    Expired,
    Paused,
    Unowned,
    OwnerDisabled,
    OwnerUnknown,
    Spent,
    /// On a plan of one request per hour.
    OnPlan,
    /// On a plan without limits.
    OnPlanWithoutLimits,
    PlanUnknown,
    PlanUnreadable,
    /// Stored as a password hash; limited to one request per hour.
    Hashed,
    /// A guess with the selector of the `Hashed` key, if the dialect has selectors.
    Guessed,
    /// Imported by its SHA-512.
    Sha512,
    /// Imported by its HMAC-SHA-256.
    Peppered,
    /// Imported by an HMAC-SHA-256 whose key this edge does not have.
    PepperedElsewhere,
    Unreadable,
    NeverMade,
}

impl State {
    /// Some states are repeated, since only one dialect has keys that are verified.
    const ALL: [Self; 26] = [
        Self::Active,
        Self::Pinned,
        Self::Limited,
        Self::Revoked,
        Self::Rotated,
        Self::Expired,
        Self::Paused,
        Self::Unowned,
        Self::OwnerDisabled,
        Self::OwnerUnknown,
        Self::Spent,
        Self::OnPlan,
        Self::OnPlanWithoutLimits,
        Self::PlanUnknown,
        Self::PlanUnreadable,
        Self::Hashed,
        Self::Hashed,
        Self::Hashed,
        Self::Hashed,
        Self::Guessed,
        Self::Guessed,
        Self::Sha512,
        Self::Peppered,
        Self::PepperedElsewhere,
        Self::Unreadable,
        Self::NeverMade,
    ];

    fn may_pass(self, policy: &Policy, client: Option<IpAddr>) -> bool {
        match self {
            Self::Active
            | Self::Limited
            | Self::OnPlan
            | Self::OnPlanWithoutLimits
            | Self::Hashed
            | Self::Sha512
            | Self::Peppered => true,
            Self::Pinned => matches!(client, Some(IpAddr::V4(client)) if client.octets()[0] == 10),
            Self::Unowned => !policy.dialect.owner_required,
            _ => false,
        }
    }

    /// Whether the key is limited to one request per hour.
    fn is_limited(self) -> bool {
        matches!(self, Self::Limited | Self::OnPlan | Self::Hashed)
    }

    fn record(self, key_id: &str, kind: &str) -> KeyRecord {
        let mut key = KeyRecord {
            key_id: key_id.to_owned(),
            kind: kind.to_owned(),
            owner: Some("acme".to_owned()),
            scopes: vec!["read".to_owned()],
            limits: Some(Limits::default()),
            ..KeyRecord::default()
        };
        let hourly = Some(Limits::new(vec!["1/h".parse().unwrap()]).unwrap());
        match self {
            Self::Pinned => key.allowlist = vec!["10.0.0.0/8".parse().unwrap()],
            Self::Limited => key.limits = hourly,
            Self::Revoked => key.revoked_at_ms = Some(NOW.wall_ms - 1),
            Self::Rotated => key.secret_not_after_ms = Some(NOW.wall_ms),
            Self::Expired => key.expires_at_ms = Some(NOW.wall_ms),
            Self::Paused => key.paused = true,
            Self::Unowned => key.owner = None,
            Self::OwnerDisabled => key.owner = Some("disabled".to_owned()),
            Self::OwnerUnknown => key.owner = Some("unknown".to_owned()),
            Self::Spent => key.credits_exhausted = true,
            Self::OnPlan => (key.plan, key.limits) = (Some("hourly".to_owned()), None),
            Self::OnPlanWithoutLimits => key.plan = Some("unlimited".to_owned()),
            Self::PlanUnknown => key.plan = Some("unknown".to_owned()),
            Self::PlanUnreadable => key.plan = Some("unreadable".to_owned()),
            Self::Hashed => (key.needs_verification, key.limits) = (true, hourly),
            Self::Active
            | Self::Sha512
            | Self::Peppered
            | Self::PepperedElsewhere
            | Self::Unreadable
            | Self::Guessed
            | Self::NeverMade => {}
        }
        key
    }

    /// The address of the key's record.
    fn subject(self, text: &str) -> Digest {
        let hmac = |pepper: &[u8]| {
            let mac = Hmac::<Sha256>::new_from_slice(pepper).unwrap().chain_update(text);
            Digest::of_hmac_sha256(&mac.finalize().into_bytes().into())
        };
        match self {
            Self::Sha512 => Digest::of_sha512(&sha2::Sha512::digest(text).into()),
            Self::Peppered => hmac(PEPPER),
            Self::PepperedElsewhere => hmac(b"another"),
            _ => Digest(Sha256::digest(text).into()),
        }
    }
}

#[derive(Debug)]
struct Key {
    id: String,
    text: String,
    state: State,
}

/// Whether kinds of sources that no built-in dialect has are read too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
    Nothing,
    BesideItsOwn,
    InsteadOfItsOwn,
}

/// A dialect with its rules, and the initial snapshot of every case.
struct World {
    policy: Policy,
    names: Names,
    keys: Vec<Key>,
    stored: BTreeMap<String, Vec<u8>>,
}

impl World {
    fn new(dialect: &str, added: Added) -> Self {
        let text = format!(r#"{{"dialect": "{dialect}", "control_plane": {{"cluster": "c"}}, "rules": {RULES}}}"#);
        let mut policy = Config::parse(text.as_bytes()).unwrap().policy;
        let sources = &mut policy.dialect.sources;
        if added == Added::InsteadOfItsOwn {
            sources.clear();
        }
        if added != Added::Nothing {
            let field = Source::Header { name: "x_api_key".into(), written: "X_Api_Key".into(), scheme: None };
            let named = [Source::Query(NAMED.into()), Source::Cookie(NAMED.into())];
            sources.extend([Source::Basic(BasicPart::Password), field].into_iter().chain(named));
        }
        let (mut keys, mut frames) = (Vec::new(), BTreeMap::<u32, Vec<u8>>::new());
        let mut put = |subject: Digest, body: Body, is_readable: bool| {
            let mut frame = Vec::new();
            Entry { subject, version: 1, body }.encode(&mut frame).unwrap();
            if !is_readable {
                *frame.last_mut().unwrap() = 200;
            }
            frames.entry(subject.leading_bits(BITS)).or_default().extend(frame);
        };
        for (id, disabled) in [("acme", false), ("disabled", true)] {
            let permissions = Some(vec!["read".to_owned()]);
            put(Digest::of_owner(id), Body::Owner(OwnerRecord { disabled, permissions }), true);
        }
        let hourly = Some(Limits::new(vec!["1/h".parse().unwrap()]).unwrap());
        put(Digest::of_plan("hourly"), Body::Plan(PlanRecord { limits: hourly }), true);
        put(Digest::of_plan("unlimited"), Body::Plan(PlanRecord::default()), true);
        put(Digest::of_plan("unreadable"), Body::Removed, false);
        let mut random = 0u8;
        for format in &policy.dialect.formats {
            for state in State::ALL {
                let text = format.issue(|bytes: &mut [u8]| {
                    bytes.iter_mut().for_each(|byte| {
                        random = random.wrapping_mul(5).wrapping_add(3);
                        *byte = random;
                    });
                    random = random.wrapping_add(1);
                    Ok::<(), ()>(())
                });
                let mut text = text.unwrap().expose().to_owned();
                if state == State::Guessed {
                    let hashed = keys.iter().rfind(|key: &&Key| key.state == State::Hashed).unwrap();
                    let public = format.selector_of(hashed.text.as_bytes()).map_or(0, <[u8]>::len);
                    text.replace_range(..public, &hashed.text[..public]);
                }
                let key = Key { id: format!("key_{}", keys.len()), text, state };
                let subject = match format.selector_of(key.text.as_bytes()) {
                    Some(selector) if state == State::Hashed => Digest::of_selector(selector),
                    _ => state.subject(&key.text),
                };
                match state {
                    State::Guessed | State::NeverMade => {}
                    State::Unreadable => put(subject, Body::Removed, false),
                    _ => put(subject, Body::Key(state.record(&key.id, &format.kind)), true),
                }
                keys.push(key);
            }
        }
        let jwt = "eyJhbGciOiJub25lIn0.e30.".to_owned();
        keys.push(Key { id: String::new(), text: jwt, state: State::NeverMade });
        let names = Names::new("c", "a", BITS);
        let stamp = Stamp { generation: 1, sequence: 1 };
        let bucket = |frames: &[u8]| {
            let frames = Frames::new(frames).map(Result::unwrap);
            bucket::merge(&[], stamp, frames, Input::Changes, NOW.wall_ms).rewritten.unwrap()
        };
        let mut stored: BTreeMap<_, _> =
            frames.iter().map(|(index, frames)| (names.bucket(*index), bucket(frames))).collect();
        stored.insert(names.status.clone(), Status { generation: 1, answered_ms: u64::MAX, ..Status::START }.encode());
        Self { policy, names, keys, stored }
    }

    fn sources(&self) -> &[Source] {
        &self.policy.dialect.sources
    }

    /// The control plane's answer for a credential.
    fn verified(&self, what: &Unverified) -> Ended {
        let mut hashed = self.keys.iter().filter(|key| key.state == State::Hashed);
        let answer = match hashed.any(|key| key.text == what.credential.expose()) {
            true => Answer::Right { secret_id: what.secret_id.clone() },
            false => Answer::Wrong,
        };
        Ended { digest: what.digest, outcome: Outcome::Answered(answer) }
    }
}

/// A few requests, one after another.
struct Case<'a> {
    world: &'a World,
    /// All verdicts so far, and some ways to them.
    reached: &'a RefCell<BTreeSet<&'static str>>,
    /// The ids of the keys with allowed requests.
    passed: RefCell<BTreeSet<String>>,
}

/// Whether a request is decided for the first time, or after waiting for a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    First,
    AfterWaiting,
}

/// A request, all bytes except for the keys, which depend on the world.
#[derive(Clone, Debug)]
struct Request {
    method: Vec<u8>,
    host: Vec<u8>,
    path: Vec<u8>,
    sent: Vec<Sent>,
    others: Vec<(String, Vec<u8>)>,
    client: Option<IpAddr>,
    times: usize,
}

/// A key, possibly with one byte changed, in a source or in another field.
#[derive(Clone, Debug)]
struct Sent {
    key: Index,
    place: Index,
    changed: Option<(Index, u8)>,
    upper: u8,
}

fn worlds() -> Vec<World> {
    let added = [Added::Nothing, Added::BesideItsOwn, Added::InsteadOfItsOwn];
    let names = Dialect::built_in_names().chain(["auxot"]);
    names.flat_map(|name| added.map(|added| World::new(name, added))).collect()
}

fn requests() -> impl Strategy<Value = (Index, Vec<Request>)> {
    (any::<Index>(), proptest::collection::vec(request(), 1..4))
}

fn request() -> impl Strategy<Value = Request> {
    let method = prop_oneof![
        8 => select(vec![&b"GET"[..], b"POST", b"HEAD", b"get", b""]).prop_map(<[u8]>::to_vec),
        1 => bytes(),
    ];
    let host = prop_oneof![
        8 => select(vec![&b"api.example.com"[..], b"API.example.com.:80", b"[::1]", b"h"]).prop_map(<[u8]>::to_vec),
        1 => bytes(),
    ];
    let known = (select(PATHS.to_vec()), select(vec!["", "", "", "?a=1", "?", "#", "/", "%", ";", "%20"]))
        .prop_map(|(path, rest)| [path, rest].concat().into_bytes());
    let path = prop_oneof![8 => known, 1 => bytes()];
    let client = select(vec![None, Some("10.1.2.3"), Some("10.255.0.1"), Some("11.1.2.3"), Some("::1")]);
    let client = client.prop_map(|client| client.map(|client| client.parse().unwrap()));
    let some =
        |weights: [u32; 3]| prop_oneof![weights[0] => Just(0), weights[1] => Just(1), weights[2] => Just(2usize)];
    let sent = some([1, 6, 1]).prop_flat_map(|count| proptest::collection::vec(sent(), count));
    let others = some([3, 2, 1]).prop_flat_map(|count| proptest::collection::vec((name(), value()), count));
    (method, host, path, sent, others, client, 1..3usize).prop_map(
        |(method, host, path, sent, others, client, times)| Request { method, host, path, sent, others, client, times },
    )
}

fn sent() -> impl Strategy<Value = Sent> {
    let changed = proptest::option::weighted(0.2, (any::<Index>(), any::<u8>()));
    (any::<Index>(), any::<Index>(), changed, any::<u8>()).prop_map(|(key, place, changed, upper)| Sent {
        key,
        place,
        changed,
        upper,
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![8 => select(NAMES.to_vec()).prop_map(str::to_owned), 1 => "[!-@\\[-~]{0,12}"]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![select(VALUES.to_vec()).prop_map(<[u8]>::to_vec), bytes()]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..24)
}

impl Request {
    fn headers(&self, world: &World) -> Vec<(String, Vec<u8>)> {
        let mut path = self.path.clone();
        let mut fields = Vec::new();
        for sent in &self.sent {
            let mut text = sent.key.get(&world.keys).text.clone().into_bytes();
            if let Some((at, byte)) = &sent.changed {
                *at.get_mut(&mut text) = *byte;
            }
            let mut field = |name: &str, parts: &[&[u8]]| fields.push((name.to_owned(), parts.concat()));
            match world.sources().get(sent.place.index(world.sources().len() + 1)) {
                None => field("x-other", &[&text]),
                Some(Source::Header { name, scheme: None, .. }) => field(name, &[&text]),
                Some(Source::Header { name, scheme: Some(scheme), .. }) => {
                    field(name, &[in_case(scheme, sent.upper).as_bytes(), b" ", &text]);
                }
                Some(Source::Basic(part)) => {
                    let pair = match part {
                        BasicPart::Username => [&text[..], b":user"].concat(),
                        BasicPart::Password => [b"user:", &text[..]].concat(),
                    };
                    let credentials = STANDARD.encode(pair);
                    field("authorization", &[in_case("basic ", sent.upper).as_bytes(), credentials.as_bytes()]);
                }
                Some(Source::Query(parameter)) => {
                    path.push(if path.contains(&b'?') { b'&' } else { b'?' });
                    path.extend_from_slice(&[parameter.as_bytes(), b"=", &text].concat());
                }
                Some(Source::Cookie(cookie)) => field("cookie", &[b"a=b; ", cookie.as_bytes(), b"=", &text]),
            }
        }
        let target: [_; TARGET_FIELDS] = [(":method", &self.method), (":authority", &self.host), (":path", &path)];
        let target = target.map(|(name, value)| (name.to_owned(), value.clone()));
        target.into_iter().chain(fields).chain(self.others.iter().cloned()).collect()
    }

    fn run(&self, case: &Case<'_>, edge: &mut Authorizer<'_, MemoryStore>) -> TestCaseResult {
        let fields = self.headers(case.world);
        let headers = borrowed(&fields);
        for _ in 0..self.times {
            let decision = edge.decide(&headers, NOW, || self.client);
            self.check(case, &headers, &decision, Turn::First)?;
            if let Decision::Verify(what) = &decision {
                let ended = case.world.verified(what);
                let decision = edge.decide_after(&headers, NOW, || self.client, Some(&ended));
                self.check(case, &headers, &decision, Turn::AfterWaiting)?;
            }
        }
        Ok(())
    }

    fn check(&self, case: &Case<'_>, headers: &[Header<'_>], decision: &Decision, turn: Turn) -> TestCaseResult {
        let Case { world, reached, passed } = case;
        reached.borrow_mut().insert(match decision {
            Decision::Metadata(_) => "metadata",
            Decision::Allow { .. } if turn == Turn::AfterWaiting => "allow after waiting",
            _ => decision.verdict(),
        });
        let sources = world.sources();
        let is_at = |paths: &[&str]| paths.iter().any(|path| is_below(&self.path, path));
        match decision {
            Decision::Allow { holder, strip, .. } => {
                prop_assert!(is_at(&ALLOWED_BY_KEYS), "allowed on a route that no key may access");
                let key = world.keys.iter().find(|key| key.id == holder.key.key_id).unwrap();
                prop_assert!(key.state.may_pass(&world.policy, self.client), "{:?}", key);
                prop_assert_eq!(key.state == State::Hashed, turn == Turn::AfterWaiting);
                let is_first = passed.borrow_mut().insert(key.id.clone());
                prop_assert!(is_first || !key.state.is_limited(), "{:?} exceeds its limit", key);
                let subject = Sha256::digest(&key.text);
                let standing = standing(sources, headers);
                let stands = standing.iter().any(|value| Sha256::digest(value) == subject);
                prop_assert!(stands, "{:?} was not sent", key);
                let mut others = world.keys.iter().filter(|other| other.text != key.text);
                let is_alone = !others.any(|other| standing.iter().any(|value| value == other.text.as_bytes()));
                prop_assert!(is_alone, "{:?} was not sent alone", key);
                let identity = upstream_headers::headers_of(holder, &world.policy);
                let keeps = is_at(&["/self"]);
                prop_assert_eq!(*strip == Strip::IdentityAndUnread, keeps);
                prop_assert_eq!(*strip == Strip::IdentityAndCredentials, !keeps);
                check_forwarded(world, headers, *strip, &identity)?;
            }
            Decision::Public => {
                // A second path, which Envoy would reject, is removed but not read.
                let read = headers.iter().enumerate().filter(|(n, (name, _))| *n < TARGET_FIELDS || *name != ":path");
                let read: Vec<Header<'_>> = read.map(|(_, header)| *header).collect();
                let without_key = is_at(&["/maybe", "/self"]) && standing(sources, &read).is_empty();
                prop_assert!(is_at(&["/open"]) || without_key, "public on a route that requires a key");
                check_forwarded(world, headers, Strip::IdentityAndCredentials, &[])?;
            }
            Decision::Delegated => {
                prop_assert!(is_at(&["/mcp", "/other"]), "delegated on a route that requires a key");
                prop_assert!(!contains(&self.path, b"/.."), "an ambiguous path");
                check_forwarded(world, headers, Strip::Identity, &[])?;
            }
            Decision::Metadata(_) => prop_assert!(is_at(&["/.well-known"])),
            Decision::Refuse(refused) => {
                let is_guess = refused.refusal == Refusal::RateLimited && decision.key_id().is_none();
                prop_assert_eq!(decision.key_id().is_some(), refused.refusal.knows_key() && !is_guess);
                if is_guess {
                    prop_assert!(self.client.is_some() && refused.exhausted.is_some());
                    let values: BTreeSet<_> = standing(sources, headers).into_iter().collect();
                    let mut good = world.keys.iter().filter(|key| key.state.may_pass(&world.policy, self.client));
                    let is_good = |key: &Key| values.len() == 1 && values.contains(key.text.as_bytes());
                    prop_assert!(!good.any(is_good), "a valid key is throttled");
                    reached.borrow_mut().insert(match turn {
                        Turn::First => "guess",
                        Turn::AfterWaiting => "guess after waiting",
                    });
                } else if refused.refusal == Refusal::RateLimited {
                    let has_passed = decision.key_id().is_some_and(|key| passed.borrow().contains(key));
                    prop_assert!(has_passed || is_at(&["/v1"]), "limited although the key was not used");
                }
                let rendered = refused.render(&world.policy, headers);
                prop_assert!((400..=599).contains(&rendered.status));
                prop_assert!(serde_json::from_str::<serde_json::Value>(&rendered.body).is_ok(), "{}", rendered.body);
                for (_, value) in &rendered.headers {
                    prop_assert!(!value.bytes().any(|c| c.is_ascii_control()), "{:?}", value);
                }
                prop_assert!(world.keys.iter().all(|key| !rendered.body.contains(&key.text)), "{}", rendered.body);
            }
            Decision::Verify(what) => {
                prop_assert_eq!(turn, Turn::First, "the request waits twice");
                let credential = what.credential.expose().as_bytes();
                let stands = standing(sources, headers).iter().any(|value| value == credential);
                prop_assert!(stands, "the credential to verify was not sent");
                let selector =
                    |text: &[u8]| world.policy.dialect.format_of(text)?.selector_of(text).map(<[u8]>::to_vec);
                let mut hashed = world.keys.iter().filter(|key| key.state == State::Hashed);
                prop_assert!(hashed.any(|key| selector(key.text.as_bytes()) == selector(credential)));
            }
        }
        Ok(())
    }
}

fn check_forwarded(
    world: &World,
    headers: &[Header<'_>],
    strip: Strip,
    identity: &[(&'static str, String)],
) -> TestCaseResult {
    let forwarded =
        upstream_headers::changed(headers, &upstream_headers::changes(headers, world.sources(), strip, identity));
    let forwarded: Vec<Header<'_>> = borrowed(&forwarded);
    let is_ours = |name: &str| {
        let name = spelled_alike(name);
        name == "x-keyward" || name.starts_with("x-keyward-")
    };
    let ours = forwarded.iter().filter(|(name, _)| is_ours(name));
    let ours: Vec<_> = ours.copied().collect();
    let expected: Vec<_> = identity.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    prop_assert_eq!(ours, expected);
    for (_, options) in forwarded.iter().filter(|(name, _)| *name == "connection") {
        let options = String::from_utf8_lossy(options).into_owned();
        prop_assert!(!options.split(',').any(|option| is_ours(option.trim())), "{}", options);
    }
    if strip == Strip::Identity {
        return Ok(());
    }
    if strip == Strip::IdentityAndUnread {
        // All credentials in the forwarded request are the one that was checked.
        let read: BTreeSet<_> = standing(world.sources(), headers).into_iter().collect();
        let kept: BTreeSet<_> = standing_in_any_spelling(world.sources(), &forwarded).into_iter().collect();
        prop_assert_eq!(read, kept);
        return Ok(());
    }
    prop_assert!(standing(world.sources(), &forwarded).is_empty(), "{:?}", forwarded);
    for source in world.sources() {
        if let Source::Header { name: of, .. } = source {
            prop_assert!(!forwarded.iter().any(|(name, _)| spelled_alike(name) == spelled_alike(of)));
        }
    }
    // A key in a field that is no source stays in that field, and appears in no other.
    for key in &world.keys {
        let bears = |(name, value): &&Header<'_>| *name != "x-other" && contains(value, key.text.as_bytes());
        prop_assert_eq!(forwarded.iter().find(bears), None);
    }
    Ok(())
}

/// Every value in the sources that anyone could read as a credential.
fn standing(sources: &[Source], headers: &[Header<'_>]) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    for source in sources {
        for (name, value) in headers {
            match source {
                Source::Header { name: of, scheme, .. } if of == name => {
                    let is_space = |c: &u8| scheme.is_some() && *c == b' ';
                    values.push(value.split(is_space).next_back().unwrap().to_vec());
                }
                Source::Basic(_) if *name == "authorization" => {
                    let encoded = value.rsplit(|&c| c == b' ').next().unwrap();
                    let decoded = STANDARD.decode(encoded).unwrap_or_default();
                    values.push(decoded.splitn(2, |&c| c == b':').last().unwrap().to_vec());
                }
                Source::Query(parameter) if *name == ":path" => {
                    let pairs = value.splitn(2, |&c| c == b'?').skip(1).flat_map(|query| query.split(|&c| c == b'&'));
                    values.extend(pairs.filter_map(|pair| of_pair(pair, parameter)));
                }
                Source::Cookie(cookie) if *name == "cookie" => {
                    let pairs = value.split(|&c| c == b';').map(<[u8]>::trim_ascii);
                    values.extend(pairs.filter_map(|pair| of_pair(pair, cookie)));
                }
                _ => {}
            }
        }
    }
    values
}

/// Like [`standing`], including other spellings of header fields.
fn standing_in_any_spelling(sources: &[Source], headers: &[Header<'_>]) -> Vec<Vec<u8>> {
    let fields = sources.iter().filter_map(Source::header);
    let respelled = |name| fields.clone().find(|of| spelled_alike(of) == spelled_alike(name)).unwrap_or(name);
    let headers: Vec<Header<'_>> = headers.iter().map(|(name, value)| (respelled(name), *value)).collect();
    standing(sources, &headers)
}

fn borrowed(fields: &[(String, Vec<u8>)]) -> Vec<Header<'_>> {
    fields.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect()
}

fn of_pair(pair: &[u8], name: &str) -> Option<Vec<u8>> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec)
}

/// Whether a percent-decoded path is `of` or below it.
fn is_below(path: &[u8], of: &str) -> bool {
    let decoded = String::from_utf8_lossy(path).replace("%61", "a");
    decoded.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
}

fn spelled_alike(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

fn in_case(text: &str, upper: u8) -> String {
    let case = |(n, c): (usize, char)| if upper >> (n % 8) & 1 == 1 { c.to_ascii_uppercase() } else { c };
    text.to_ascii_lowercase().chars().enumerate().map(case).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Every request gets exactly one verdict, and passes in a key's name only if that key may be used.
#[test]
fn any_request_gets_one_verdict_and_needs_a_valid_key() {
    let worlds = worlds();
    let pepper = KeyDigest::HmacSha256(HmacKey::new(PEPPER).unwrap());
    let digests = Digests::new(vec![KeyDigest::Sha512, KeyDigest::Sha256, pepper]);
    let reached = RefCell::new(BTreeSet::new());
    let config = ProptestConfig { source_file: Some(file!()), ..ProptestConfig::with_cases(CASES) };
    let outcome = TestRunner::new(config).run(&requests(), |(world, requests)| {
        let world = world.get(&worlds);
        let store = MemoryStore::default();
        for (name, value) in &world.stored {
            store.put(name, value, None).unwrap();
        }
        let mut snapshot = Snapshot::new(world.names.clone(), BITS, 100);
        let limiter = Limiter::new(world.names.limits(), BITS);
        let guessing = AuthThrottle::new(world.names.guesses(), "1/min".parse().unwrap());
        let mut verified = Verified::new(world.names.verified(), 100, Some([7; 32]));
        let mut edge = Authorizer {
            policy: &world.policy,
            digests: &digests,
            snapshot: &mut snapshot,
            limiter: &limiter,
            guessing: Some(&guessing),
            verified: &mut verified,
            store: &store,
        };
        let case = Case { world, reached: &reached, passed: RefCell::default() };
        requests.iter().try_for_each(|request| request.run(&case, &mut edge))
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    // Every verdict must have been reached.
    let refusals = Refusal::ALL.map(Refusal::name).into_iter();
    let ways = ["allow after waiting", "guess after waiting"];
    let others = ["allow", "public", "delegated", "metadata", "guess", "verify"];
    let expected: BTreeSet<_> = refusals.chain(others).chain(ways).collect();
    assert_eq!(reached.into_inner(), expected);
}
