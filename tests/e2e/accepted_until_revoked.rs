//! A key is accepted on every worker from its creation until its revocation.

use crate::common::{SOON, assert_refused};
use keyward_harness::{Failure, Gateway, Request, until};
use serde_json::json;

#[tokio::test]
async fn key_is_accepted_on_every_worker_until_revoked() {
    let gateway = Gateway::start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let without_key = Request::get("/hello?a=b");
    for answer in workers.send(&without_key).await.unwrap() {
        assert_refused(&answer, 401, "missing");
    }

    let created = gateway.control_plane.create_named("demo").await.unwrap();
    let with_key = without_key.bearer(&created.key);
    workers.until_status(&with_key, 200, SOON).await.unwrap();
    for answer in workers.send(&with_key).await.unwrap() {
        let seen = answer.json();
        assert_eq!(seen["path"], "/hello?a=b");
        assert_eq!(seen["headers"]["x-keyward-key-id"], json!([created.id]));
        assert!(seen["headers"].get("authorization").is_none(), "{seen}");
        assert!(!seen.to_string().contains(&created.key), "the credential reached the upstream");
    }

    gateway.control_plane.revoke(&created.id).await.unwrap();
    workers.until_status(&with_key, 401, SOON).await.unwrap();
    for answer in workers.send(&with_key).await.unwrap() {
        assert_refused(&answer, 401, "revoked");
    }
}

#[tokio::test]
async fn key_is_accepted_over_http_2_and_in_either_header() {
    let gateway = Gateway::start().await.unwrap();
    let created = gateway.control_plane.create_named("demo").await.unwrap();
    let request = Request::get("/").header("x-api-key", &created.key);
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&request, 200, SOON).await.unwrap();
    let mut http2 = keyward_harness::http::Connection::open_http2(gateway.envoy.gateway()).await.unwrap();
    for request in [request, Request::get("/").bearer(&created.key)] {
        let seen = http2.send(&request).await.unwrap().json();
        assert_eq!(seen["headers"]["x-keyward-key-id"], json!([created.id]));
        assert!(!seen.to_string().contains(&created.key), "the credential reached the upstream");
    }
}

/// A public route needs no key, and a refused request does not reach the upstream.
#[tokio::test]
async fn public_route_needs_no_key() {
    let gateway = Gateway::start().await.unwrap();
    assert_eq!(gateway.envoy.send(&Request::get("/health")).await.unwrap().json()["path"], "/health");
    gateway.upstream().take_seen();
    for path in ["/", "/health/", "/healthy", "/health/../x", "//health/x"] {
        assert_refused(&gateway.envoy.send(&Request::get(path)).await.unwrap(), 401, "missing");
    }
    assert_eq!(gateway.upstream().take_seen(), []);
}

#[tokio::test]
async fn access_log_has_verdicts_and_no_secrets() {
    let gateway = Gateway::start().await.unwrap();
    let created = gateway.control_plane.create_named("demo").await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let request = Request::get(&format!("/hello?api_key={}", created.key)).bearer(&created.key);
    workers.until_status(&request, 200, SOON).await.unwrap();
    workers.send(&Request::get("/hello")).await.unwrap();

    let log = until("both verdicts are in the access log", SOON, async || {
        let log = gateway.envoy.access_log()?;
        let has = |verdict: &str| log.iter().any(|line| line["verdict"] == verdict);
        if has("allow") && has("missing") { Ok(log) } else { Err(Failure::new(format!("{log:?}"))) }
    });
    let log = log.await.unwrap();
    let allowed = log.iter().find(|line| line["verdict"] == "allow").unwrap();
    assert_eq!((&allowed["key_id"], &allowed["path"]), (&json!(created.id), &json!("/hello")));

    let shown = [
        ("the access log", format!("{log:?}")),
        ("Envoy's log", gateway.envoy.log().unwrap()),
        ("the configuration dump", gateway.envoy.config_dump().await.unwrap().to_string()),
        ("the metrics", gateway.envoy.admin_get("/stats").await.unwrap().text()),
        ("the control plane's log", std::fs::read_to_string(gateway.dir().path().join("control-plane.log")).unwrap()),
    ];
    let edge_token = gateway.control_plane.edge_token().unwrap();
    let admin_token = gateway.control_plane.admin_token().unwrap();
    for (place, text) in shown {
        for (what, secret) in [("key", &created.key), ("edge token", &edge_token), ("admin token", &admin_token)] {
            assert!(!text.contains(secret.as_str()), "the {what} is in {place}");
        }
    }
}
