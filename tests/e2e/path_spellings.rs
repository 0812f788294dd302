//! A key without a permission cannot reach a protected route, however path or method are spelled.

use crate::common::SOON;
use keyward_harness::http::Connection;
use keyward_harness::{Gateway, Request};
use serde_json::json;

#[tokio::test]
async fn no_spelling_of_path_or_method_evades_a_rule() {
    let gateway = Gateway::builder().dialect("ai-api").start().await.unwrap();
    let reader = gateway.control_plane.create(&json!({"name": "reader", "scopes": ["read"]})).await.unwrap().key;
    let with = |method: &str, path: &str| Request::new(method, path).bearer(&reader);
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&with("GET", "/v1/models"), 200, SOON).await.unwrap();
    gateway.upstream().take_seen();
    for path in [
        "/v1/admin",
        "/v1/admin/",
        "/v1/admin?x",
        "/v1//admin",
        "/v1/./admin",
        "/v1/x/../admin",
        "/v1/%61dmin",
        "/v1/%2561dmin",
        "/v1/admin%2f",
        "/v1/admin%20",
        "/v1/admin%0a",
        "/v1/admin%3fx",
        "/v1/admin;x=1",
        "/v1/admin%3bx",
        "/v1\\admin",
        "/v1/admin%",
        "/v1/admin%00",
    ] {
        let status = gateway.envoy.send(&with("GET", path)).await.unwrap().status;
        assert!(matches!(status, 400 | 403), "{path}: {status}");
    }
    let mut http2 = Connection::open_http2(gateway.envoy.gateway()).await.unwrap();
    for method in ["DELETE", "delete", "Delete", "PATCH", "pATCH", "get", "M-SEARCH"] {
        let status = http2.send(&with(method, "/v1/models")).await.unwrap().status;
        assert!(matches!(status, 400 | 403), "{method}: {status}");
    }
    assert_eq!(gateway.upstream().take_seen(), []);

    // Fields that an upstream might read as method or path, in the spellings that CGI, WSGI and Rack treat alike.
    let instead = [
        "x-http-method-override",
        "X.HTTP.Method.Override",
        "x-http-method",
        "X-Http~Method",
        "x-method-override",
        "x-original-url",
        "X.Original-Url",
        "x-rewrite-url",
        "x!rewrite!url",
    ];
    let request = instead.iter().fold(with("GET", "/v1/models"), |request, name| request.header(name, "DELETE"));
    assert_eq!(gateway.envoy.send(&request).await.unwrap().status, 200);
    let seen = gateway.upstream().take_seen();
    let is_gone = |name: &str| seen[0].header(&name.to_ascii_lowercase()).is_empty();
    assert!(instead.iter().all(|name| is_gone(name)), "{seen:?}");
}
