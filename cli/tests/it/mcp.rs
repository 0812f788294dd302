//! The MCP server: tools for agents, with the tokens and roles of the API.

use crate::harness::{Answer, Client, Process, TestServer, path_of};
use serde_json::{Value, json};

/// A request of the protocol with that token.
fn send(client: &Client, token: &str, method: &str, params: Value) -> Answer {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let authorization = format!("Bearer {token}");
    let fields = [
        ("authorization", authorization.as_str()),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2025-06-18"),
    ];
    client.send_with("POST", "/mcp", &fields, Some(body.to_string().into_bytes()))
}

/// Whether the tool succeeded, and its result.
fn call(client: &Client, token: &str, tool: &str, arguments: Value) -> (bool, Value) {
    let answer = send(client, token, "tools/call", json!({"name": tool, "arguments": arguments})).expect(200);
    let result = &answer["result"];
    assert!(result["isError"].is_boolean(), "{answer}");
    (!result["isError"].as_bool().unwrap(), result["structuredContent"].clone())
}

fn token(client: &Client, role: &str) -> String {
    let made = client.ask("POST", "/v1/tokens", Some(json!({"name": role, "role": role}))).expect(201);
    made["token"].as_str().unwrap().to_owned()
}

fn tools(client: &Client, token: &str) -> Vec<String> {
    let answer = send(client, token, "tools/list", json!({})).expect(200);
    let tools = answer["result"]["tools"].as_array().unwrap_or_else(|| panic!("{answer}"));
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn agent_manages_keys_as_the_api_does() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let agent = token(&client, "operator");
    let initialize = json!({"protocolVersion": "2025-06-18", "capabilities": {},
                            "clientInfo": {"name": "test", "version": "1"}});
    let answer = send(&client, &agent, "initialize", initialize).expect(200);
    assert_eq!(answer["result"]["serverInfo"]["name"], "keyward", "{answer}");

    let (done, created) = call(&client, &agent, "create_key", json!({"name": "CI Pipeline", "owner": "acme"}));
    assert!(done && created["key"].as_str().unwrap().starts_with("kw_live_"), "{created}");
    let id = created["id"].as_str().unwrap();
    let (done, shown) = call(&client, &agent, "show_key", json!({"id": id}));
    assert!(done && shown.get("key").is_none(), "{shown}");
    assert_eq!(shown, client.get(&path_of(&created)).expect(200));
    let (done, rotated) = call(&client, &agent, "rotate_key", json!({"id": id, "grace_s": 60}));
    assert!(done && rotated["key"] != created["key"] && rotated["key"].is_string(), "{rotated}");
    let (_, list) = call(&client, &agent, "list_keys", json!({"search": id, "in_rotation": true, "limit": 5}));
    assert_eq!((list["keys"].as_array().unwrap().len(), &list["keys"][0]["id"]), (1, &created["id"]));
    assert_eq!(call(&client, &agent, "count_keys", json!({})).1["in_rotation"], 1);
    assert_eq!(call(&client, &agent, "pause_key", json!({"id": id})).1["state"], "paused");
    assert_eq!(call(&client, &agent, "why", json!({"id": id})).1["verdict"], "paused");
    assert_eq!(call(&client, &agent, "resume_key", json!({"id": id})).1["state"], "active");
    assert_eq!(call(&client, &agent, "key_usage", json!({"id": id})).1["totals"], json!({}));
    assert_eq!(call(&client, &agent, "revoke_key", json!({"id": id})).1["state"], "revoked");

    let (done, problem) = call(&client, &agent, "rotate_key", json!({"id": id}));
    assert_eq!((done, &problem["type"]), (false, &json!("urn:keyward:problem:not_active")));
    let (done, problem) = call(&client, &agent, "create_key", json!({"name": "", "colour": "red"}));
    assert_eq!((done, problem["errors"].as_array().unwrap().len()), (false, 2));
    let (done, problem) = call(&client, &agent, "list_keys", json!({"colour": "red"}));
    assert_eq!((done, &problem["type"]), (false, &json!("urn:keyward:problem:invalid_query")));
    assert!(!call(&client, &agent, "show_key", json!({"id": "key_unknown"})).0);
    assert!(!call(&client, &agent, "show_key", json!({"id": "../tokens"})).0);
    assert!(send(&client, &agent, "tools/call", json!({"name": "delete_all"})).json()["error"].is_object());

    let log = client.get("/v1/audit?action=key.created").expect(200);
    let actor = log["entries"][0]["actor"].as_str().unwrap();
    assert!(actor.starts_with("token:tok_"), "{actor}");
}

