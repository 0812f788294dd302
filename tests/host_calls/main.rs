//! What the filter costs, counted and not timed: the built .wasm in a VM, around it a host that counts calls.
//!
//! Each call into Envoy costs 0.4 to 1 µs, so their number per request is the budget. The numbers here are exact: one
//! call more is a decision, to be written down here. `budget.rs` holds the whole life of a stream to what it cost before.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod budget;
mod vm;

use hmac::{Hmac, Mac as _};
use keyward_core::key::digest::Digest;
use keyward_core::key::limit::Limits;
use keyward_core::wire::cursor::Cursor;
use keyward_core::wire::cursor::Position;
use keyward_core::wire::entry::{Body, Entry, Environment, KeyRecord, OwnerRecord, PlanRecord};
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

/// A filter that has a snapshot with one key, whose owner is in it too, and two plans.
fn ready() -> Vm {
    ready_with(|_| {})
}

fn ready_with(change: impl FnOnce(&mut KeyRecord)) -> Vm {
    ready_at(started(), Digest::of_key(KEY.as_bytes()), change)
}

/// A filter whose one key only the control plane can check.
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

/// The same with the key at this address.
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

/// How many calls were not for changing a header field.
fn unchanging(outcome: &Outcome) -> usize {
    let changes = |name: &str| name.ends_with("_header_map_value");
    outcome.calls.iter().filter(|(name, _)| !changes(name)).map(|(_, count)| count).sum()
}

fn expect_calls(outcome: &Outcome, expected: &[(&str, usize)]) {
    let expected: BTreeMap<String, usize> = expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    assert_eq!(outcome.calls, expected);
}

#[test]
fn an_allowed_request_with_its_key_in_the_cache_makes_three_host_calls_beside_those_that_change_its_headers() {
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
            // The credential and a made-up id go,
            ("proxy_remove_header_map_value", 2),
            // the id, the kind and the owner come.
            ("proxy_add_header_map_value", 3),
            ("proxy_set_property", 1),
        ],
    );
}

#[test]
fn an_environment_and_a_plan_cost_one_call_each_for_their_header_field_and_limits_two() {
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
    assert_eq!(cached(|key| key.plan = Some("usual".into())), 9, "its header field");
    assert_eq!(cached(|key| key.plan = Some("pro".into())), 11, "its limits");
}

fn with_limits(limits: &[&str]) -> impl FnOnce(&mut KeyRecord) {
    let limits = Limits::new(limits.iter().map(|limit| limit.parse().unwrap()).collect()).unwrap();
    move |key| key.limits = Some(limits)
}

#[test]
fn a_busy_key_with_large_limits_makes_no_call_more_than_one_without_but_once_in_a_while() {
    let mut vm = ready_with(with_limits(&["10000/s", "200000/min"]));
    let bearer = format!("Bearer {KEY}");
    let calls: Vec<usize> = (0..100)
        .map(|_| {
            let outcome = request(&mut vm, Some(&bearer));
            assert_eq!(outcome.answer, None);
            unchanging(&outcome)
        })
        .collect();
    // The first reads the key, and how many buckets there are.
    assert_eq!(calls[1..5], [5, 5, 5, 3]);
    assert!(calls[1..].iter().all(|calls| [3, 5].contains(calls)), "{calls:?}");
    let shared = calls[1..].iter().filter(|calls| **calls == 5).count();
    assert!(shared <= 10, "{shared} of 99 requests");
    // A key with a small limit asks each time.
    let mut vm = ready_with(with_limits(&["10000/s", "500/min"]));
    request(&mut vm, Some(&bearer));
    assert!((0..100).all(|_| unchanging(&request(&mut vm, Some(&bearer))) == 5));
}

