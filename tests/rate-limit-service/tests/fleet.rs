//! Limits across a fleet: two real gateways with the shipped `envoy/fleet.yaml`, one rate-limit service, one Redis.

#![allow(missing_docs, reason = "this is a test")]

use keyward_harness::config::EnvoyConfig;
use keyward_harness::http::{Connection, send};
use keyward_harness::{Failure, Fleet, Request, Response, until};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const SERVICE: &str = env!("CARGO_BIN_EXE_keyward-rate-limit-service");

/// The deadline for a change to reach both gateways.
const SOON: Duration = Duration::from_secs(10);

/// The number of concurrent clients of each gateway.
const CLIENTS: usize = 4;

async fn fleet(limits: &[&str], change: impl FnOnce(&mut EnvoyConfig)) -> Fleet {
    Fleet::start(Path::new(SERVICE), limits, |config| {
        // On a busy machine a response may take longer than the shipped timeout.
        config.rate_limit_filter()["timeout"] = "10s".into();
        change(config);
    })
    .await
    .unwrap()
}

async fn key(fleet: &Fleet, fields: Value) -> String {
    fleet.gateway.control_plane.create(&fields).await.unwrap().key
}

async fn plan(fleet: &Fleet, name: &str) {
    let answer = fleet.gateway.control_plane.api("PUT", &format!("/v1/plans/{name}"), Some(&json!({}))).await.unwrap();
    assert!((200..300).contains(&answer.status), "{}", answer.text());
}

fn gateways(fleet: &Fleet) -> [SocketAddr; 2] {
    [fleet.gateway.envoy.gateway(), fleet.second.gateway()]
}

/// Sends this many requests with each of the keys to both gateways, from several concurrent clients; returns how many
/// were allowed. All others must be refusals of the fleet's limits.
async fn admitted(fleet: &Fleet, keys: &[&str], each: usize) -> usize {
    let mut clients = JoinSet::new();
    let count = 2 * CLIENTS;
    for client in 0..count {
        let mut requests: Vec<Request> = Vec::new();
        for _ in (client..each).step_by(count) {
            requests.extend(keys.iter().map(|key| Request::get("/").bearer(key)));
        }
        let mut connection = Connection::open(gateways(fleet)[client % 2]).await.unwrap();
        clients.spawn(async move {
            let mut through = 0;
            for request in requests {
                match known(&mut connection, &request).await {
                    answer if answer.status == 200 => through += 1,
                    answer => assert_over_the_fleets_limit(&answer),
                }
            }
            through
        });
    }
    clients.join_all().await.into_iter().sum()
}

/// The response once the gateway has the key: before, the key is refused without a call to the service.
async fn known(connection: &mut Connection, request: &Request) -> Response {
    let deadline = Instant::now() + SOON;
    loop {
        let answer = connection.send(request).await.unwrap();
        if answer.status != 401 || Instant::now() > deadline {
            return answer;
        }
    }
}

#[track_caller]
fn assert_over_the_fleets_limit(answer: &Response) {
    assert_eq!(answer.status, 429, "{}", answer.text());
    let body = answer.json();
    assert!(body["detail"].as_str().unwrap().contains("over all gateways"), "{body}");
}

#[tokio::test]
async fn two_gateways_share_one_limit_per_key() {
    let fleet = fleet(&["key_id:50/h"], |_| ()).await;
    let one = key(&fleet, json!({"name": "one"})).await;
    let two = key(&fleet, json!({"name": "two"})).await;
    assert_eq!(admitted(&fleet, &[&one], 200).await, 50);
    assert_eq!(admitted(&fleet, &[&two], 200).await, 50);
    let stats = fleet.second.stats(r"^cluster\.upstream\.ratelimit\.over_limit$").await.unwrap();
    assert!(stats.values().sum::<u64>() >= 100, "{stats:?}");
    for gateway in gateways(&fleet) {
        let answer = send(gateway, &Request::get("/health")).await.unwrap();
        assert_eq!(answer.status, 200, "public requests are not counted");
    }
}

