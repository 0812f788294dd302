//! A dialect in a file: the server and the edge both read it, and credentials come from the sources that it names.

use crate::common::SOON;
use keyward_harness::{Gateway, Request, TestDir};
use serde_json::{Value, json};

fn acme() -> Value {
    let mut verdicts = json!({"malformed": {"status": 401, "text": "{verdict} ({status})"}});
    for verdict in [
        "unavailable",
        "missing",
        "jwt",
        "unknown",
        "revoked",
        "expired",
        "paused",
        "unassociated",
        "wrong_kind",
        "forbidden_ip",
        "insufficient_scope",
        "rate_limited",
        "quota_exhausted",
    ] {
        verdicts[verdict] = "malformed".into();
    }
    json!({
        "name": "acme",
        "sources": [
            {"header": "Authorization", "scheme": "Token"},
            {"basic": "password"},
            {"query": "api_key"},
            {"cookie": "acme_key"},
        ],
        "keys": [{"kind": "key", "prefix": "acme-", "alphabet": "hex", "length": 40}],
        "errors": {"content_type": "text/json", "realm": "acme", "body": ["{text}"], "verdicts": verdicts},
    })
}

/// A dialect in a file works on both sides, and every source is read and removed.
#[tokio::test]
async fn custom_dialect_works_on_both_sides() {
    let dir = TestDir::new().unwrap();
    let file = dir.path().join("acme.json");
    std::fs::write(&file, acme().to_string()).unwrap();
    let gateway = Gateway::builder()
        .dialect(file.to_str().unwrap())
        .configure(|config| {
            config.set_dialect(&acme()).set_configuration_as_text();
        })
        .start()
        .await
        .unwrap();
    let key = gateway.control_plane.create_named("demo").await.unwrap().key;
    assert!(key.starts_with("acme-"), "{key}");
    let basic = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(format!("anybody:{key}"))
    };
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let with = |path: &str| Request::get(path);
    for request in [
        with("/a?x=1").header("authorization", format!("token {key}")),
        with("/a?x=1").header("authorization", format!("Basic {basic}")),
        with(&format!("/a?api_key={key}&x=1")),
        with("/a?x=1").header("cookie", format!("theme=dark; acme_key={key}")),
        with(&format!("/a?api_key={key}&x=1")).header("cookie", format!("acme_key={key}")),
    ] {
        workers.until_status(&request, 200, SOON).await.unwrap();
        let seen = workers.send(&request).await.unwrap()[0].json();
        assert_eq!(seen["path"], "/a?x=1", "{request:?}");
        assert!(!seen.to_string().contains(&key) && !seen.to_string().contains(&basic), "{seen}");
    }
    let cookies = with("/").header("cookie", format!("theme=dark; acme_key={key}"));
    assert_eq!(workers.send(&cookies).await.unwrap()[0].json()["headers"]["cookie"], json!(["theme=dark"]));

    for (request, verdict) in [
        (with("/"), "missing"),
        (with("/").header("authorization", format!("Bearer {key}")), "malformed"),
        (with(&format!("/?api_key={key}")).header("cookie", "acme_key=acme-0"), "malformed"),
        (with(&format!("/?api_key=acme-{}", "0".repeat(40))), "unknown"),
    ] {
        for answer in workers.send(&request).await.unwrap() {
            assert_eq!((answer.status, answer.json()), (401, json!([format!("{verdict} (401)")])), "{request:?}");
            assert_eq!(answer.header("content-type").as_deref(), Some("text/json"));
        }
    }
}

/// A dialect with errors prevents Envoy from starting, and each error is reported with its path.
#[tokio::test]
async fn invalid_dialect_prevents_the_start_with_all_errors() {
    let mut dialect = acme();
    dialect["sources"][1] = json!({"basic": "both"});
    dialect["errors"]["verdicts"]["expired"] = json!({"status": 200});
    let started = Gateway::builder()
        .configure(|config| {
            config.set_dialect(&dialect);
        })
        .without_snapshot()
        .start()
        .await;
    let error = started.expect_err("expected a failed start").to_string();
    for expected in ["dialect.sources[1].basic: expected one of", "dialect.errors.verdicts.expired.status: expected"] {
        assert!(error.contains(expected), "{expected}\nin {error}");
    }
}
