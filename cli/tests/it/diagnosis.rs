//! `keyward doctor` and `keyward prove` where no Envoy is needed.

use crate::harness::{TestServer, program, stderr};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// A command without the environment of the machine.
fn command(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = program();
    command.args(arguments).env("KEYWARD_DATA_DIR", data_dir);
    for variable in ["KEYWARD_URL", "KEYWARD_ADMIN_TOKEN", "KEYWARD_EDGE_TOKEN", "KEYWARD_CONTROL_PORT"] {
        command.env_remove(variable);
    }
    command
}

fn outcomes(output: &Output) -> Vec<(String, String)> {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let text = |check: &Value, field: &str| check[field].as_str().unwrap().to_owned();
    report["checks"].as_array().unwrap().iter().map(|check| (text(check, "id"), text(check, "outcome"))).collect()
}

fn of<'a>(outcomes: &'a [(String, String)], id: &str) -> &'a str {
    &outcomes.iter().find(|(of, _)| of == id).unwrap_or_else(|| panic!("no {id} in {outcomes:?}")).1
}

#[test]
fn doctor_names_what_it_was_not_given() {
    let dir = tempfile::tempdir().unwrap();
    // The server creates it, private.
    let data_dir = dir.path().join("data");
    let server = TestServer::start(&data_dir);
    let output = command(&data_dir, &["doctor", "--json", "--url", &server.address]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let outcomes = outcomes(&output);
    for id in ["data_directory", "control_plane", "version", "control_plane_clock", "admin_token", "edge_token"] {
        assert_eq!(of(&outcomes, id), "passed", "{id}: {output:?}");
    }
    for id in ["configuration", "gateway", "envoy", "feed"] {
        assert_eq!(of(&outcomes, id), "not_checked", "{id}: {output:?}");
    }
}

#[test]
fn doctor_does_not_repeat_an_unknown_token() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let token = format!("kwa_{}", "x".repeat(43));
    let mut doctor = command(dir.path(), &["doctor", "--json", "--url", &server.address]);
    let output = doctor.env("KEYWARD_ADMIN_TOKEN", &token).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(of(&outcomes(&output), "admin_token"), "failed");
    assert!(!String::from_utf8_lossy(&output.stdout).contains(&token) && !stderr(&output).contains(&token));
}

#[test]
fn doctor_finds_that_the_url_is_no_control_plane() {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let output = command(dir.path(), &["doctor", "--json", "--url", &url]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let outcomes = outcomes(&output);
    assert_eq!((of(&outcomes, "control_plane"), of(&outcomes, "version")), ("failed", "not_checked"));
}

#[test]
fn doctor_finds_mistakes_of_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let file = dir.path().join("filter.yaml");
    std::fs::write(&file, "dialect: nonsense\ncontrol_plane: { cluster: c }\n").unwrap();
    let arguments = ["doctor", "--json", "--url", &server.address, "--config", file.to_str().unwrap()];
    let output = command(dir.path(), &arguments).output().unwrap();
    assert_eq!((output.status.code(), of(&outcomes(&output), "configuration")), (Some(1), "failed"), "{output:?}");
    let missing = ["doctor", "--url", &server.address, "--config", "/nonexistent"];
    assert_eq!(command(dir.path(), &missing).output().unwrap().status.code(), Some(4));
}

/// The gateway cannot be reached: the run ends, says so, and leaves no key.
#[test]
fn prove_fails_without_a_gateway_and_leaves_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let arguments = ["prove", "--json", "--gateway", &gateway, "--url", &server.address];
    let output = command(dir.path(), &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let outcomes = outcomes(&output);
    assert_eq!((of(&outcomes, "valid_key"), of(&outcomes, "keys_removed")), ("failed", "passed"), "{output:?}");
    assert!(stderr(&output).contains("sends requests to"), "it says what it sends: {output:?}");
    let list = ["keys", "list", "--state", "active", "--json", "--url", &server.address];
    let keys: Value = serde_json::from_slice(&command(dir.path(), &list).output().unwrap().stdout).unwrap();
    assert_eq!(keys["keys"], serde_json::json!([]));
}

#[test]
fn prove_refuses_wrong_usage_before_it_sends_anything() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [
        &["prove"][..],
        &["prove", "--gateway", "127.0.0.1:8080"],
        &["prove", "--gateway", "http://user:password@h"],
        &["prove", "--gateway", "http://h/path"],
        &["prove", "--gateway", "http://h", "--path", "relative"],
        &["prove", "--gateway", "http://h", "--connections", "0"],
    ] {
        let arguments = [arguments, &["--url", "http://127.0.0.1:1"]].concat();
        let output = command(dir.path(), &arguments).env("KEYWARD_ADMIN_TOKEN", "kwa_x").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(!stderr(&output).contains("password"), "{output:?}");
    }
}
