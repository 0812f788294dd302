//! What users do with their keys, and what they cannot.

use crate::database::of_directory;
use crate::harness::{Answer, Client, NOW_MS, Process, Reader, TestServer, audited, change_database, program, seconds};
use keyward_core::dialect::{Dialect, Source};
use keyward_server::keys::leaks::Leaks;
use keyward_server::model::OnLeak;
use keyward_server::serve::{Config, SelfService};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Fixture {
    dir: TempDir,
    server: TestServer,
    client: Client,
}

fn started(dialect: &str, change: impl FnOnce(&mut Config)) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start_as(dir.path(), NOW_MS, |config| {
        config.dialect = Dialect::built_in(dialect).unwrap().unwrap();
        config.self_service = Some(SelfService { scope: None });
        change(config);
    });
    Fixture { client: server.client(), server, dir }
}

fn exograph() -> Fixture {
    started("exograph", |_| {})
}

impl Fixture {
    /// Makes a key as an operator does; with the owner acme unless it says otherwise.
    fn make(&self, mut document: Value) -> Value {
        let fields = document.as_object_mut().unwrap();
        fields.entry("name").or_insert(json!("made"));
        fields.entry("owner").or_insert(json!("acme"));
        self.client.create(document)
    }

    fn ask(&self, key: &Value, method: &str, path: &str, document: Option<Value>) -> Answer {
        let key = key["key"].as_str().unwrap();
        self.client.send(method, path, Some(key), document.map(|document| document.to_string().into_bytes()))
    }

