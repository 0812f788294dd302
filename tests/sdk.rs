//! Client SDKs from PyPI against the gateway, to check that they understand its responses. `tests/sdk/requirements.txt`
//! pins the versions, and the scripts beside it contain the checks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use keyward_harness::echo::{Answer, SeenRequest};
use keyward_harness::ports::{ReservedPort, loopback};
use keyward_harness::process::Process;
use keyward_harness::{Echo, Gateway, Request, artifacts, http};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The deadline for a change at the control plane to reach every worker, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// The deadline for an MCP server to start and for a script to finish: far more than either needs.
const SCRIPT: Duration = Duration::from_secs(90);

/// The permission that both APIs require here.
const PERMISSION: &str = "inference";

/// The scripts of model SDKs, each with the path of its API.
const MODELS: [(&str, &str); 2] = [("use_anthropic.py", "/api/anthropic"), ("use_openai.py", "/api/openai/v1")];

#[tokio::test]
async fn valid_key_gets_an_answer_and_stays_at_the_gateway() {
    let models = Models::start().await;
    let key = models.key_of("permitted", &json!({})).await;
    models.run("good", &key).await;
    let seen = models.upstream.take_seen();
    assert!(seen.iter().any(|request| request.path == "/api/anthropic/v1/messages"), "{seen:?}");
    let carries_key = |(_, value): &(String, Vec<u8>)| String::from_utf8_lossy(value).contains(&key);
    assert!(!seen.iter().any(|request| request.headers.iter().any(carries_key)), "{seen:?}");
}

#[tokio::test]
async fn bad_key_is_an_authentication_error() {
    let models = Models::start().await;
    let key = models.key_of("permitted", &json!({})).await;
    let reversed: String = key["user.".len()..].chars().rev().collect();
    models.run("bad", &format!("user.{reversed}")).await;
    models.run("bad", "no key at all").await;
}

#[tokio::test]
async fn key_without_permission_is_a_permission_error() {
    let models = Models::start().await;
    let key = models.key_of("other", &json!({})).await;
    models.run("forbidden", &key).await;
}

#[tokio::test]
async fn limited_key_is_a_rate_limit_error() {
    let models = Models::start().await;
    let key = models.key_of("permitted", &json!({"limits": ["1/h"]})).await;
    models.run("limited", &key).await;
}

#[tokio::test]
async fn retry_respects_retry_after_and_succeeds() {
    let models = Models::start().await;
    let key = models.key_of("permitted", &json!({"limits": ["1/3s"]})).await;
    models.run("retried", &key).await;
}

#[tokio::test]
async fn gateway_without_snapshot_is_a_server_error() {
    let gateway = auxot().control_plane_unavailable().start().await.unwrap();
    for (script, api) in MODELS {
        run(&gateway, script, "unavailable", api, "user.none").await;
    }
}

#[tokio::test]
async fn mcp_client_with_a_valid_key_lists_and_calls_a_tool() {
    let mcp = Mcp::start().await;
    let key = mcp.gateway.control_plane.create_named("agent").await.unwrap().key;
    let mut workers = mcp.gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&Request::get("/elsewhere").bearer(&key), 404, SOON).await.unwrap();
    run(&mcp.gateway, "use_mcp.py", "good", "/api/mcp", &key).await;
}

#[tokio::test]
async fn mcp_client_with_a_bad_key_fails_with_401() {
    let mcp = Mcp::start().await;
    let unknown = format!("exo_key_live_{}", "0".repeat(32));
    run(&mcp.gateway, "use_mcp.py", "bad", "/api/mcp", &unknown).await;
}

/// An agent that manages keys at the control plane, with a token of each role.
#[tokio::test]
async fn mcp_client_manages_keys_as_its_role_permits() {
    let gateway = Gateway::start().await.unwrap();
    let url = format!("http://{}/mcp", gateway.control_plane.address());
    for role in ["operator", "viewer"] {
        let new = json!({"name": role, "role": role});
        let made = gateway.control_plane.api("POST", "/v1/tokens", Some(&new)).await.unwrap();
        let token = made.json()["token"].as_str().unwrap().to_owned();
        run_at(&gateway, "use_mcp_admin.py", role, &url, &token).await;
    }
    run_at(&gateway, "use_mcp_admin.py", "bad", &url, &gateway.control_plane.edge_token().unwrap()).await;
}

/// A gateway in front of an upstream that answers like both model APIs.
struct Models {
    gateway: Gateway,
    upstream: Echo,
}

