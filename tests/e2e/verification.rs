//! Keys stored as password hashes: verified once by the control plane, and then cached by the gateway.

use crate::common::SOON;
use crate::feed_double::{Feed, Verify};
use crate::listener_replaced::{replaceable, with_cache};
use keyward_core::key::digest::Digest;
use keyward_core::wire::cursor::{Cursor, Position};
use keyward_core::wire::entry::{Body, Entry, KeyRecord, OwnerRecord};
use keyward_core::wire::page::{Extent, Page};
use keyward_harness::artifacts::Host;
use keyward_harness::gateway::Builder;
use keyward_harness::http::{self, Connection};
use keyward_harness::{Failure, Gateway, Request, Response, TestDir, artifacts, until};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const PREFIX_AND_SELECTOR: usize = "team.".len() + 16;

/// Longer than the filter lets a client wait, whatever the control plane does.
const WAITED: Duration = Duration::from_secs(6);

fn key(n: u64) -> String {
    let selector = format!("{n:016}");
    format!("team.{selector}{}", "abcdefgh".repeat(4))
}

/// Another key with the same selector.
fn guess(key: &str, n: u64) -> String {
    format!("{}{n:032}", &key[..PREFIX_AND_SELECTOR])
}

fn request(key: &str) -> Request {
    Request::get("/api/intake/webhook").bearer(key)
}

fn head(sequence: u64) -> Cursor {
    Cursor { epoch: 1, sequence, chain: [u8::try_from(sequence).unwrap(); 16] }
}

fn frame(key: &str, version: u64, change: impl FnOnce(&mut KeyRecord)) -> Vec<u8> {
    let mut record = KeyRecord {
        key_id: format!("key_{}", &key[5..PREFIX_AND_SELECTOR]),
        secret_id: "sec_1".into(),
        kind: "team".into(),
        owner: Some("acme".into()),
        needs_verification: true,
        ..KeyRecord::default()
    };
    change(&mut record);
    let mut out = Vec::new();
    Entry { subject: subject(key), version, body: Body::Key(record) }.encode(&mut out).unwrap();
    out
}

struct Fixture {
    feed: Feed,
    gateway: Gateway,
    sequence: u64,
}

impl Fixture {
    /// A gateway with these keys, and a control plane that accepts them.
    async fn start(keys: &[String]) -> Self {
        Self::start_with(keys, |builder| builder).await
    }

    async fn start_with(keys: &[String], change: impl FnOnce(Builder) -> Builder) -> Self {
        let feed = Feed::start().await;
        feed.verify(Verify::Secrets(right(keys)));
        let builder = Gateway::builder().dialect("auxot").feed_from(feed.address());
        let mut gateway = change(builder).start().await.unwrap();
        assert_eq!(feed.asked().await, Position::Nothing);
        let owner = Digest::of_owner("acme");
        let mut entries: Vec<_> = keys.iter().map(|key| (subject(key), frame(key, 1, |_| {}))).collect();
        let mut frame = Vec::new();
        let body = Body::Owner(OwnerRecord::default());
        Entry { subject: owner, version: 1, body }.encode(&mut frame).unwrap();
        entries.push((owner, frame));
        entries.sort_by_key(|(subject, _)| *subject);
        let entries: Vec<u8> = entries.into_iter().flat_map(|(_, frame)| frame).collect();
        let extent = Extent::Snapshot { end: None };
        feed.send(
            Page { summary: None, answers: Position::Nothing, head: head(1), extent, entries: &entries }.encode(),
        );
        gateway.envoy.wait_for_snapshot(SOON).await.unwrap();
        Self { feed, gateway, sequence: 1 }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.envoy.gateway()
    }

    async fn send(&self, request: &Request) -> Response {
        http::send(self.address(), request).await.unwrap()
    }

    /// Waits until this many requests are open.
    async fn until_active(&self, count: u64) {
        until("the requests are open", SOON, async || {
            let active = self.gateway.envoy.stats(r"^http\.gateway\.downstream_rq_active$").await?;
            let active = active.values().sum::<u64>();
            if active >= count { Ok(()) } else { Err(Failure::new(format!("{active}"))) }
        })
        .await
        .unwrap();
    }

