//! The self-service of exograph: users list, create and revoke their keys through the gateway, with a key.

use crate::common::SOON;
use keyward_harness::{CreatedKey, Gateway, Request, Response, WorkerConnections, http};
use serde_json::{Value, json};

struct Users {
    gateway: Gateway,
    workers: WorkerConnections,
    alice: CreatedKey,
    bob: CreatedKey,
}

async fn users() -> Users {
    let gateway = Gateway::builder().dialect("exograph").start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let make = async |owner: &str| {
        let fields = json!({"name": format!("{owner}'s first"), "owner": owner, "scopes": ["read"]});
        gateway.control_plane.create(&fields).await.unwrap()
    };
    let (alice, bob) = (make("alice").await, make("bob").await);
    for key in [&alice, &bob] {
        workers.until_status(&Request::get("/").bearer(&key.key), 200, SOON).await.unwrap();
    }
    Users { gateway, workers, alice, bob }
}

fn ids(answer: &Response) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    keys.iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn user_manages_only_their_own_keys() {
    let Users { gateway, mut workers, alice, bob } = users().await;
    let as_alice = |method: &str, path: &str| Request::new(method, path).bearer(&alice.key);
    let listed = gateway.envoy.send(&as_alice("GET", "/api-keys")).await.unwrap();
    assert_eq!(ids(&listed), [alice.id.as_str()]);
    assert!(!listed.text().contains(&alice.key));
    let in_the_other_header = Request::get("/api-keys").header("x-api-key", &alice.key);
    assert_eq!(ids(&gateway.envoy.send(&in_the_other_header).await.unwrap()), [alice.id.as_str()]);

    let made = gateway.envoy.send(&as_alice("POST", "/api-keys").json(&json!({"name": "second"}))).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let (id, second) = (made.json()["id"].clone(), made.json()["key"].as_str().unwrap().to_owned());
    workers.until_status(&Request::get("/").bearer(&second), 200, SOON).await.unwrap();

    let others = gateway.envoy.send(&as_alice("DELETE", &format!("/api-keys/{}", bob.id))).await.unwrap();
    assert_eq!(others.status, 404, "{}", others.text());
    let gone = gateway.envoy.send(&as_alice("DELETE", &format!("/api-keys/{}", id.as_str().unwrap()))).await.unwrap();
    assert!((200..300).contains(&gone.status), "{}", gone.text());
    workers.until_status(&Request::get("/").bearer(&second), 401, SOON).await.unwrap();
    assert_eq!(workers.statuses(&Request::get("/").bearer(&bob.key)).await.unwrap(), [200, 200]);
}

#[tokio::test]
async fn bypassing_or_forging_the_gateway_gains_nothing() {
    let Users { gateway, alice, bob, .. } = users().await;
    let control_plane = gateway.control_plane.address();
    let forged = |request: Request| {
        request
            .header("x-keyward-key-id", &alice.id)
            .header("x-keyward-owner", "alice")
            .header("x-keyward-verdict", "allow")
    };
    let without_a_key = [Request::get("/api-keys"), forged(Request::get("/api-keys"))];
    for request in &without_a_key {
        for answer in [http::send(control_plane, request).await.unwrap(), gateway.envoy.send(request).await.unwrap()] {
            assert_eq!(answer.status, 401, "{}", answer.text());
            assert_eq!(answer.json()["error"]["code"], "invalid_api_key", "expected the dialect's error");
        }
    }
    let as_bob = forged(Request::get("/api-keys").bearer(&bob.key));
    for answer in [http::send(control_plane, &as_bob).await.unwrap(), gateway.envoy.send(&as_bob).await.unwrap()] {
        assert_eq!(ids(&answer), [bob.id.as_str()]);
    }
    gateway.control_plane.revoke(&bob.id).await.unwrap();
    let refused = http::send(control_plane, &as_bob).await.unwrap();
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (401, &json!("invalid_api_key")));
    assert_ne!(refused.json(), Value::Null);
}

#[tokio::test]
async fn control_plane_api_is_not_behind_the_gateway() {
    let Users { gateway, alice, .. } = users().await;
    let token = gateway.control_plane.admin_token().unwrap();
    for path in ["/api-keys/../v1/keys", "/api-keys/%2e%2e/v1/keys", "//v1/keys", "/api-keys%2f..%2fv1/keys"] {
        for credential in [&alice.key, &token] {
            let answer = gateway.envoy.send(&Request::get(path).bearer(credential)).await.unwrap();
            // Once normalized, the path belongs to the upstream and needs a key; or it is refused.
            let text = answer.text();
            assert!(!text.contains("\"next\""), "{path}: {} {text}", answer.status);
        }
    }
}
