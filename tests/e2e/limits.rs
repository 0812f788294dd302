//! Limits under more requests than they admit, from several connections on two workers; the rate-limit headers; and the
//! authentication throttle.

use crate::common::SOON;
use crate::listener_replaced::{replace, replaceable};
use keyward_harness::http::Connection;
use keyward_harness::{Failure, Gateway, Request, Response, TestDir, artifacts, until};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Enough that each of two workers has some, except for one run in 2000.
const CONNECTIONS: usize = 12;

/// A request and its response, with the times between which it was in flight.
struct Exchange {
    sent: Instant,
    answered: Instant,
    status: u16,
}

/// Sends a request on several connections, repeatedly, until `end`.
async fn saturate(to: SocketAddr, request: &Request, end: Instant) -> Vec<Exchange> {
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let request = request.clone();
            tokio::spawn(async move {
                let (mut exchanges, mut connection) = (Vec::new(), None);
                while Instant::now() < end {
                    let open = match connection.take() {
                        Some(open) => Ok(open),
                        None => Connection::open(to).await,
                    };
                    // A replaced listener or a trapped worker closes connections.
                    let Ok(mut open) = open else { continue };
                    let sent = Instant::now();
                    if let Ok(answer) = open.send(&request).await {
                        exchanges.push(Exchange { sent, answered: Instant::now(), status: answer.status });
                        connection = Some(open);
                    }
                }
                exchanges
            })
        })
        .collect();
    let mut exchanges = Vec::new();
    for client in clients {
        exchanges.extend(client.await.unwrap());
    }
    exchanges
}

/// Asserts that no span as long as the window has more than `limit` requests that were sent and allowed in it.
#[track_caller]
fn assert_never_exceeded(exchanges: &[Exchange], limit: usize, window: Duration) {
    let mut passed: Vec<_> = exchanges.iter().filter(|exchange| exchange.status == 200).collect();
    passed.sort_by_key(|exchange| exchange.sent);
    for (n, first) in passed.iter().enumerate() {
        let ends_in_span = |exchange: &&&Exchange| exchange.answered < first.sent + window;
        let in_span = passed[n..].iter().take_while(|exchange| exchange.sent < first.sent + window);
        let count = in_span.filter(ends_in_span).count();
        assert!(count <= limit, "{count} within {window:?}");
    }
}

/// An unused key with these limits that every worker has.
async fn key_with_limits(gateway: &Gateway, limits: &[&str]) -> Request {
    let fields = json!({"name": "limited", "limits": limits});
    unused_key(gateway, &fields, "/").await
}

/// A request for this path with a new key that every worker has.
async fn unused_key(gateway: &Gateway, fields: &Value, path: &str) -> Request {
    let key = gateway.control_plane.create(fields).await.unwrap().key;
    // This path matches no rule and is always refused, so requesting it consumes nothing.
    let probe = Request::get("/a;b").bearer(&key);
    gateway.envoy.every_worker().await.unwrap().until_status(&probe, 403, SOON).await.unwrap();
    Request::get(path).bearer(&key)
}

