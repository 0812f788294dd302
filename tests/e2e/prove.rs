//! `keyward prove` passes against what is shipped, and fails against gateways with one part broken.

use keyward_harness::http::Connection;
use keyward_harness::{Failure, Gateway, Request, Result, artifacts, until};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// The deadline of one run.
const LIMIT: Duration = Duration::from_secs(120);

/// The command, with the control plane at that address.
fn prove(gateway: &Gateway, at: SocketAddr, control_plane: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = Command::new(artifacts::keyward().unwrap());
    command
        .args(["prove", "--json", "--gateway", &format!("http://{at}")])
        .args(["--url", &format!("http://{control_plane}")])
        .args(arguments)
        .env("KEYWARD_DATA_DIR", gateway.control_plane.data_dir())
        .env_remove("KEYWARD_ADMIN_TOKEN")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

async fn run(mut command: Command) -> (Option<i32>, Value) {
    let Output { status, stdout, stderr } = completed(move || command.output()).await;
    let report = serde_json::from_slice(&stdout);
    (status.code(), report.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stderr))))
}

/// What blocks, beside the upstream, which is in this process.
async fn completed(run: impl FnOnce() -> std::io::Result<Output> + Send + 'static) -> Output {
    timeout(LIMIT, spawn_blocking(run)).await.unwrap().unwrap().unwrap()
}

/// A run with all that can be named.
async fn proved(gateway: &Gateway, more: &[&str]) -> (Option<i32>, Value) {
    let config = gateway.dir().path().join("envoy.json").display().to_string();
    let admin = format!("http://{}", gateway.envoy.admin());
    let mut arguments = vec!["--echo", "--config", &config, "--admin", &admin];
    arguments.extend(more);
    run(prove(gateway, gateway.envoy.gateway(), gateway.control_plane.address(), &arguments)).await
}

fn outcome<'a>(report: &'a Value, id: &str) -> &'a str {
    let check = report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id);
    check.unwrap_or_else(|| panic!("no check {id}"))["outcome"].as_str().unwrap()
}

/// No key of a run is active afterwards.
async fn assert_keys_removed(gateway: &Gateway, report: &Value) {
    assert_eq!(outcome(report, "keys_removed"), "passed", "{report:#}");
    let answer = gateway.control_plane.api("GET", "/v1/keys?name=keyward-prove&limit=1000", None).await.unwrap().json();
    let keys = answer["keys"].as_array().unwrap();
    assert!(!keys.is_empty() && keys.iter().all(|key| key["state"] == "revoked"), "{answer:#}");
}

#[track_caller]
fn assert_all_passed(code: Option<i32>, report: &Value) {
    assert_eq!(
        (code, &report["summary"]["failed"], &report["summary"]["not_checked"]),
        (Some(0), &json!(0), &json!(0)),
        "{report:#}"
    );
}

async fn passes_for(dialect: &str, more: &[&str]) {
    let gateway = Gateway::builder().dialect(dialect).start().await.unwrap();
    let (code, report) = proved(&gateway, &[&["--strict"], more].concat()).await;
    assert_all_passed(code, &report);
    let revocation = report["checks"].as_array().unwrap().iter().find(|check| check["id"] == "revocation").unwrap();
    assert_eq!(revocation["measured"]["workers_met"], 2);
    assert_keys_removed(&gateway, &report).await;
    let secrets = gateway.control_plane.admin_token().unwrap();
    assert!(!report.to_string().contains(&secrets));
}

#[tokio::test]
async fn shipped_keyward_gateway_passes() {
    passes_for("keyward", &[]).await;
}

#[tokio::test]
async fn shipped_exona_gateway_passes() {
    passes_for("exona", &[]).await;
}

#[tokio::test]
async fn shipped_ai_api_gateway_passes() {
    passes_for("ai-api", &[]).await;
}

#[tokio::test]
async fn shipped_exograph_gateway_passes() {
    passes_for("exograph", &[]).await;
}

#[tokio::test]
async fn shipped_graph8_gateway_passes() {
    passes_for("graph8", &[]).await;
}

/// Keys of this dialect have the permissions of their owner, and are stored as password hashes.
#[tokio::test]
async fn shipped_auxot_gateway_passes() {
    passes_for("auxot", &[]).await;
}

#[tokio::test]
async fn what_cannot_be_seen_from_outside_is_not_passed() {
    let gateway = Gateway::start().await.unwrap();
    let run_with = |arguments: &'static [&'static str]| {
        run(prove(&gateway, gateway.envoy.gateway(), gateway.control_plane.address(), arguments))
    };
    let (code, report) = run_with(&[]).await;
    assert_eq!(code, Some(0), "{report:#}");
    for id in ["forged_identity", "path_spellings", "guard", "upstream_key"] {
        assert_eq!(outcome(&report, id), "not_checked", "{report:#}");
    }
    for id in ["valid_key", "no_key", "bad_key", "revocation", "limits", "responses"] {
        assert_eq!(outcome(&report, id), "passed", "{report:#}");
    }
    let (code, _) = run_with(&["--strict"]).await;
    assert_eq!(code, Some(1));
}

