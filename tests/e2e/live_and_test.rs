//! Requests with a test key reach only the sandbox, and those with a live key only the live upstream, whatever the
//! client sends.

use crate::common::SOON;
use keyward_harness::{Gateway, Request};
use serde_json::json;

struct Keys {
    gateway: Gateway,
    live: String,
    test: String,
}

async fn keys() -> Keys {
    let gateway = Gateway::builder().dialect("exona").start().await.unwrap();
    let live = gateway.control_plane.create(&json!({"name": "live"})).await.unwrap().key;
    let test = gateway.control_plane.create(&json!({"name": "test", "environment": "test"})).await.unwrap().key;
    assert!(live.starts_with("exo_live_") && test.starts_with("exo_test_"), "{live} {test}");
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    for key in [&live, &test] {
        workers.until_status(&Request::get("/").bearer(key), 200, SOON).await.unwrap();
    }
    Keys { gateway, live, test }
}

#[tokio::test]
async fn keys_reach_only_their_environments_upstream() {
    let Keys { gateway, live, test } = keys().await;
    let claims = ["x-keyward-environment", "X-Keyward-Environment", "x-keyward-verdict", "x-environment"];
    for (key, own, other) in [(&live, "upstream", "live"), (&test, "sandbox", "test")] {
        for claim in ["live", "test", "live,test", "", "\u{e9}"] {
            for name in claims {
                let request = Request::get("/v1/score?environment=live").bearer(key).header(name, claim.as_bytes());
                let answer = gateway.envoy.send(&request).await.unwrap();
                assert_eq!(answer.status, 200, "{name}: {claim}: {}", answer.text());
                assert_eq!(answer.json()["upstream"], own, "{name}: {claim}");
                assert_eq!(answer.json()["headers"]["x-keyward-environment"], json!([other]));
            }
        }
    }
}

#[tokio::test]
async fn guard_stops_a_route_to_the_other_environment() {
    // A routing mistake: everything is sent to the live upstream.
    let gateway = Gateway::builder()
        .dialect("exona")
        .configure(|config| {
            let routes = config.routes();
            routes.retain(|route| route["metadata"]["filter_metadata"]["keyward"]["environment"] == "live");
            routes[0]["match"].as_object_mut().unwrap().remove("headers");
        })
        .without_snapshot()
        .start()
        .await
        .unwrap();
    let live = gateway.control_plane.create(&json!({"name": "live"})).await.unwrap().key;
    let test = gateway.control_plane.create(&json!({"name": "test", "environment": "test"})).await.unwrap().key;
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&Request::get("/").bearer(&live), 200, SOON).await.unwrap();
    gateway.upstream().take_seen();
    workers.until_status(&Request::get("/").bearer(&test), 403, SOON).await.unwrap();
    assert_eq!(gateway.upstream().take_seen(), []);
}

#[tokio::test]
async fn forged_environment_without_a_key_is_refused() {
    let Keys { gateway, .. } = keys().await;
    gateway.upstreams.iter().for_each(|upstream| drop(upstream.take_seen()));
    for claim in ["live", "test"] {
        let answer = gateway.envoy.send(&Request::get("/").header("x-keyward-environment", claim)).await.unwrap();
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (401, &json!("AUTHENTICATION_REQUIRED")));
    }
    assert!(gateway.upstreams.iter().all(|upstream| upstream.take_seen().is_empty()));
}
