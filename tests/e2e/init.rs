//! What `keyward init` writes starts on a real Envoy, and `keyward prove` passes against it.

use keyward_harness::ports::{ReservedPort, loopback};
use keyward_harness::process::Process;
use keyward_harness::{ControlPlane, Echo, Failure, TestDir, artifacts};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tokio::task::spawn_blocking;

/// The deadline for Envoy's start: a module is compiled first.
const START: Duration = Duration::from_secs(60);

async fn keyward(data_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(artifacts::keyward().unwrap());
    command.args(arguments).env("KEYWARD_DATA_DIR", data_dir).env_remove("KEYWARD_ADMIN_TOKEN").stdin(Stdio::null());
    spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

async fn starts_and_is_proved(dialect: &str, more: &[&str]) {
    start_and_prove(TestDir::new().unwrap(), dialect, more, None).await;
}

/// With a certificate, the listener has TLS.
async fn start_and_prove(dir: TestDir, dialect: &str, more: &[&str], certificate: Option<&str>) {
    let mut control_plane = ControlPlane::new(dir.path(), dialect).unwrap();
    control_plane.start().await.unwrap();
    let data_dir = control_plane.data_dir().to_owned();
    let upstream = Echo::start("upstream", loopback(0)).await.unwrap();
    let ports = [ReservedPort::new().unwrap(), ReservedPort::new().unwrap()];
    let out = dir.path().join("out").display().to_string();
    let (module, envoy) =
        (artifacts::filter().unwrap().display().to_string(), artifacts::envoy().unwrap().display().to_string());
    let host = artifacts::host().unwrap().name();
    let [listen, admin] = [&ports[0], &ports[1]].map(|port| port.address().to_string());
    let [upstream_url, control_plane_url] =
        [upstream.address(), control_plane.address()].map(|at| format!("http://{at}"));
    let given = [
        ["--upstream", &upstream_url],
        ["--listen", &listen],
        ["--admin", &admin],
        ["--dialect", dialect],
        ["--control-plane", &control_plane_url],
        ["--host", host],
        ["--module", &module],
        ["--envoy", &envoy],
        ["--output", &out],
    ];
    let output = keyward(&data_dir, &[&["init", "--json"], given.as_flattened(), more].concat()).await;
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["mistakes"], &report["warnings"]), (&json!([]), &json!([])), "{report:#}");
    assert!(report["checked"].to_string().contains("--mode validate"), "{report:#}");

    let token = std::fs::read_to_string(dir.path().join("out/edge.env")).unwrap();
    let (name, token) = token.trim().split_once('=').unwrap();
    let config = format!("{out}/envoy.yaml");
    let mut command = Command::new(&envoy);
    command.args(["--config-path", &config, "--concurrency", "2", "--use-dynamic-base-id"]).env(name, token);
    let (access, log) = (dir.path().join("access.log"), dir.path().join("envoy.log"));
    let mut process = Process::spawn("Envoy", &mut command, &access, &log).unwrap();
    let scheme = if certificate.is_some() { "https" } else { "http" };
    let (gateway, admin) = (format!("{scheme}://{listen}"), format!("http://{admin}"));
    let mut named = vec!["--gateway", &gateway, "--admin", &admin, "--config", &config, "--url", &control_plane_url];
    if let Some(certificate) = certificate {
        named.extend(["--ca-file", certificate]);
    }
    process
        .until("the installation is healthy", START, async || {
            let output = keyward(&data_dir, &[&["doctor"], &named[..]].concat()).await;
            if output.status.success() { Ok(()) } else { Err(Failure::new(format!("{output:?}"))) }
        })
        .await
        .unwrap();
    let output = keyward(&data_dir, &[&["prove", "--echo", "--strict"], &named[..]].concat()).await;
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn defaults_start_and_are_proved() {
    starts_and_is_proved("keyward", &[]).await;
}

#[tokio::test]
async fn permissions_by_method_start_and_are_proved() {
    starts_and_is_proved("exona", &["--rules", "read-write", "--health-path", "/livez"]).await;
}

#[tokio::test]
async fn keys_for_all_paths_start_and_are_proved() {
    starts_and_is_proved("ai-api", &["--rules", "all-keys"]).await;
}

/// A certificate for the loopback address, and its private key.
fn certificate(dir: &Path) -> [String; 2] {
    let [certificate, key] = ["gateway.crt", "gateway.key"].map(|name| dir.join(name).display().to_string());
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"])
        .args(["-subj", "/CN=gateway.example", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", &key, "-out", &certificate]);
    let made = openssl.output().unwrap();
    assert!(made.status.success(), "{made:?}");
    [certificate, key]
}

#[tokio::test]
async fn listener_with_tls_starts_and_is_proved() {
    let dir = TestDir::new().unwrap();
    let [certificate, key] = certificate(dir.path());
    let tls = ["--tls-certificate", &certificate, "--tls-private-key", &key];
    start_and_prove(dir, "keyward", &tls, Some(&certificate)).await;
}

/// Envoy accepts all that TLS adds to the configuration.
#[tokio::test]
async fn configuration_with_tls_is_valid() {
    let dir = TestDir::new().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let [certificate, key] = certificate(dir.path());
    let (module, envoy) =
        (artifacts::filter().unwrap().display().to_string(), artifacts::envoy().unwrap().display().to_string());
    let host = artifacts::host().unwrap().name();
    let arguments = [
        ["--upstream", "https://api.example"],
        ["--upstream-ca-file", &certificate],
        ["--control-plane", "https://keyward.example:8443"],
        ["--control-plane-ca-file", &certificate],
        ["--tls-certificate", &certificate],
        ["--tls-private-key", &key],
        ["--listen", "127.0.0.1:8443"],
        ["--host", host],
        ["--module", &module],
        ["--envoy", &envoy],
        ["--output", &file("out")],
    ];
    let output = keyward(dir.path(), &[&["init", "--json"], arguments.as_flattened()].concat()).await;
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["checked"].to_string().contains("--mode validate"), "{report:#}");
}
