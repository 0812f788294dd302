//! Keys that are changed over the API: merge patches, conditions, and the end of one secret.

use crate::harness::{Client, Reader, TestServer, fields, path_of, seconds};
use keyward_core::wire::entry::Frames;
use keyward_core::wire::page::Page;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

/// How many entries the next page has.
fn entries(reader: &Reader) -> usize {
    let page = reader.client.feed(reader.position, 0);
    Frames::new(Page::decode(&page).unwrap().entries).count()
}

#[test]
fn every_secret_is_told_of_a_change_and_the_edges_hear_nothing_of_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a", "scopes": ["read"]}));
    let rotated = client.ask("POST", &format!("{}/rotate", path_of(&key)), None).expect(201);
    let change = |document| client.ask("PATCH", &path_of(&key), Some(document)).expect(200);
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    let changed = change(json!({"scopes": ["read", "write"], "allow_ip": ["10.0.0.0/8"], "limits": ["1/s"]}));
    assert_eq!((&changed["scopes"], &changed["limits"]), (&json!(["read", "write"]), &json!(["1/s"])));
    assert_eq!(entries(&reader), 2);
    reader.catch_up();
    for secret in [&key, &rotated] {
        let record = reader.record(&secret["key"]).unwrap();
        assert_eq!((record.scopes.len(), record.allowlist.len(), record.limits.is_some()), (2, 1, true));
    }
    change(json!({"name": "b", "member": "ann", "metadata": {"a": "b"}}));
    assert!(!reader.read(0));
    change(json!({"credits": 0}));
    reader.catch_up();
    assert!(reader.record(&key["key"]).unwrap().credits_exhausted);
    change(json!({"credits": null}));
    reader.catch_up();
    assert!(!reader.record(&key["key"]).unwrap().credits_exhausted);
}

#[test]
fn what_changes_nothing_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a", "scopes": ["read"], "metadata": {"a": "b"}}));
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    for same in [json!({}), json!({"name": "a"}), json!({"scopes": ["read"], "plan": null, "metadata": {"b": null}})] {
        let answer = client.ask("PATCH", &path_of(&key), Some(same));
        assert_eq!((answer.status, answer.header("etag")), (200, "\"1\""));
    }
    assert!(!reader.read(0));
    assert_eq!(client.get("/v1/audit").expect(200)["entries"].as_array().unwrap().len(), 1);
}

#[test]
fn what_a_key_is_cannot_be_changed_and_every_mistake_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a"}));
    let change =
        json!({"kind": "key", "owner": "acme", "environment": "test", "name": null, "plan": "none", "id": "x"});
    let problem = client.ask("PATCH", &path_of(&key), Some(change)).expect(422);
    assert_eq!(fields(&problem), ["name", "owner", "kind", "environment", "id", "plan"]);
    assert!(problem["errors"][1]["message"].as_str().unwrap().contains("cannot be changed"));
    client.ask("PATCH", "/v1/keys/key_unknown", Some(json!({}))).expect(404);
}

#[test]
fn an_expiry_moves_until_the_key_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a", "expires_in_s": 10}));
    let change = |document| client.ask("PATCH", &path_of(&key), Some(document));
    server.advance(seconds(5));
    assert_eq!(change(json!({"expires_in_s": 10})).expect(200)["expires_at"], "2027-01-15T08:00:15.000Z");
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    assert_eq!(reader.record(&key["key"]).unwrap().expires_at_ms, Some(crate::harness::NOW_MS + seconds(15)));
    assert_eq!(change(json!({"expires_at": null})).expect(200)["expires_at"], Value::Null);
    change(json!({"expires_in_s": 1})).expect(200);
    server.advance(seconds(1));
    let problem = change(json!({"expires_at": null})).expect(409);
    assert_eq!(problem["type"], "urn:keyward:problem:not_active");
    assert_eq!(change(json!({"expires_at": "2027-01-15T08:00:06Z"})).expect(422)["errors"][0]["field"], "expires_at");
    change(json!({"name": "it can still be called something else"})).expect(200);
    let revoked = client.create(json!({"name": "a"}));
    client.ask("DELETE", &path_of(&revoked), None).expect(200);
    client.ask("PATCH", &path_of(&revoked), Some(json!({"expires_in_s": 60}))).expect(409);
}

#[test]
fn a_change_that_would_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let half: Vec<_> = (0..430).map(|n| format!("{n:0>61}")).collect();
    let key = client.create(json!({"name": "a", "scopes": half}));
    let networks: Vec<_> = (0..4000).map(|n| format!("10.{}.{}.0/24", n / 250, n % 250)).collect();
    client.ask("PATCH", &path_of(&key), Some(json!({"allow_ip": networks}))).expect(200);
    let more: Vec<_> = (0..600).map(|n| format!("{n:0>61}")).collect();
    let problem = client.ask("PATCH", &path_of(&key), Some(json!({"scopes": more}))).expect(422);
    assert_eq!(fields(&problem), [""]);
    let metadata =
        |range: std::ops::Range<u32>| json!({"metadata": Map::from_iter(range.map(|n| (n.to_string(), json!("x"))))});
    client.ask("PATCH", &path_of(&key), Some(metadata(0..20))).expect(200);
    let problem = client.ask("PATCH", &path_of(&key), Some(metadata(20..21))).expect(422);
    assert_eq!(fields(&problem), ["metadata"]);
}