impl Models {
    async fn start() -> Self {
        let answer = |request: SeenRequest| std::future::ready(model(&request));
        let upstream = Echo::start_with("model", loopback(0), answer).await.unwrap();
        let gateway = auxot().upstream_from(upstream.address()).start().await.unwrap();
        for (owner, permission) in [("permitted", PERMISSION), ("other", "nothing")] {
            let fields = json!({"name": "first", "kind": "user", "owner": owner});
            gateway.control_plane.create(&fields).await.unwrap();
            let permissions = json!({"permissions": [permission]});
            let path = format!("/v1/owners/{owner}");
            let answer = gateway.control_plane.api("PATCH", &path, Some(&permissions)).await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        Self { gateway, upstream }
    }

    /// A user's key with these fields, once every worker has it.
    async fn key_of(&self, owner: &str, more: &Value) -> String {
        let mut fields = json!({"name": "sdk", "kind": "user", "owner": owner});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let key = self.gateway.control_plane.create(&fields).await.unwrap().key;
        // Changes arrive in order, so once a later key works, this one is there too, and is still unused.
        let later = json!({"name": "later", "kind": "user", "owner": "permitted"});
        let later = self.gateway.control_plane.create(&later).await.unwrap().key;
        let mut workers = self.gateway.envoy.every_worker().await.unwrap();
        let probe = Request::get("/api/anthropic/v1/messages").bearer(&later);
        workers.until_status(&probe, 200, SOON).await.unwrap();
        self.upstream.take_seen();
        key
    }

    async fn run(&self, case: &str, key: &str) {
        for (script, api) in MODELS {
            run(&self.gateway, script, case, api, key).await;
        }
    }
}

/// The shipped `auxot` gateway, where the model APIs require a permission.
fn auxot() -> keyward_harness::gateway::Builder {
    Gateway::builder().dialect("auxot").filter(|filter| {
        let rules = filter["rules"].as_array_mut().unwrap();
        for path in ["/api/anthropic", "/api/openai"] {
            let rule = rules.iter_mut().find(|rule| rule["path"]["prefix"] == path).unwrap();
            rule["scopes"] = json!([PERMISSION]);
        }
    })
}

fn model(request: &SeenRequest) -> Answer {
    let answer = match request.path.as_str() {
        "/api/anthropic/v1/messages" => json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-test",
            "content": [{"type": "text", "text": "I am here."}],
            "stop_reason": "end_turn", "stop_sequence": null, "usage": {"input_tokens": 4, "output_tokens": 4},
        }),
        "/api/openai/v1/chat/completions" => json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1_800_000_000, "model": "gpt-test",
            "choices": [{
                "index": 0, "finish_reason": "stop", "logprobs": null,
                "message": {"role": "assistant", "content": "I am here.", "refusal": null},
            }],
            "usage": {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8},
        }),
        _ => return (404, "application/json", b"{}".to_vec()),
    };
    (200, "application/json", answer.to_string().into_bytes())
}

/// An `exograph` gateway in front of an MCP server.
struct Mcp {
    gateway: Gateway,
    _server: Process,
    _port: ReservedPort,
}

impl Mcp {
    async fn start() -> Self {
        let port = ReservedPort::new().unwrap();
        let gateway = Gateway::builder().dialect("exograph").upstream_from(port.address()).start().await.unwrap();
        let log = gateway.dir().path().join("mcp-server.log");
        let mut command = python(&gateway, "serve_mcp.py");
        command.arg(port.port().to_string());
        let mut server = Process::spawn("the MCP server", &mut command, &log, &log).unwrap();
        let answers = async || http::send(port.address(), &Request::get("/elsewhere")).await;
        server.until("the MCP server answers", SCRIPT, answers).await.unwrap();
        Self { gateway, _server: server, _port: port }
    }
}

/// Runs a script against the gateway, which must succeed.
async fn run(gateway: &Gateway, script: &str, case: &str, api: &str, key: &str) {
    run_at(gateway, script, case, &format!("http://{}{api}", gateway.envoy.gateway()), key).await;
}

async fn run_at(gateway: &Gateway, script: &str, case: &str, url: &str, key: &str) {
    let log = gateway.dir().path().join(format!("{script}.{case}.log"));
    let mut command = python(gateway, script);
    command.arg(case).env("KEYWARD_SDK_KEY", key).env("KEYWARD_SDK_URL", url);
    let mut process = Process::spawn(script, &mut command, &log, &log).unwrap();
    let status = process.wait(SCRIPT).await.unwrap();
    assert!(status.success(), "{script} {case}: {status}\n{}", process.log().unwrap());
}

/// A script isolated from this machine's proxies, credentials and settings.
fn python(gateway: &Gateway, script: &str) -> Command {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(script);
    let mut command = Command::new(artifacts::sdk_python().unwrap());
    command.arg("-B").arg(path).env_clear().env("HOME", gateway.dir().path()).current_dir(gateway.dir().path());
    command
}