#[test]
fn what_was_leased_is_given_back_on_tick_and_when_the_listener_is_replaced() {
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

#[test]
fn an_answer_costs_nothing_unless_it_tells_of_limits_and_then_one_call_beside_those_that_change_its_headers() {
    let bearer = format!("Bearer {KEY}");
    let asked = [(":method", "GET"), (":path", "/"), ("authorization", bearer.as_str())];
    let upstreams = [
        (":status", "200"),
        ("ratelimit", "\"theirs\";r=1"),
        ("x-ratelimit-limit", "7"),
        ("x-ratelimit-reset", "7"),
        ("x-other", "1"),
    ];
    let answered = |told: &str, limits: &[&str]| {
        let configuration = format!(r#"{{"dialect": "exona", "control_plane": {{"cluster": "c"}}{told}}}"#);
        let vm = Vm::start(&configuration, &[("KEYWARD_EDGE_TOKEN", "t")]);
        let mut vm = ready_at(vm, Digest::of_key(KEY.as_bytes()), with_limits(limits));
        let answered = vm.answer(&asked, &upstreams);
        (unchanging(&answered), answered.headers)
    };
    let given: Vec<_> = upstreams.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    for (told, limits) in [
        ("", &["10/s"][..]),
        (r#", "rate_limit_headers": {"standard": "refused", "x": "never"}"#, &["10/s"]),
        (r#", "rate_limit_headers": {"standard": "always", "x": "always"}"#, &[]),
    ] {
        assert_eq!(answered(told, limits), (0, given.clone()), "{told}");
    }
    let fields = |told: &str| {
        let (calls, headers) = answered(&format!(r#", "rate_limit_headers": {told}"#), &["10/s", "200/min"]);
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
fn whoever_guesses_costs_two_calls_more_and_whoever_has_a_key_none() {
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
    // It holds for whoever is configured anew, and for a minute.
    vm.replace_listener();
    assert_eq!(request(&mut vm, bad).answer.unwrap().0, 429);
    vm.run_ms(60_000);
    assert_eq!(request(&mut vm, bad).answer.unwrap().0, 401);
}

#[test]
fn the_first_request_with_a_key_reads_its_bucket_its_owners_and_its_plans() {
    let mut vm = ready();
    let outcome = request(&mut vm, Some(&format!("Bearer {KEY}")));
    assert_eq!(outcome.calls["proxy_get_shared_data"], 2);
    assert_eq!(unchanging(&outcome), 5);
    let mut vm = ready_with(|key| key.plan = Some("usual".into()));
    let outcome = request(&mut vm, Some(&format!("Bearer {KEY}")));
    assert_eq!(outcome.calls["proxy_get_shared_data"], 3);
}

#[test]
fn the_upstream_sees_the_identity_and_neither_the_key_nor_made_up_headers() {
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
fn what_may_not_stand_in_a_header_may_not_stand_in_a_trailer() {
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
fn a_refusal_costs_no_look_up_unless_the_key_could_exist() {
    let mut vm = ready();
    // The verdict, and why a credential is malformed.
    for (authorization, properties) in [(None, 1), (Some("Bearer nonsense"), 2), (Some("Basic abc"), 2)] {
        let outcome = request(&mut vm, authorization);
        assert_eq!(outcome.answer.as_ref().unwrap().0, 401);
        let no_look_up = [
            ("proxy_get_header_map_pairs", 1),
            ("clock_time_get", 1),
            // The id that the client made up, which the access log must not show.
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
fn without_a_snapshot_every_request_is_unavailable_and_readiness_says_so() {
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
fn an_imported_key_in_the_cache_makes_no_call_more_than_others() {
    let sha512 = Digest::of_sha512(&Sha512::digest(KEY).into());
    let hmac = Hmac::<Sha256>::new_from_slice(PEPPER.as_bytes()).unwrap().chain_update(KEY);
    let hmac = Digest::of_hmac_sha256(&hmac.finalize().into_bytes().into());
    for (address, reads) in [(sha512, 3), (hmac, 4)] {
        let vm = Vm::start(ALL_DIGESTS, &[("KEYWARD_EDGE_TOKEN", "t"), ("OLD_PEPPER", PEPPER)]);
        let mut vm = ready_at(vm, address, |_| {});
        let bearer = format!("Bearer {KEY}");
        let first = request(&mut vm, Some(&bearer));
        assert_eq!((first.answer, first.calls["proxy_get_shared_data"]), (None, reads), "with its owner");
        let cached = request(&mut vm, Some(&bearer));
        assert_eq!((cached.answer.as_ref(), unchanging(&cached)), (None, 3));
        let unknown = request(&mut vm, Some("Bearer exo_live_yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"));
        assert_eq!(unknown.answer.unwrap().0, 401);
        assert_eq!(unknown.calls["proxy_get_shared_data"], 3, "one for each digest");
        assert!(!vm.log().iter().any(|line| line.contains(PEPPER.trim())), "{:?}", vm.log());
    }
}

#[test]
fn without_its_pepper_the_filter_does_not_start_and_says_why() {
    for (environment, expected) in [
        (vec![("KEYWARD_EDGE_TOKEN", "t")], "OLD_PEPPER: expected a pepper, but the variable is not set"),
        (vec![("KEYWARD_EDGE_TOKEN", "t"), ("OLD_PEPPER", "")], "OLD_PEPPER: expected a pepper, got an empty value"),
    ] {
        let log = Vm::refused(ALL_DIGESTS, &environment);
        assert!(log.iter().any(|line| line.contains(expected)), "{log:?}");
    }
}

#[test]
fn the_edge_token_goes_to_the_control_plane_and_into_no_log() {
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

/// A request with the key that has to be verified, which waits, and the question that was asked for it.
fn waiting(vm: &mut Vm) -> (i32, Callout) {
    waiting_with(vm, &format!("Bearer {HASHED_KEY}"))
}

fn waiting_with(vm: &mut Vm, bearer: &str) -> (i32, Callout) {
    let (stream, outcome) = vm.open(&headers_with(Some(bearer)));
    assert_eq!((outcome.answer, outcome.continued), (None, Vec::new()));
    assert!(vm.sent().is_empty(), "a stream sends nothing: it would take the answer with it when it goes");
    vm.tick();
    (stream, vm.sent().remove(0))
}

#[test]
fn a_verified_key_in_the_cache_costs_what_any_other_does() {
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
fn the_credential_goes_to_the_control_plane_as_a_body_with_the_edge_token() {
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
fn a_request_that_waited_goes_on_as_any_other() {
    let mut vm = ready_to_verify();
    let (stream, question) = waiting(&mut vm);
    assert!(!vm.lets_more_through(stream), "whatever Envoy is set to do with the body of a request that waits");
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
fn a_request_that_waited_is_counted_once_and_its_answer_tells_of_that() {
    let configuration = r#"{"dialect": "auxot", "control_plane": {"cluster": "c"},
        "rate_limit_headers": {"x": "always"}}"#;
    let mut vm = ready_to_verify_with(configuration, with_limits(&["10/min"]));
    let (stream, question) = waiting(&mut vm);
    assert_eq!(vm.answer_callout(question.number, "200", RIGHT).continued, [stream]);
    let answered = vm.answer_to(stream, &[(":status", "200")]);
    assert!(answered.headers.contains(&("x-ratelimit-remaining".to_owned(), "9".to_owned())), "{answered:?}");
}

#[test]
fn a_client_that_guesses_the_rest_of_a_key_is_held_back_once_that_was_found_to_be_wrong() {
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
    assert_eq!(request(&mut vm, Some(&bearer)).answer.unwrap().0, 429, "it is remembered");
    vm.set_client("192.0.2.2:1234");
    assert_eq!(request(&mut vm, Some(&bearer)).answer.unwrap().0, 401, "another client");
    vm.set_client("192.0.2.1:1234");
    let (stream, question) = waiting(&mut vm);
    assert_eq!(vm.answer_callout(question.number, "200", RIGHT).continued, [stream], "the right one");
}

#[test]
fn trailers_that_wait_with_their_request_are_no_other_than_those_that_do_not() {
    let mut vm = ready_to_verify();
    let (stream, question) = waiting(&mut vm);
    let (goes_on, outcome) = vm.trailers_of(stream, &[("x-keyward-owner", "admin"), ("x-sum", "1")]);
    assert!(!goes_on);
    assert_eq!(outcome.headers, [("x-sum".to_owned(), "1".to_owned())], "they are not shown again");
    assert_eq!(vm.answer_callout(question.number, "200", RIGHT).continued, [stream]);
    vm.close(stream);
}

#[test]
fn a_request_whose_key_is_wrong_or_cannot_be_checked_is_answered() {
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
fn what_must_not_be_asked_now_is_refused_in_the_shape_of_its_route() {
    let configuration = r#"{"dialect": "auxot", "control_plane": {"cluster": "c"},
        "rules": [{"path": {"prefix": "/"}, "access": "key", "errors": "openai"}]}"#;
    let mut vm = ready_to_verify_with(configuration, |_| {});
    let guess = |n: u32| format!("Bearer {}{n:032}", &HASHED_KEY[..5 + 16]);
    let waiting: Vec<_> = (0..5).map(|n| vm.open(&headers_with(Some(&guess(n)))).0).collect();
    let outcome = request(&mut vm, Some(&guess(5)));
    let (status, body) = outcome.answer.unwrap();
    assert_eq!((status, outcome.properties["keyward.verdict"].as_str()), (503, "unavailable"));
    let body: Value = serde_json::from_str(&body).unwrap();
    assert!(body["error"].get("code").is_some(), "as OpenAI has it, and auxot has not: {body}");
    waiting.into_iter().for_each(|stream| vm.close(stream));
}

#[test]
fn a_control_plane_that_cannot_be_reached_makes_keys_that_it_must_check_unavailable() {
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
fn a_stream_that_goes_away_is_not_touched_and_the_answer_counts_for_the_next() {
    let mut vm = ready_to_verify();
    let (stream, question) = waiting(&mut vm);
    vm.close(stream);
    let outcome = vm.answer_callout(question.number, "200", RIGHT);
    assert_eq!((outcome.answer, outcome.continued, vm.effective_context()), (None, Vec::new(), ROOT));
    assert_eq!(request(&mut vm, Some(&format!("Bearer {HASHED_KEY}"))).properties["keyward.verdict"], "allow");
    vm.tick();
    assert!(vm.sent().is_empty());
}

#[test]
fn many_that_wait_go_on_a_few_at_a_time_so_that_envoys_stack_holds() {
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

/// The reports of usage that were sent since this was asked before.
fn reports(vm: &mut Vm) -> Vec<Callout> {
    let is_report = |sent: &Callout| sent.headers.contains(&(":path".to_owned(), "/v1/edge/usage".to_owned()));
    vm.sent().into_iter().filter(is_report).collect()
}

#[test]
fn usage_is_told_within_a_second_and_then_only_when_there_is_more() {
    let mut vm = ready_with(|key| key.secret_id = "sec_1".into());
    vm.run_ms(5000);
    assert!(reports(&mut vm).is_empty(), "nothing to tell");
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
    assert!(reports(&mut vm).is_empty(), "it was taken, and nothing came since");
    request(&mut vm, None);
    vm.run_ms(1000);
    assert_eq!(Batch::decode(&reports(&mut vm).remove(0).body).unwrap().requests(), 1);
}

#[test]
fn a_request_that_waits_is_told_of_once_and_not_before_it_is_decided() {
    let counted = |name: &str, verdicts: Value| [name.to_owned(), verdicts.to_string()];
    for (status, body, expected) in [
        ("200", RIGHT, counted("sec_1", json!({"allow": 1}))),
        ("200", &br#"{"verified": false}"#[..], counted("others", json!({"unknown": 1}))),
        ("500", b"", counted("others", json!({"unavailable": 1}))),
    ] {
        let mut vm = ready_to_verify();
        let (stream, question) = waiting(&mut vm);
        vm.run_ms(2000);
        assert!(reports(&mut vm).is_empty(), "it waits");
        vm.answer_callout(question.number, status, body);
        vm.close(stream);
        vm.run_ms(1000);
        let [report] = reports(&mut vm).try_into().unwrap();
        let batch = Batch::decode(&report.body).unwrap();
        let body: Value = serde_json::from_slice(&report.body).unwrap();
        let key = &body["keys"][0];
        let told = match key["secret_id"].as_str() {
            Some(secret) => counted(secret, key["verdicts"].clone()),
            None => counted("others", body["others"].clone()),
        };
        assert_eq!((batch.requests(), told), (1, expected));
    }
}

#[test]
fn what_was_counted_and_what_was_sent_without_an_answer_outlive_a_change_of_the_listener() {
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
fn a_control_plane_without_a_place_for_usage_is_told_of_once_and_asked_rarely() {
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
fn where_usage_is_turned_off_nothing_is_sent() {
    let configuration = r#"{"dialect": "exona", "control_plane": {"cluster": "c", "usage": false}}"#;
    let mut vm = Vm::start(configuration, &[("KEYWARD_EDGE_TOKEN", "kwe_secret")]);
    request(&mut vm, None);
    vm.run_ms(10_000);
    assert!(reports(&mut vm).is_empty());
}
