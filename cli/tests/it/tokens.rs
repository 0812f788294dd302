//! Tokens that are made over the API.

use crate::database::stored;
use crate::harness::{
    Client, Process, Reader, TestServer, audited, contains, hide_tokens, program, seconds, stderr, stdout, until,
};
use keyward_core::FEED_PATH;
use keyward_core::wire::page::Page;
use serde_json::{Value, json};

fn create(client: &Client, document: Value) -> Value {
    client.ask("POST", "/v1/tokens", Some(document)).expect(201)
}

/// The plaintext of a new token of that role.
fn token(client: &Client, role: &str) -> String {
    create(client, json!({"name": "n", "role": role}))["token"].as_str().unwrap().to_owned()
}

/// The same client with another token for everything.
fn with(client: &Client, token: &str) -> Client {
    let mut client = client.clone();
    (client.admin, client.edge) = (token.to_owned(), token.to_owned());
    client
}

#[test]
fn a_new_token_is_shown_once_and_only_its_digest_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let answer = client.ask("POST", "/v1/tokens", Some(json!({"name": "ci", "role": "viewer", "expires_in_s": 60})));
    assert_eq!(answer.header("cache-control"), "no-store");
    let location = answer.header("location").to_owned();
    let created = answer.expect(201);
    let plaintext = created["token"].as_str().unwrap();
    assert!(plaintext.starts_with("kwa_") && plaintext.len() == 4 + 43, "{plaintext}");
    assert!(token(&client, "edge").starts_with("kwe_"));
    let mut shown = client.get(&location).expect(200);
    assert_eq!(shown.get("token"), None);
    assert_eq!(
        (&shown["state"], &shown["expires_at"], &shown["last_used_at"]),
        (&json!("active"), &json!("2027-01-15T08:01:00.000Z"), &Value::Null)
    );
    shown["token"] = created["token"].clone();
    assert_eq!(shown, created);
    server.stop();
    assert!(!contains(&stored(dir.path()), plaintext));
}

#[test]
fn token_permits_what_its_role_says_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let roles = ["viewer", "operator", "admin", "edge"].map(|role| token(&client, role));
    let new_token = json!({"name": "n", "role": "viewer"}).to_string().into_bytes();
    let new_key = json!({"name": "n"}).to_string().into_bytes();
    for (method, path, body, expected) in [
        ("GET", "/v1/keys", None, [200, 200, 200, 401]),
        ("GET", "/v1/tokens", None, [200, 200, 200, 401]),
        ("HEAD", "/v1/keys", None, [200, 200, 200, 401]),
        ("POST", "/v1/keys", Some(new_key), [403, 201, 201, 401]),
        ("POST", "/v1/tokens", Some(new_token), [403, 403, 201, 401]),
        ("DELETE", "/v1/tokens/tok_1", None, [403, 403, 404, 401]),
        ("PATCH", "/v1/owners/acme", None, [403, 404, 404, 401]),
        ("PUT", "/v1/plans/pro", None, [403, 403, 201, 401]),
        ("GET", FEED_PATH, None, [401, 401, 401, 200]),
    ] {
        let statuses = roles.each_ref().map(|token| client.send(method, path, Some(token), body.clone()).status);
        assert_eq!(statuses, expected, "{method} {path}");
    }
    let refused = client.send("DELETE", "/v1/keys/key_1", Some(&roles[0]), None);
    let challenge = "Bearer realm=\"keyward\", error=\"insufficient_scope\", scope=\"operator\"";
    assert_eq!(refused.header("www-authenticate"), challenge);
    let problem = refused.expect(403);
    assert_eq!(problem["type"], "urn:keyward:problem:insufficient_role");
    assert_eq!(problem["detail"], "the token has the role viewer; expected a token of role operator");
}

#[test]
fn a_token_ends_when_it_is_revoked_or_expires_and_stays_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let [revoked, expiring] =
        [json!({"name": "n", "role": "admin"}), json!({"name": "n", "role": "admin", "expires_in_s": 9})]
            .map(|document| create(&client, document));
    let works = |token: &Value| client.send("GET", "/v1/keys", token["token"].as_str(), None).status == 200;
    assert!(works(&revoked) && works(&expiring));
    let path = format!("/v1/tokens/{}", revoked["id"].as_str().unwrap());
    // It may well end itself.
    let first = with(&client, revoked["token"].as_str().unwrap()).ask("DELETE", &path, None).expect(200);
    assert_eq!((&first["state"], &first["revoked_at"]), (&json!("revoked"), &json!("2027-01-15T08:00:00.000Z")));
    assert!(!works(&revoked));
    server.advance(seconds(9));
    assert!(!works(&expiring));
    assert_eq!(client.ask("DELETE", &path, None).expect(200)["revoked_at"], first["revoked_at"]);
    assert_eq!(client.get(&format!("/v1/tokens/{}", expiring["id"].as_str().unwrap())).expect(200)["state"], "expired");
    client.ask("DELETE", "/v1/tokens/tok_unknown", None).expect(404);
    client.get("/v1/tokens/tok_unknown").expect(404);
}