#[tokio::test(flavor = "multi_thread")]
async fn saturated_limit_is_used_and_never_exceeded() {
    let gateway = Gateway::start().await.unwrap();
    // One limit stores each request, one shares sub-windows, and one is leased.
    for (limit, requests) in [("20/2s", 20), ("200/2s", 200), ("1000/2s", 1000)] {
        let window = Duration::from_secs(2);
        let request = key_with_limits(&gateway, &[limit]).await;
        gateway.upstream().take_seen();
        let begin = Instant::now();
        let exchanges = saturate(gateway.envoy.gateway(), &request, begin + 3 * window).await;
        let windows = begin.elapsed().as_secs_f64() / window.as_secs_f64();
        let passed = gateway.upstream().take_seen().len();
        println!("{limit}: {passed} of {} passed in {windows:.2} windows", exchanges.len());
        assert!(exchanges.iter().all(|exchange| [200, 429].contains(&exchange.status)));
        assert_never_exceeded(&exchanges, requests, window);
        assert!(passed as f64 <= requests as f64 * (windows + 1.0), "{passed} of {limit} in {windows} windows");
        let in_three = exchanges.iter().filter(|exchange| exchange.status == 200).count();
        assert!(in_three as f64 >= 0.95 * (3 * requests) as f64, "{in_three} of {limit} in three windows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_holds_across_new_listeners_and_traps() {
    let dir = TestDir::new().unwrap();
    let file = dir.path().join("listeners.json");
    let mut gateway = Gateway::builder()
        .module(artifacts::faulty_filter().unwrap())
        .configure(replaceable(&file))
        .start()
        .await
        .unwrap();
    let (limit, window) = (1000, Duration::from_secs(4));
    let request = key_with_limits(&gateway, &["1000/4s"]).await;
    gateway.upstream().take_seen();
    let (begin, to) = (Instant::now(), gateway.envoy.gateway());
    let end = begin + 3 * window;
    let clients = tokio::spawn({
        let request = request.clone();
        async move { saturate(to, &request, end).await }
    });
    for round in 0..3 {
        // A trapped VM loses its leases.
        for _ in 0..4 {
            let trapped = keyward_harness::http::send(to, &request.clone().header("x-fault-trap", "1")).await;
            assert!(trapped.is_ok_and(|answer| answer.status == 503));
        }
        // A different number of buckets would reset the counts if it took effect.
        gateway.config.filter()["snapshot"]["limit_buckets"] = (256 << round).into();
        replace(&mut gateway, 101 + round).await;
    }
    let exchanges = clients.await.unwrap();
    let windows = begin.elapsed().as_secs_f64() / window.as_secs_f64();
    let passed = gateway.upstream().take_seen().len();
    println!("{passed} passed in {windows:.2} windows");
    assert_never_exceeded(&exchanges, limit, window);
    assert!(passed as f64 <= limit as f64 * (windows + 1.0), "{passed} in {windows} windows");
    assert!(passed > 2 * limit, "{passed}");
}

/// Sends until this many requests in a row were allowed, or one was refused.
async fn pass(gateway: &Gateway, request: &Request, count: usize) -> Option<Response> {
    let mut connection = Connection::open(gateway.envoy.gateway()).await.unwrap();
    for _ in 0..count {
        let answer = connection.send(request).await.unwrap();
        if answer.status != 200 {
            return Some(answer);
        }
    }
    None
}

/// Of graph8's limits, the eleventh request in a second and the 201st in a minute are refused, for each key.
#[tokio::test]
async fn graph8_limits_apply_to_each_key() {
    let gateway = Gateway::builder().dialect("graph8").start().await.unwrap();
    let fields = |name: &str| json!({"name": name, "kind": "api", "owner": "acme"});
    let one = unused_key(&gateway, &fields("one"), "/api/v1/contacts").await;
    let other = unused_key(&gateway, &fields("other"), "/api/v1/contacts").await;
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let begin = Instant::now();
    let mut passed = 0;
    let refused = loop {
        let answer = workers.worker(passed % 2).send(&one).await.unwrap();
        if answer.status != 200 {
            break answer;
        }
        passed += 1;
    };
    assert_eq!(refused.status, 429, "{}", refused.text());
    // A machine may be too slow to send eleven requests in a second.
    assert!(passed == 10 || begin.elapsed() > Duration::from_secs(1), "{passed} requests passed");
    assert!(refused.header("ratelimit").unwrap().starts_with(r#""10/s";r=0;t=1"#), "{refused:?}");
    assert_eq!(pass(&gateway, &other, 10).await.map(|answer| answer.text()), None, "limits are per key");
    let refused = until("200 have passed", Duration::from_secs(60), async || {
        loop {
            let answer = workers.worker(passed % 2).send(&one).await?;
            if answer.status == 200 {
                passed += 1;
            } else if answer.header("ratelimit").is_some_and(|field| field.contains(r#""200/min";r=0"#)) {
                return Ok(answer);
            } else {
                return Err(Failure::new(format!("{passed}")));
            }
        }
    })
    .await
    .unwrap();
    assert!(begin.elapsed() < Duration::from_secs(60), "the machine is too slow");
    assert_eq!((passed, refused.status), (200, 429));
    let retry_after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((60 - begin.elapsed().as_secs() - 1..=60).contains(&retry_after), "{retry_after}");
    assert_eq!(workers.statuses(&other).await.unwrap(), [200, 200], "limits are per key");
}

#[tokio::test]
async fn client_that_waits_for_retry_after_passes() {
    let gateway = Gateway::start().await.unwrap();
    let request = key_with_limits(&gateway, &["2/2s", "3/3s"]).await;
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    for round in 0..4 {
        let refused = loop {
            let answer = workers.worker(round % 2).send(&request).await.unwrap();
            if answer.status != 200 {
                break answer;
            }
        };
        assert_eq!(refused.status, 429, "{}", refused.text());
        let retry_after = refused.header("retry-after").unwrap().parse().unwrap();
        // The wait itself is under test. Whole seconds are at most the window, in which a request counts for one
        // millisecond more.
        tokio::time::sleep(Duration::from_secs(retry_after) + Duration::from_millis(2)).await;
        let answer = workers.worker((round + 1) % 2).send(&request).await.unwrap();
        assert_eq!(answer.status, 200, "after {retry_after} s: {}", answer.text());
    }
}

#[tokio::test]
async fn configured_rate_limit_headers_replace_upstreams() {
    let gateway = Gateway::builder()
        .module(artifacts::responding_filter().unwrap())
        .filter(|filter| filter["rate_limit_headers"] = json!({"standard": "always", "x": "always"}))
        .configure(|config| {
            let theirs = |name: &str| json!({"header": {"key": name, "value": "theirs"}});
            for route in config.routes() {
                route["response_headers_to_add"] =
                    ["RateLimit", "RateLimit-Policy", "X-RateLimit-Limit", "x-other"].map(theirs).into();
            }
        })
        .start()
        .await
        .unwrap();
    let limited = key_with_limits(&gateway, &["3/min", "1000/h"]).await;
    let unlimited = key_with_limits(&gateway, &[]).await;
    let values = |answer: &Response, name: &str| -> Vec<String> {
        let of_name = answer.headers.iter().filter(|(given, _)| given == name);
        of_name.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    };
    let answer = gateway.envoy.send(&limited).await.unwrap();
    assert_eq!((answer.status, answer.json()["method"].as_str()), (200, Some("GET")));
    assert_eq!(values(&answer, "ratelimit-policy"), [r#""3/min";q=3;w=60, "1000/h";q=1000;w=3600"#]);
    let field = values(&answer, "ratelimit");
    assert!(field.len() == 1 && field[0].starts_with(r#""3/min";r=2;t="#), "{field:?}");
    assert_eq!(
        (values(&answer, "x-ratelimit-limit"), values(&answer, "x-ratelimit-remaining")),
        (vec!["3".into()], vec!["2".into()])
    );
    assert_eq!(values(&answer, "x-other"), ["theirs"]);
    let refused = pass(&gateway, &limited, 3).await.unwrap();
    assert_eq!((refused.status, values(&refused, "x-ratelimit-remaining")), (429, vec!["0".to_owned()]));
    assert!(values(&refused, "ratelimit-policy").contains(&r#""3/min";q=3;w=60, "1000/h";q=1000;w=3600"#.to_owned()));
    let answer = gateway.envoy.send(&unlimited).await.unwrap();
    assert_eq!(values(&answer, "ratelimit"), ["theirs"], "expected the upstream's field for a key without limits");
}

#[tokio::test]
async fn guessing_client_is_throttled_and_valid_keys_pass() {
    let gateway = Gateway::builder()
        .filter(|filter| filter["guessing"] = json!({"failures_per_minute": 5}))
        .start()
        .await
        .unwrap();
    let good = key_with_limits(&gateway, &[]).await;
    let bad = Request::get("/").bearer("kw_live_0000000000000000000000000000000000000");
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&bad, 429, SOON).await.unwrap();
    for answer in workers.send(&bad).await.unwrap() {
        let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&retry_after), "{retry_after}");
        assert_eq!(answer.json()["code"], Value::from("rate_limited"));
    }
    assert_eq!(workers.statuses(&good).await.unwrap(), [200, 200]);
    let nothing = Request::get("/");
    assert_eq!(workers.statuses(&nothing).await.unwrap(), [401, 401]);
}