    /// The number of verification requests since the last call.
    fn asked(&self) -> usize {
        self.feed.take_verified().len()
    }

    /// Sends a change to the edge.
    async fn change(&mut self, frame: impl FnOnce(u64) -> Vec<u8>) {
        let applied = self.sequence;
        let answers = Position::Changes { applied, seen: head(applied) };
        until("the edge has applied the change", SOON, async || {
            let asked = self.feed.asked().await;
            if asked == answers { Ok(()) } else { Err(Failure::new(format!("{asked:?}"))) }
        })
        .await
        .unwrap();
        self.sequence += 1;
        let (to, entries) = (self.sequence, frame(self.sequence));
        self.feed.send(
            Page { summary: None, answers, head: head(to), extent: Extent::Changes { to }, entries: &entries }.encode(),
        );
    }

    /// The same request from many clients at once, each on its own connection.
    fn many(&self, count: usize, request: &Request) -> JoinSet<Response> {
        let address = self.address();
        (0..count)
            .map(|_| {
                let request = request.clone();
                async move { http::send(address, &request).await.unwrap() }
            })
            .collect()
    }
}

fn subject(key: &str) -> Digest {
    Digest::of_selector(&key.as_bytes()[..PREFIX_AND_SELECTOR])
}

fn right(keys: &[String]) -> HashMap<String, &'static str> {
    keys.iter().map(|key| (key.clone(), "sec_1")).collect()
}

#[tokio::test]
async fn key_is_verified_once_and_cached_for_every_worker() {
    let key = key(1);
    let fixture = Fixture::start(std::slice::from_ref(&key)).await;
    let mut workers = fixture.gateway.envoy.every_worker().await.unwrap();
    let answer = workers.worker(0).send(&request(&key)).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = answer.json()["headers"].clone();
    assert_eq!(seen["x-keyward-key-id"][0], "key_0000000000000001");
    assert!(seen.get("authorization").is_none(), "{seen}");

    let asked = fixture.feed.take_verified();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("POST", "/v1/edge/verify"));
    assert_eq!(asked[0].body, key.as_bytes());
    assert_eq!(asked[0].header("content-type"), ["application/octet-stream"]);
    assert!(asked[0].header("authorization")[0].starts_with("Bearer "), "expected the edge token");
    let elsewhere =
        asked[0].headers.iter().any(|(_, value)| value.windows(key.len()).any(|part| part == key.as_bytes()));
    assert!(!elsewhere, "the key must be in the body only");

    for _ in 0..3 {
        assert_eq!(workers.statuses(&request(&key)).await.unwrap(), [200, 200]);
    }
    assert_eq!(fixture.asked(), 0);
}

#[tokio::test]
async fn many_requests_verify_at_most_once_per_worker() {
    let key = key(1);
    let fixture = Fixture::start(std::slice::from_ref(&key)).await;
    fixture.feed.verify(Verify::Never);
    let clients = fixture.many(50, &request(&key));
    fixture.feed.until_asked().await;
    fixture.feed.verify(Verify::Secrets(right(std::slice::from_ref(&key))));
    let answers = clients.join_all().await;
    assert!(
        answers.iter().all(|answer| answer.status == 200),
        "{:?}",
        answers.iter().map(|a| a.status).collect::<Vec<_>>()
    );
    let asked = fixture.asked();
    assert!((1..=2).contains(&asked), "two workers sent {asked} verifications");
}

/// A wrong secret is verified once, and a credential without a record never.
#[tokio::test]
async fn wrong_secret_is_verified_once_and_no_record_never() {
    let key = key(1);
    let fixture = Fixture::start(std::slice::from_ref(&key)).await;
    let mut workers = fixture.gateway.envoy.every_worker().await.unwrap();
    let wrong = request(&guess(&key, 1));
    assert_eq!(workers.worker(0).send(&wrong).await.unwrap().status, 401);
    assert_eq!(fixture.asked(), 1);
    assert_eq!(workers.statuses(&wrong).await.unwrap(), [401, 401]);
    let elsewhere = request("team.zzzzzzzzzzzzzzzzabcdefghabcdefghabcdefghabcdefgh");
    assert_eq!(workers.statuses(&elsewhere).await.unwrap(), [401, 401]);
    assert_eq!(fixture.asked(), 0);
    assert_eq!(workers.statuses(&request(&key)).await.unwrap(), [200, 200], "the valid key is unaffected by guesses");
}

