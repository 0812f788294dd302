//! The costs of the filter, counted rather than timed: the built .wasm runs in a VM with a host that counts calls.
//!
//! Each call into Envoy costs 0.4 to 1 µs, so the number of calls per request is the budget. The numbers here are
//! exact: one more call is a decision to be recorded here. `budget.rs` compares the whole life of a stream with its
//! recorded cost.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod budget;
mod vm;

use hmac::{Hmac, Mac as _};
use keyward_core::key::digest::Digest;
use keyward_core::key::environment::Environment;
use keyward_core::key::limit::Limits;
use keyward_core::wire::cursor::Cursor;
use keyward_core::wire::cursor::Position;
use keyward_core::wire::entry::{Body, Entry, KeyRecord, OwnerRecord, PlanRecord};
use keyward_core::wire::page::{Extent, Page};
use keyward_core::wire::usage::{Batch, Receipt};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};
use std::collections::BTreeMap;
use vm::{Callout, Outcome, ROOT, Vm};

const KEY: &str = "exo_live_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
const HASHED_KEY: &str = "team.0123456789abcdefABCDEFGHIJKLMNOPQRSTUVWXYZabcdef";
const RIGHT: &[u8] = br#"{"verified": true, "secret_id": "sec_1"}"#;
const CONFIGURATION: &str = r#"{"dialect": "exona", "control_plane": {"cluster": "c"}, "readiness_path": "/ready"}"#;

fn started() -> Vm {
    Vm::start(CONFIGURATION, &[("OTHER", "x"), ("KEYWARD_EDGE_TOKEN", "kwe_secret")])
}

/// A filter with a snapshot of one key, its owner, and two plans.
fn ready() -> Vm {
    ready_with(|_| {})
}

fn ready_with(change: impl FnOnce(&mut KeyRecord)) -> Vm {
    ready_at(started(), Digest::of_key(KEY.as_bytes()), change)
}