#[tokio::test]
async fn gateway_without_filter_and_guard_fails() {
    let gateway = Gateway::builder()
        .configure(|config| {
            config.disable_filter().remove_guard();
        })
        .without_snapshot()
        .start()
        .await
        .unwrap();
    let admin = format!("http://{}", gateway.envoy.admin());
    let arguments = ["--echo", "--admin", &admin];
    let (code, report) =
        run(prove(&gateway, gateway.envoy.gateway(), gateway.control_plane.address(), &arguments)).await;
    assert_eq!(code, Some(1));
    for id in
        ["no_key", "bad_key", "forged_identity", "path_spellings", "guard", "revocation", "limits", "upstream_key"]
    {
        assert_eq!(outcome(&report, id), "failed", "{id}: {report:#}");
    }
    assert_keys_removed(&gateway, &report).await;
}

#[tokio::test]
async fn guard_alone_is_told_from_the_filter() {
    let gateway =
        Gateway::builder().configure(|config| _ = config.disable_filter()).without_snapshot().start().await.unwrap();
    let (code, report) = proved(&gateway, &[]).await;
    assert_eq!(code, Some(1));
    assert_eq!((outcome(&report, "no_key"), outcome(&report, "guard")), ("failed", "passed"), "{report:#}");
}

#[tokio::test]
async fn missing_guard_fails() {
    let gateway = Gateway::builder().configure(|config| _ = config.remove_guard()).start().await.unwrap();
    let (code, report) = proved(&gateway, &[]).await;
    assert_eq!(code, Some(1));
    assert_eq!((outcome(&report, "no_key"), outcome(&report, "guard")), ("passed", "failed"), "{report:#}");
}

/// A filter that sets a header field from another.
fn copy(to: &str, from: &str) -> Value {
    let field = json!({"header": {"key": to, "value": format!("%REQ({from})%")}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"});
    json!({
        "name": format!("copy_{to}"),
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"request_mutations": [{"append": field}]},
        },
    })
}

#[tokio::test]
async fn header_that_survives_stripping_fails() {
    let gateway = Gateway::builder()
        .configure(|config| {
            let filters = config.http_filters();
            filters.insert(0, copy("x-saved", "x-keyward-owner"));
            filters.insert(0, copy("x-saved-key", "authorization"));
            let router = filters.len() - 1;
            filters.insert(router, copy("x-keyward-owner", "x-saved"));
        })
        .start()
        .await
        .unwrap();
    let (code, report) = proved(&gateway, &[]).await;
    assert_eq!(code, Some(1));
    assert_eq!(outcome(&report, "forged_identity"), "failed", "{report:#}");
    assert_eq!(outcome(&report, "upstream_key"), "failed", "{report:#}");
    assert_eq!(outcome(&report, "no_key"), "passed", "{report:#}");
}

