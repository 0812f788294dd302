//! Keys that are paused and resumed, and what the edges hear of it.

use crate::harness::{Client, Reader, TestServer, path_of, seconds};
use serde_json::{Value, json};
use std::path::Path;

fn post(client: &Client, key: &Value, action: &str, status: u16) -> Value {
    client.ask("POST", &format!("{}/{action}", path_of(key)), None).expect(status)
}

/// What the audit log says of the key, oldest first.
fn actions(client: &Client, key: &Value) -> Vec<String> {
    let log = client.get(&format!("/v1/audit?subject={}", key["id"].as_str().unwrap())).expect(200);
    let entries = log["entries"].as_array().unwrap().iter().rev();
    entries.map(|entry| format!("{} {}", entry["actor"].as_str().unwrap(), entry["action"].as_str().unwrap())).collect()
}

fn started(dir: &Path) -> (TestServer, Client, Reader) {
    let server = TestServer::start(dir);
    let client = server.client();
    let reader = Reader::new(client.clone());
    (server, client, reader)
}

#[test]
fn paused_key_is_refused_until_it_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client, mut reader) = started(dir.path());
    let key = client.create(json!({"name": "a"}));
    let paused = post(&client, &key, "pause", 200);
    assert_eq!(
        (&paused["state"], &paused["paused_at"], &paused["paused_by"], &paused["revoked_at"]),
        (&json!("paused"), &json!("2027-01-15T08:00:00.000Z"), &json!("operator"), &Value::Null)
    );
    reader.catch_up();
    let record = reader.record(&key["key"]).unwrap();
    assert_eq!((record.paused, record.revoked_at_ms), (true, None));
    server.advance(seconds(60));
    assert_eq!(post(&client, &key, "pause", 200), paused);
    assert!(!reader.read(0), "what changes nothing tells the edges nothing");
    let resumed = post(&client, &key, "resume", 200);
    assert_eq!(
        (&resumed["state"], &resumed["paused_at"], &resumed["paused_by"]),
        (&json!("active"), &Value::Null, &Value::Null)
    );
    reader.catch_up();
    assert!(!reader.record(&key["key"]).unwrap().paused);
    assert_eq!(post(&client, &key, "resume", 200), resumed);
    assert!(!reader.read(0));
    let expected = ["key.created", "key.paused", "key.resumed"].map(|action| format!("token-file {action}"));
    assert_eq!(actions(&client, &key), expected);
    client.ask("POST", "/v1/keys/key_unknown/pause", None).expect(404);
    client.ask("POST", "/v1/keys/key_unknown/resume", None).expect(404);
}

#[test]
fn neither_pause_nor_resume_touches_an_ended_key() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client, mut reader) = started(dir.path());
    let [revoked, expired] =
        [json!({"name": "r"}), json!({"name": "e", "expires_in_s": 9})].map(|new| client.create(new));
    for key in [&revoked, &expired] {
        post(&client, key, "pause", 200);
    }
    let ended = client.ask("DELETE", &path_of(&revoked), None).expect(200);
    assert_eq!((&ended["state"], ended["paused_at"].is_null()), (&json!("revoked"), false));
    server.advance(seconds(9));
    for (key, state) in [(&revoked, "revoked"), (&expired, "expired")] {
        let before = client.get(&path_of(key)).expect(200);
        for action in ["pause", "resume"] {
            let problem = post(&client, key, action, 409);
            assert_eq!(problem["type"], "urn:keyward:problem:not_active");
            assert!(problem["detail"].as_str().unwrap().starts_with(&format!("the key is {state};")), "{problem}");
        }
        assert_eq!(client.get(&path_of(key)).expect(200), before);
        assert_eq!(before["state"], state);
    }
    reader.catch_up();
    assert!(reader.record(&revoked["key"]).unwrap().revoked_at_ms.is_some());
}

#[test]
fn paused_key_can_be_changed_rotated_and_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client, mut reader) = started(dir.path());
    let key = client.create(json!({"name": "a", "owner": "acme"}));
    post(&client, &key, "pause", 200);
    let change = json!({"scopes": ["read"], "expires_in_s": 90});
    assert_eq!(client.ask("PATCH", &path_of(&key), Some(change)).expect(200)["state"], "paused");
    let rotated = client.ask("POST", &format!("{}/rotate", path_of(&key)), None).expect(201);
    reader.catch_up();
    for secret in [&key["key"], &rotated["key"]] {
        assert!(reader.record(secret).unwrap().paused);
    }
    let revoked = client.ask("POST", "/v1/owners/acme/revoke-keys", Some(json!({}))).expect(200);
    assert_eq!(revoked, json!({"revoked": 1}));
    reader.catch_up();
    for secret in [&key["key"], &rotated["key"]] {
        assert!(reader.record(secret).unwrap().revoked_at_ms.is_some());
    }
}

#[test]
fn lists_tell_paused_keys_from_active_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client, _) = started(dir.path());
    for name in ["active", "paused", "revoked"] {
        let key = client.create(json!({"name": name}));
        if name != "active" {
            post(&client, &key, "pause", 200);
        }
        if name == "revoked" {
            client.ask("DELETE", &path_of(&key), None).expect(200);
        }
    }
    for state in ["active", "paused", "revoked"] {
        let page = client.get(&format!("/v1/keys?state={state}")).expect(200);
        let names: Vec<_> = page["keys"].as_array().unwrap().iter().map(|key| key["name"].clone()).collect();
        assert_eq!(names, [state]);
    }
    assert_eq!(client.get("/v1/keys?state=expired").expect(200)["keys"], json!([]));
}

#[test]
fn change_of_another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client, _) = started(dir.path());
    let key = client.create(json!({"name": "a"}));
    let authorization = format!("Bearer {}", client.admin);
    let send = |action: &str, version: &str| {
        let fields = [("authorization", authorization.as_str()), ("if-match", version)];
        client.send_with("POST", &format!("{}/{action}", path_of(&key)), &fields, None)
    };
    send("pause", "\"2\"").expect(412);
    assert_eq!(send("pause", "\"1\"").header("etag"), "\"2\"");
    send("resume", "\"1\"").expect(412);
    send("resume", "\"2\"").expect(200);
}
