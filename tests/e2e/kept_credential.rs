//! A route whose upstream checks the key itself receives the checked key, and no unchecked credential.

use crate::common::{SOON, assert_refused};
use keyward_harness::{Gateway, Request};
use serde_json::json;

#[tokio::test]
async fn only_the_checked_credential_is_kept_if_configured() {
    let gateway = Gateway::builder()
        .filter(|filter| {
            filter["rules"] = json!([
                {"path": {"prefix": "/self"}, "access": "key", "credential": "keep"},
                {"path": {"prefix": "/maybe"}, "access": "optional", "credential": "keep"},
                {"path": {"prefix": "/"}, "access": "key"},
            ]);
        })
        .start()
        .await
        .unwrap();
    let created = gateway.control_plane.create_named("demo").await.unwrap();
    let (key, bearer) = (created.key.as_str(), format!("Bearer {}", created.key));
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&Request::get("/").bearer(key), 200, SOON).await.unwrap();

    let get = |path: &str| Request::get(path).header("x-keyward-key-id", "made-up").header("x-api~key", "unread");
    for (path, kept) in [("/self/keys", true), ("/maybe", true), ("/other", false)] {
        for (name, value) in [("authorization", bearer.as_str()), ("x-api-key", key)] {
            let answer = gateway.envoy.send(&get(path).header(name, value)).await.unwrap();
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            let headers = &answer.json()["headers"];
            assert_eq!(headers["x-keyward-key-id"], json!([created.id]), "{path}");
            let expected = if kept { json!([value]) } else { json!(null) };
            assert_eq!(headers[name], expected, "{path}");
            assert_eq!(headers["x-api~key"], json!(null), "{path}");
        }
    }

    let other = gateway.control_plane.create_named("other").await.unwrap().key;
    workers.until_status(&Request::get("/").bearer(&other), 200, SOON).await.unwrap();
    gateway.upstream().take_seen();
    let two = get("/self").bearer(key).header("x-api-key", other.as_str());
    assert_refused(&gateway.envoy.send(&two).await.unwrap(), 401, "malformed");
    assert_refused(&gateway.envoy.send(&get("/self")).await.unwrap(), 401, "missing");
    gateway.control_plane.revoke(&created.id).await.unwrap();
    workers.until_status(&get("/").bearer(key), 401, SOON).await.unwrap();
    assert_refused(&gateway.envoy.send(&get("/self").bearer(key)).await.unwrap(), 401, "revoked");
    let seen = gateway.upstream().take_seen();
    assert!(seen.iter().all(|request| !request.path.starts_with("/self")), "{seen:?}");
}