#[tokio::test]
async fn path_that_is_not_normalized_fails() {
    let gateway = Gateway::builder()
        .dialect("ai-api")
        .configure(|config| {
            let manager = &mut config.tree_mut()["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
                ["typed_config"];
            manager["normalize_path"] = false.into();
            manager["merge_slashes"] = false.into();
            manager["path_with_escaped_slashes_action"] = "KEEP_UNCHANGED".into();
            let rules = config.filter()["rules"].as_array_mut().unwrap();
            rules.last_mut().unwrap()["ambiguous_paths"] = true.into();
        })
        .start()
        .await
        .unwrap();
    let (code, report) = proved(&gateway, &[]).await;
    assert_eq!((code, outcome(&report, "path_spellings")), (Some(1), "failed"), "{report:#}");
    assert!(report.to_string().contains("/v1/admin/x can be reached as"), "{report:#}");
    assert_keys_removed(&gateway, &report).await;
}

/// Two Envoys that count by themselves, behind one address.
#[tokio::test]
async fn limit_that_two_gateways_count_apart_fails() {
    let gateway = Gateway::start().await.unwrap();
    let second = Gateway::builder().feed_from(gateway.control_plane.address());
    let token = gateway.control_plane.edge_token().unwrap();
    let second = second.envoy_environment("KEYWARD_EDGE_TOKEN", &token).start().await.unwrap();
    let both = [gateway.envoy.gateway(), second.envoy.gateway()];
    for at in both {
        let mut connection = Connection::open(at).await.unwrap();
        until("the gateway is ready", LIMIT, async || {
            let status = connection.send(&Request::get("/keyward/ready")).await?.status;
            if status == 200 { Ok(()) } else { Err(Failure::new(status.to_string())) }
        })
        .await
        .unwrap();
    }
    let next = Arc::new(AtomicUsize::new(0));
    let balancer = forward(move |_| Some(both[next.fetch_add(1, Ordering::Relaxed) % 2])).await.unwrap();
    let config = gateway.dir().path().join("envoy.json").display().to_string();
    let arguments = ["--echo", "--config", &config];
    let (code, report) = run(prove(&gateway, balancer, gateway.control_plane.address(), &arguments)).await;
    assert_eq!((code, outcome(&report, "limits")), (Some(1), "failed"), "{report:#}");
    assert_eq!(outcome(&report, "revocation"), "passed", "{report:#}");
}

/// The gateway loses its control plane before the request that revokes the key is passed on.
#[tokio::test]
async fn revocation_that_does_not_arrive_fails() {
    let is_cut = Arc::new(AtomicBool::new(false));
    let control_plane = Arc::new(std::sync::OnceLock::<SocketAddr>::new());
    let (cut, to) = (Arc::clone(&is_cut), Arc::clone(&control_plane));
    let feed = forward(move |_| to.get().copied().filter(|_| !cut.load(Ordering::Relaxed))).await.unwrap();
    let gateway = Gateway::builder().feed_from(feed).start().await.unwrap();
    control_plane.set(gateway.control_plane.address()).unwrap();
    let (cut, to, revoked) = (Arc::clone(&is_cut), gateway.control_plane.address(), AtomicUsize::new(0));
    let api = forward(move |sent| {
        // The first is that of a bad key, before its first use.
        if sent.starts_with(b"DELETE") && revoked.fetch_add(1, Ordering::Relaxed) == 1 {
            cut.store(true, Ordering::Relaxed);
        }
        Some(to)
    })
    .await
    .unwrap();
    let config = gateway.dir().path().join("envoy.json").display().to_string();
    let arguments = ["--echo", "--config", &config, "--connections", "4"];
    let (code, report) = run(prove(&gateway, gateway.envoy.gateway(), api, &arguments)).await;
    assert_eq!(code, Some(1));
    assert_eq!(outcome(&report, "bad_key"), "passed", "{report:#}");
    assert_eq!(outcome(&report, "revocation"), "failed", "{report:#}");
}

#[tokio::test]
async fn interrupted_run_revokes_its_keys() {
    let gateway = Gateway::start().await.unwrap();
    let child = prove(&gateway, gateway.envoy.gateway(), gateway.control_plane.address(), &[]).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    until("a key is created", LIMIT, async || {
        let keys = gateway.control_plane.api("GET", "/v1/keys?name=keyward-prove", None).await?.json();
        let number = keys["keys"].as_array().map_or(0, Vec::len);
        if number > 0 { Ok(()) } else { Err(Failure::new("none yet")) }
    })
    .await
    .unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = completed(move || child.wait_with_output()).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"), "{output:?}");
    assert_eq!(outcome(&report, "responses"), "not_checked");
    assert_keys_removed(&gateway, &report).await;
}

/// A proxy that asks with all that a client sends where it leads, and now and then with nothing; if it leads nowhere, the
/// connection is closed.
async fn forward(to: impl Fn(&[u8]) -> Option<SocketAddr> + Send + Sync + 'static) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let to = Arc::new(to);
    tokio::spawn(async move {
        loop {
            let Ok((client, _)) = listener.accept().await else { continue };
            let to = Arc::clone(&to);
            tokio::spawn(async move {
                // An error ends the connection.
                let _ = relay(client, &*to).await;
            });
        }
    });
    Ok(address)
}

async fn relay(client: TcpStream, to: &(impl Fn(&[u8]) -> Option<SocketAddr> + Sync)) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut sent, mut received) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let length = from_client.read(&mut sent).await?;
    let Some(address) = to(&sent[..length]) else { return Ok(()) };
    let (mut from_server, mut to_server) = TcpStream::connect(address).await?.into_split();
    to_server.write_all(&sent[..length]).await?;
    loop {
        tokio::select! {
            length = from_client.read(&mut sent) => {
                let bytes = &sent[..length?];
                if bytes.is_empty() || to(bytes).is_none() {
                    return Ok(());
                }
                to_server.write_all(bytes).await?;
            }
            length = from_server.read(&mut received) => {
                let bytes = &received[..length?];
                if bytes.is_empty() || to(&[]).is_none() {
                    return Ok(());
                }
                to_client.write_all(bytes).await?;
            }
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                if to(&[]).is_none() {
                    return Ok(());
                }
            }
        }
    }
}