/// A filter with one key that only the control plane can verify.
fn ready_to_verify() -> Vm {
    ready_to_verify_with(r#"{"dialect": "auxot", "control_plane": {"cluster": "c"}}"#, |_| {})
}

fn ready_to_verify_with(configuration: &str, change: impl FnOnce(&mut KeyRecord)) -> Vm {
    let vm = Vm::start(configuration, &[("KEYWARD_EDGE_TOKEN", "kwe_secret")]);
    ready_at(vm, Digest::of_selector(&HASHED_KEY.as_bytes()[..5 + 16]), |key| {
        key.needs_verification = true;
        key.secret_id = "sec_1".into();
        change(key);
    })
}

/// A filter with its key at this address.
fn ready_at(mut vm: Vm, address: Digest, change: impl FnOnce(&mut KeyRecord)) -> Vm {
    vm.tick();
    let poll = vm.sent().remove(0);
    let mut entries = Vec::new();
    let limits = Limits::new(vec!["100/s".parse().unwrap()]).unwrap();
    let mut key =
        KeyRecord { key_id: "key_1".into(), kind: "key".into(), owner: Some("acme".into()), ..KeyRecord::default() };
    change(&mut key);
    let mut records = [
        (address, Body::Key(key)),
        (Digest::of_owner("acme"), Body::Owner(OwnerRecord::default())),
        (Digest::of_plan("usual"), Body::Plan(PlanRecord::default())),
        (Digest::of_plan("pro"), Body::Plan(PlanRecord { limits: Some(limits) })),
    ];
    records.sort_by_key(|(subject, _)| *subject);
    for (subject, body) in records {
        Entry { subject, version: 1, body }.encode(&mut entries).unwrap();
    }
    let head = Cursor { epoch: 1, sequence: 2, chain: [0; 16] };
    let page = Page {
        summary: None,
        answers: Position::Nothing,
        head,
        extent: Extent::Snapshot { end: None },
        entries: &entries,
    };
    vm.answer_callout(poll.number, "200", &page.encode());
    vm.tick();
    vm.sent();
    vm
}

fn request(vm: &mut Vm, authorization: Option<&str>) -> Outcome {
    vm.request(&headers_with(authorization))
}

fn headers_with(authorization: Option<&str>) -> Vec<(&str, &str)> {
    let mut headers = vec![
        (":method", "GET"),
        (":path", "/v1/things?n=1"),
        (":authority", "api.example.com"),
        ("accept", "*/*"),
        ("x-keyward-key-id", "made-up"),
    ];
    headers.extend(authorization.map(|value| ("authorization", value)));
    headers
}

/// The number of calls that do not change a header field.
fn unchanging(outcome: &Outcome) -> usize {
    let changes = |name: &str| name.ends_with("_header_map_value");
    outcome.calls.iter().filter(|(name, _)| !changes(name)).map(|(_, count)| count).sum()
}

fn expect_calls(outcome: &Outcome, expected: &[(&str, usize)]) {
    let expected: BTreeMap<String, usize> = expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    assert_eq!(outcome.calls, expected);
}

/// An allowed request whose key is cached makes three host calls besides those that change its header fields.
#[test]
fn cached_key_costs_three_calls_plus_header_changes() {
    let mut vm = ready();
    let bearer = format!("Bearer {KEY}");
    request(&mut vm, Some(&bearer));
    let outcome = request(&mut vm, Some(&bearer));
    assert_eq!(outcome.answer, None);
    expect_calls(
        &outcome,
        &[
            ("proxy_get_header_map_pairs", 1),
            ("clock_time_get", 1),
            // The credential and the forged id are removed,
            ("proxy_remove_header_map_value", 2),
            // and the id, kind and owner are added.
            ("proxy_add_header_map_value", 3),
            ("proxy_set_property", 1),
        ],
    );
}

#[test]
fn environment_and_plan_cost_one_call_and_limits_two() {
    let cached = |change: fn(&mut KeyRecord)| {
        let mut vm = ready_with(change);
        let bearer = format!("Bearer {KEY}");
        request(&mut vm, Some(&bearer));
        let outcome = request(&mut vm, Some(&bearer));
        assert_eq!(outcome.answer, None);
        outcome.calls.values().sum::<usize>()
    };
    assert_eq!(cached(|key| key.environment = Some(Environment::Live)), 9);
    let limited = cached(|key| {
        key.environment = Some(Environment::Live);
        key.limits = Some(Limits::new(vec!["100/s".parse().unwrap(), "1000/min".parse().unwrap()]).unwrap());
    });
    assert_eq!(limited, 11);
    assert_eq!(cached(|key| key.plan = Some("usual".into())), 9, "the plan's header field");
    assert_eq!(cached(|key| key.plan = Some("pro".into())), 11, "the plan's limits");
}

fn with_limits(limits: &[&str]) -> impl FnOnce(&mut KeyRecord) {
    let limits = Limits::new(limits.iter().map(|limit| limit.parse().unwrap()).collect()).unwrap();
    move |key| key.limits = Some(limits)
}

/// A busy key with large limits costs no more calls than one without limits, except for an occasional lease.
#[test]
fn busy_key_with_large_limits_rarely_costs_more_calls() {
    let mut vm = ready_with(with_limits(&["10000/s", "200000/min"]));
    let bearer = format!("Bearer {KEY}");
    let calls: Vec<usize> = (0..100)
        .map(|_| {
            let outcome = request(&mut vm, Some(&bearer));
            assert_eq!(outcome.answer, None);
            unchanging(&outcome)
        })
        .collect();
    // The first request reads the key and the number of buckets.
    assert_eq!(calls[1..5], [5, 5, 5, 3]);
    assert!(calls[1..].iter().all(|calls| [3, 5].contains(calls)), "{calls:?}");
    let shared = calls[1..].iter().filter(|calls| **calls == 5).count();
    assert!(shared <= 10, "{shared} of 99 requests");
    // A key with a small limit reads shared data for each request.
    let mut vm = ready_with(with_limits(&["10000/s", "500/min"]));
    request(&mut vm, Some(&bearer));
    assert!((0..100).all(|_| unchanging(&request(&mut vm, Some(&bearer))) == 5));
}

#[test]
fn leases_are_returned_on_tick_and_with_the_listener() {
    let bearer = format!("Bearer {KEY}");
    for replaced in [false, true] {
        let configuration = r#"{"dialect": "exona", "control_plane": {"cluster": "c"},
            "rate_limit_headers": {"x": "always"}}"#;
        let vm = Vm::start(configuration, &[("KEYWARD_EDGE_TOKEN", "t")]);
        let mut vm = ready_at(vm, Digest::of_key(KEY.as_bytes()), with_limits(&["10000/min"]));
        (0..50).for_each(|_| drop(request(&mut vm, Some(&bearer))));
        if replaced {
            vm.replace_listener();
        } else {
            vm.run_ms(1000);
        }
        let answered =
            vm.answer(&[(":method", "GET"), (":path", "/"), ("authorization", &bearer)], &[(":status", "200")]);
        assert!(answered.headers.contains(&("x-ratelimit-remaining".to_owned(), "9949".to_owned())), "{answered:?}");
    }
}

