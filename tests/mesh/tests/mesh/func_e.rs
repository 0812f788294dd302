//! The lines of README and guides that name func-e, against an index of Envoys on loopback.

use keyward_harness::http::{self, Request};
use keyward_harness::ports::loopback;
use keyward_harness::process::Process;
use keyward_harness::{ControlPlane, Echo, TestDir, artifacts, until};
use keyward_mesh::report::Section;
use keyward_mesh::tools::{envoy_version, tool};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const START: Duration = Duration::from_secs(120);

/// The ports of `envoy/envoy.yaml`.
const GATEWAY: u16 = 8080;
const CONTROL_PLANE: u16 = 8081;
const UPSTREAM: u16 = 8090;

/// An archive as func-e expects it: `envoy-VERSION-PLATFORM/bin/envoy`.
fn archive(dir: &Path, envoy: &Path, name: &str) -> Vec<u8> {
    let root = dir.join(name);
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy(envoy, root.join("bin/envoy")).unwrap();
    let output =
        Command::new("tar").arg("-C").arg(dir).args(["-cf", "-", name, "--use-compress-program", "gzip -1"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// `func-e run -c envoy/envoy.yaml`, in the repository's root, installs the Envoy of the index and runs the shipped
/// configuration as it stands.
#[tokio::test]
async fn func_e_runs_the_shipped_configuration() {
    let Some(tool) = tool("func-e", "func-e (test-mesh)") else { return };
    let envoy = artifacts::envoy().unwrap();
    let version = envoy_version(&envoy).unwrap();
    let dir = TestDir::new().unwrap();

    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let name = format!("envoy-v{version}-linux-{machine}");
    let content = archive(dir.path(), &envoy, &name);
    let sha256 = hex::encode(Sha256::digest(&content));
    let file = format!("{name}.tar.gz");
    let downloads = {
        let path = format!("/{file}");
        Echo::start_with("archives", loopback(0), move |request| {
            let found = request.path == path;
            let answer =
                if found { (200, "application/gzip", content.clone()) } else { (404, "text/plain", Vec::new()) };
            std::future::ready(answer)
        })
        .await
        .unwrap()
    };
    let index = json!({
        "latestVersion": version,
        "versions": {&version: {
            "releaseDate": "2026-01-01",
            "tarballs": {format!("linux/{machine}"): format!("http://{}/{file}", downloads.address())},
        }},
        "sha256sums": {&file: sha256},
    });
    let index = Echo::start_with("index", loopback(0), move |_| {
        std::future::ready((200, "application/json", index.to_string().into_bytes()))
    })
    .await
    .unwrap();

    let upstream = Echo::start("upstream", loopback(UPSTREAM)).await.unwrap();
    let log = dir.path().join("control-plane.log");
    let mut control_plane = ControlPlane::on(CONTROL_PLANE, &dir.path().join("data"), "keyward", &log).unwrap();
    control_plane.start().await.unwrap();
    let key = control_plane.create_named("func-e").await.unwrap();

    // The shipped file names the module by a path below the root, so the root has to have it.
    let module = artifacts::root().join("target/wasm32-wasip1/release/keyward_filter.wasm");
    assert!(module.is_file(), "{}: `make wasm` builds it", module.display());
    let log = dir.path().join("func-e.log");
    let mut command = Command::new(&tool.path);
    command
        .args(["run", "-c", "envoy/envoy.yaml", "--use-dynamic-base-id"])
        .current_dir(artifacts::root())
        .env("FUNC_E_HOME", dir.path().join("func-e"))
        .env("ENVOY_VERSIONS_URL", format!("http://{}/envoy-versions.json", index.address()))
        .env("KEYWARD_EDGE_TOKEN", control_plane.edge_token().unwrap());
    let mut process = Process::spawn("func-e", &mut command, &log, &log).unwrap();
    let with_key = Request::get("/hello").bearer(&key.key);
    let status = async |request: &Request| http::send(loopback(GATEWAY), request).await.map(|answer| answer.status);
    process
        .until("the gateway accepts a key", START, async || match status(&with_key).await? {
            200 => Ok(()),
            other => Err(keyward_harness::Failure::new(other.to_string())),
        })
        .await
        .unwrap();
    assert_eq!(status(&Request::get("/hello")).await.unwrap(), 401);
    assert_eq!(upstream.take_seen().len(), 1);
    control_plane.revoke(&key.id).await.unwrap();
    until("the revoked key is refused", Duration::from_secs(5), async || match status(&with_key).await? {
        401 => Ok(()),
        other => Err(keyward_harness::Failure::new(other.to_string())),
    })
    .await
    .unwrap();
    let installed = dir.path().join(format!("func-e/versions/{version}/bin/envoy"));
    assert!(installed.is_file(), "func-e installed no {}", installed.display());
    assert!(process.terminate(Duration::from_secs(20)).await.unwrap(), "func-e did not stop within 20 s of SIGTERM");

    let mut section = Section::new("func-e", &format!("func-e {}, Envoy {version}.", tool.version));
    section.row(
        "`func-e run -c envoy/envoy.yaml`, with an index of Envoys on loopback",
        "installs Envoy, runs the file as it stands",
    );
    section.row("with a key, without, with the key revoked", "200, 401, 401");
    section.finish();
}
