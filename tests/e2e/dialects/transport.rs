//! Trusted proxies in front of the gateway.

use crate::common::SOON;
use keyward_harness::{EnvoyConfig, Gateway, Request};
use serde_json::{Value, json};

/// The gateway's HTTP connection manager.
fn manager(config: &mut EnvoyConfig) -> &mut Value {
    let listeners = &mut config.tree_mut()["static_resources"]["listeners"];
    &mut listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]
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
async fn claimed_address_without_trusted_hop_is_ignored() {
    let claims = [ALLOWED, &format!("{ALLOWED}, {ALLOWED}"), &format!("{ALLOWED}, 127.0.0.1")];
    assert_eq!(statuses(0, &claims).await, [403, 403, 403]);
}

#[tokio::test]
async fn address_from_a_trusted_hop_is_used() {
    let claims = [
        ALLOWED,
        &format!("{OTHER}, {ALLOWED}"),
        &format!("{ALLOWED}, {OTHER}"),
        OTHER,
        &format!("{ALLOWED}, nonsense"),
    ];
    assert_eq!(statuses(1, &claims).await, [200, 200, 403, 403, 403]);
}
