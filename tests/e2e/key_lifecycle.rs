//! Rotation, plans, credits and imported hashes on real workers.

use crate::common::{SOON, hmac_sha256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_harness::{CreatedKey, Failure, Gateway, Request, Response, WorkerConnections, until};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};
use std::time::{Duration, Instant};

/// The deadline for an edge to report usage.
const REPORTED: Duration = Duration::from_secs(10);

async fn ask(gateway: &Gateway, method: &str, path: &str, body: Value) -> Value {
    let body = (!body.is_null()).then_some(body);
    let answer = gateway.control_plane.api(method, path, body.as_ref()).await.unwrap();
    assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
    answer.json()
}

async fn key(gateway: &Gateway, id: &str) -> Value {
    ask(gateway, "GET", &format!("/v1/keys/{id}"), Value::Null).await
}

/// Adds a secret to the key; returns the secret and the response.
async fn rotate(gateway: &Gateway, created: &CreatedKey, grace_s: u64) -> (String, Value) {
    let rotated = ask(gateway, "POST", &format!("/v1/keys/{}/rotate", created.id), json!({"grace_s": grace_s})).await;
    (rotated["key"].as_str().unwrap().to_owned(), rotated)
}

fn with(key: &str) -> Request {
    Request::get("/").bearer(key)
}

#[tokio::test]
async fn both_secrets_are_valid_during_the_grace_period() {
    const GRACE: Duration = Duration::from_secs(3);
    let gateway = Gateway::start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let created = gateway.control_plane.create_named("rotated").await.unwrap();
    workers.until_status(&with(&created.key), 200, SOON).await.unwrap();
    let asked = Instant::now();
    let (new, _) = rotate(&gateway, &created, GRACE.as_secs()).await;
    workers.until_status(&with(&new), 200, SOON).await.unwrap();
    loop {
        let statuses = workers.statuses(&with(&created.key)).await.unwrap();
        let elapsed = asked.elapsed();
        if statuses == [401, 401] {
            assert!(elapsed >= GRACE, "the grace period ended after {elapsed:?}");
            break;
        }
        assert!(elapsed < GRACE + SOON, "the old secret is still accepted after {elapsed:?}");
        assert_eq!(workers.statuses(&with(&new)).await.unwrap(), [200, 200]);
    }
    assert_eq!(workers.statuses(&with(&new)).await.unwrap(), [200, 200]);
    assert_eq!(workers.statuses(&with(&created.key)).await.unwrap(), [401, 401]);
}

#[tokio::test]
async fn grace_period_ends_early_on_request_or_is_skipped() {
    let gateway = Gateway::start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let created = gateway.control_plane.create_named("rotated").await.unwrap();
    let (second, rotated) = rotate(&gateway, &created, 86_400).await;
    for secret in [&created.key, &second] {
        workers.until_status(&with(secret), 200, SOON).await.unwrap();
    }
    let first_secret = rotated["secrets"][0]["id"].as_str().unwrap();
    ask(&gateway, "DELETE", &format!("/v1/keys/{}/secrets/{first_secret}", created.id), Value::Null).await;
    workers.until_status(&with(&created.key), 401, SOON).await.unwrap();
    assert_eq!(workers.statuses(&with(&second)).await.unwrap(), [200, 200]);
    let (third, _) = rotate(&gateway, &created, 0).await;
    workers.until_status(&with(&second), 401, SOON).await.unwrap();
    workers.until_status(&with(&third), 200, SOON).await.unwrap();
    // Revoking the key invalidates all secrets.
    gateway.control_plane.revoke(&created.id).await.unwrap();
    workers.until_status(&with(&third), 401, SOON).await.unwrap();
}

/// Sends on each worker in turn until a request is refused; returns how many passed, and the refusal.
async fn exhaust(workers: &mut WorkerConnections, secrets: &[&str]) -> (usize, Response) {
    let mut through = 0;
    loop {
        for secret in secrets {
            for answer in workers.send(&with(secret)).await.unwrap() {
                match answer.status {
                    200 => through += 1,
                    _ => return (through, answer),
                }
            }
        }
        assert!(through < 1000, "expected a limit");
    }
}

#[tokio::test]
async fn rotation_does_not_double_the_limit() {
    let gateway = Gateway::start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let created = gateway.control_plane.create(&json!({"name": "limited", "limits": ["20/h"]})).await.unwrap();
    let (new, _) = rotate(&gateway, &created, 3600).await;
    // Requests refused for lack of a snapshot are not counted; those that pass are.
    let mut through = 0;
    until("both secrets have reached the workers", SOON, async || {
        let mut statuses = Vec::new();
        for secret in [&created.key, &new] {
            statuses.extend(workers.statuses(&with(secret)).await?);
        }
        through += statuses.iter().filter(|status| **status == 200).count();
        if statuses == [200; 4] { Ok(()) } else { Err(Failure::new(format!("{statuses:?}"))) }
    })
    .await
    .unwrap();
    let (more, refused) = exhaust(&mut workers, &[&created.key, &new]).await;
    assert_eq!((through + more, refused.status), (20, 429), "{}", refused.text());
    for secret in [&created.key, &new] {
        assert_eq!(workers.statuses(&with(secret)).await.unwrap(), [429, 429]);
    }
}