#[test]
fn a_list_goes_on_where_it_stopped_and_all_mistakes_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    for n in 0..5 {
        create(&client, json!({"name": format!("{n}"), "role": "viewer"}));
        server.advance(1);
    }
    let mut names = Vec::new();
    let mut path = "/v1/tokens?limit=2".to_owned();
    loop {
        let page = client.get(&path).expect(200);
        assert!(!page.to_string().contains("kwa_"));
        names.extend(page["tokens"].as_array().unwrap().iter().map(|token| token["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/tokens?limit=2&after={next}");
    }
    assert_eq!(names, ["4", "3", "2", "1", "0"]);
    let fields = |problem: &Value| problem["errors"].as_array().unwrap().len();
    assert_eq!(fields(&client.get("/v1/tokens?limit=0&colour=red").expect(400)), 2);
    assert_eq!(fields(&client.get("/v1/tokens?after=tok_unknown").expect(400)), 1);
    assert_eq!(fields(&client.ask("POST", "/v1/tokens", Some(json!({"role": "all"}))).expect(422)), 2);
}

#[test]
fn the_last_use_of_a_token_is_told_to_the_minute() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let created = create(&client, json!({"name": "n", "role": "viewer"}));
    let using = with(&client, created["token"].as_str().unwrap());
    let path = format!("/v1/tokens/{}", created["id"].as_str().unwrap());
    let last_used_at = || client.get(&path).expect(200)["last_used_at"].clone();
    using.get("/v1/keys").expect(200);
    until(|| last_used_at() == "2027-01-15T08:00:00.000Z");
    server.advance(seconds(59));
    using.get("/v1/keys").expect(200);
    server.advance(seconds(1));
    using.get("/v1/keys").expect(200);
    until(|| last_used_at() == "2027-01-15T08:01:00.000Z");
}

#[test]
fn the_log_and_the_audit_name_the_token_that_has_done_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), "trace");
    let client = Client::new(&process.url, dir.path());
    let created = create(&client, json!({"name": "n", "role": "admin"}));
    let (id, plaintext) = (created["id"].as_str().unwrap(), created["token"].as_str().unwrap());
    let key = with(&client, plaintext).create(json!({"name": "a"}));
    client.ask("DELETE", &format!("/v1/tokens/{id}"), None).expect(200);
    process.signal("TERM");
    process.wait();
    let log = process.log();
    assert!(log.contains(&format!("token created token=\"{id}\"")) && log.contains("token revoked"), "{log}");
    assert!(!log.contains(plaintext));
    let key_id = key["id"].as_str().unwrap();
    let expected = [
        format!("token-file token.revoked {id}"),
        format!("token:{id} key.created {key_id}"),
        format!("token-file token.created {id}"),
    ];
    assert_eq!(audited(dir.path()), expected);
}

#[test]
fn a_long_poll_ends_with_the_token_it_was_asked_with() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), "keyward_server=trace");
    let client = Client::new(&process.url, dir.path());
    let created = create(&client, json!({"name": "n", "role": "edge"}));
    let polling = with(&client, created["token"].as_str().unwrap());
    let mut reader = Reader::new(polling.clone());
    reader.catch_up();
    let position = reader.position;
    let waiting = std::thread::spawn(move || polling.feed(position, 60));
    until(|| process.log_so_far().contains("wait=60s"));
    client.ask("DELETE", &format!("/v1/tokens/{}", created["id"].as_str().unwrap()), None).expect(200);
    until(|| waiting.is_finished());
    assert_eq!(Page::decode(&waiting.join().unwrap()).unwrap().next(), position);
    assert_eq!(client.send("GET", FEED_PATH, created["token"].as_str(), None).status, 401);

    let short = create(&client, json!({"name": "n", "role": "edge", "expires_in_s": 1}));
    let expiring = with(&client, short["token"].as_str().unwrap());
    let waiting = std::thread::spawn(move || expiring.feed(position, 60));
    until(|| waiting.is_finished());
    assert_eq!(Page::decode(&waiting.join().unwrap()).unwrap().next(), position);
    process.kill();
}

#[test]
fn tokens_of_the_files_work_where_the_database_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let issued = token(&client, "edge");
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    hide_tokens(dir.path());
    assert_eq!(client.send("GET", FEED_PATH, Some(&issued), None).status, 500);
    assert!(!reader.read(0), "the feed is read as before");
    client.get("/v1/keys").expect(200);
}

#[test]
fn a_token_is_made_shown_listed_and_revoked_on_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(&dir.path().join(".keyward"));
    let run = |arguments: &[&str]| {
        program().args(arguments).current_dir(dir.path()).env("KEYWARD_URL", &server.address).output().unwrap()
    };
    let created = run(&["tokens", "create", "--name", "ci", "--role", "viewer", "--expires-in", "30d"]);
    let plaintext = stdout(&created).trim_end();
    assert!(plaintext.starts_with("kwa_") && plaintext.len() == 47, "{created:?}");
    let id = stderr(&created).split(' ').next().unwrap();
    assert!(id.starts_with("tok_") && !stderr(&created).contains(plaintext), "{created:?}");
    let works = || {
        let mut command = program();
        command.args(["keys", "list"]).current_dir(dir.path()).env("KEYWARD_URL", &server.address);
        command.env("KEYWARD_ADMIN_TOKEN", plaintext).output().unwrap().status.success()
    };
    assert!(works());
    let shown: Value = serde_json::from_slice(&run(&["tokens", "show", id, "--json"]).stdout).unwrap();
    assert_eq!(
        (&shown["name"], &shown["role"], &shown["expires_at"]),
        (&json!("ci"), &json!("viewer"), &json!("2027-02-14T08:00:00.000Z"))
    );
    let list = run(&["tokens", "list"]);
    assert!(stdout(&list).starts_with("ID ") && stdout(&list).contains(id), "{list:?}");
    let revoked = run(&["tokens", "revoke", id]);
    assert!(stdout(&revoked).contains("revoked"), "{revoked:?}");
    assert!(!works());
    for command in ["show", "revoke"] {
        let refused = run(&["tokens", command, plaintext]);
        assert!(refused.status.code() == Some(2) && !stderr(&refused).contains(&plaintext[..12]), "{refused:?}");
    }
    assert_eq!(run(&["tokens", "create", "--name", "ci", "--role", "all"]).status.code(), Some(1));
}
