//! One client cannot degrade others: public requests, idle connections and self-service take nothing from clients with
//! a valid key. Each attack is bounded and ends by itself; the other clients are measured.

use crate::common::SOON;
use keyward_harness::echo::SeenRequest;
use keyward_harness::http::{Connection, send_endless};
use keyward_harness::ports::loopback;
use keyward_harness::{Echo, EnvoyConfig, Failure, Gateway, Request, until};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// An immediate response, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);
/// The noise that other programs on the machine may add to a measurement.
const NOISE: Duration = Duration::from_millis(25);
/// The guarantee, from the API's response to the last worker.
const REVOKED_WITHIN: Duration = Duration::from_millis(100);
const REVOCATIONS: usize = 10;

/// The 99th percentile of the duration of requests with a valid key.
async fn p99(connection: &mut Connection, request: &Request) -> Duration {
    let mut times = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        assert_eq!(connection.send(request).await.unwrap().status, 200);
        times.push(started.elapsed());
    }
    times.sort();
    times[times.len() * 99 / 100 - 1]
}

/// Asserts that a valid key is answered as fast as before, on an existing connection and on new ones.
async fn assert_served(gateway: &Gateway, connection: &mut Connection, request: &Request, before: Duration) {
    let during = p99(connection, request).await;
    println!("p99 {before:?} before, {during:?} meanwhile");
    assert!(during <= before * 2 + NOISE, "p99 {before:?} before, {during:?} meanwhile");
    let mut other = Connection::open(gateway.envoy.gateway()).await.unwrap();
    assert_eq!(other.send(request).await.unwrap().status, 200);
}

/// Asserts that revocations reach every worker within the guarantee: the median, since a single pause of the machine is
/// not Envoy's.
async fn assert_revoked_in_time(gateway: &Gateway, fields: &Value) {
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let mut times = Vec::new();
    for _ in 0..REVOCATIONS {
        let created = gateway.control_plane.create(fields).await.unwrap();
        let request = Request::get("/").bearer(&created.key);
        workers.until_status(&request, 200, SOON).await.unwrap();
        gateway.control_plane.revoke(&created.id).await.unwrap();
        let started = Instant::now();
        workers.until_status(&request, 401, SOON).await.unwrap();
        times.push(started.elapsed());
    }
    times.sort();
    assert!(times[REVOCATIONS / 2] < REVOKED_WITHIN, "{times:?}");
}

async fn attack(to: SocketAddr, request: &Request, connections: usize) -> JoinSet<Option<u16>> {
    let mut all = JoinSet::new();
    for _ in 0..connections {
        let mut streams = send_endless(to, request, 100).await.unwrap();
        all.spawn(async move {
            let mut last = None;
            while let Some(status) = streams.join_next().await {
                last = status.unwrap();
            }
            last
        });
    }
    all
}

/// Waits until this many requests are in flight at the gateway.
async fn until_active(gateway: &Gateway, requests: u64) {
    until("the requests are in flight", SOON, async || {
        let active = gateway.envoy.stats(r"^http\.gateway\.downstream_rq_active$").await?;
        let active = active.values().sum::<u64>();
        if active >= requests { Ok(()) } else { Err(Failure::new(format!("{active} of {requests}"))) }
    })
    .await
    .unwrap();
}

/// 11 connections with 100 requests each for a public route, with endless bodies: other clients are served, with and
/// without a key, and the requests end after 15 s.
#[tokio::test]
async fn endless_public_requests_do_not_block_others() {
    let gateway = Gateway::start().await.unwrap();
    let key = gateway.control_plane.create_named("good").await.unwrap().key;
    let good = Request::get("/").bearer(&key);
    gateway.envoy.every_worker().await.unwrap().until_status(&good, 200, SOON).await.unwrap();
    let mut connection = Connection::open(gateway.envoy.gateway()).await.unwrap();
    let before = p99(&mut connection, &good).await;

    let mut attack = attack(gateway.envoy.gateway(), &Request::new("POST", "/health"), 11).await;
    until_active(&gateway, 1100).await;
    assert_served(&gateway, &mut connection, &good, before).await;
    let started = Instant::now();
    assert_eq!(gateway.envoy.send(&Request::get("/health")).await.unwrap().status, 200);
    assert!(started.elapsed() < AT_ONCE);
    assert_revoked_in_time(&gateway, &json!({"name": "revoked"})).await;

    let ended = tokio::time::timeout(Duration::from_secs(45), async { while attack.join_next().await.is_some() {} });
    assert!(ended.await.is_ok(), "expected requests for a public route to end within 15 s");
}