/// Guesses with one selector are bounded, and a cached key is not delayed.
#[tokio::test]
async fn guesses_per_selector_are_bounded() {
    let keys = [key(1), key(2)];
    let fixture = Fixture::start(&keys).await;
    assert_eq!(fixture.send(&request(&keys[0])).await.status, 200);
    assert_eq!(fixture.asked(), 1);
    let mut connection = Connection::open(fixture.address()).await.unwrap();
    let mut statuses = Vec::new();
    for n in 0..8 {
        statuses.push(connection.send(&request(&guess(&keys[0], n))).await.unwrap());
    }
    assert_eq!(
        statuses.iter().map(|answer| answer.status).collect::<Vec<_>>(),
        [401, 401, 401, 401, 401, 503, 503, 503]
    );
    let wait_s: u64 = statuses[5].header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait_s), "{wait_s}");
    assert_eq!(fixture.asked(), 5);
    assert_eq!(connection.send(&request(&keys[0])).await.unwrap().status, 200);
    assert_eq!(connection.send(&request(&keys[1])).await.unwrap().status, 200, "a different selector");
    assert_eq!(fixture.asked(), 1);
}

/// Six keys, five wrong credentials each, from one address.
#[tokio::test]
async fn first_uses_from_a_guessing_address_are_verified() {
    let keys: Vec<String> = (1..=26).map(key).collect();
    let (guessed, others) = keys.split_at(6);
    let fixture = Fixture::start(&keys).await;
    let mut connection = Connection::open(fixture.address()).await.unwrap();
    for key in guessed {
        for n in 0..5 {
            assert_eq!(connection.send(&request(&guess(key, n))).await.unwrap().status, 401);
        }
    }
    for key in others {
        let answer = connection.send(&request(key)).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let suspect = connection.send(&request(&guessed[0])).await.unwrap();
    assert_eq!(suspect.status, 503, "expected a refusal of the guessed selector");
    let wait_s: u64 = suspect.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait_s), "{wait_s}");
    let asked = fixture.asked();
    assert_eq!(asked, 6 * 5 + others.len());
}

#[tokio::test]
async fn verified_key_is_revoked_as_fast_as_any_other() {
    let keys: Vec<String> = (1..=15).map(key).collect();
    let mut fixture = Fixture::start(&keys).await;
    let mut workers = fixture.gateway.envoy.every_worker().await.unwrap();
    let mut times = Vec::new();
    for key in &keys {
        assert_eq!(workers.statuses(&request(key)).await.unwrap(), [200, 200]);
        fixture.change(|version| frame(key, version, |record| record.revoked_at_ms = Some(1))).await;
        let sent = Instant::now();
        workers.until_status(&request(key), 401, SOON).await.unwrap();
        times.push(sent.elapsed());
    }
    times.sort();
    assert!(times[times.len() / 2] < Duration::from_millis(100), "{times:?}");
    assert_eq!(fixture.asked(), keys.len(), "a revoked key is not verified");
}

#[tokio::test]
async fn key_revoked_during_its_verification_is_refused() {
    let keys = [key(1), key(9)];
    let [key, beside] = &keys;
    let mut fixture = Fixture::start(&keys).await;
    let mut workers = fixture.gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&request(beside), 200, SOON).await.unwrap();
    fixture.asked();
    fixture.feed.verify(Verify::Never);
    let mut clients = fixture.many(2, &request(key));
    fixture.feed.until_asked().await;
    let revoked = |key: &str, version| frame(key, version, |record| record.revoked_at_ms = Some(1));
    fixture.change(|version| [revoked(key, version), revoked(beside, version)].concat()).await;
    // A worker with a key in its cache learns of a change once the whole page is applied.
    workers.until_status(&request(beside), 401, SOON).await.unwrap();
    fixture.feed.verify(Verify::Secrets(right(&keys)));
    while let Some(answer) = clients.join_next().await {
        assert_eq!(answer.unwrap().status, 401);
    }
}