#[test]
fn tools_follow_the_role_of_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let [viewer, operator, edge] = ["viewer", "operator", "edge"].map(|role| token(&client, role));
    let reading = ["list_keys", "count_keys", "show_key", "key_usage", "why"];
    assert_eq!(tools(&client, &viewer), reading);
    assert_eq!(tools(&client, &operator).len(), 10);
    assert_eq!(tools(&client, &client.admin).len(), 10);
    let before = client.get("/v1/audit").expect(200);
    let key = json!({"id": "key_unknown"});
    for (tool, arguments) in [("create_key", json!({"name": "a"})), ("rotate_key", key.clone()), ("revoke_key", key)] {
        let (done, problem) = call(&client, &viewer, tool, arguments);
        assert_eq!((done, &problem["type"]), (false, &json!("urn:keyward:problem:insufficient_role")), "{tool}");
    }
    assert_eq!(client.get("/v1/audit").expect(200), before);
    assert!(call(&client, &viewer, "list_keys", json!({})).0);

    let list = |token: &str| send(&client, token, "tools/list", json!({}));
    for refused in [edge.as_str(), "nonsense", client.edge.as_str()] {
        let answer = list(refused);
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"keyward\", error=\"invalid_token\"");
        answer.expect(401);
    }
    let tokens = client.get("/v1/tokens").expect(200);
    let id =
        tokens["tokens"].as_array().unwrap().iter().find(|token| token["name"] == "operator").unwrap()["id"].clone();
    client.ask("DELETE", &format!("/v1/tokens/{}", id.as_str().unwrap()), None).expect(200);
    list(&operator).expect(401);
}

#[test]
fn browsers_and_other_methods_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let authorization = format!("Bearer {}", client.admin);
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string().into_bytes();
    let fields = [
        ("authorization", authorization.as_str()),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
    ];
    let of_browser = [&fields[..], &[("origin", "https://attacker.example")]].concat();
    assert_eq!(client.send_with("POST", "/mcp", &fields, Some(body.clone())).status, 200);
    assert_eq!(client.send_with("POST", "/mcp", &of_browser, Some(body.clone())).status, 403);
    for method in ["GET", "DELETE", "PUT"] {
        assert_eq!(client.send_with(method, "/mcp", &fields, None).status, 405, "{method}");
    }
    let oversized = vec![b' '; 100 << 10];
    assert_eq!(client.send_with("POST", "/mcp", &fields, Some(oversized)).status, 413);
    client.send_with("POST", "/mcp", &fields[1..], Some(body)).expect(401);
}

#[test]
fn new_keys_are_in_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start_with(dir.path(), "trace", &[]);
    let client = Client::new(&process.url, dir.path());
    let admin = client.admin.clone();
    let (_, created) = call(&client, &admin, "create_key", json!({"name": "a"}));
    let (_, rotated) = call(&client, &admin, "rotate_key", json!({"id": created["id"]}));
    // An agent takes a key for its id.
    let (done, _) = call(&client, &admin, "show_key", json!({"id": created["key"]}));
    assert!(!done);
    call(&client, &admin, "list_keys", json!({"search": created["key"]}));
    process.signal("TERM");
    process.wait();
    let log = process.log();
    assert!(log.contains("key created") && log.contains("key rotated"), "{log}");
    for secret in [created["key"].as_str().unwrap(), rotated["key"].as_str().unwrap(), &admin] {
        assert!(!log.contains(&secret[12..]), "{log}");
    }
}
