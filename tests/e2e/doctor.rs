//! `keyward doctor` against a healthy installation, and against ill ones.

use crate::common::SOON;
use keyward_harness::{Failure, Gateway, artifacts, until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use tokio::task::spawn_blocking;

/// The exit code and the report, with all that can be named.
async fn examined(gateway: &Gateway, environment: &[(&'static str, String)]) -> (Option<i32>, Value) {
    let mut command = Command::new(artifacts::keyward().unwrap());
    command
        .args(["doctor", "--json", "--gateway", &format!("http://{}", gateway.envoy.gateway())])
        .args(["--url", &format!("http://{}", gateway.control_plane.address())])
        .args(["--admin", &format!("http://{}", gateway.envoy.admin())])
        .arg("--config")
        .arg(gateway.dir().path().join("envoy.json"))
        .env("KEYWARD_DATA_DIR", gateway.control_plane.data_dir())
        .env_remove("KEYWARD_ADMIN_TOKEN")
        .env_remove("KEYWARD_EDGE_TOKEN")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null());
    let output = spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

/// The checks with that outcome.
fn with_outcome<'a>(report: &'a Value, outcome: &str) -> Vec<&'a str> {
    let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["outcome"] == outcome);
    checks.map(|check| check["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn healthy_installation_passes() {
    let gateway = Gateway::start().await.unwrap();
    let (code, report) = examined(&gateway, &[]).await;
    assert_eq!((code, &report["summary"]["passed"]), (Some(0), &json!(10)), "{report:#}");
    for token in [gateway.control_plane.admin_token().unwrap(), gateway.control_plane.edge_token().unwrap()] {
        assert!(!report.to_string().contains(&token));
    }
    let keys = gateway.control_plane.api("GET", "/v1/keys", None).await.unwrap().json();
    assert_eq!(keys["keys"], json!([]), "nothing is created");
}

#[tokio::test]
async fn stopped_control_plane_is_found() {
    let mut gateway = Gateway::start().await.unwrap();
    gateway.control_plane.kill();
    let (code, report) = examined(&gateway, &[]).await;
    assert_eq!(code, Some(1));
    assert!(with_outcome(&report, "failed").contains(&"control_plane"), "{report:#}");
    let not_checked = with_outcome(&report, "not_checked");
    assert!(["version", "admin_token", "edge_token"].iter().all(|id| not_checked.contains(id)), "{report:#}");
}

#[tokio::test]
async fn stopped_envoy_is_found() {
    let mut gateway = Gateway::start().await.unwrap();
    gateway.envoy.stop().await.unwrap();
    let (code, report) = examined(&gateway, &[]).await;
    assert_eq!((code, with_outcome(&report, "failed")), (Some(1), vec!["gateway", "envoy"]), "{report:#}");
}

/// Envoy has a token that the control plane does not know.
#[tokio::test]
async fn wrong_edge_token_is_found() {
    let token = format!("kwe_{}", "x".repeat(43));
    let gateway =
        Gateway::builder().envoy_environment("KEYWARD_EDGE_TOKEN", &token).without_snapshot().start().await.unwrap();
    until("the feed has failed", SOON, async || {
        let stats = gateway.envoy.stats("keyward_feed_failures").await?;
        if stats.values().any(|failures| *failures > 0) { Ok(()) } else { Err(Failure::new("not yet")) }
    })
    .await
    .unwrap();
    let (code, report) = examined(&gateway, &[("KEYWARD_EDGE_TOKEN", token)]).await;
    assert_eq!((code, with_outcome(&report, "failed")), (Some(1), vec!["edge_token", "gateway", "feed"]), "{report:#}");
}

#[tokio::test]
async fn wrong_tokens_and_permissions_are_found() {
    let gateway = Gateway::start().await.unwrap();
    let file = gateway.control_plane.data_dir().join("admin-token");
    let admin = gateway.control_plane.admin_token().unwrap();
    let (code, report) = examined(&gateway, &[("KEYWARD_EDGE_TOKEN", admin)]).await;
    assert_eq!((code, with_outcome(&report, "failed")), (Some(1), vec!["edge_token"]), "{report:#}");

    let edge = gateway.control_plane.edge_token().unwrap();
    let (code, report) = examined(&gateway, &[("KEYWARD_ADMIN_TOKEN", edge)]).await;
    assert_eq!((code, with_outcome(&report, "failed")), (Some(1), vec!["admin_token"]), "{report:#}");

    let created = gateway.control_plane.api("POST", "/v1/tokens", Some(&json!({"name": "r", "role": "viewer"}))).await;
    let read = created.unwrap().json()["token"].as_str().unwrap().to_owned();
    let (code, report) = examined(&gateway, &[("KEYWARD_ADMIN_TOKEN", read)]).await;
    assert_eq!((code, with_outcome(&report, "warning")), (Some(0), vec!["admin_token"]), "{report:#}");

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, report) = examined(&gateway, &[]).await;
    assert_eq!((code, with_outcome(&report, "failed")), (Some(1), vec!["data_directory"]), "{report:#}");
}

#[tokio::test]
async fn missing_guard_is_found() {
    let gateway = Gateway::builder().configure(|config| _ = config.remove_guard()).start().await.unwrap();
    let (code, report) = examined(&gateway, &[]).await;
    assert_eq!((code, with_outcome(&report, "failed")), (Some(1), vec!["configuration", "envoy"]), "{report:#}");
}
