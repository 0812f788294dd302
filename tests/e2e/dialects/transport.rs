//! What lies between a request and its verdict: WebSockets, and proxies in front.

use crate::common::SOON;
use keyward_harness::http::send_websocket;
use keyward_harness::{EnvoyConfig, Gateway, Request};
use serde_json::{Value, json};

/// The HTTP connection manager of the gateway.
fn manager(config: &mut EnvoyConfig) -> &mut Value {
    let listeners = &mut config.tree_mut()["static_resources"]["listeners"];
    &mut listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]
}

#[tokio::test]
async fn a_websocket_opens_with_a_key_and_not_without() {
    let gateway = Gateway::builder()
        .configure(|config| manager(config)["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]))
        .start()
        .await
        .unwrap();
    let key = gateway.control_plane.create_named("a key").await.unwrap().key;
    let with_key = Request::get("/socket").bearer(&key);
    gateway.envoy.every_worker().await.unwrap().until_status(&with_key, 200, SOON).await.unwrap();
    gateway.upstream().take_seen();
    let open = async |request: &Request| send_websocket(gateway.envoy.gateway(), request, b"hello").await.unwrap();

    for refused in [Request::get("/socket"), Request::get("/socket").bearer("not-a-key")] {
        assert_eq!(open(&refused).await.status, 401);
    }
    assert_eq!(gateway.upstream().take_seen(), []);
    let opened = open(&with_key).await;
    assert_eq!((opened.status, opened.text().as_str()), (101, "hello"));
    let seen = gateway.upstream().take_seen();
    assert_eq!((seen.len(), seen[0].header("authorization").len()), (1, 0), "{seen:?}");
}

#[tokio::test]
async fn a_websocket_does_not_open_where_it_is_not_enabled() {
    let gateway = Gateway::start().await.unwrap();
    let key = gateway.control_plane.create_named("a key").await.unwrap().key;
    let with_key = Request::get("/socket").bearer(&key);
    gateway.envoy.every_worker().await.unwrap().until_status(&with_key, 200, SOON).await.unwrap();
    let answer = send_websocket(gateway.envoy.gateway(), &with_key, b"").await.unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
}

const ALLOWED: &str = "203.0.113.7";
const OTHER: &str = "198.51.100.1";

/// A key that may be used from one address, and the status for each `x-forwarded-for`.
async fn statuses(trusted_hops: u32, claims: &[&str]) -> Vec<u16> {
    let gateway = Gateway::builder()
        .configure(|config| manager(config)["xff_num_trusted_hops"] = trusted_hops.into())
        .start()
        .await
        .unwrap();
    let key = gateway.control_plane.create(&json!({"name": "bound", "allow_ip": [ALLOWED]})).await.unwrap().key;
    let request = Request::get("/").bearer(&key);
    gateway.envoy.every_worker().await.unwrap().until_status(&request, 403, SOON).await.unwrap();
    let mut statuses = Vec::new();
    for claim in claims {
        let answer = gateway.envoy.send(&request.clone().header("x-forwarded-for", claim)).await.unwrap();
        if answer.status == 403 {
            assert_eq!(answer.json()["code"], "forbidden_ip", "{claim}");
        }
        statuses.push(answer.status);
    }
    statuses
}

#[tokio::test]
async fn without_a_trusted_hop_a_claimed_address_does_not_help() {
    let claims = [ALLOWED, &format!("{ALLOWED}, {ALLOWED}"), &format!("{ALLOWED}, 127.0.0.1")];
    assert_eq!(statuses(0, &claims).await, [403, 403, 403]);
}

#[tokio::test]
async fn behind_a_trusted_hop_the_address_counts_that_it_gives() {
    let claims = [
        ALLOWED,
        &format!("{OTHER}, {ALLOWED}"),
        &format!("{ALLOWED}, {OTHER}"),
        OTHER,
        &format!("{ALLOWED}, nonsense"),
    ];
    assert_eq!(statuses(1, &claims).await, [200, 200, 403, 403, 403]);
}