/// A response costs no call unless it reports limits, and then one besides those that change its header fields.
#[test]
fn response_costs_one_call_only_to_report_limits() {
    let bearer = format!("Bearer {KEY}");
    let asked = [(":method", "GET"), (":path", "/"), ("authorization", bearer.as_str())];
    let upstreams = [
        (":status", "200"),
        ("ratelimit", "\"theirs\";r=1"),
        ("x-ratelimit-limit", "7"),
        ("x-ratelimit-reset", "7"),
        ("x-other", "1"),
    ];
    let answered = |setting: &str, limits: &[&str]| {
        let configuration = format!(r#"{{"dialect": "exona", "control_plane": {{"cluster": "c"}}{setting}}}"#);
        let vm = Vm::start(&configuration, &[("KEYWARD_EDGE_TOKEN", "t")]);
        let mut vm = ready_at(vm, Digest::of_key(KEY.as_bytes()), with_limits(limits));
        let answered = vm.answer(&asked, &upstreams);
        (unchanging(&answered), answered.headers)
    };
    let given: Vec<_> = upstreams.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    for (setting, limits) in [
        ("", &["10/s"][..]),
        (r#", "rate_limit_headers": {"standard": "refused", "x": "never"}"#, &["10/s"]),
        (r#", "rate_limit_headers": {"standard": "always", "x": "always"}"#, &[]),
    ] {
        assert_eq!(answered(setting, limits), (0, given.clone()), "{setting}");
    }
    let fields = |setting: &str| {
        let (calls, headers) = answered(&format!(r#", "rate_limit_headers": {setting}"#), &["10/s", "200/min"]);
        assert_eq!(calls, 1);
        headers.into_iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
    };
    assert_eq!(
        fields(r#"{"standard": "always"}"#),
        [
            ":status: 200",
            "x-ratelimit-limit: 7",
            "x-ratelimit-reset: 7",
            "x-other: 1",
            r#"ratelimit-policy: "10/s";q=10;w=1, "200/min";q=200;w=60"#,
            r#"ratelimit: "10/s";r=9;t=1, "200/min";r=199;t=60"#,
        ]
    );
    let names: Vec<_> = fields(r#"{"standard": "never", "x": "always"}"#);
    assert_eq!(
        names,
        [
            ":status: 200",
            r#"ratelimit: "theirs";r=1"#,
            "x-other: 1",
            "x-ratelimit-limit: 10",
            "x-ratelimit-remaining: 9",
            "x-ratelimit-reset: 1",
        ]
    );
}

#[test]
fn guess_costs_two_more_calls_and_a_valid_key_none() {
    let configuration =
        r#"{"dialect": "exona", "control_plane": {"cluster": "c"}, "guessing": {"failures_per_minute": 3}}"#;
    let vm = Vm::start(configuration, &[("KEYWARD_EDGE_TOKEN", "t")]);
    let mut vm = ready_at(vm, Digest::of_key(KEY.as_bytes()), |_| {});
    vm.set_client("192.0.2.1:1234");
    let bad = Some("Bearer exo_live_yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy");
    let statuses = [0; 5].map(|_| {
        let outcome = request(&mut vm, bad);
        assert!(unchanging(&outcome) <= 7, "{outcome:?}");
        outcome.answer.unwrap().0
    });
    assert_eq!(statuses, [401, 401, 401, 429, 429]);
    vm.run_ms(25);
    let refused = request(&mut vm, bad);
    assert_eq!((refused.answer.as_ref().unwrap().0, unchanging(&refused)), (429, 7));
    let bearer = format!("Bearer {KEY}");
    request(&mut vm, Some(&bearer));
    let good = request(&mut vm, Some(&bearer));
    assert_eq!((good.answer.as_ref(), unchanging(&good)), (None, 3));
    let missing = request(&mut vm, None);
    assert_eq!((missing.answer.as_ref().unwrap().0, unchanging(&missing)), (401, 4));
    // The throttle survives a new configuration, and lasts a minute.
    vm.replace_listener();
    assert_eq!(request(&mut vm, bad).answer.unwrap().0, 429);
    vm.run_ms(60_000);
    assert_eq!(request(&mut vm, bad).answer.unwrap().0, 401);
}

#[test]
fn first_request_reads_bucket_owner_and_plan() {
    let mut vm = ready();
    let outcome = request(&mut vm, Some(&format!("Bearer {KEY}")));
    assert_eq!(outcome.calls["proxy_get_shared_data"], 2);
    assert_eq!(unchanging(&outcome), 5);
    let mut vm = ready_with(|key| key.plan = Some("usual".into()));
    let outcome = request(&mut vm, Some(&format!("Bearer {KEY}")));
    assert_eq!(outcome.calls["proxy_get_shared_data"], 3);
}

#[test]
fn upstream_gets_the_identity_and_no_forged_headers() {
    let outcome = request(&mut ready(), Some(&format!("Bearer {KEY}")));
    let names: Vec<_> = outcome.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [":method", ":path", ":authority", "accept", "x-keyward-key-id", "x-keyward-kind", "x-keyward-owner"]
    );
    assert_eq!(outcome.headers[4].1, "key_1");
    assert_eq!(outcome.properties["keyward.verdict"], "allow");
}

#[test]
fn fields_removed_from_headers_leave_trailers_too() {
    let mut vm = ready();
    let outcome = vm.trailers(&[
        ("x-keyward-owner", "admin"),
        ("Authorization", "Bearer x"),
        ("grpc-status", "0"),
        ("x-sum", "1"),
    ]);
    let names: Vec<_> = outcome.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["grpc-status", "x-sum"]);
    assert_eq!(vm.trailers(&[("x-sum", "1")]).calls.values().sum::<usize>(), 1);
}

#[test]
fn refusal_costs_no_look_up_unless_the_key_can_exist() {
    let mut vm = ready();
    // The verdict, and the reason for a malformed credential.
    for (authorization, properties) in [(None, 1), (Some("Bearer nonsense"), 2), (Some("Basic abc"), 2)] {
        let outcome = request(&mut vm, authorization);
        assert_eq!(outcome.answer.as_ref().unwrap().0, 401);
        let no_look_up = [
            ("proxy_get_header_map_pairs", 1),
            ("clock_time_get", 1),
            // The forged id, which the access log must not show.
            ("proxy_remove_header_map_value", 1),
            ("proxy_set_property", properties),
            ("proxy_send_local_response", 1),
        ];
        expect_calls(&outcome, &no_look_up);
    }
    let unknown = request(&mut vm, Some("Bearer exo_live_yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"));
    assert_eq!(unknown.calls["proxy_get_shared_data"], 1);
    assert_eq!(unchanging(&unknown), 5);
}

#[test]
fn without_snapshot_all_is_unavailable_and_not_ready() {
    let mut vm = started();
    let outcome = request(&mut vm, Some(&format!("Bearer {KEY}")));
    let (status, body) = outcome.answer.unwrap();
    assert_eq!(status, 503);
    assert!(body.contains("SERVICE_UNAVAILABLE"), "{body}");
    assert_eq!(outcome.properties["keyward.verdict"], "unavailable");
    let ready_path = [(":method", "GET"), (":path", "/ready?x")];
    assert_eq!(vm.request(&ready_path).answer.unwrap().0, 503);
    assert_eq!(ready().request(&ready_path).answer.unwrap(), (200, r#"{"ready":true}"#.to_owned()));
}

const ALL_DIGESTS: &str = r#"{"dialect": "exona", "control_plane": {"cluster": "c"},
    "digests": ["sha256", "sha512", {"hmac_sha256": {"pepper_env": "OLD_PEPPER"}}]}"#;
const PEPPER: &str = " not: base64= ";

#[test]
fn imported_key_in_the_cache_costs_no_more_calls() {
    let sha512 = Digest::of_sha512(&Sha512::digest(KEY).into());
    let hmac = Hmac::<Sha256>::new_from_slice(PEPPER.as_bytes()).unwrap().chain_update(KEY);
    let hmac = Digest::of_hmac_sha256(&hmac.finalize().into_bytes().into());
    for (address, reads) in [(sha512, 3), (hmac, 4)] {
        let vm = Vm::start(ALL_DIGESTS, &[("KEYWARD_EDGE_TOKEN", "t"), ("OLD_PEPPER", PEPPER)]);
        let mut vm = ready_at(vm, address, |_| {});
        let bearer = format!("Bearer {KEY}");
        let first = request(&mut vm, Some(&bearer));
        assert_eq!((first.answer, first.calls["proxy_get_shared_data"]), (None, reads), "reads including the owner");
        let cached = request(&mut vm, Some(&bearer));
        assert_eq!((cached.answer.as_ref(), unchanging(&cached)), (None, 3));
        let unknown = request(&mut vm, Some("Bearer exo_live_yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"));
        assert_eq!(unknown.answer.unwrap().0, 401);
        assert_eq!(unknown.calls["proxy_get_shared_data"], 3, "one read for each digest");
        assert!(!vm.log().iter().any(|line| line.contains(PEPPER.trim())), "{:?}", vm.log());
    }
}

#[test]
fn filter_without_its_pepper_does_not_start() {
    for (environment, expected) in [
        (vec![("KEYWARD_EDGE_TOKEN", "t")], "OLD_PEPPER: expected a pepper, but the variable is not set"),
        (vec![("KEYWARD_EDGE_TOKEN", "t"), ("OLD_PEPPER", "")], "OLD_PEPPER: expected a pepper, got an empty value"),
    ] {
        let log = Vm::refused(ALL_DIGESTS, &environment);
        assert!(log.iter().any(|line| line.contains(expected)), "{log:?}");
    }
}

#[test]
fn edge_token_is_sent_to_the_control_plane_not_logged() {
    let mut vm = started();
    vm.tick();
    let poll = vm.sent().remove(0);
    let sent = |name: &str| poll.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str());
    assert_eq!(sent("authorization"), Some("Bearer kwe_secret"));
    assert_eq!(sent(":path"), Some("/v1/edge/feed?after=00&wait=0"));
    vm.answer_callout(poll.number, "401", b"");
    assert!(vm.log().iter().any(|line| line.contains("edge token rejected (401)")), "{:?}", vm.log());
    assert!(!vm.log().iter().any(|line| line.contains("kwe_secret")), "{:?}", vm.log());
}

/// A waiting request whose key must be verified, and the verification that was sent for it.
fn waiting(vm: &mut Vm) -> (i32, Callout) {
    waiting_with(vm, &format!("Bearer {HASHED_KEY}"))
}

fn waiting_with(vm: &mut Vm, bearer: &str) -> (i32, Callout) {
    let (stream, outcome) = vm.open(&headers_with(Some(bearer)));
    assert_eq!((outcome.answer, outcome.continued), (None, Vec::new()));
    assert!(vm.sent().is_empty(), "a stream sends nothing: the answer would be lost with the stream");
    vm.tick();
    (stream, vm.sent().remove(0))
}

#[test]
fn verified_key_in_the_cache_costs_as_any_other() {
    let mut vm = ready_to_verify();
    let (stream, question) = waiting(&mut vm);
    assert_eq!(vm.answer_callout(question.number, "200", RIGHT).continued, [stream]);
    vm.close(stream);
    let outcome = request(&mut vm, Some(&format!("Bearer {HASHED_KEY}")));
    assert_eq!(outcome.properties["keyward.verdict"], "allow");
    expect_calls(
        &outcome,
        &[
            ("proxy_get_header_map_pairs", 1),
            ("clock_time_get", 1),
            ("proxy_remove_header_map_value", 2),
            ("proxy_add_header_map_value", 3),
            ("proxy_set_property", 1),
        ],
    );
}

#[test]
fn credential_is_sent_as_body_with_the_edge_token() {
    let mut vm = ready_to_verify();
    let (_, question) = waiting(&mut vm);
    assert_eq!(question.body, HASHED_KEY.as_bytes());
    let expected = [
        (":method", "POST"),
        (":path", "/v1/edge/verify"),
        (":authority", "keyward"),
        ("authorization", "Bearer kwe_secret"),
        ("content-type", "application/octet-stream"),
    ];
    assert_eq!(question.headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    vm.answer_callout(question.number, "401", b"");
    assert!(
        vm.log()
            .iter()
            .any(|line| line.ends_with("password-hash verification failed  error=\"edge token rejected (401)\""))
    );
    let secrets = ["kwe_secret", &HASHED_KEY[5 + 16..]];
    assert!(!vm.log().iter().any(|line| secrets.iter().any(|secret| line.contains(secret))), "{:?}", vm.log());
}

#[test]
fn waiting_request_resumes_as_any_other() {
    let mut vm = ready_to_verify();
    let (stream, question) = waiting(&mut vm);
    assert!(!vm.lets_more_through(stream), "the body of a waiting request must wait, however Envoy is configured");
    let outcome = vm.answer_callout(question.number, "200", RIGHT);
    assert_eq!((outcome.answer, outcome.continued), (None, vec![stream]));
    assert_eq!(outcome.properties["keyward.verdict"], "allow");
    let names: Vec<_> = outcome.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [":method", ":path", ":authority", "accept", "x-keyward-key-id", "x-keyward-kind", "x-keyward-owner"]
    );
    assert_eq!(vm.effective_context(), ROOT);
    assert!(vm.lets_more_through(stream));
    vm.close(stream);
}

#[test]
fn waiting_request_is_counted_once_in_its_response() {
    let configuration = r#"{"dialect": "auxot", "control_plane": {"cluster": "c"},
        "rate_limit_headers": {"x": "always"}}"#;
    let mut vm = ready_to_verify_with(configuration, with_limits(&["10/min"]));
    let (stream, question) = waiting(&mut vm);
    assert_eq!(vm.answer_callout(question.number, "200", RIGHT).continued, [stream]);
    let answered = vm.answer_to(stream, &[(":status", "200")]);
    assert!(answered.headers.contains(&("x-ratelimit-remaining".to_owned(), "9".to_owned())), "{answered:?}");
}

/// A client that guesses the rest of a key is throttled once a guess was found to be wrong.
#[test]
fn guessing_client_is_throttled_after_a_wrong_result() {
    let configuration = r#"{"dialect": "auxot", "control_plane": {"cluster": "c"},
        "guessing": {"failures_per_minute": 1}}"#;
    let mut vm = ready_to_verify_with(configuration, |_| {});
    vm.set_client("192.0.2.1:1234");
    let bearer = format!("Bearer {}X", &HASHED_KEY[..HASHED_KEY.len() - 1]);
    let guesses = [0; 2].map(|_| vm.open(&headers_with(Some(&bearer))).0);
    let (last, question) = waiting_with(&mut vm, &bearer);
    let outcome = vm.answer_callout(question.number, "200", br#"{"verified": false}"#);
    assert_eq!((outcome.answer.unwrap().0, outcome.continued.len()), (429, 0));
    assert_eq!(outcome.calls["proxy_send_local_response"], 3);
    for stream in guesses.into_iter().chain([last]) {
        vm.close(stream);
    }
    assert_eq!(request(&mut vm, Some(&bearer)).answer.unwrap().0, 429, "the throttle remembers the client");
    vm.set_client("192.0.2.2:1234");
    assert_eq!(request(&mut vm, Some(&bearer)).answer.unwrap().0, 401, "another client is not throttled");
    vm.set_client("192.0.2.1:1234");
    let (stream, question) = waiting(&mut vm);
    assert_eq!(vm.answer_callout(question.number, "200", RIGHT).continued, [stream], "the correct key");
}

#[test]
fn trailers_of_a_waiting_request_are_filtered_too() {
    let mut vm = ready_to_verify();
    let (stream, question) = waiting(&mut vm);
    let (goes_on, outcome) = vm.trailers_of(stream, &[("x-keyward-owner", "admin"), ("x-sum", "1")]);
    assert!(!goes_on);
    assert_eq!(outcome.headers, [("x-sum".to_owned(), "1".to_owned())], "trailers are passed to the filter once");
    assert_eq!(vm.answer_callout(question.number, "200", RIGHT).continued, [stream]);
    vm.close(stream);
}

#[test]
fn wrong_or_unverifiable_key_is_refused() {
    for (status, body, expected) in
        [("200", &br#"{"verified": false}"#[..], 401), ("500", b"", 503), ("200", b"?", 503)]
    {
        let mut vm = ready_to_verify();
        let (stream, question) = waiting(&mut vm);
        let outcome = vm.answer_callout(question.number, status, body);
        assert_eq!(outcome.answer.unwrap().0, expected, "{status}");
        assert!(outcome.continued.is_empty());
        vm.close(stream);
    }
}

#[test]
fn refused_verification_has_the_shape_of_its_route() {
    let configuration = r#"{"dialect": "auxot", "control_plane": {"cluster": "c"},
        "rules": [{"path": {"prefix": "/"}, "access": "key", "errors": "openai"}]}"#;
    let mut vm = ready_to_verify_with(configuration, |_| {});
    let guess = |n: u32| format!("Bearer {}{n:032}", &HASHED_KEY[..5 + 16]);
    let waiting: Vec<_> = (0..5).map(|n| vm.open(&headers_with(Some(&guess(n)))).0).collect();
    let outcome = request(&mut vm, Some(&guess(5)));
    let (status, body) = outcome.answer.unwrap();
    assert_eq!((status, outcome.properties["keyward.verdict"].as_str()), (503, "unavailable"));
    let body: Value = serde_json::from_str(&body).unwrap();
    assert!(body["error"].get("code").is_some(), "expected the shape of OpenAI, not of auxot: {body}");
    waiting.into_iter().for_each(|stream| vm.close(stream));
}

/// Keys that the control plane must verify are unavailable if the control plane is unreachable.
#[test]
fn unreachable_control_plane_makes_hashed_keys_503() {
    let mut vm = ready_to_verify();
    let (stream, question) = waiting(&mut vm);
    assert_eq!(vm.fail_callout(question.number).answer.unwrap().0, 503);
    vm.close(stream);

    let mut vm = ready_to_verify();
    vm.refuse_calls();
    let bearer = format!("Bearer {HASHED_KEY}");
    let (stream, _) = vm.open(&headers_with(Some(&bearer)));
    let outcome = vm.tick_with_outcome();
    assert_eq!(outcome.answer.unwrap().0, 503);
    assert_eq!(outcome.properties["keyward.verdict"], "unavailable");
    vm.close(stream);
}

#[test]
fn closed_stream_is_not_resumed_and_result_is_cached() {
    let mut vm = ready_to_verify();
    let (stream, question) = waiting(&mut vm);
    vm.close(stream);
    let outcome = vm.answer_callout(question.number, "200", RIGHT);
    assert_eq!((outcome.answer, outcome.continued, vm.effective_context()), (None, Vec::new(), ROOT));
    assert_eq!(request(&mut vm, Some(&format!("Bearer {HASHED_KEY}"))).properties["keyward.verdict"], "allow");
    vm.tick();
    assert!(vm.sent().is_empty());
}

/// Many waiting streams resume in small groups, to bound Envoy's stack.
#[test]
fn waiting_streams_resume_in_small_groups() {
    let mut vm = ready_to_verify();
    let bearer = format!("Bearer {HASHED_KEY}");
    let mut open: Vec<i32> = (0..39).map(|_| vm.open(&headers_with(Some(&bearer))).0).collect();
    let (last, question) = waiting(&mut vm);
    open.push(last);
    let mut continued = vm.answer_callout(question.number, "200", RIGHT).continued;
    assert_eq!(continued.len(), 16);
    while continued.len() < open.len() {
        let before = continued.len();
        continued.extend(vm.tick_with_outcome().continued);
        assert!((1..=16).contains(&(continued.len() - before)));
    }
    assert_eq!(continued, open);
}

/// The usage reports sent since the last call.
fn reports(vm: &mut Vm) -> Vec<Callout> {
    let is_report = |sent: &Callout| sent.headers.contains(&(":path".to_owned(), "/v1/edge/usage".to_owned()));
    vm.sent().into_iter().filter(is_report).collect()
}

#[test]
fn usage_is_reported_within_a_second_if_there_is_any() {
    let mut vm = ready_with(|key| key.secret_id = "sec_1".into());
    vm.run_ms(5000);
    assert!(reports(&mut vm).is_empty(), "nothing to report");
    let bearer = format!("Bearer {KEY}");
    request(&mut vm, Some(&bearer));
    request(&mut vm, Some(&bearer));
    request(&mut vm, None);
    vm.run_ms(1000);
    let [report] = reports(&mut vm).try_into().unwrap();
    for field in [(":method", "POST"), ("authorization", "Bearer kwe_secret"), ("content-type", "application/json")] {
        assert!(report.headers.contains(&(field.0.to_owned(), field.1.to_owned())), "{:?}", report.headers);
    }
    let body: Value = serde_json::from_slice(&report.body).unwrap();
    let key = json!({"key_id": "key_1", "secret_id": "sec_1", "last_used_ms": 1_800_000_005_000_u64,
        "verdicts": {"allow": 2}, "credits": 2});
    let expected = json!({"batch": "07".repeat(16), "keys": [key], "others": {"missing": 1}, "dropped": 0});
    assert_eq!(body, expected);
    vm.answer_callout(report.number, "200", &Receipt { interval_ms: 5000 }.encode());
    vm.run_ms(20_000);
    assert!(reports(&mut vm).is_empty(), "the report was accepted, and no request followed");
    request(&mut vm, None);
    vm.run_ms(1000);
    assert_eq!(Batch::decode(&reports(&mut vm).remove(0).body).unwrap().requests(), 1);
}

#[test]
fn waiting_request_is_reported_once_when_decided() {
    let counted = |name: &str, verdicts: Value| [name.to_owned(), verdicts.to_string()];
    for (status, body, expected) in [
        ("200", RIGHT, counted("sec_1", json!({"allow": 1}))),
        ("200", &br#"{"verified": false}"#[..], counted("others", json!({"unknown": 1}))),
        ("500", b"", counted("others", json!({"unavailable": 1}))),
    ] {
        let mut vm = ready_to_verify();
        let (stream, question) = waiting(&mut vm);
        vm.run_ms(2000);
        assert!(reports(&mut vm).is_empty(), "the request is waiting");
        vm.answer_callout(question.number, status, body);
        vm.close(stream);
        vm.run_ms(1000);
        let [report] = reports(&mut vm).try_into().unwrap();
        let batch = Batch::decode(&report.body).unwrap();
        let body: Value = serde_json::from_slice(&report.body).unwrap();
        let key = &body["keys"][0];
        let reported = match key["secret_id"].as_str() {
            Some(secret) => counted(secret, key["verdicts"].clone()),
            None => counted("others", body["others"].clone()),
        };
        assert_eq!((batch.requests(), reported), (1, expected));
    }
}

/// Counts, and reports without a response, survive a replaced listener.
#[test]
fn usage_survives_a_replaced_listener() {
    let mut vm = ready();
    request(&mut vm, None);
    vm.run_ms(1000);
    let sent = reports(&mut vm).remove(0);
    request(&mut vm, None);
    vm.replace_listener();
    vm.run_ms(25);
    let again = reports(&mut vm).remove(0);
    assert_eq!(again.body, sent.body);
    vm.answer_callout(again.number, "200", &Receipt { interval_ms: 200 }.encode());
    vm.run_ms(1000);
    assert_eq!(Batch::decode(&reports(&mut vm).remove(0).body).unwrap().requests(), 1);
}

#[test]
fn missing_usage_endpoint_is_logged_once_and_retried() {
    let mut vm = ready();
    let mut asked = 0;
    for _ in 0..130 {
        request(&mut vm, None);
        vm.run_ms(1000);
        for report in reports(&mut vm) {
            asked += 1;
            vm.answer_callout(report.number, "404", b"");
        }
    }
    assert!((3..=6).contains(&asked), "{asked} times in 130 s");
    let lines = vm.log().iter().filter(|line| line.contains("usage")).collect::<Vec<_>>();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("usage reports not accepted here (404)"), "{lines:?}");
}

#[test]
fn disabled_usage_sends_nothing() {
    let configuration = r#"{"dialect": "exona", "control_plane": {"cluster": "c", "usage": false}}"#;
    let mut vm = Vm::start(configuration, &[("KEYWARD_EDGE_TOKEN", "kwe_secret")]);
    request(&mut vm, None);
    vm.run_ms(10_000);
    assert!(reports(&mut vm).is_empty());
}