#[tokio::test]
async fn busy_control_plane_reports_a_retry_time() {
    let key = key(1);
    let fixture = Fixture::start(std::slice::from_ref(&key)).await;
    fixture.feed.verify(Verify::Busy("7"));
    let answer = fixture.send(&request(&key)).await;
    assert_eq!((answer.status, answer.header("retry-after").as_deref()), (503, Some("7")), "{}", answer.text());
    fixture.feed.verify(Verify::Busy("100000"));
    assert_eq!(fixture.send(&request(&key)).await.header("retry-after").as_deref(), Some("30"));
    fixture.feed.verify(Verify::Secrets(right(std::slice::from_ref(&key))));
    assert_eq!(fixture.send(&request(&key)).await.status, 200, "the refusal must not be cached");
}

/// A control plane that never answers delays no client for long, and many requests end at once.
#[tokio::test]
async fn unresponsive_control_plane_delays_nobody_for_long() {
    let key = key(1);
    let fixture = Fixture::start(std::slice::from_ref(&key)).await;
    fixture.feed.verify(Verify::Never);
    let started = Instant::now();
    let answers = fixture.many(150, &request(&key)).join_all().await;
    assert!(started.elapsed() < WAITED, "{:?}", started.elapsed());
    for answer in &answers {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.json()["error"]["type"], "overloaded_error", "{}", answer.text());
        assert!(answer.header("retry-after").is_some());
    }
    fixture.feed.verify(Verify::Secrets(right(std::slice::from_ref(&key))));
    assert_eq!(fixture.send(&request(&key)).await.status, 200);
}

#[tokio::test]
async fn clients_that_disconnect_while_waiting_do_no_harm() {
    let key = key(1);
    let fixture = Fixture::start(std::slice::from_ref(&key)).await;
    let mut workers = fixture.gateway.envoy.every_worker().await.unwrap();
    fixture.feed.verify(Verify::Never);
    // The first to ask is the first to disconnect, over either protocol.
    let mut first = TcpStream::connect(fixture.address()).await.unwrap();
    let head = format!("GET /api/intake/webhook HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n\r\n");
    first.write_all(head.as_bytes()).await.unwrap();
    fixture.feed.until_asked().await;
    let others = fixture.many(10, &request(&key));
    let mut leaving = JoinSet::new();
    for n in 0..20 {
        let (address, request) = (fixture.address(), request(&key));
        leaving.spawn(async move {
            let open = if n % 2 == 0 { Connection::open_http2(address).await } else { Connection::open(address).await };
            let _ = open.unwrap().send(&request).await;
        });
    }
    fixture.until_active(31).await;
    drop(first);
    leaving.abort_all();
    drop(leaving);
    until("the clients are gone", SOON, async || {
        let active = fixture.gateway.envoy.stats(r"^http\.gateway\.downstream_rq_active$").await?;
        let waiting = active.values().sum::<u64>();
        if waiting <= 10 { Ok(()) } else { Err(Failure::new(format!("{waiting}"))) }
    })
    .await
    .unwrap();
    fixture.feed.verify(Verify::Secrets(right(std::slice::from_ref(&key))));
    for answer in others.join_all().await {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert!(fixture.asked() <= 2, "a call must survive the client that caused it");
    assert_eq!(workers.statuses(&request(&key)).await.unwrap(), [200, 200]);
    assert_eq!(fixture.asked(), 0);
}

#[tokio::test]
async fn body_waits_with_its_headers_and_arrives_whole() {
    let key = key(1);
    let fixture = Fixture::start(std::slice::from_ref(&key)).await;
    fixture.feed.verify(Verify::Never);
    let body = "x".repeat(300_000);
    let post = Request::new("POST", "/api/intake/webhook").bearer(&key).json(&body.clone().into());
    let address = fixture.address();
    let client = tokio::spawn(async move { http::send(address, &post).await.unwrap() });
    fixture.feed.until_asked().await;
    assert!(
        fixture.gateway.upstreams.iter().all(|upstream| upstream.take_seen().is_empty()),
        "nothing may be forwarded before"
    );
    fixture.feed.verify(Verify::Secrets(right(std::slice::from_ref(&key))));
    let answer = client.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen: Vec<_> = fixture.gateway.upstreams.iter().flat_map(|upstream| upstream.take_seen()).collect();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].body.len(), body.len() + 2);
}

