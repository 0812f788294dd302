//! Requests that come again because their answer was lost.

use crate::database::stored;
use crate::harness::{Answer, Client, NOW_MS, Process, Reader, TestServer, contains, path_of, seconds};
use keyward_server::serve::RETENTION_INTERVAL;
use serde_json::{Value, json};
use std::sync::{Arc, Barrier};

const KEY: &str = "8e03978e-40d5-43dd-bc93-6894a57f9324";

fn create(client: &Client, key: &str, document: Value) -> Answer {
    client.ask_with("POST", "/v1/keys", &[("idempotency-key", key)], Some(document))
}

fn number_of_keys(client: &Client) -> usize {
    client.get("/v1/keys").expect(200)["keys"].as_array().unwrap().len()
}

#[test]
fn a_request_that_comes_again_makes_nothing_and_is_answered_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let request = json!({"name": "a", "owner": "acme", "expires_at": "2027-01-15T08:00:10Z"});
    let first = create(&client, KEY, request.clone());
    assert_eq!(first.header("cache-control"), "no-store");
    let (location, etag) = (first.header("location").to_owned(), first.header("etag").to_owned());
    let first = first.expect(201);
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    assert_eq!(reader.record(&first["key"]).unwrap().key_id, first["id"].as_str().unwrap());
    let reordered = json!({"expires_at": "2027-01-15T08:00:10Z", "owner": "acme", "name": "a"});
    let again = create(&client, &format!("\"{KEY}\""), reordered);
    assert_eq!((again.header("location"), again.header("etag")), (&location[..], &etag[..]));
    assert_eq!(again.header("cache-control"), "no-store");
    assert_eq!(again.expect(201), first);
    // What would be said of it now does not matter: the expiry lies in the past by then.
    server.advance(seconds(10));
    let late = create(&client, KEY, request).expect(201);
    assert_eq!((&late["key"], &late["state"]), (&first["key"], &json!("expired")), "the rest is as it is now");
    assert_eq!(number_of_keys(&client), 1);
    assert!(!reader.read(0));
    let other = create(&client, "another-key-of-this-client", json!({"name": "a"})).expect(201);
    assert_ne!(other["key"], first["key"]);
}

#[test]
fn a_rotation_that_comes_again_is_answered_as_before_whatever_version_it_expects() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let created = client.create(json!({"name": "a"}));
    let rotate = format!("{}/rotate", path_of(&created));
    let headers = [("idempotency-key", KEY), ("if-match", "\"1\"")];
    let ask = || client.ask_with("POST", &rotate, &headers, Some(json!({"grace_s": 60})));
    let first = ask().expect(201);
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    assert_eq!(ask().expect(201), first);
    assert!(!reader.read(0));
    assert_eq!(first["secrets"].as_array().unwrap().len(), 2);
    client.ask("DELETE", &path_of(&created), None).expect(200);
    let again = ask().expect(201);
    assert_eq!((&again["key"], &again["state"]), (&first["key"], &json!("revoked")));
}

#[test]
fn a_refused_request_is_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    create(&client, KEY, json!({"name": ""})).expect(422);
    create(&client, KEY, json!({"name": "a", "plan": "pro"})).expect(422);
    create(&client, KEY, json!({"name": "a"})).expect(201);
}

#[test]
fn another_request_under_the_same_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = create(&client, KEY, json!({"name": "a"})).expect(201);
    let refused = create(&client, KEY, json!({"name": "b"})).expect(422);
    assert_eq!(refused["type"], "urn:keyward:problem:idempotency_key_reused");
    let rotate = client.ask_with("POST", &format!("{}/rotate", path_of(&key)), &[("idempotency-key", KEY)], None);
    assert_eq!(rotate.expect(422)["type"], "urn:keyward:problem:idempotency_key_reused");
    assert_eq!(number_of_keys(&client), 1);
}

#[test]
fn what_is_no_idempotency_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    for bad in ["", "short", "\"no end of the string", "two words of enough length"] {
        let problem = create(&client, bad, json!({"name": "a"})).expect(400);
        assert_eq!(problem["type"], "urn:keyward:problem:invalid_idempotency_key", "{bad}");
    }
    let twice = [("idempotency-key", KEY), ("idempotency-key", KEY)];
    client.ask_with("POST", "/v1/keys", &twice, Some(json!({"name": "a"}))).expect(400);
    assert_eq!(number_of_keys(&client), 0);
}