    fn names(&self, key: &Value) -> Vec<String> {
        let page = self.ask(key, "GET", "/api-keys", None).expect(200);
        let mut names: Vec<_> =
            page["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }
}

fn path(key: &Value) -> String {
    format!("/api-keys/{}", key["id"].as_str().unwrap())
}

fn fields(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect()
}

/// The answer of the dialect to a key that is not accepted.
fn assert_refused(answer: Answer, what: &str) {
    assert_eq!(answer.header("content-type"), "application/json", "{what}");
    assert!(answer.header("www-authenticate").starts_with("Bearer realm=\"exograph\""), "{what}");
    assert_eq!(answer.header("cache-control"), "no-store");
    let expected = json!({"error": {"code": "invalid_api_key", "message": "Invalid or expired API key"}});
    assert_eq!((answer.status, answer.json()), (401, expected), "{what}");
}

#[test]
fn there_is_no_self_service_unless_it_is_asked_for() {
    let fixture = started("exograph", |config| config.self_service = None);
    let key = fixture.make(json!({}));
    for (method, path) in [
        ("GET", "/api-keys".to_owned()),
        ("POST", "/api-keys".to_owned()),
        ("DELETE", path(&key)),
        ("POST", path(&key) + "/rotate"),
        ("POST", path(&key) + "/pause"),
        ("POST", path(&key) + "/resume"),
    ] {
        assert_eq!(fixture.ask(&key, method, &path, None).expect(404)["type"], "urn:keyward:problem:not_found");
    }
}

#[test]
fn a_user_lists_makes_rotates_and_revokes_the_keys_of_its_owner() {
    let fixture = exograph();
    let first = fixture.make(json!({"name": "first", "scopes": ["read"]}));
    fixture.make(json!({"name": "not mine", "owner": "globex"}));
    fixture.make(json!({"name": "nobody's", "owner": null}));
    fixture.server.advance(1);
    let answer = fixture.ask(&first, "POST", "/api-keys", Some(json!({"name": "second"})));
    assert_eq!(answer.header("cache-control"), "no-store");
    let second = answer.expect(201);
    assert!(second["key"].as_str().unwrap().starts_with("exo_key_live_"));
    assert_eq!((&second["scopes"], &second["state"]), (&json!(["read"]), &json!("active")));

    let page = fixture.ask(&second, "GET", "/api-keys", None).expect(200);
    assert_eq!((page["keys"][0]["name"].as_str(), page["keys"][1]["name"].as_str()), (Some("second"), Some("first")));
    assert_eq!((page["keys"].as_array().unwrap().len(), &page["next"]), (2, &Value::Null));
    let shown = page["keys"][0].as_object().unwrap();
    for hidden in ["key", "owner", "plan", "member", "metadata", "credits", "spent", "version"] {
        assert!(!shown.contains_key(hidden), "{hidden}");
    }
    assert_eq!(shown["hint"].as_str().unwrap(), format!("{}…", &second["key"].as_str().unwrap()[..17]));
    assert_eq!(shown["last_used_at"], Value::Null);

    let rotated = fixture.ask(&first, "POST", &(path(&first) + "/rotate"), Some(json!({"grace_s": 0}))).expect(201);
    assert_refused(fixture.ask(&first, "GET", "/api-keys", None), "a secret that was replaced");
    assert_ne!(rotated["hint"], first["secrets"][0]["hint"]);
    let revoked = fixture.ask(&rotated, "DELETE", &path(&second), None).expect(200);
    assert_eq!(revoked["state"], "revoked");
    assert_refused(fixture.ask(&second, "GET", "/api-keys", None), "a revoked key");
    fixture.ask(&rotated, "DELETE", &path(&first), None).expect(200);
    assert_refused(fixture.ask(&rotated, "GET", "/api-keys", None), "a key that has revoked itself");
    let mut reader = Reader::new(fixture.client.clone());
    reader.catch_up();
    for key in [&first, &second, &rotated] {
        assert!(reader.record(&key["key"]).unwrap().revoked_at_ms.is_some(), "the edges hear of it");
    }
}

#[test]
fn a_list_has_pages_and_states_and_tells_nothing_of_other_owners() {
    let fixture = exograph();
    let key = fixture.make(json!({"name": "0"}));
    let other = fixture.make(json!({"name": "other", "owner": "globex"}));
    for n in 1..4 {
        fixture.server.advance(1);
        fixture.ask(&key, "POST", "/api-keys", Some(json!({"name": format!("{n}")}))).expect(201);
    }
    let mut names = Vec::new();
    let mut next = "/api-keys?limit=3".to_owned();
    loop {
        let page = fixture.ask(&key, "GET", &next, None).expect(200);
        names.extend(page["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()));
        let Some(after) = page["next"].as_str() else { break };
        next = format!("/api-keys?limit=3&after={after}");
    }
    assert_eq!(names, ["3", "2", "1", "0"]);
    let revoked = fixture.ask(&key, "GET", "/api-keys?state=revoked", None).expect(200);
    assert_eq!(revoked["keys"], json!([]));
    let after = |id: &str| fixture.ask(&key, "GET", &format!("/api-keys?after={id}"), None).expect(400);
    assert_eq!(after(other["id"].as_str().unwrap()), after("key_unknown"));
    assert_eq!(fields(&fixture.ask(&key, "GET", "/api-keys?owner=globex", None).expect(400)), ["owner"]);
}

#[test]
fn the_key_of_another_owner_is_as_good_as_none() {
    let fixture = exograph();
    let (key, other) = (fixture.make(json!({})), fixture.make(json!({"owner": "globex"})));
    let nobodys = fixture.make(json!({"owner": null}));
    let unknown = json!({"id": "key_00000000000000000000"});
    for (method, suffix) in [("DELETE", ""), ("POST", "/rotate"), ("POST", "/pause"), ("POST", "/resume")] {
        let ask = |target: &Value| fixture.ask(&key, method, &(path(target) + suffix), None).expect(404);
        assert_eq!(ask(&other), ask(&unknown));
        assert_eq!(ask(&nobodys), ask(&unknown));
    }
    for key in [&other, &nobodys] {
        let shown = fixture.client.get(&format!("/v1/keys/{}", key["id"].as_str().unwrap())).expect(200);
        assert_eq!((&shown["state"], shown["secrets"].as_array().unwrap().len()), (&json!("active"), 1));
    }
}

#[test]
fn a_key_that_an_edge_would_refuse_is_refused_in_the_dialects_words() {
    let fixture = exograph();
    let [revoked, expired, paused, disabled, rotated] =
        [json!({}), json!({"expires_in_s": 9}), json!({}), json!({"owner": "off"}), json!({})]
            .map(|document| fixture.make(document));
    let admin = |method: &str, path: String, document| fixture.client.ask(method, &path, Some(document));
    admin("DELETE", format!("/v1/keys/{}", revoked["id"].as_str().unwrap()), json!({})).expect(200);
    admin("POST", format!("/v1/keys/{}/pause", paused["id"].as_str().unwrap()), json!({})).expect(200);
    admin("PATCH", "/v1/owners/off".to_owned(), json!({"disabled": true})).expect(200);
    let rotate = format!("/v1/keys/{}/rotate", rotated["id"].as_str().unwrap());
    admin("POST", rotate, json!({"grace_s": 5})).expect(201);
    fixture.server.advance(seconds(9));
    let unknown = json!({"key": format!("exo_key_live_{:032}", 1)});
    let malformed = json!({"key": "exo_key_live_short"});
    for (what, key) in [
        ("revoked", &revoked),
        ("expired", &expired),
        ("paused", &paused),
        ("disabled", &disabled),
        ("rotated", &rotated),
        ("unknown", &unknown),
        ("malformed", &malformed),
    ] {
        for (method, path) in [("GET", "/api-keys".to_owned()), ("POST", "/api-keys".to_owned())] {
            assert_refused(fixture.ask(key, method, &path, Some(json!({"name": "n"}))), what);
        }
        fixture.server.advance(seconds(60));
    }
    assert_refused(fixture.client.send("GET", "/api-keys", None, None), "no key at all");
    assert_refused(fixture.client.get("/api-keys"), "an operator's token");
}

#[test]
fn a_key_is_shown_in_any_source_of_the_dialect_and_two_different_ones_are_none() {
    let fixture = exograph();
    let (key, other) = (fixture.make(json!({})), fixture.make(json!({})));
    let (key, other) = (key["key"].as_str().unwrap(), other["key"].as_str().unwrap());
    let bearer = format!("Bearer {key}");
    let send = |fields: &[(&str, &str)]| fixture.client.send_with("GET", "/api-keys", fields, None);
    for fields in
        [&[("x-api-key", key)][..], &[("authorization", &bearer)], &[("authorization", &bearer), ("x-api-key", key)]]
    {
        send(fields).expect(200);
    }
    for fields in [
        &[("authorization", bearer.as_str()), ("x-api-key", other)][..],
        &[("x-api-key", key), ("x-api-key", key)],
        &[("authorization", &bearer), ("authorization", &bearer)],
        &[("authorization", "Basic eA=="), ("x-api-key", key)],
        &[("cookie", key)],
    ] {
        assert_refused(send(fields), &format!("{:?}", fields[0].0));
    }
}

#[test]
fn no_header_gives_what_the_key_does_not() {
    let fixture = exograph();
    let (key, other) = (fixture.make(json!({})), fixture.make(json!({"name": "other", "owner": "globex"})));
    let bearer = format!("Bearer {}", key["key"].as_str().unwrap());
    let forged = [
        ("x-keyward-owner", "globex"),
        ("x-keyward-key-id", other["id"].as_str().unwrap()),
        ("x-keyward-verdict", "allow"),
        ("x-keyward-scopes", "admin"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-user", "globex"),
    ];
    assert_refused(fixture.client.send_with("GET", "/api-keys", &forged, None), "no key");
    let fields = [&forged[..], &[("authorization", &bearer)]].concat();
    let page = fixture.client.send_with("GET", "/api-keys", &fields, None).expect(200);
    assert_eq!((page["keys"].as_array().unwrap().len(), &page["keys"][0]["id"]), (1, &key["id"]));
    fixture.client.send_with("DELETE", &path(&other), &fields, None).expect(404);
    let body = json!({"name": "n", "scopes": ["admin"]}).to_string().into_bytes();
    fixture.client.send_with("POST", "/api-keys", &fields, Some(body)).expect(403);
}

#[test]
fn a_key_hands_on_no_more_than_it_may_do_itself() {
    let fixture = started("keyward", |_| {});
    let key = fixture.make(json!({"scopes": ["read", "write"], "allow_ip": ["127.0.0.0/8"], "environment": "test",
                                  "limits": ["10/s"], "expires_in_s": 3600}));
    let post = |document: Value| fixture.ask(&key, "POST", "/api-keys", Some(document));
    let beyond = json!({"name": "n", "scopes": ["read", "admin"], "allow_ip": ["127.0.0.1", "10.0.0.1"],
                        "environment": "live", "expires_in_s": 3601});
    let problem = post(beyond).expect(403);
    assert_eq!(problem["type"], "urn:keyward:problem:exceeds_caller_permissions");
    assert_eq!(fields(&problem), ["environment", "scopes[1]", "allow_ip[1]", "expires_at"]);
    let chosen = json!({"name": "n", "owner": "globex", "limits": ["99/s"], "credits": 5, "plan": "p", "member": "m"});
    assert_eq!(fields(&post(chosen).expect(422)), ["owner", "limits", "credits", "plan", "member"]);
    assert_eq!(fields(&post(json!({"name": "n", "allow_ip": []})).expect(403)), ["allow_ip"]);

    let made = post(json!({"name": "n", "scopes": ["read"], "allow_ip": ["127.0.0.1"]})).expect(201);
    assert_eq!(
        (&made["scopes"], &made["allow_ip"], &made["limits"], &made["environment"], &made["expires_at"]),
        (&json!(["read"]), &json!(["127.0.0.1/32"]), &json!(["10/s"]), &json!("test"), &key["expires_at"])
    );
    let stored = fixture.client.get(&format!("/v1/keys/{}", made["id"].as_str().unwrap())).expect(200);
    assert_eq!(stored["owner"], "acme");

    fixture.client.ask("PATCH", "/v1/owners/acme", Some(json!({"permissions": ["read"]}))).expect(200);
    assert_eq!(fields(&post(json!({"name": "n", "scopes": ["write"]})).expect(403)), ["scopes[0]"]);
    // What it is shown of another key does what that key does.
    assert_eq!(fields(&fixture.ask(&made, "POST", &(path(&key) + "/rotate"), None).expect(403))[0], "scopes[1]");
    fixture.ask(&made, "POST", &(path(&made) + "/rotate"), None).expect(201);
}

#[test]
fn a_test_key_has_to_do_with_test_keys_only() {
    let fixture = started("exona", |_| {});
    let live = fixture.make(json!({"name": "live", "environment": "live"}));
    let test = fixture.make(json!({"name": "test", "environment": "test"}));
    assert_eq!(fixture.names(&live), ["live", "test"]);
    assert_eq!(fixture.names(&test), ["test"]);
    fixture.ask(&test, "DELETE", &path(&live), None).expect(404);
    fixture.ask(&test, "POST", &(path(&live) + "/rotate"), None).expect(404);
    let made = fixture.ask(&live, "POST", "/api-keys", Some(json!({"name": "n", "environment": "test"}))).expect(201);
    fixture.ask(&live, "DELETE", &path(&made), None).expect(200);
}

#[test]
fn a_kind_with_its_owners_permissions_is_made_by_its_like_only_and_gives_them() {
    let fixture = started("auxot", |_| {});
    let (user, team) =
        (fixture.make(json!({"kind": "user"})), fixture.make(json!({"kind": "team", "scopes": ["read"]})));
    fixture.client.ask("PATCH", "/v1/owners/acme", Some(json!({"permissions": ["read", "write"]}))).expect(200);
    let post = |key: &Value, document| fixture.ask(key, "POST", "/api-keys", Some(document));
    assert_eq!(fields(&post(&team, json!({"name": "n", "kind": "user"})).expect(403)), ["kind"]);
    assert_eq!(fixture.ask(&user, "GET", "/api-keys", None).expect(200)["keys"].as_array().unwrap().len(), 2);
    fixture.ask(&team, "POST", &(path(&user) + "/rotate"), None).expect(404);
    fixture.ask(&user, "POST", &(path(&team) + "/rotate"), Some(json!({"grace_s": 3600}))).expect(201);
    post(&user, json!({"name": "n", "kind": "team", "scopes": ["write"]})).expect(201);
    let beyond = post(&user, json!({"name": "n", "kind": "team", "scopes": ["admin"]})).expect(403);
    assert_eq!(fields(&beyond), ["scopes[0]"]);
}

#[test]
fn a_key_that_stands_in_a_browser_neither_sees_nor_becomes_the_organizations() {
    let fixture = started("graph8", |_| {});
    let [write, other, api] =
        ["write", "write", "api"].map(|kind| fixture.make(json!({"name": format!("{kind} key"), "kind": kind})));
    let post = |key: &Value, kind| {
        let problem = fixture.ask(key, "POST", "/api-keys", Some(json!({"name": "n", "kind": kind}))).expect(403);
        assert_eq!(problem["type"], "urn:keyward:problem:exceeds_caller_permissions");
        assert_eq!(fields(&problem), ["kind"]);
    };
    for (asks, kind, target) in [(&write, "api", &api), (&api, "write", &write)] {
        post(asks, kind);
        let refused = fixture.ask(asks, "POST", &(path(target) + "/rotate"), None).expect(404);
        assert_eq!(refused["type"], "urn:keyward:problem:not_found");
        fixture.ask(asks, "DELETE", &path(target), None).expect(404);
        let after = format!("/api-keys?after={}", target["id"].as_str().unwrap());
        assert_eq!(fields(&fixture.ask(asks, "GET", &after, None).expect(400)), ["after"]);
    }
    assert_eq!(fixture.names(&write), ["write key"; 2]);
    assert_eq!(fixture.names(&api), ["api key"]);
    let made = fixture.ask(&write, "POST", "/api-keys", Some(json!({"name": "n"}))).expect(201);
    assert_eq!(made["kind"], "write");
    fixture.ask(&write, "POST", &(path(&other) + "/rotate"), None).expect(201);
    fixture.ask(&write, "DELETE", &path(&other), None).expect(200);
}

#[test]
fn a_key_in_the_query_is_no_parameter_of_the_list() {
    let fixture = started("keyward", |config| {
        config.dialect.sources = vec![Source::Query("api_key".into()), Source::Query("state".into())];
    });
    let key = fixture.make(json!({}));
    let key = key["key"].as_str().unwrap();
    let get = |query: String| fixture.client.send("GET", &format!("/api-keys?{query}"), None, None);
    for query in [format!("api_key={key}"), format!("limit=1&api%5Fkey={key}"), format!("state={key}&api_key={key}")] {
        assert_eq!(get(query.clone()).expect(200)["keys"].as_array().unwrap().len(), 1, "{query}");
    }
    let problem = get(format!("api_key={key}&owner=acme")).expect(400);
    assert_eq!(fields(&problem), ["owner"]);
    assert!(!problem.to_string().contains(key));
    assert_eq!(get(format!("api_key={key}&api_key={key}")).status, 401);
}

#[test]
fn who_makes_and_rotates_without_end_is_told_when_to_go_on() {
    let fixture = exograph();
    let (key, other) = (fixture.make(json!({})), fixture.make(json!({"owner": "globex"})));
    // As if 998 had been made: one comes back every 2592 seconds.
    let full_at = NOW_MS + 998 * seconds(2592);
    change_database(fixture.dir.path(), &format!("UPDATE owners SET share_full_at = {full_at} WHERE id = 'acme'"));
    let make = |key: &Value| fixture.ask(key, "POST", "/api-keys", Some(json!({"name": "n"})));
    let made = make(&key).expect(201);
    fixture.ask(&key, "DELETE", &path(&made), None).expect(200);
    let made = fixture.ask(&key, "POST", &(path(&key) + "/rotate"), None).expect(201);
    let rotate = || fixture.ask(&made, "POST", &(path(&key) + "/rotate"), None);
    fixture.server.advance(1);
    for refused in [make(&made), rotate()] {
        assert_eq!((refused.status, refused.header("retry-after")), (429, "2592"));
        assert_eq!(refused.json()["type"], "urn:keyward:problem:issuance_limit_reached");
    }
    make(&other).expect(201);
    fixture.client.ask("POST", &format!("/v1/keys/{}/rotate", key["id"].as_str().unwrap()), None).expect(201);
    fixture.server.advance(seconds(2592));
    make(&made).expect(403);
}

#[test]
fn rotations_without_a_grace_come_to_an_end() {
    let fixture = exograph();
    let (key, other) = (fixture.make(json!({})), fixture.make(json!({})));
    let id = key["id"].as_str().unwrap();
    let all = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 99)";
    let ended = format!(
        "INSERT INTO secrets (id, key_id, digest, hint, created_at, not_after, forgotten)
         {all} SELECT 'sec_ended_' || n, '{id}', CAST('a digest of thirty-two bytes ' || (100 + n) AS {}), '', 1, 1, false
         FROM numbers",
        if of_directory(fixture.dir.path()).is_some() { "BYTEA" } else { "BLOB" }
    );
    change_database(fixture.dir.path(), &ended);
    let rotate =
        |grace_s: u64| fixture.ask(&other, "POST", &(path(&key) + "/rotate"), Some(json!({"grace_s": grace_s})));
    let problem = rotate(0).expect(409);
    assert_eq!(problem["type"], "urn:keyward:problem:too_many_known_secrets");
    assert!(problem["detail"].as_str().unwrap().contains("edges know 100 secrets"), "{problem}");
    change_database(fixture.dir.path(), "UPDATE secrets SET forgotten = true WHERE id LIKE 'sec_ended_%'");
    assert_eq!(rotate(0).expect(201)["secrets"].as_array().unwrap().len(), 2);
}

#[test]
fn credits_do_not_multiply() {
    let fixture = exograph();
    let (key, other) = (fixture.make(json!({})), fixture.make(json!({})));
    let with_credits = format!("UPDATE keys SET credits = 5 WHERE id = '{}'", key["id"].as_str().unwrap());
    change_database(fixture.dir.path(), &with_credits);
    let problem = fixture.ask(&key, "POST", "/api-keys", Some(json!({"name": "n"}))).expect(403);
    assert_eq!(problem["type"], "urn:keyward:problem:credits_not_inheritable");
    let problem = fixture.ask(&key, "POST", &(path(&other) + "/rotate"), None).expect(403);
    assert_eq!(fields(&problem), ["credits"]);
    fixture.ask(&key, "POST", &(path(&key) + "/rotate"), None).expect(201);
}

#[test]
fn a_secret_that_was_replaced_can_list_and_revoke_until_it_ends_and_makes_no_other() {
    let fixture = exograph();
    let (key, other) = (fixture.make(json!({})), fixture.make(json!({})));
    let new = fixture.ask(&key, "POST", &(path(&key) + "/rotate"), None).expect(201);
    for (method, path) in
        [("POST", "/api-keys".to_owned()), ("POST", path(&key) + "/rotate"), ("POST", path(&other) + "/rotate")]
    {
        let problem = fixture.ask(&key, method, &path, (!path.ends_with("rotate")).then(|| json!({"name": "n"})));
        assert_eq!(problem.expect(403)["type"], "urn:keyward:problem:secret_replaced");
    }
    fixture.ask(&key, "GET", "/api-keys", None).expect(200);
    fixture.ask(&key, "DELETE", &path(&other), None).expect(200);
    fixture.ask(&new, "POST", &(path(&key) + "/rotate"), Some(json!({"grace_s": 0}))).expect(201);
    assert_refused(fixture.ask(&key, "GET", "/api-keys", None), "its grace is over");
}

#[test]
fn a_secret_that_was_found_in_public_makes_no_other_though_it_goes_on() {
    let flag = Leaks { on_leak: OnLeak::Flag, ..Leaks::default() };
    let fixture = started("exograph", |config| config.leaks = flag);
    let (key, other) = (fixture.make(json!({})), fixture.make(json!({})));
    fixture.client.ask("POST", "/v1/leaks", Some(json!({"keys": [key["key"]]}))).expect(200);
    for (path, document) in [
        ("/api-keys".to_owned(), Some(json!({"name": "n"}))),
        (path(&key) + "/rotate", None),
        (path(&other) + "/rotate", None),
    ] {
        let problem = fixture.ask(&key, "POST", &path, document).expect(403);
        assert_eq!(problem["type"], "urn:keyward:problem:secret_leaked");
    }
    fixture.ask(&key, "GET", "/api-keys", None).expect(200);
    fixture.ask(&other, "POST", &(path(&key) + "/rotate"), None).expect(201);
}

#[test]
fn a_key_without_an_owner_has_no_keys_to_look_after() {
    let fixture = exograph();
    let key = fixture.make(json!({"owner": null}));
    for (method, path) in [("GET", "/api-keys".to_owned()), ("POST", "/api-keys".to_owned()), ("DELETE", path(&key))] {
        assert_eq!(fixture.ask(&key, method, &path, None).expect(403)["type"], "urn:keyward:problem:no_owner");
    }
    // Where edges refuse such keys, none is made.
    let asking = started("graph8", |_| {});
    let refused = asking.client.ask("POST", "/v1/keys", Some(json!({"name": "a", "owner": null}))).expect(422);
    assert_eq!(fields(&refused), ["owner"]);
}

#[test]
fn a_key_is_used_from_where_it_may_be_and_nobody_else_says_where_that_is() {
    for trusted in [false, true] {
        let fixture = started("exograph", |config| {
            config.trusted_proxies = if trusted { vec!["127.0.0.1/32".parse().unwrap()] } else { Vec::new() };
        });
        let [here, there] = ["127.0.0.1", "192.0.2.1"].map(|address| fixture.make(json!({"allow_ip": [address]})));
        let send = |key: &Value, forwarded: Option<&str>| {
            let bearer = format!("Bearer {}", key["key"].as_str().unwrap());
            let forwarded = forwarded.map(|address| ("x-forwarded-for", address));
            let fields: Vec<_> = [("authorization", bearer.as_str())].into_iter().chain(forwarded).collect();
            let answer = fixture.client.send_with("GET", "/api-keys", &fields, None);
            let code = answer.json()["error"]["code"].clone();
            assert_eq!(answer.status == 403, code == "forbidden_ip", "{answer:?}");
            answer.status
        };
        let cases = [
            (&here, None, 200, 403),
            (&there, Some("192.0.2.1"), 403, 200),
            (&there, Some("192.0.2.1, 198.51.100.1"), 403, 403),
            (&there, Some("198.51.100.1, 192.0.2.1"), 403, 200),
            (&there, Some("nonsense"), 403, 403),
        ];
        for (n, (key, forwarded, untrusted_status, trusted_status)) in cases.into_iter().enumerate() {
            let expected = if trusted { trusted_status } else { untrusted_status };
            assert_eq!(send(key, forwarded), expected, "case {n}, trusted: {trusted}");
        }
    }
}

#[test]
fn a_permission_can_be_asked_for() {
    let fixture = started("exograph", |config| {
        config.self_service = Some(SelfService { scope: Some("keys:manage".into()) });
    });
    let (with, without) = (fixture.make(json!({"scopes": ["keys:manage"]})), fixture.make(json!({"scopes": ["read"]})));
    fixture.ask(&with, "GET", "/api-keys", None).expect(200);
    let refused = fixture.ask(&without, "GET", "/api-keys", None);
    assert!(refused.header("www-authenticate").contains("scope=\"keys:manage\""), "{refused:?}");
    assert_eq!(refused.expect(403)["error"]["code"], "insufficient_scope");
    fixture.client.ask("PATCH", "/v1/owners/acme", Some(json!({"permissions": []}))).expect(200);
    assert_eq!(fixture.ask(&with, "GET", "/api-keys", None).status, 403);
}

#[test]
fn bad_keys_count_as_bad_tokens_do_and_a_good_one_still_works() {
    let fixture = exograph();
    let key = fixture.make(json!({}));
    let guess = |n: usize| fixture.ask(&json!({"key": format!("exo_key_live_{n:032}")}), "GET", "/api-keys", None);
    for n in 0..9 {
        assert_refused(guess(n), "a guess");
    }
    assert_eq!(fixture.client.send("GET", "/v1/keys", Some("garbage"), None).status, 401, "the tenth");
    fixture.server.advance(seconds(20));
    let refused = guess(10);
    assert_eq!(refused.header("retry-after"), "40");
    assert_eq!(refused.expect(429)["error"]["code"], "rate_limited");
    assert_eq!(fixture.client.send("GET", "/v1/keys", Some("garbage"), None).status, 429);
    fixture.ask(&key, "GET", "/api-keys", None).expect(200);
    assert_refused(fixture.client.send("GET", "/api-keys", None, None), "no key is no guess");
}

#[test]
fn a_server_is_told_of_self_service_on_the_command_line_and_keys_stay_out_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start_with(dir.path(), "trace", &["--self-service", "--trusted-proxy", "10.0.0.0/8"]);
    let client = Client::new(&process.url, dir.path());
    let key = client.create(json!({"name": "n", "owner": "acme"}));
    let plaintext = key["key"].as_str().unwrap();
    let send = |method, path: &str, body: Option<Value>| {
        client.send(method, path, Some(plaintext), body.map(|body| body.to_string().into_bytes()))
    };
    let made = send("POST", "/api-keys", Some(json!({"name": "m"}))).expect(201);
    // Somebody takes the key for its id.
    send("DELETE", &format!("/api-keys/{plaintext}"), None).expect(400);
    send("DELETE", &path(&made), None).expect(200);
    process.signal("TERM");
    process.wait();
    let log = process.log();
    assert!(log.contains("route=\"/api-keys/{id}\""), "{log}");
    for key in [plaintext, made["key"].as_str().unwrap()] {
        assert!(!log.contains(&key[12..]));
    }
    let (by, id) = (key["id"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert_eq!(audited(dir.path())[..2], [format!("key:{by} key.revoked {id}"), format!("key:{by} key.created {id}")]);
    let refused = program().args(["serve", "--trusted-proxy", "everybody"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn of_two_rotations_at_once_with_one_key_neither_is_lost_without_a_word() {
    let fixture = exograph();
    let key = fixture.make(json!({}));
    let rotate = path(&key) + "/rotate";
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let both: Vec<_> = (0..2).map(|_| scope.spawn(|| fixture.ask(&key, "POST", &rotate, None).status)).collect();
        both.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(statuses.contains(&201), "{statuses:?}");
    // The other one came too late: to verify, or to write.
    assert!(statuses.iter().all(|status| [201, 403, 503].contains(status)), "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1);
}

#[test]
fn users_resume_what_users_paused_and_no_more_than_they_may_issue() {
    let fixture = exograph();
    let key = fixture.make(json!({"scopes": ["read"]}));
    let other = fixture.make(json!({"scopes": ["read"]}));
    let stronger = fixture.make(json!({"scopes": ["read", "write"]}));
    let post = |asks: &Value, target: &Value, action: &str, status: u16| {
        fixture.ask(asks, "POST", &format!("{}/{action}", path(target)), None).expect(status)
    };
    let admin = |target: &Value, action: &str| {
        let path = format!("/v1/keys/{}/{action}", target["id"].as_str().unwrap());
        fixture.client.ask("POST", &path, None).expect(200)
    };

    let paused = post(&key, &other, "pause", 200);
    assert_eq!((&paused["state"], &paused["paused_by"]), (&json!("paused"), &json!("self_service")));
    assert_refused(fixture.ask(&other, "GET", "/api-keys", None), "a paused key");
    assert_refused(fixture.ask(&other, "POST", &(path(&other) + "/resume"), None), "a key that would resume itself");
    assert_eq!(post(&key, &other, "resume", 200)["state"], "active");
    assert_eq!(fixture.ask(&other, "GET", "/api-keys", None).status, 200);

    post(&key, &stronger, "pause", 200);
    let problem = post(&key, &stronger, "resume", 403);
    assert_eq!(problem["type"], "urn:keyward:problem:exceeds_caller_permissions");
    assert_eq!(admin(&stronger, "resume")["state"], "active");

    // An operator's pause is an operator's to undo, also where a user paused the key before.
    post(&key, &other, "pause", 200);
    assert_eq!(admin(&other, "pause")["paused_by"], "operator");
    assert_eq!(post(&key, &other, "pause", 200)["paused_by"], "operator");
    assert_eq!(post(&key, &other, "resume", 403)["type"], "urn:keyward:problem:paused_by_operator");
    admin(&other, "resume");

    fixture.ask(&key, "DELETE", &path(&other), None).expect(200);
    for action in ["pause", "resume"] {
        assert_eq!(post(&key, &other, action, 409)["type"], "urn:keyward:problem:not_active");
    }
    // A secret that was replaced may be in other hands.
    post(&key, &stronger, "pause", 200);
    let rotated = fixture.ask(&key, "POST", &(path(&key) + "/rotate"), None).expect(201);
    assert_eq!(post(&key, &stronger, "resume", 403)["type"], "urn:keyward:problem:secret_replaced");
    assert!(rotated["key"].is_string());
    // A user who pauses the calling key is refused from then on.
    post(&rotated, &rotated, "pause", 200);
    assert_refused(fixture.ask(&rotated, "GET", "/api-keys", None), "a key that has paused itself");
    let id = key["id"].as_str().unwrap();
    let entry = fixture.client.get("/v1/audit?limit=1").expect(200)["entries"][0].clone();
    assert_eq!((&entry["actor"], &entry["action"]), (&json!(format!("key:{id}")), &json!("key.paused")));
}