#[test]
fn a_condition_holds_or_nothing_happens() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let created = client.ask("POST", "/v1/keys", Some(json!({"name": "a", "owner": "acme"})));
    assert_eq!(created.header("etag"), "\"1\"");
    let path = path_of(&created.expect(201));
    client.ask("PUT", "/v1/plans/pro", None).expect(201);
    let ask =
        |method: &str, path: &str, tag: &str| client.ask_with(method, path, &[("if-match", tag)], Some(json!({})));
    let rotate = format!("{path}/rotate");
    for (method, path) in [
        ("PATCH", &path[..]),
        ("DELETE", &path),
        ("POST", &rotate),
        ("PATCH", "/v1/owners/acme"),
        ("PUT", "/v1/owners/acme"),
        ("PUT", "/v1/plans/pro"),
        ("DELETE", "/v1/plans/pro"),
    ] {
        for stale in ["\"2\"", "W/\"1\"", "1", ""] {
            let problem = ask(method, path, stale).expect(412);
            assert_eq!(problem["type"], "urn:keyward:problem:precondition_failed", "{method} {path} {stale}");
        }
    }
    assert_eq!(client.get(&path).expect(200)["secrets"].as_array().unwrap().len(), 1);
    let changed = client.ask_with("PATCH", &path, &[("if-match", "\"7\", \"1\"")], Some(json!({"name": "b"})));
    assert_eq!((changed.status, changed.header("etag")), (200, "\"2\""));
    let rotated = ask("POST", &rotate, "\"2\"");
    assert_eq!((rotated.status, rotated.header("etag")), (201, "\"3\""));
    let revoked = ask("DELETE", &path, "*");
    assert_eq!((revoked.status, revoked.header("etag")), (200, "\"4\""));
    ask("PUT", "/v1/owners/nobody", "*").expect(412);
    ask("DELETE", "/v1/keys/key_unknown", "\"1\"").expect(404);
}

#[test]
fn what_is_only_to_be_made_leaves_alone_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let put = |path: &str, fields: &[(&str, &str)]| client.ask_with("PUT", path, fields, Some(json!({})));
    for path in ["/v1/owners/acme", "/v1/plans/pro"] {
        put(path, &[("if-none-match", "*"), ("if-match", "*")]).expect(412);
        put(path, &[("if-none-match", "*")]).expect(201);
        put(path, &[("if-none-match", "*"), ("if-match", "\"1\"")]).expect(412);
    }
    client.ask("PATCH", "/v1/owners/acme", Some(json!({"disabled": true}))).expect(200);
    put("/v1/owners/acme", &[("if-none-match", "*")]).expect(412);
    assert_eq!(client.get("/v1/owners/acme").expect(200)["disabled"], true);
}

#[test]
fn who_knows_the_version_is_told_no_more_than_that() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let path = path_of(&client.create(json!({"name": "a", "owner": "acme"})));
    client.ask("PUT", "/v1/plans/pro", None).expect(201);
    for path in [&path[..], "/v1/owners/acme", "/v1/plans/pro"] {
        let get = |tag: &str| client.ask_with("GET", path, &[("if-none-match", tag)], None);
        for known in ["\"1\"", "W/\"1\"", "\"0\", \"1\"", "*"] {
            let answer = get(known);
            assert_eq!((answer.status, answer.header("etag"), answer.body.len()), (304, "\"1\"", 0), "{path} {known}");
        }
        let answer = get("\"2\"");
        assert_eq!((answer.status, answer.header("etag")), (200, "\"1\""), "{path}");
    }
}