/// No span as long as the window has more than the limit, and there is room again afterwards.
#[tokio::test]
async fn no_window_exceeds_the_limit_and_room_returns() {
    const LIMIT: usize = 5;
    let fleet = fleet(&["key_id:5/s"], |_| ()).await;
    let request = Request::get("/").bearer(&key(&fleet, json!({"name": "one"})).await);
    let mut connections = Vec::new();
    for gateway in gateways(&fleet) {
        connections.push(Connection::open(gateway).await.unwrap());
    }
    let deadline = Instant::now() + SOON + SOON;
    let mut through = Vec::new();
    for gateway in (0..2).cycle() {
        let sent = Instant::now();
        if known(&mut connections[gateway], &request).await.status == 200 {
            through.push((sent, Instant::now()));
        }
        if through.len() == 3 * LIMIT {
            break;
        }
        assert!(Instant::now() < deadline, "only {} were let through", through.len());
    }
    for ((sent, _), (_, answered)) in through.iter().zip(&through[LIMIT..]) {
        assert!(answered.duration_since(*sent) >= Duration::from_secs(1), "{through:?}");
    }
}

/// The keys of an owner and of a plan share a limit, and a plan also gives each of its keys one.
#[tokio::test]
async fn owner_and_plan_keys_share_limits() {
    let limits = ["owner:30/h", "plan=free:20/h", "plan=pro,key_id:10/h", "key_id:100/h"];
    let fleet = fleet(&limits, |_| ()).await;
    plan(&fleet, "free").await;
    plan(&fleet, "pro").await;
    let mut keys = Vec::new();
    for fields in [json!({"owner": "acme"}), json!({"plan": "free"}), json!({"plan": "pro"})] {
        for name in ["one", "two"] {
            let mut fields = fields.clone();
            fields["name"] = name.into();
            keys.push(key(&fleet, fields).await);
        }
    }
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    assert_eq!(admitted(&fleet, &keys[..2], 60).await, 30, "of an owner");
    assert_eq!(admitted(&fleet, &keys[2..4], 60).await, 20, "of a plan");
    assert_eq!(admitted(&fleet, &keys[4..5], 60).await, 10, "one key of a plan");
    assert_eq!(admitted(&fleet, &keys[5..], 60).await, 10, "another key of that plan");
}

