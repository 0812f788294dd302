//! The life of a key on real workers: rotation, plans, credits, hashes from elsewhere.

use crate::common::{SOON, hmac_sha256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_harness::{CreatedKey, Failure, Gateway, Request, Response, WorkerConnections, until};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};
use std::time::{Duration, Instant};

/// Until an edge has told of a use.
const TOLD: Duration = Duration::from_secs(10);

async fn ask(gateway: &Gateway, method: &str, path: &str, body: Value) -> Value {
    let body = (!body.is_null()).then_some(body);
    let answer = gateway.control_plane.api(method, path, body.as_ref()).await.unwrap();
    assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
    answer.json()
}

async fn key(gateway: &Gateway, id: &str) -> Value {
    ask(gateway, "GET", &format!("/v1/keys/{id}"), Value::Null).await
}

/// Gives the key a further secret; returns what was answered.
async fn rotate(gateway: &Gateway, created: &CreatedKey, grace_s: u64) -> (String, Value) {
    let rotated = ask(gateway, "POST", &format!("/v1/keys/{}/rotate", created.id), json!({"grace_s": grace_s})).await;
    (rotated["key"].as_str().unwrap().to_owned(), rotated)
}

fn with(key: &str) -> Request {
    Request::get("/").bearer(key)
}

#[tokio::test]
async fn both_secrets_open_for_the_grace_and_only_the_new_one_afterwards() {
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
            assert!(elapsed >= GRACE, "the grace was cut to {elapsed:?}");
            break;
        }
        assert!(elapsed < GRACE + SOON, "the old secret opens after {elapsed:?}");
        assert_eq!(workers.statuses(&with(&new)).await.unwrap(), [200, 200]);
    }
    assert_eq!(workers.statuses(&with(&new)).await.unwrap(), [200, 200]);
    assert_eq!(workers.statuses(&with(&created.key)).await.unwrap(), [401, 401]);
}

#[tokio::test]
async fn a_grace_ends_early_on_request_and_one_of_nothing_is_none() {
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
    // Revoking the key ends them all.
    gateway.control_plane.revoke(&created.id).await.unwrap();
    workers.until_status(&with(&third), 401, SOON).await.unwrap();
}

/// Sends on one worker after another until a request is refused; returns how many were let through and the refusal.
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
        assert!(through < 1000, "nothing limits");
    }
}

#[tokio::test]
async fn a_rotation_does_not_double_the_limit() {
    let gateway = Gateway::start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let created = gateway.control_plane.create(&json!({"name": "limited", "limits": ["20/h"]})).await.unwrap();
    let (new, _) = rotate(&gateway, &created, 3600).await;
    // What is refused for want of news is not counted; what gets through is.
    let mut through = 0;
    until("both secrets have come to the workers", SOON, async || {
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
async fn a_plan_limits_its_keys_and_a_change_of_it_reaches_them_all() {
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
    let told = &workers.send(&with(&keys[0])).await.unwrap()[0].json()["headers"]["x-keyward-plan"];
    assert_eq!(*told, json!(["free"]), "the upstream is told the plan");
}

#[tokio::test]
async fn a_use_is_told_of_within_ten_seconds_and_says_which_secret_it_was() {
    let gateway = Gateway::start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let created = gateway.control_plane.create_named("used").await.unwrap();
    let (new, rotated) = rotate(&gateway, &created, 3600).await;
    assert_eq!(rotated["last_used_at"], Value::Null);
    workers.until_status(&with(&new), 200, SOON).await.unwrap();
    let used = until("the use is told of", TOLD, async || {
        let key = key(&gateway, &created.id).await;
        if key["last_used_at"].is_null() { Err(Failure::new("not yet")) } else { Ok(key) }
    })
    .await
    .unwrap();
    assert_eq!(used["secrets"][0]["last_used_at"], Value::Null, "nobody used the old one: {used}");
    assert!(used["secrets"][1]["last_used_at"].is_string(), "{used}");
}

#[tokio::test]
async fn credits_that_run_out_refuse_at_every_worker_until_there_are_more() {
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
    // Credits are counted where the batches come together, so they run out a little later than they are used up.
    workers.until_status(&with(&live.key), 402, TOLD).await.unwrap();
    let told = key(&gateway, &live.id).await;
    assert!(told["spent"].as_u64().unwrap() >= 6, "{told}");
    assert_eq!(workers.statuses(&with(&test.key)).await.unwrap(), [200, 200], "test keys spend none");
    ask(&gateway, "PATCH", &format!("/v1/keys/{}", live.id), json!({"credits": 1_000_000})).await;
    workers.until_status(&with(&live.key), 200, SOON).await.unwrap();
    until("the uses of the test key are told of", TOLD, async || {
        let told = key(&gateway, &test.id).await;
        assert_eq!(told["spent"], 0);
        if told["last_used_at"].is_null() { Err(Failure::new("not yet")) } else { Ok(()) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn keys_that_were_hashed_elsewhere_open_as_their_own() {
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