#[test]
fn one_secret_ends_at_once_and_the_last_valid_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a"}));
    let rotated = client.ask("POST", &format!("{}/rotate", path_of(&key)), None).expect(201);
    let (old, new) = (&key["secrets"][0]["id"], {
        let secrets = rotated["secrets"].as_array().unwrap();
        &secrets.iter().find(|secret| secret["id"] != key["secrets"][0]["id"]).unwrap()["id"]
    });
    let end =
        |secret: &Value| client.ask("DELETE", &format!("{}/secrets/{}", path_of(&key), secret.as_str().unwrap()), None);
    let states = |key: &Value| {
        let state_of = |id: &Value| {
            let secrets = key["secrets"].as_array().unwrap();
            let secret = secrets.iter().find(|secret| secret["id"] == *id).unwrap();
            (secret["state"].as_str().unwrap().to_owned(), secret["not_after"].clone(), secret["last_used_at"].clone())
        };
        [state_of(old), state_of(new)]
    };
    let valid_until = |time: Value| ("valid".to_owned(), time, Value::Null);
    assert_eq!(states(&rotated), [valid_until(json!("2027-01-16T08:00:00.000Z")), valid_until(Value::Null)]);
    server.advance(seconds(60));
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    let ended = end(old).expect(200);
    let ended_at = |time: Value| ("rotated_out".to_owned(), time, Value::Null);
    assert_eq!(states(&ended), [ended_at(json!("2027-01-15T08:01:00.000Z")), valid_until(Value::Null)]);
    assert_eq!(entries(&reader), 1);
    reader.catch_up();
    assert!(reader.record(&key["key"]).unwrap().revoked_at_ms.is_some(), "whatever the clock of the edge says");
    assert!(reader.record(&rotated["key"]).unwrap().revoked_at_ms.is_none());
    assert_eq!(end(old).header("etag"), "\"3\"", "it has ended already");
    assert!(!reader.read(0));
    let problem = end(new).expect(409);
    assert!(problem["detail"].as_str().unwrap().contains("revoke the key"), "{problem}");
    assert_eq!(problem["type"], "urn:keyward:problem:last_secret");
    end(&json!("sec_unknown")).expect(404);
    client.ask("DELETE", "/v1/keys/key_unknown/secrets/sec_1", None).expect(404);
    let stale = [("if-match", "\"1\"")];
    let path = format!("{}/secrets/{}", path_of(&key), new.as_str().unwrap());
    client.ask_with("DELETE", &path, &stale, None).expect(412);
    client.ask("DELETE", &path_of(&key), None).expect(200);
    assert_eq!(end(new).expect(409)["type"], "urn:keyward:problem:not_active");
}

/// What can be changed of a key, as a document.
fn changeable(key: &Value) -> Value {
    let fields = ["name", "member", "scopes", "allow_ip", "limits", "plan", "credits", "metadata", "expires_at"];
    Value::Object(fields.into_iter().map(|field| (field.to_owned(), key[field].clone())).collect())
}

/// A document as a key could be, in the words in which it is answered.
fn documents() -> impl Strategy<Value = Value> {
    let maybe = |strategy: BoxedStrategy<Value>| prop_oneof![Just(Value::Null), strategy];
    let words = |pattern: &'static str| pattern.prop_map(Value::from).boxed();
    let some_of = |all: &'static [&'static str]| {
        prop::sample::subsequence(all, 0..=all.len()).prop_map(|some| json!(some)).boxed()
    };
    let metadata = prop::collection::btree_map("[A-Za-z0-9._-]{1,5}", "[ -~é]{0,9}", 0..=10).prop_map(|map| json!(map));
    let expiry = (0..1_000_000_u64).prop_map(|s| format!("2030-01-{:02}T00:00:{:02}.000Z", 1 + s % 31, s % 60));
    (
        words("[ -~é]{1,20}"),
        maybe(words("[!-~]{1,10}")),
        some_of(&["read", "write", "a.b:c/*"]),
        some_of(&["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]),
        maybe(some_of(&["10/s", "200/min", "5/d"])),
        maybe(prop::sample::select(&["pro", "free"][..]).prop_map(Value::from).boxed()),
        maybe((0..=9_007_199_254_740_991_u64).prop_map(Value::from).boxed()),
        metadata,
        maybe(expiry.prop_map(Value::from).boxed()),
    )
        .prop_map(|(name, member, scopes, allow_ip, limits, plan, credits, metadata, expires_at)| {
            json!({"name": name, "member": member, "scopes": scopes, "allow_ip": allow_ip, "limits": limits, "plan": plan,
                   "credits": credits, "metadata": metadata, "expires_at": expires_at})
        })
}

/// The merge patch (RFC 7396) that makes one document out of another.
fn difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (from, to) else { return to.clone() };
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    let set = new.iter().filter(|(name, value)| old.get(*name) != Some(value)).map(|(name, value)| {
        let patch = old.get(name).map_or_else(|| value.clone(), |old| difference(old, value));
        (name.clone(), patch)
    });
    Value::Object(gone.chain(set).collect())
}

fn patched(client: &Client, path: &str, patch: Value) -> Value {
    let answered = client.ask("PATCH", path, Some(patch)).expect(200);
    assert_eq!(client.get(path).expect(200), answered);
    changeable(&answered)
}

#[test]
fn a_key_that_is_patched_to_a_document_reads_as_that_document() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    for plan in ["pro", "free"] {
        client.ask("PUT", &format!("/v1/plans/{plan}"), None).expect(201);
    }
    let path = path_of(&client.create(json!({"name": "a"})));
    let mut runner = TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&documents(), |wanted| {
        let current = changeable(&client.get(&path).expect(200));
        prop_assert_eq!(patched(&client, &path, difference(&current, &wanted)), wanted);
        Ok(())
    });
    outcome.unwrap();
}
