//! No key and no token appears in a log, a metric, or on the admin interface.

use crate::common::SOON;
use keyward_harness::http::Connection;
use keyward_harness::{CreatedKey, Gateway, Request};
use serde_json::json;

/// All pages of the admin interface.
async fn shown(gateway: &Gateway) -> Vec<(String, String)> {
    let mut shown = Vec::new();
    for path in ["/stats", "/stats/prometheus", "/config_dump?include_eds", "/clusters", "/listeners", "/server_info"] {
        shown.push((path.to_owned(), gateway.envoy.admin_get(path).await.unwrap().text()));
    }
    shown
}

/// All files of the run except the two token files: logs, configuration, the database.
fn written(gateway: &Gateway) -> Vec<(String, String)> {
    let files = walk(gateway.dir().path()).into_iter();
    let searched = files.filter(|file| !file.ends_with("admin-token") && !file.ends_with("edge-token"));
    let read = |file: std::path::PathBuf| {
        (file.display().to_string(), String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned())
    };
    searched.map(read).collect()
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

async fn use_in_every_way(gateway: &Gateway, created: &CreatedKey) {
    let key = &created.key;
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&Request::get("/").bearer(key), 200, SOON).await.unwrap();
    for request in [
        Request::get("/").header("x-api-key", key),
        Request::get("/health").bearer(key),
        // Places in which keys do not belong but are found.
        Request::get("/health").header("authorization", format!("Basic {key}")),
        Request::get(&format!("/?api_key={key}")),
        Request::get("/").bearer(&format!("{key}x")),
        Request::get("/").bearer(key).header("x-api-key", format!("{key}x")),
    ] {
        workers.send(&request).await.unwrap();
    }
    let mut http2 = Connection::open_http2(gateway.envoy.gateway()).await.unwrap();
    http2.send(&Request::get("/").bearer(key)).await.unwrap();
}

/// Keys in a request's path, plain and percent-encoded, of this dialect and of others, and a token: the access log
/// shows that there was one, and the rest of the path; also for requests refused by the filter, or by Envoy before it.
#[tokio::test]
async fn keys_in_paths_are_redacted_in_the_access_log() {
    let mut gateway = Gateway::start().await.unwrap();
    let created = gateway.control_plane.create_named("in a path").await.unwrap();
    let key = &created.key;
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&Request::get("/").bearer(key), 200, SOON).await.unwrap();
    let encoded: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let tail = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7dE9fG1hJ";
    let secrets = [
        key.clone(),
        encoded.clone(),
        encoded.replace('%', "%25"),
        key.replace('_', "%5f"),
        format!("sk_{}", &tail[..40]),
        format!("user.{tail}"),
        gateway.control_plane.edge_token().unwrap(),
        gateway.control_plane.admin_token().unwrap(),
    ];
    for secret in &secrets {
        let path = format!("/before/{secret}/after");
        for request in [
            Request::get(&path).bearer(key),
            Request::get(&path),
            // Refused by Envoy before the filter.
            Request::get(&format!("/before%2F{secret}")).bearer(key),
            Request::get(&path).bearer(key).header("with_underscore", "1"),
        ] {
            gateway.envoy.send(&request).await.unwrap();
        }
        let upgrade = Request::get(&path).header("connection", "upgrade").header("upgrade", "other");
        gateway.envoy.send(&upgrade).await.unwrap();
    }
    gateway.envoy.send(&Request::get("/objects/123e4567-e89b-12d3-a456-426614174000?key=x").bearer(key)).await.unwrap();
    gateway.envoy.stop().await.unwrap();
    let log = gateway.envoy.access_log().unwrap();
    let paths: Vec<_> = log.iter().map(|line| line["path"].as_str().unwrap_or_default()).collect();
    let redacted = paths.iter().filter(|path| **path == "/before/[redacted]/after").count();
    assert_eq!(redacted, 2 * secrets.len(), "{paths:?}");
    assert!(paths.contains(&"/objects/123e4567-e89b-12d3-a456-426614174000") && paths.contains(&"/"), "{paths:?}");
    let text = format!("{log:?}");
    for part in [&key[8..30], &encoded[24..60], &tail[..20], "%25"] {
        assert!(!text.contains(part), "{part} is in {paths:?}");
    }
    for token in [gateway.control_plane.edge_token().unwrap(), gateway.control_plane.admin_token().unwrap()] {
        assert!(!text.contains(&token[4..24]), "a token is in {paths:?}");
    }
}

#[tokio::test]
async fn no_log_metric_or_file_contains_a_secret() {
    let mut gateway = Gateway::builder().control_plane_environment("RUST_LOG", "trace").start().await.unwrap();
    let mut created = Vec::new();
    for fields in [
        json!({"name": "plain"}),
        json!({"name": "owned", "owner": "acme", "scopes": ["read"]}),
        json!({"name": "expiring", "expires_in_s": 3600}),
    ] {
        created.push(gateway.control_plane.create(&fields).await.unwrap());
    }
    for key in &created {
        use_in_every_way(&gateway, key).await;
    }
    gateway.control_plane.revoke(&created[0].id).await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&Request::get("/").bearer(&created[0].key), 401, SOON).await.unwrap();
    gateway.control_plane.api("POST", "/v1/keys", Some(&json!({"name": 1, "key": created[1].key}))).await.unwrap();

    let secrets: Vec<String> = created
        .iter()
        .map(|key| key.key.clone())
        .chain([gateway.control_plane.admin_token().unwrap(), gateway.control_plane.edge_token().unwrap()])
        .collect();
    let mut texts = shown(&gateway).await;
    gateway.envoy.stop().await.unwrap();
    gateway.control_plane.stop().await.unwrap();
    texts.extend(written(&gateway));
    for expected in ["envoy.log", "access.log", "control-plane.log", "keyward.db", "/stats/prometheus"] {
        let found = texts.iter().find(|(name, _)| name.ends_with(expected));
        assert!(found.is_some_and(|(_, text)| text.len() > 100), "{expected} was not searched");
    }
    let control_plane_log = texts.iter().find(|(name, _)| name.ends_with("control-plane.log")).unwrap();
    assert!(control_plane_log.1.contains("TRACE"), "the control plane did not log at trace");
    for (name, text) in &texts {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "a secret is in {name}");
        }
    }
}