#[tokio::test]
async fn client_cannot_choose_its_descriptors() {
    let fleet = fleet(&["key_id:1000/h"], |_| ()).await;
    let created = fleet.gateway.control_plane.create(&json!({"name": "one", "owner": "acme"})).await.unwrap();
    let forged = |request: Request| {
        ["x-keyward-key-id", "X-Keyward-Owner", "x-keyward-plan", "x-keyward.plan"]
            .into_iter()
            .fold(request, |request, name| request.header(name, "forged"))
    };
    for gateway in gateways(&fleet) {
        let mut connection = Connection::open(gateway).await.unwrap();
        let answer = known(&mut connection, &forged(Request::get("/").bearer(&created.key))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(connection.send(&forged(Request::get("/health"))).await.unwrap().status, 200);
        assert_eq!(connection.send(&forged(Request::get("/"))).await.unwrap().status, 401);
    }
    let descriptors = json!([{"key_id": created.id}, {"owner": "acme"}]);
    let asked = json!({"domain": "keyward", "descriptors": descriptors, "admitted": true});
    assert_eq!(fleet.service.asked().unwrap(), [asked.clone(), asked], "once for each allowed request");
}

#[tokio::test]
async fn fleet_refusal_looks_like_a_filter_refusal() {
    let fleet = fleet(&["owner:0/h"], |_| ()).await;
    let by_fleet = key(&fleet, json!({"name": "fleet", "owner": "acme"})).await;
    let by_filter = key(&fleet, json!({"name": "filter", "limits": ["0/h"]})).await;
    for gateway in gateways(&fleet) {
        let mut connection = Connection::open(gateway).await.unwrap();
        let ours = known(&mut connection, &Request::get("/").bearer(&by_fleet)).await;
        let filters = known(&mut connection, &Request::get("/").bearer(&by_filter)).await;
        assert_over_the_fleets_limit(&ours);
        assert_eq!((ours.status, filters.status), (429, 429));
        for name in ["content-type", "retry-after"] {
            assert_eq!(ours.header(name).is_some(), filters.header(name).is_some(), "{name}: {ours:?}");
        }
        assert_eq!(ours.header("content-type"), filters.header("content-type"));
        assert!(ours.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
        assert!(ours.header("x-envoy-ratelimited").is_none());
        let (mut ours, mut filters) = (ours.json(), filters.json());
        for body in [&mut ours, &mut filters] {
            assert!(body["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{body}");
            for own in ["request_id", "detail"] {
                body[own] = Value::Null;
            }
        }
        assert_eq!(ours, filters);

        let grpc = Request::new("POST", "/").bearer(&by_fleet).header("content-type", "application/grpc");
        let mut http2 = Connection::open_http2(gateway).await.unwrap();
        assert_eq!(http2.send(&grpc).await.unwrap().header("grpc-status").as_deref(), Some("8"));
    }
}

/// Without the service, each gateway applies the key's own limit; with it, the fleet's again.
#[tokio::test]
async fn without_service_key_limits_apply_per_gateway() {
    let mut fleet = fleet(&["key_id:5/h"], |config| config.rate_limit_filter()["timeout"] = "1s".into()).await;
    let limited = key(&fleet, json!({"name": "limited", "limits": ["40/h"]})).await;
    let other = key(&fleet, json!({"name": "other"})).await;
    // Limits of the first key, which its gateway counts before calling the service.
    assert_eq!(admitted(&fleet, &[&limited], 20).await, 5);
    assert_eq!(admitted(&fleet, &[&other], 20).await, 5);

    fleet.service.kill();
    let (limited, other) = (Request::get("/").bearer(&limited), Request::get("/").bearer(&other));
    for gateway in gateways(&fleet) {
        let mut connection = Connection::open(gateway).await.unwrap();
        for _ in 0..30 {
            assert_eq!(connection.send(&limited).await.unwrap().status, 200);
        }
        let refused = connection.send(&limited).await.unwrap();
        assert_eq!(refused.status, 429);
        assert!(refused.json()["detail"].as_str().unwrap().contains("Limited to 40 requests"), "{}", refused.text());
        assert_eq!(connection.send(&other).await.unwrap().status, 200);
    }

    let stats = fleet.second.stats(r"^cluster\.upstream\.ratelimit\.failure_mode_allowed$").await.unwrap();
    assert!(stats.values().sum::<u64>() >= 31, "{stats:?}");

    fleet.service.start_again().await.unwrap();
    both_answer(&fleet, &other, 429).await;
    // A hanging service is treated as unavailable after the timeout.
    fleet.service.pause().unwrap();
    both_answer(&fleet, &other, 200).await;
    fleet.service.resume().unwrap();
    both_answer(&fleet, &other, 429).await;
}

#[tokio::test]
async fn without_service_nothing_passes_if_configured() {
    let mut fleet =
        fleet(&["key_id:1000/h"], |config| config.rate_limit_filter()["failure_mode_deny"] = true.into()).await;
    let key = key(&fleet, json!({"name": "one"})).await;
    let request = Request::get("/").bearer(&key);
    both_answer(&fleet, &request, 200).await;
    fleet.service.kill();
    both_answer(&fleet, &request, 503).await;
    for gateway in gateways(&fleet) {
        let answer = send(gateway, &request).await.unwrap();
        assert_eq!(answer.header("content-type").as_deref(), Some("application/problem+json"));
        assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
        assert_eq!(answer.json()["code"], "unavailable");
        assert_eq!(
            send(gateway, &Request::get("/health")).await.unwrap().status,
            200,
            "the service is not called for it"
        );
    }
    fleet.service.start_again().await.unwrap();
    both_answer(&fleet, &request, 200).await;
    // A service that cannot count reports an error.
    fleet.service.kill_redis();
    both_answer(&fleet, &request, 503).await;
}

async fn both_answer(fleet: &Fleet, request: &Request, status: u16) {
    for gateway in gateways(fleet) {
        until(&format!("{gateway} answers {status}"), SOON, async || {
            let answer = send(gateway, request).await?;
            if answer.status == status { Ok(()) } else { Err(Failure::new(answer.text())) }
        })
        .await
        .unwrap();
    }
}
