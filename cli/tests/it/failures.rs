//! What becomes of those who show bad tokens.

use crate::harness::{Answer, Client, NOW_MS, Process, TestServer, hide_tokens, seconds};
use keyward_core::FEED_PATH;
use serde_json::json;

fn guess(client: &Client, n: usize) -> Answer {
    client.send("GET", "/v1/keys", Some(&format!("kwa_{n:043}")), None)
}

#[test]
fn after_ten_bad_tokens_of_an_address_more_are_told_when_to_come_back_and_good_ones_work() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let made = |role| client.ask("POST", "/v1/tokens", Some(json!({"name": "n", "role": role}))).expect(201);
    let [before, edge] = ["viewer", "edge"].map(made);
    for n in 0..10 {
        assert_eq!(guess(&client, n).status, 401, "{n}");
        server.advance(seconds(1));
    }
    for (wait, retry_after) in [(0, "50"), (500, "50"), (500, "49"), (seconds(48), "1")] {
        server.advance(wait);
        let refused = guess(&client, 99);
        assert_eq!(refused.header("retry-after"), retry_after);
        assert_eq!(refused.expect(429)["type"], "urn:keyward:problem:too_many_failures");
    }
    assert_eq!(client.send("GET", "/v1/keys", Some("garbage"), None).status, 429);
    let after = made("viewer");
    for (path, token) in [("/v1/keys", &before), ("/v1/keys", &after), (FEED_PATH, &edge)] {
        assert_eq!(client.send("GET", path, token["token"].as_str(), None).status, 200, "{path}");
    }
    client.get("/v1/keys").expect(200);
    client.ask("DELETE", &format!("/v1/tokens/{}", before["id"].as_str().unwrap()), None).expect(200);
    assert_eq!(client.send("GET", "/v1/keys", before["token"].as_str(), None).status, 429);
    assert_eq!(client.send("GET", "/v1/keys", None, None).status, 401, "no token is no guess");

    server.advance(seconds(1));
    assert_eq!(guess(&client, 100).status, 401, "as it was told");
}

#[test]
fn the_bad_tokens_of_a_suspect_are_not_looked_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    for n in 0..9 {
        assert_eq!(guess(&client, n).status, 401);
    }
    hide_tokens(dir.path());
    assert_eq!(guess(&client, 9).status, 500, "this one was looked up");
    assert_eq!(client.send("GET", "/v1/keys", Some("garbage"), None).status, 401, "the tenth");
    assert_eq!(guess(&client, 10).status, 429);
    client.get("/v1/keys").expect(200);
}

#[test]
fn a_good_token_in_the_wrong_place_is_no_guess() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let edge = client.ask("POST", "/v1/tokens", Some(json!({"name": "n", "role": "edge"}))).expect(201);
    for _ in 0..20 {
        assert_eq!(client.send("GET", "/v1/keys", edge["token"].as_str(), None).status, 401);
        assert_eq!(client.send("GET", "/v1/keys", Some(&client.edge), None).status, 401);
    }
    assert_eq!(guess(&client, 1).status, 401);
}

#[test]
fn behind_a_trusted_proxy_each_client_is_counted_and_behind_another_they_are_one() {
    for trusted in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let server = TestServer::start_as(dir.path(), NOW_MS, |config| {
            config.trusted_proxies = if trusted { vec!["127.0.0.0/8".parse().unwrap()] } else { Vec::new() };
        });
        let client = server.client();
        let from = |address: &str| {
            let fields = [("authorization", "Bearer garbage"), ("x-forwarded-for", address)];
            client.send_with("GET", "/v1/keys", &fields, None).status
        };
        for n in 0..10 {
            assert_eq!(from(&format!("203.0.113.{n}, 192.0.2.1")), 401);
        }
        assert_eq!(from("192.0.2.1"), 429);
        assert_eq!(from("192.0.2.2"), if trusted { 401 } else { 429 });
    }
}

#[test]
fn an_address_is_logged_once_a_window_and_its_tokens_never() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), "info");
    let client = Client::new(&process.url, dir.path());
    for n in 0..15 {
        guess(&client, n);
    }
    process.signal("TERM");
    process.wait();
    let log = process.log();
    assert_eq!(log.matches("too many failed authentications").count(), 1, "{log}");
    assert!(log.contains("client=127.0.0.1") && !log.contains("kwa_"), "{log}");
}
