//! The hooks as Envoy calls them, on a double of Envoy that records the calls: what a request does, what it costs, and what
//! a mistake leads to. `tests/e2e` runs the same on a real Envoy.

mod envoy;

use crate::host::dynamic_module::stream::DROPPED;
use envoy::{Gateway, Outcome, Stream};
use keyward_core::key::digest::Digest;
use keyward_core::wire::cursor::{Cursor, Position};
use keyward_core::wire::entry::{Body, Entry, KeyRecord, OwnerRecord};
use keyward_core::wire::page::{Extent, Page};
use std::time::{Duration, Instant};

const KEY: &str = "exo_live_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
const HASHED_KEY: &str = "team.0123456789abcdefABCDEFGHIJKLMNOPQRSTUVWXYZabcdef";

/// A configuration; each test has a cluster of its own, since all share the store of the process.
fn configuration(cluster: &str, more: &str) -> String {
    format!(r#"{{"dialect": "exona", "control_plane": {{"cluster": "{cluster}", "token_env": null}}{more}}}"#)
}

/// An open configuration whose snapshot has one key.
fn ready(cluster: &str) -> Gateway {
    ready_with(&configuration(cluster, ""), Digest::of_key(KEY.as_bytes()), |_| {})
}

fn ready_with(text: &str, address: Digest, change: impl FnOnce(&mut KeyRecord)) -> Gateway {
    let gateway = Gateway::open(text).unwrap();
    gateway.tick();
    let poll = gateway.take_callouts().remove(0);
    assert!(poll.path().starts_with("/v1/edge/feed?"), "{poll:?}");
    let mut key = KeyRecord {
        key_id: "key_1".into(),
        kind: "key".into(),
        owner: Some("acme".into()),
        secret_id: "sec_1".into(),
        ..KeyRecord::default()
    };
    change(&mut key);
    let mut records = [(address, Body::Key(key)), (Digest::of_owner("acme"), Body::Owner(OwnerRecord::default()))];
    records.sort_by_key(|(subject, _)| *subject);
    let mut entries = Vec::new();
    for (subject, body) in records {
        Entry { subject, version: 1, body }.encode(&mut entries).unwrap();
    }
    let page = Page {
        summary: None,
        answers: Position::Nothing,
        head: Cursor { epoch: 1, sequence: 2, chain: [0; 16] },
        extent: Extent::Snapshot { end: None },
        entries: &entries,
    };
    gateway.respond(&poll, "200", &page.encode());
    gateway.tick();
    gateway.take_callouts();
    gateway
}

fn request(gateway: &Gateway, authorization: Option<&str>) -> (Stream, Outcome) {
    let mut fields = vec![(":method", "GET"), (":path", "/v1/things?n=1"), (":authority", "api"), ("accept", "*/*")];
    fields.extend(authorization.map(|value| ("authorization", value)));
    gateway.request(&fields)
}

#[test]
fn allowed_request_costs_eight_calls() {
    let gateway = ready("allowed");
    let bearer = format!("Bearer {KEY}");
    request(&gateway, Some(&bearer));
    let (_stream, outcome) = request(&gateway, Some(&bearer));
    assert_eq!((outcome.status, &outcome.answer), (0, &None));
    let expected = [
        "get_headers_size",
        "get_headers",
        // The credential goes; the id, the kind and the owner come.
        "set_header",
        "add_header",
        "add_header",
        "add_header",
        "clear_route_cache",
        "set_filter_state_bytes",
    ];
    assert_eq!(outcome.calls, expected);
    assert_eq!((outcome.field("authorization"), outcome.field("x-keyward-key-id")), (None, Some("key_1")));
    assert_eq!(outcome.state["wasm.keyward.verdict"], "allow");
    // The gauges are set every 40 ticks.
    (0..40).for_each(|_| gateway.tick());
    assert_eq!(gateway.metric("keyward_requests_allow"), Some(2));
    assert_eq!(gateway.metric("keyward_snapshot_records"), Some(2));
}

#[test]
fn refusal_is_answered_and_marked() {
    let gateway = ready("refused");
    let (stream, outcome) = request(&gateway, None);
    let answer = outcome.answer.unwrap();
    assert_eq!((outcome.status, answer.status), (1, 401));
    assert!(answer.fields.iter().any(|(name, _)| name == "content-type") && !answer.body.is_empty(), "{answer:?}");
    assert_eq!(outcome.state["wasm.keyward.verdict"], "missing");
    assert_eq!(stream.body(), 3, "no body passes after the response");
}

/// Envoy would otherwise tell a gRPC client that its call has succeeded.
#[test]
fn grpc_refusal_has_a_grpc_status() {
    let gateway = ready("grpc");
    let fields =
        [(":method", "POST"), (":path", "/a.B/C"), (":authority", "api"), ("content-type", "application/grpc")];
    let (_stream, outcome) = gateway.request(&fields);
    let answer = outcome.answer.unwrap();
    assert!(answer.fields.contains(&("grpc-status".to_owned(), "16".to_owned())), "{answer:?}");
    assert_eq!(answer.body, "missing");
    assert!(!answer.fields.iter().any(|(name, _)| name == "content-type"));
}

#[test]
fn trailers_lose_identity_and_credentials() {
    let gateway = ready("trailers");
    let (stream, outcome) = request(&gateway, Some(&format!("Bearer {KEY}")));
    assert_eq!(outcome.status, 0);
    let (status, fields) = stream.trailers(&[("x-keyward-owner", "forged"), ("authorization", "Bearer x"), ("a", "b")]);
    assert_eq!((status, fields), (0, vec![("a".to_owned(), "b".to_owned())]));
}

#[test]
fn response_carries_the_windows_of_the_key() {
    let text = configuration("windows", r#", "rate_limit_headers": {"standard": "always"}"#);
    let gateway = ready_with(&text, Digest::of_key(KEY.as_bytes()), |key| {
        key.limits = Some(keyward_core::key::limit::Limits::new(vec!["5/min".parse().unwrap()]).unwrap());
    });
    let (stream, _) = request(&gateway, Some(&format!("Bearer {KEY}")));
    let fields = stream.response(&[(":status", "200"), ("ratelimit", "theirs")]);
    let limits: Vec<_> = fields.iter().filter(|(name, _)| name == "ratelimit").collect();
    assert!(limits.len() == 1 && limits[0].1.contains("r=4"), "{fields:?}");
}

/// A request that waits is decided when the control plane has answered, on its own worker.
#[test]
fn request_waits_for_its_verification() {
    let text = r#"{"dialect": "auxot", "control_plane": {"cluster": "verified", "token_env": null}}"#;
    let address = Digest::of_selector(&HASHED_KEY.as_bytes()[..5 + 16]);
    let gateway = ready_with(text, address, |key| key.needs_verification = true);
    let bearer = format!("Bearer {HASHED_KEY}");
    let (stream, outcome) = request(&gateway, Some(&bearer));
    assert_eq!((outcome.status, &outcome.answer), (4, &None));
    assert_eq!(stream.body(), 3);
    gateway.tick();
    let question = gateway.take_callouts().into_iter().find(|callout| callout.path() == "/v1/edge/verify").unwrap();
    assert_eq!(question.body, HASHED_KEY.as_bytes());
    assert_eq!(stream.wake_ups(), 0);
    gateway.respond(&question, "200", br#"{"verified": true, "secret_id": "sec_1"}"#);
    assert_eq!(stream.wake_ups(), 1);
    let resumed = stream.wake_up();
    assert!(stream.is_continued() && resumed.state["wasm.keyward.verdict"] == "allow", "{resumed:?}");
    assert_eq!(stream.body(), 0);
    let (_stream, next) = request(&gateway, Some(&bearer));
    assert_eq!(next.status, 0, "the next request with the key does not wait");
}

/// A response after a verification ends the stream within the hook.
#[test]
fn stream_lives_until_the_hook_that_refuses_it_returns() {
    let text = r#"{"dialect": "auxot", "control_plane": {"cluster": "refused-late", "token_env": null}}"#;
    let address = Digest::of_selector(&HASHED_KEY.as_bytes()[..5 + 16]);
    let gateway = ready_with(text, address, |key| key.needs_verification = true);
    let (stream, _) = request(&gateway, Some(&format!("Bearer {HASHED_KEY}")));
    gateway.tick();
    let question = gateway.take_callouts().into_iter().find(|callout| callout.path() == "/v1/edge/verify").unwrap();
    gateway.respond(&question, "200", br#"{"verified": false}"#);
    let dropped = DROPPED.get();
    let refused = stream.wake_up_and_end();
    assert_eq!(refused.answer.unwrap().status, 401);
    assert_eq!(DROPPED.get(), dropped + 1, "and is dropped then");
}

/// Whatever goes wrong in the background, the thread calls again, and the control plane is asked again.
#[test]
fn background_goes_on_after_a_panic() {
    let gateway = Gateway::open_with_ticker(&configuration("panicking", "")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let wait_until_called = |before| {
        while envoy::commits() == before {
            assert!(Instant::now() < deadline, "the thread does not call");
            std::thread::yield_now();
        }
    };
    wait_until_called(0);
    // The thread does not call again before this call was followed.
    gateway.panic_in_background();
    assert!(envoy::logs().iter().any(|line| line.contains("keyward: hook panicked")), "{:?}", envoy::logs());
    wait_until_called(1);
    let mut has_asked = false;
    while !has_asked {
        assert!(Instant::now() < deadline, "the control plane was not asked");
        gateway.tick();
        has_asked = gateway.take_callouts().iter().any(|callout| callout.path().starts_with("/v1/edge/feed?"));
    }
}

/// The end of a stream that waits leaves nothing that could be woken up.
#[test]
fn stream_that_ends_while_it_waits_is_forgotten() {
    let text = r#"{"dialect": "auxot", "control_plane": {"cluster": "left", "token_env": null}}"#;
    let address = Digest::of_selector(&HASHED_KEY.as_bytes()[..5 + 16]);
    let gateway = ready_with(text, address, |key| key.needs_verification = true);
    let (stream, _) = request(&gateway, Some(&format!("Bearer {HASHED_KEY}")));
    gateway.tick();
    let question = gateway.take_callouts().into_iter().find(|callout| callout.path() == "/v1/edge/verify").unwrap();
    drop(stream);
    let (other, _) = request(&gateway, None);
    gateway.respond(&question, "200", br#"{"verified": true, "secret_id": "sec_1"}"#);
    assert_eq!(other.wake_ups(), 0);
}

#[test]
fn mistake_in_the_configuration_rejects_the_listener() {
    assert!(Gateway::open(r#"{"dialect": "nonsense"}"#).is_none());
    let logs = envoy::logs().join("\n");
    assert!(logs.contains("keyward: invalid configuration") && logs.contains("nonsense"), "{logs}");
    assert!(
        Gateway::open(r#"{"dialect": "exona", "control_plane": {"cluster": "c", "token_env": "NO_SUCH_TOKEN"}}"#)
            .is_none()
    );
    let logs = envoy::logs().join("\n");
    assert!(logs.contains("is not set in Envoy's environment") && !logs.contains("host_env_keys"), "{logs}");
    assert!(!envoy::accepts_route_configuration());
}

#[test]
fn request_without_a_stream_is_refused() {
    let outcome = envoy::request_without_stream();
    assert_eq!((outcome.status, outcome.answer.unwrap().status), (1, 503));
}

/// The next configuration follows the feed at once, and has the snapshot.
#[test]
fn replaced_configuration_hands_over_feed_and_snapshot() {
    let old = ready("replaced");
    let new = Gateway::open(&configuration("replaced", "")).unwrap();
    new.tick();
    assert!(new.take_callouts().is_empty(), "the old one holds the lease");
    drop(old);
    new.tick();
    assert_eq!(new.take_callouts().len(), 1);
    let (_stream, outcome) = request(&new, Some(&format!("Bearer {KEY}")));
    assert_eq!(outcome.status, 0);
}
