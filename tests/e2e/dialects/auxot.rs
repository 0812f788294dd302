//! The two kinds of keys of auxot.

use crate::common::SOON;
use keyward_harness::{CreatedKey, Gateway, Request};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

async fn permit(gateway: &Gateway, owner: &str, change: Value) {
    let answer = gateway.control_plane.api("PATCH", &format!("/v1/owners/{owner}"), Some(&change)).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn create(gateway: &Gateway, kind: &str, owner: &str, scopes: &[&str]) -> CreatedKey {
    let fields = json!({"name": "a key", "kind": kind, "owner": owner, "scopes": scopes});
    let created = gateway.control_plane.create(&fields).await.unwrap();
    assert!(created.key.starts_with(&format!("{kind}.")));
    created
}

#[tokio::test]
async fn user_key_follows_its_user_at_once() {
    let gateway = Gateway::builder().dialect("auxot").start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let key = create(&gateway, "user", "alice", &[]).await.key;
    let (anyone, admin) = (Request::get("/api/agents").bearer(&key), Request::get("/api/admin").bearer(&key));

    workers.until_status(&anyone, 200, SOON).await.unwrap();
    assert_eq!(workers.statuses(&admin).await.unwrap(), [403, 403]);
    permit(&gateway, "alice", json!({"permissions": ["admin", "chat"]})).await;
    workers.until_status(&admin, 200, SOON).await.unwrap();
    let scopes = workers.send(&admin).await.unwrap()[0].json()["headers"]["x-keyward-scopes"].clone();
    assert_eq!(scopes, json!(["admin chat"]), "expected the user's permissions at the upstream");
    permit(&gateway, "alice", json!({"permissions": ["chat"]})).await;
    workers.until_status(&admin, 403, SOON).await.unwrap();
    assert_eq!(workers.statuses(&anyone).await.unwrap(), [200, 200]);
    permit(&gateway, "alice", json!({"disabled": true})).await;
    workers.until_status(&anyone, 401, SOON).await.unwrap();
    permit(&gateway, "alice", json!({"disabled": false})).await;
    workers.until_status(&anyone, 200, SOON).await.unwrap();
}

#[tokio::test]
async fn team_keys_are_for_intake_and_services_only() {
    let gateway = Gateway::builder().dialect("auxot").start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let team = create(&gateway, "team", "support", &["admin"]).await;
    let user = create(&gateway, "user", "alice", &[]).await;
    permit(&gateway, "alice", json!({"permissions": ["admin"]})).await;
    let admin = Request::get("/api/admin").bearer(&user.key);
    workers.until_status(&admin, 200, SOON).await.unwrap();
    for (path, of_team, of_user) in [
        ("/api/intake/webhook", 200, 200),
        ("/api/service/agents", 200, 403),
        ("/api/agents", 403, 200),
        ("/api/admin", 403, 200),
    ] {
        for (key, expected) in [(&team.key, of_team), (&user.key, of_user)] {
            let statuses = workers.statuses(&Request::get(path).bearer(key)).await.unwrap();
            assert_eq!(statuses, [expected, expected], "{} on {path}", &key[..5]);
        }
    }
    // As sent by Anthropic's SDK.
    let messages = Request::new("POST", "/api/anthropic/v1/messages")
        .header("x-api-key", &user.key)
        .header("anthropic-version", "2023-06-01")
        .json(&json!({"model": "auto"}));
    assert_eq!(workers.statuses(&messages).await.unwrap(), [200, 200]);
    // Deleting a key revokes it.
    gateway.control_plane.revoke(&team.id).await.unwrap();
    workers.until_status(&Request::get("/api/intake/webhook").bearer(&team.key), 401, SOON).await.unwrap();
}

/// Only an Argon2id hash of a key is stored, and the key is verified once.
#[tokio::test]
async fn only_an_argon2id_hash_is_stored_and_verified_once() {
    let mut gateway =
        Gateway::builder().dialect("auxot").control_plane_environment("RUST_LOG", "trace").start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let key = create(&gateway, "user", "alice", &[]).await;
    let request = Request::get("/api/agents").bearer(&key.key);
    workers.until_status(&request, 200, SOON).await.unwrap();
    // The selector alone is not a key.
    let mut wrong = key.key.clone();
    let last = wrong.pop().unwrap();
    wrong.push(if last == 'x' { 'y' } else { 'x' });
    assert_eq!(workers.statuses(&Request::get("/api/agents").bearer(&wrong)).await.unwrap(), [401, 401]);

    // Cached keys need no control plane, and refusals reveal nothing.
    gateway.control_plane.stop().await.unwrap();
    for _ in 0..20 {
        assert_eq!(workers.statuses(&request).await.unwrap(), [200, 200]);
    }
    let digest = Sha256::digest(key.key.as_bytes());
    let needles = [key.key.as_bytes().to_vec(), digest.to_vec(), hex::encode(digest).into_bytes()];
    let mut searched = 0;
    for entry in std::fs::read_dir(gateway.control_plane.data_dir()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        searched += bytes.len();
        for needle in &needles {
            assert!(!bytes.windows(needle.len()).any(|window| window == needle), "a key or its digest is stored");
        }
    }
    assert!(searched > 1000, "expected files to search");

    gateway.control_plane.start().await.unwrap();
    gateway.control_plane.revoke(&key.id).await.unwrap();
    workers.until_status(&request, 401, SOON).await.unwrap();
}