/// What twenty threads are answered that ask at once.
fn of_twenty(ask: impl Fn() -> Value + Clone + Send + 'static) -> Vec<Value> {
    let start = Arc::new(Barrier::new(20));
    let threads: Vec<_> = (0..20)
        .map(|_| {
            let (ask, start) = (ask.clone(), Arc::clone(&start));
            std::thread::spawn(move || {
                start.wait();
                ask()
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn twenty_at_once_make_one_key_or_one_secret_and_are_answered_alike() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let creating = client.clone();
    let created = of_twenty(move || create(&creating, KEY, json!({"name": "a"})).expect(201));
    assert!(created.iter().all(|answer| answer == &created[0]));
    assert_eq!(number_of_keys(&client), 1);
    let (rotating, rotate) = (client.clone(), format!("{}/rotate", path_of(&created[0])));
    let headers = [("idempotency-key", "another-key-of-this-client")];
    let rotated = of_twenty(move || rotating.ask_with("POST", &rotate, &headers, None).expect(201));
    assert!(rotated.iter().all(|answer| answer == &rotated[0]));
    assert_eq!(client.get(&path_of(&created[0])).expect(200)["secrets"].as_array().unwrap().len(), 2);
}

#[test]
fn a_day_later_it_is_a_new_request() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let first = create(&client, KEY, json!({"name": "a"})).expect(201);
    server.advance(seconds(86_400) - 1);
    assert_eq!(create(&client, KEY, json!({"name": "a"})).expect(201)["key"], first["key"]);
    server.advance(1);
    let second = create(&client, KEY, json!({"name": "other words"})).expect(201);
    assert_ne!(second["key"], first["key"]);
    assert_eq!(create(&client, KEY, json!({"name": "other words"})).expect(201), second);
}

#[test]
fn a_secret_that_is_kept_as_a_password_hash_is_drawn_again_and_known_by_its_selector() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start_of("auxot", dir.path(), NOW_MS, RETENTION_INTERVAL);
    let request = || json!({"name": "a", "kind": "user", "owner": "ann"});
    let first = create(&server.client(), KEY, request()).expect(201);
    assert_eq!(create(&server.client(), KEY, request()).expect(201), first);
    server.stop();
    std::fs::remove_file(dir.path().join("pepper")).unwrap();
    let server = TestServer::start_of("auxot", dir.path(), NOW_MS, RETENTION_INTERVAL);
    create(&server.client(), KEY, request()).expect(409);
}

#[test]
fn with_another_pepper_no_plaintext_can_be_drawn_again_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let first = create(&server.client(), KEY, json!({"name": "a"})).expect(201);
    server.stop();
    let server = TestServer::start(dir.path());
    assert_eq!(create(&server.client(), KEY, json!({"name": "a"})).expect(201), first, "the file is read again");
    server.stop();
    std::fs::remove_file(dir.path().join("pepper")).unwrap();
    let server = TestServer::start(dir.path());
    let problem = create(&server.client(), KEY, json!({"name": "a"})).expect(409);
    assert_eq!(problem["type"], "urn:keyward:problem:cannot_repeat");
    assert_eq!(number_of_keys(&server.client()), 1);
}

#[test]
fn neither_the_plaintext_nor_the_idempotency_key_is_in_the_files_or_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), "trace");
    let client = Client::new(&process.url, dir.path());
    let created = create(&client, KEY, json!({"name": "a"})).expect(201);
    create(&client, KEY, json!({"name": "a"})).expect(201);
    create(&client, KEY, json!({"name": "b"})).expect(422);
    let files = stored(dir.path());
    process.signal("TERM");
    process.wait();
    let log = process.log();
    for secret in [&created["key"].as_str().unwrap()[12..], KEY] {
        assert!(!contains(&files, secret) && !contains(&stored(dir.path()), secret) && !log.contains(secret));
    }
    let pepper = std::fs::read_to_string(dir.path().join("pepper")).unwrap();
    assert!(!log.contains(pepper.trim()));
}