/// Public requests that the upstream does not answer: those beyond 100 are refused at once, and keys are served.
#[tokio::test]
async fn public_requests_have_a_separate_upstream_bound() {
    let upstream = Echo::start_with("upstream", loopback(0), |request: SeenRequest| async move {
        if request.path == "/health" {
            std::future::pending::<()>().await;
        }
        (200, "text/plain", b"ok".to_vec())
    });
    let upstream = upstream.await.unwrap();
    let gateway = Gateway::builder().upstream_from(upstream.address()).start().await.unwrap();
    let key = gateway.control_plane.create_named("good").await.unwrap().key;
    let good = Request::get("/").bearer(&key);
    gateway.envoy.every_worker().await.unwrap().until_status(&good, 200, SOON).await.unwrap();
    let mut connection = Connection::open(gateway.envoy.gateway()).await.unwrap();
    let before = p99(&mut connection, &good).await;

    let mut waiting = JoinSet::new();
    for _ in 0..150 {
        let gateway = gateway.envoy.gateway();
        waiting
            .spawn(async move { keyward_harness::http::send(gateway, &Request::get("/health")).await.unwrap().status });
    }
    let mut refused = 0;
    while refused < 50 {
        let status = tokio::time::timeout(SOON, waiting.join_next()).await.expect("an immediate response");
        assert_eq!(status.unwrap().unwrap(), 503);
        refused += 1;
    }
    assert_eq!(waiting.len(), 100);
    assert_served(&gateway, &mut connection, &good, before).await;
}

/// When keys use all of the upstream's capacity, the next request is refused instead of waiting.
#[tokio::test]
async fn requests_beyond_the_upstream_bound_get_503() {
    let bounds = |config: &mut EnvoyConfig| {
        let clusters = config.tree_mut()["static_resources"]["clusters"].as_array_mut().unwrap();
        let cluster = clusters.iter_mut().find(|cluster| cluster["name"] == "upstream").unwrap();
        let shipped = &mut cluster["circuit_breakers"]["thresholds"][0];
        for bound in ["max_requests", "max_connections"] {
            shipped[bound] = (shipped[bound].as_u64().unwrap() / 100).into();
        }
    };
    let gateway = Gateway::builder().configure(bounds).start().await.unwrap();
    let key = gateway.control_plane.create_named("good").await.unwrap().key;
    let good = Request::get("/").bearer(&key);
    gateway.envoy.every_worker().await.unwrap().until_status(&good, 200, SOON).await.unwrap();
    let _attack = attack(gateway.envoy.gateway(), &Request::new("POST", "/").bearer(&key), 1).await;
    until_active(&gateway, 100).await;
    let started = Instant::now();
    assert_eq!(gateway.envoy.send(&good).await.unwrap().status, 503);
    assert!(started.elapsed() < AT_ONCE);
    assert_eq!(
        gateway.envoy.send(&Request::get("/health")).await.unwrap().status,
        200,
        "public routes have a separate bound"
    );
}

/// More idle connections than the limit: connected clients are served, and new ones after a few seconds.
#[tokio::test]
async fn idle_connections_are_closed_within_seconds() {
    const MAX: u32 = 100;
    let few = |config: &mut EnvoyConfig| {
        let monitor = &mut config.tree_mut()["overload_manager"]["resource_monitors"][0]["typed_config"];
        monitor["max_active_downstream_connections"] = MAX.into();
    };
    let gateway = Gateway::builder().configure(few).start().await.unwrap();
    let key = gateway.control_plane.create_named("good").await.unwrap().key;
    let good = Request::get("/").bearer(&key);
    gateway.envoy.every_worker().await.unwrap().until_status(&good, 200, SOON).await.unwrap();
    let mut connection = Connection::open(gateway.envoy.gateway()).await.unwrap();
    let before = p99(&mut connection, &good).await;

    let mut silent = Vec::new();
    for _ in 0..MAX + 50 {
        silent.push(TcpStream::connect(gateway.envoy.gateway()).await.unwrap());
    }
    let started = Instant::now();
    until("connections are refused", SOON, async || {
        let refused = gateway.envoy.stats(r"downstream_global_cx_overflow$|downstream_cx_overload_reject$").await?;
        if refused.values().sum::<u64>() > 0 { Ok(()) } else { Err(Failure::new(format!("{refused:?}"))) }
    })
    .await
    .unwrap();
    let during = p99(&mut connection, &good).await;
    assert!(during <= before * 2 + NOISE, "p99 {before:?} before, {during:?} meanwhile");
    until("new connections are accepted again", Duration::from_secs(20), async || {
        let answer = gateway.envoy.send(&good).await?;
        if answer.status == 200 { Ok(()) } else { Err(Failure::new(answer.text())) }
    })
    .await
    .unwrap();
    println!("accepted again after {:?}", started.elapsed());
    drop(silent);
}

/// A user with endless self-service requests: revocations arrive in time, and other routes are served.
#[tokio::test]
async fn endless_self_service_blocks_neither_feed_nor_keys() {
    let gateway = Gateway::builder().dialect("exograph").start().await.unwrap();
    let alice = gateway.control_plane.create(&json!({"name": "hers", "owner": "alice"})).await.unwrap().key;
    let good = Request::get("/").bearer(&alice);
    gateway.envoy.every_worker().await.unwrap().until_status(&good, 200, SOON).await.unwrap();
    let mut connection = Connection::open(gateway.envoy.gateway()).await.unwrap();
    let before = p99(&mut connection, &good).await;
    let endless = Request::new("POST", "/api-keys").bearer(&alice).header("content-type", "application/json");
    let _attack = attack(gateway.envoy.gateway(), &endless, 11).await;
    assert_served(&gateway, &mut connection, &good, before).await;
    assert_revoked_in_time(&gateway, &json!({"name": "his", "owner": "bob"})).await;
}