#[tokio::test]
async fn invalid_answer_allows_nobody_and_is_not_cached() {
    let key = key(1);
    let fixture = Fixture::start(std::slice::from_ref(&key)).await;
    let yes: &[u8] = br#"{"verified": true, "secret_id": "sec_1"}"#;
    let deep = b"[".repeat(4000);
    let long = [yes, &b" ".repeat(100_000)].concat();
    for (status, body) in [
        (200, &b""[..]),
        (200, b"<html>"),
        (200, b"\xff"),
        (200, &deep),
        (200, &long),
        (200, br#"{"verified": true}"#),
        (200, br#"{"verified": true, "secret_id": "sec_2"}"#),
        (201, yes),
        (302, yes),
        (401, yes),
        (404, b""),
        (500, yes),
        (503, b""),
    ] {
        fixture.feed.verify(Verify::Says(status, body.to_vec()));
        let answer = fixture.send(&request(&key)).await;
        assert_eq!(answer.status, 503, "{status} {:?}: {}", String::from_utf8_lossy(body), answer.text());
    }
    fixture.feed.verify(Verify::Secrets(right(std::slice::from_ref(&key))));
    assert_eq!(fixture.send(&request(&key)).await.status, 200);
}

#[tokio::test]
async fn waiting_client_is_answered_after_a_new_listener() {
    let key = key(1);
    let dir = TestDir::new().unwrap();
    let file = dir.path().join("listeners.json");
    let mut fixture =
        Fixture::start_with(std::slice::from_ref(&key), |builder| builder.configure(replaceable(&file))).await;
    fixture.feed.verify(Verify::Never);
    let clients = fixture.many(20, &request(&key));
    fixture.until_active(20).await;
    with_cache(&mut fixture.gateway.config, 101);
    fixture.gateway.config.write(&fixture.gateway.dir().path().join("envoy.json")).unwrap();
    until("the new listener is active", SOON, async || {
        let dump = fixture.gateway.envoy.config_dump().await?.to_string();
        if dump.contains(r#""cache_records":101"#) { Ok(()) } else { Err(Failure::new("not yet")) }
    })
    .await
    .unwrap();
    fixture.feed.verify(Verify::Secrets(right(std::slice::from_ref(&key))));
    for answer in clients.join_all().await {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

/// Of the requests that wait on a worker whose VM traps, none is allowed, and Envoy ends them as idle. A panic in a dynamic
/// module ends one request; the others continue to wait, and are allowed once their key is verified.
#[tokio::test]
async fn requests_waiting_on_a_trapped_worker_are_refused() {
    let key = key(1);
    let module = artifacts::faulty_filter().unwrap();
    let fixture = Fixture::start_with(std::slice::from_ref(&key), |builder| {
        builder.module(module).configure(|config| {
            let listener = &mut config.tree_mut()["static_resources"]["listeners"][0];
            listener["filter_chains"][0]["filters"][0]["typed_config"]["stream_idle_timeout"] = "2s".into();
        })
    })
    .await;
    let mut workers = fixture.gateway.envoy.every_worker().await.unwrap();
    fixture.feed.verify(Verify::Never);
    let clients = fixture.many(20, &request(&key));
    fixture.until_active(20).await;
    let trap = request(&key).header("x-fault-trap", "1");
    assert_eq!(workers.statuses(&trap).await.unwrap(), [503, 503]);
    if artifacts::host().unwrap() == Host::Native {
        assert!(fixture.gateway.upstreams.iter().all(|upstream| upstream.take_seen().is_empty()));
        return;
    }
    fixture.feed.verify(Verify::Secrets(right(std::slice::from_ref(&key))));
    for answer in clients.join_all().await {
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    assert!(fixture.gateway.upstreams.iter().all(|upstream| upstream.take_seen().is_empty()));
    let mut workers = fixture.gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&request(&key), 200, SOON).await.unwrap();
}
