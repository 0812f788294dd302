//! What every route has in common: tokens, problem documents, limits.

use crate::harness::{TestServer, seconds};
use keyward_core::FEED_PATH;

#[test]
fn no_route_with_keys_answers_without_the_right_token() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let for_admins = [
        ("GET", "/v1/keys"),
        ("POST", "/v1/keys"),
        ("GET", "/v1/keys/key_1"),
        ("PATCH", "/v1/keys/key_1"),
        ("DELETE", "/v1/keys/key_1"),
        ("DELETE", "/v1/keys/key_1/secrets/sec_1"),
        ("POST", "/v1/keys/key_1/rotate"),
        ("GET", "/v1/owners"),
        ("GET", "/v1/owners/acme"),
        ("PUT", "/v1/owners/acme"),
        ("POST", "/v1/owners/acme/revoke-keys"),
        ("GET", "/v1/plans"),
        ("GET", "/v1/plans/pro"),
        ("PUT", "/v1/plans/pro"),
        ("DELETE", "/v1/plans/pro"),
        ("GET", "/v1/audit"),
        ("PATCH", "/v1/owners/acme"),
        ("GET", "/v1/tokens"),
        ("POST", "/v1/tokens"),
        ("GET", "/v1/tokens/tok_1"),
        ("DELETE", "/v1/tokens/tok_1"),
    ];
    let unknown = "kwa_0000000000000000000000000000000000000000000";
    for (method, path, others) in for_admins.map(|(method, path)| (method, path, &client.edge)).into_iter().chain([(
        "GET",
        FEED_PATH,
        &client.admin,
    )]) {
        // So many bad tokens would be too many for a minute.
        server.advance(seconds(60));
        for (token, challenge) in [
            (None, "Bearer realm=\"keyward\""),
            (Some(unknown), "Bearer realm=\"keyward\", error=\"invalid_token\""),
            (Some(others.as_str()), "Bearer realm=\"keyward\", error=\"invalid_token\""),
        ] {
            let answer = client.send(method, path, token, None);
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, challenge), "{method} {path}");
            assert_eq!(answer.header("content-type"), "application/problem+json");
            assert_eq!(answer.json()["status"], 401);
        }
    }
}

#[test]
fn whoever_shows_another_secret_than_a_token_of_that_kind_is_told_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = client.create(serde_json::json!({"name": "a"}))["key"].as_str().unwrap().to_owned();
    let token = |role: &str| {
        let token = serde_json::json!({"name": "a", "role": role});
        client.ask("POST", "/v1/tokens", Some(token)).expect(201)["token"].as_str().unwrap().to_owned()
    };
    for (path, shown, what) in [
        ("/v1/keys", client.edge.clone(), "expected an operator token, got an edge token"),
        ("/v1/keys", token("edge"), "expected an operator token, got an edge token"),
        ("/v1/keys", key.clone(), "expected an operator token, got an API key"),
        ("/v1/keys", "something-else".to_owned(), "invalid token"),
        (FEED_PATH, client.admin.clone(), "expected an edge token, got an operator token"),
        (FEED_PATH, token("viewer"), "expected an edge token, got an operator token"),
        (FEED_PATH, key, "expected an edge token, got an API key"),
    ] {
        let answer = client.send("GET", path, Some(&shown), None);
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"keyward\", error=\"invalid_token\"");
        let problem = answer.expect(401);
        let detail = problem["detail"].as_str().unwrap();
        assert!(problem["type"] == "urn:keyward:problem:unauthorized" && detail.starts_with(what), "{detail}");
    }
}

#[test]
fn whoever_asks_is_told_that_the_process_lives_and_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(client.send("GET", path, None, None).status, 200);
    }
}

#[test]
fn every_refusal_is_a_problem_document() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let too_large = format!("{{\"name\":\"{}\"}}", "a".repeat(64 << 10)).into_bytes();
    for (method, path, body, status) in [
        ("GET", "/nowhere", None, 404),
        ("GET", "/v1/keys/%ff", None, 404),
        ("GET", "/v1/keys/%00", None, 404),
        ("PATCH", "/v1/owners/a%00b", Some(b"{}".to_vec()), 404),
        ("GET", "/v1/keys?after=%00", None, 400),
        ("GET", "/v1/keys?owner=%00", None, 400),
        ("GET", "/v1/keys?owner=%ff", None, 400),
        ("GET", "/v1/keys?limit=%2B5", None, 400),
        ("POST", "/v1/keys", Some(br#"{"name":"a\u0000"}"#.to_vec()), 422),
        ("DELETE", "/v1/keys/key_1/secrets/%ff", None, 404),
        ("DELETE", "/v1/keys/key_1/secrets/%00", None, 404),
        ("GET", "/v1/keys/key_unknown", None, 404),
        ("PUT", "/v1/keys", Some(b"{}".to_vec()), 405),
        ("DELETE", FEED_PATH, None, 405),
        ("POST", "/healthz", Some(b"{}".to_vec()), 405),
        ("POST", "/v1/keys", Some(b"{".to_vec()), 400),
        ("POST", "/v1/keys", Some(vec![0xff]), 400),
        ("POST", "/v1/keys", Some(b"[]".to_vec()), 422),
        ("POST", "/v1/keys", Some(too_large), 413),
    ] {
        let answer = client.send(method, path, Some(&client.admin), body);
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (status, "application/problem+json"),
            "{method} {path}"
        );
        let problem = answer.json();
        assert_eq!(problem["status"], status);
        for field in ["type", "title", "detail"] {
            assert!(!problem[field].as_str().unwrap().is_empty(), "{problem}");
        }
        assert_eq!(status == 405, !answer.header("allow").is_empty(), "{method} {path}");
    }
}
