//! `keyward init`.

use crate::harness::{program, stderr, stdout};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};

/// Runs it without a terminal, without an Envoy in PATH, and with a data directory that does not exist.
fn init(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = program();
    command.arg("init").args(arguments).arg("--output").arg(dir.join("out"));
    command.env("KEYWARD_DATA_DIR", dir.join("data")).env("PATH", "").stdin(Stdio::null());
    command.output().unwrap()
}

const UPSTREAM: [&str; 2] = ["--upstream", "http://127.0.0.1:8090"];

#[test]
fn missing_upstream_is_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    let output = init(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stderr(&output).contains("--upstream is missing") && !dir.path().join("out").exists());
}

#[test]
fn written_configuration_passes_check_config() {
    let dir = tempfile::tempdir().unwrap();
    let output = init(dir.path(), &UPSTREAM);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    assert!(text.contains("could not check: Envoy's own validation: no envoy is in PATH"), "{text}");
    assert!(text.contains("keyward tokens create --role edge"), "{text}");
    let file = dir.path().join("out/envoy.yaml");
    let checked = program().arg("check-config").arg(&file).output().unwrap();
    assert_eq!(stdout(&checked), format!("{}: no mistakes, 0 warnings\n", file.display()));
    assert!(dir.path().join("out/keyward.service").exists() && !dir.path().join("out/edge.env").exists());
}

#[test]
fn existing_file_is_replaced_only_with_force() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    let service = dir.path().join("out/keyward.service");
    fs::write(&service, "mine").unwrap();
    let output = init(dir.path(), &UPSTREAM);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("keyward.service exists"), "{output:?}");
    assert_eq!(fs::read_to_string(&service).unwrap(), "mine");
    assert!(!dir.path().join("out/envoy.yaml").exists(), "nothing is written");
    let output = init(dir.path(), &["--upstream", "http://127.0.0.1:8090", "--force"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(fs::read_to_string(&service).unwrap().contains("[Service]"));
}

#[test]
fn edge_token_of_this_machine_is_in_a_private_file() {
    let dir = tempfile::tempdir().unwrap();
    let token = format!("kwe_{}", "x".repeat(43));
    fs::create_dir(dir.path().join("data")).unwrap();
    fs::write(dir.path().join("data/edge-token"), format!("{token}\n")).unwrap();
    let output = init(dir.path(), &[&UPSTREAM[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let file = dir.path().join("out/edge.env");
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("KEYWARD_EDGE_TOKEN={token}\n"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["mistakes"], serde_json::json!([]));
    let printed = format!("{}{}", stdout(&output), stderr(&output));
    let others = fs::read_to_string(dir.path().join("out/envoy.yaml")).unwrap();
    assert!(!printed.contains(&token) && !others.contains(&token));
}

/// The Envoy that is named refuses everything.
#[test]
fn configuration_that_envoy_refuses_is_a_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let module = dir.path().join("keyward_filter.wasm");
    fs::write(&module, "").unwrap();
    let arguments = [&UPSTREAM[..], &["--envoy", "/bin/false", "--module", module.to_str().unwrap()]].concat();
    let output = init(dir.path(), &arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stdout(&output).contains("error: /bin/false refuses the configuration"), "{output:?}");
}
