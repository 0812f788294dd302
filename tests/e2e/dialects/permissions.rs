//! The permissions of ai-api under its shipped rules.

use crate::common::SOON;
use keyward_harness::{Gateway, Request};
use serde_json::json;

#[tokio::test]
async fn each_permission_allows_its_routes_and_admin_all() {
    let gateway = Gateway::builder().dialect("ai-api").start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let mut keys = Vec::new();
    for scope in ["read", "write", "webhook", "admin"] {
        let created = gateway.control_plane.create(&json!({"name": scope, "scopes": [scope]})).await.unwrap();
        keys.push((scope, created.key));
    }
    // Once this key is known, all earlier ones are.
    let last = gateway.control_plane.create(&json!({"name": "last", "scopes": ["read"]})).await.unwrap();
    workers.until_status(&Request::get("/v1/models").bearer(&last.key), 200, SOON).await.unwrap();

    let routes = [
        ("GET", "/v1/models", "read"),
        ("HEAD", "/v1/models", "read"),
        ("POST", "/v1/generate", "read"),
        ("POST", "/v1/models", "write"),
        ("PUT", "/v1/models/1", "write"),
        ("DELETE", "/v1/models/1", "write"),
        ("PUT", "/v1/generate", "write"),
        ("GET", "/v1/webhooks", "webhook"),
        ("POST", "/v1/webhooks", "webhook"),
        ("GET", "/v1/admin/keys", "admin"),
    ];
    for (method, path, needed) in routes {
        for (scope, key) in &keys {
            let expected = if *scope == needed || *scope == "admin" { 200 } else { 403 };
            let answer = gateway.envoy.send(&Request::new(method, path).bearer(key)).await.unwrap();
            assert_eq!(answer.status, expected, "{scope}: {method} {path}: {}", answer.text());
            if expected == 403 && method != "HEAD" {
                assert_eq!(answer.json()["error"]["details"]["required"], needed);
            }
        }
    }
}