#[tokio::test]
async fn plan_limits_its_keys_and_changes_reach_them_all() {
    let gateway = Gateway::start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    ask(&gateway, "PUT", "/v1/plans/free", json!({"limits": ["5/h"]})).await;
    let mut keys = Vec::new();
    for name in ["one", "two"] {
        let key = gateway.control_plane.create(&json!({"name": name, "plan": "free"})).await.unwrap().key;
        workers.until_status(&with(&key), 200, SOON).await.unwrap();
        let (_, refused) = exhaust(&mut workers, &[&key]).await;
        assert_eq!(refused.status, 429);
        assert_eq!(refused.header("ratelimit-policy").as_deref(), Some(r#""5/h";q=5;w=3600"#));
        keys.push(key);
    }
    ask(&gateway, "PUT", "/v1/plans/free", json!({"limits": ["100000/s"]})).await;
    for key in &keys {
        workers.until_status(&with(key), 200, SOON).await.unwrap();
    }
    let plan = &workers.send(&with(&keys[0])).await.unwrap()[0].json()["headers"]["x-keyward-plan"];
    assert_eq!(*plan, json!(["free"]), "the upstream receives the plan");
}

#[tokio::test]
async fn use_is_reported_with_its_secret_within_10_s() {
    let gateway = Gateway::start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let created = gateway.control_plane.create_named("used").await.unwrap();
    let (new, rotated) = rotate(&gateway, &created, 3600).await;
    assert_eq!(rotated["last_used_at"], Value::Null);
    workers.until_status(&with(&new), 200, SOON).await.unwrap();
    let used = until("the use is reported", REPORTED, async || {
        let key = key(&gateway, &created.id).await;
        if key["last_used_at"].is_null() { Err(Failure::new("not yet")) } else { Ok(key) }
    })
    .await
    .unwrap();
    assert_eq!(used["secrets"][0]["last_used_at"], Value::Null, "the old secret was not used: {used}");
    assert!(used["secrets"][1]["last_used_at"].is_string(), "{used}");
}

#[tokio::test]
async fn exhausted_credits_refuse_until_there_are_more() {
    let gateway = Gateway::builder().dialect("exona").start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let make = async |environment: &str| {
        let fields = json!({"name": environment, "environment": environment, "owner": "acme", "credits": 6});
        gateway.control_plane.create(&fields).await.unwrap()
    };
    let (live, test) = (make("live").await, make("test").await);
    for key in [&live, &test] {
        workers.until_status(&with(&key.key), 200, SOON).await.unwrap();
    }
    // Credits are counted at the control plane, so they run out slightly after they are used up.
    workers.until_status(&with(&live.key), 402, REPORTED).await.unwrap();
    let reported = key(&gateway, &live.id).await;
    assert!(reported["spent"].as_u64().unwrap() >= 6, "{reported}");
    assert_eq!(workers.statuses(&with(&test.key)).await.unwrap(), [200, 200], "test keys spend none");
    ask(&gateway, "PATCH", &format!("/v1/keys/{}", live.id), json!({"credits": 1_000_000})).await;
    workers.until_status(&with(&live.key), 200, SOON).await.unwrap();
    until("the uses of the test key are reported", REPORTED, async || {
        let reported = key(&gateway, &test.id).await;
        assert_eq!(reported["spent"], 0);
        if reported["last_used_at"].is_null() { Err(Failure::new("not yet")) } else { Ok(()) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn keys_hashed_elsewhere_are_accepted() {
    const PEPPER: &str = "the pepper of another system";
    let gateway = Gateway::builder()
        .dialect("ai-api")
        .envoy_environment("KEYWARD_PEPPER", PEPPER)
        .configure(|config| {
            config.pass_to_filter("KEYWARD_PEPPER");
            config.filter()["digests"] = json!(["sha256", "sha512", {"hmac_sha256": {"pepper_env": "KEYWARD_PEPPER"}}]);
        })
        .start()
        .await
        .unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let keys = ["sk_plain", "sk_sha256", "sk_sha512", "sk_hmac"].map(|name| format!("{name:0<43}"));
    let [plain, sha256, sha512, hmac] = &keys;
    let rows = [
        ("key", plain.clone()),
        ("sha256", hex::encode(sha2::Sha256::digest(sha256))),
        ("sha512", STANDARD.encode(Sha512::digest(sha512))),
        ("hmac_sha256", hex::encode(hmac_sha256(PEPPER.as_bytes(), hmac.as_bytes()))),
    ];
    let row =
        |(field, value): &(&str, String)| format!("{}\n", json!({"name": field, "scopes": ["read"], *field: value}));
    let lines: String = rows.iter().map(row).collect();
    let import = Request::new("POST", "/v1/keys/import")
        .bearer(&gateway.control_plane.admin_token().unwrap())
        .header("content-type", "application/x-ndjson")
        .body(lines.into_bytes());
    let answer = keyward_harness::http::send(gateway.control_plane.address(), &import).await.unwrap();
    assert_eq!((answer.status, &answer.json()["imported"]), (200, &json!(4)), "{}", answer.text());
    let models = |key: &str| Request::get("/v1/models").bearer(key);
    for key in &keys {
        workers.until_status(&models(key), 200, SOON).await.unwrap();
    }
    assert_eq!(workers.statuses(&models(&format!("{:0<43}", "sk_unknown"))).await.unwrap(), [401, 401]);
}
