//! The API's description: served to whoever asks, and true of the server in what every operation has in common.

use crate::harness::{Client, NOW_MS, TestServer, program, stdout};
use keyward_server::keys::github::GithubKeys;
use keyward_server::serve::SelfService;
use serde_json::{Value, json};
use std::path::Path;

/// A public key for nothing else than asking whether signatures are asked for.
const GITHUB_KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/api/github-keys.json");

/// A server with everything that has to be configured.
fn started(data_dir: &Path) -> TestServer {
    TestServer::start_as(data_dir, NOW_MS, |config| {
        config.self_service = Some(SelfService { scope: None });
        config.leaks.github_keys = Some(GithubKeys::load(Path::new(GITHUB_KEYS)).unwrap());
    })
}

/// Every operation that the server tells of: method, path with ids in it, and what is said of it.
fn operations(client: &Client) -> Vec<(String, String, Value)> {
    let mut operations = Vec::new();
    for (path, item) in client.get("/v1/openapi.json").expect(200)["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "key_1").replace("{secret_id}", "sec_1");
        assert!(!path.contains('{'), "{path}");
        for (method, said) in item.as_object().unwrap() {
            operations.push((method.to_uppercase(), path.clone(), said.clone()));
        }
    }
    operations
}

/// What the operation asks for: a token of operators, of edges, a key, or a signature.
fn caller(said: &Value) -> Option<&str> {
    said["security"][0].as_object().map(|scheme| scheme.keys().next().unwrap().as_str())
}

#[test]
fn the_description_is_served_without_a_token_and_printed_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let answer = client.send("GET", "/v1/openapi.json", None, None);
    assert_eq!(answer.header("content-type"), "application/json");
    let text = String::from_utf8(answer.body.clone()).unwrap();
    assert!(!text.contains(&client.admin) && !text.contains(&client.edge));
    let printed = program().arg("openapi").output().unwrap();
    assert_eq!(serde_json::from_str::<Value>(stdout(&printed)).unwrap(), answer.expect(200));
}

#[test]
fn an_operation_asks_for_a_credential_if_and_only_if_it_is_said_to() {
    let dir = tempfile::tempdir().unwrap();
    let server = started(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a", "owner": "acme"}))["key"].as_str().unwrap().to_owned();
    let mut secured = 0;
    for (method, path, said) in operations(&client) {
        let (right, wrong) = match caller(&said) {
            Some("operator") => (Some(&client.admin), [&client.edge, &key]),
            Some("edge") => (Some(&client.edge), [&client.admin, &key]),
            Some("user") => (Some(&key), [&client.admin, &client.edge]),
            // Only GitHub can sign.
            Some("github") => (None, [&client.admin, &key]),
            Some(other) => panic!("{other}"),
            None => {
                assert_eq!(client.send(&method, &path, None, None).status, 200, "{method} {path}");
                continue;
            }
        };
        secured += 1;
        // A minute later, nobody remembers the bad ones.
        server.advance(60_000);
        for token in wrong.map(|token| Some(token.as_str())).into_iter().chain([None]) {
            assert_eq!(client.send(&method, &path, token, None).status, 401, "{method} {path}");
        }
        if let Some(right) = right {
            assert_ne!(client.send(&method, &path, Some(right), None).status, 401, "{method} {path}");
        }
    }
    assert!(secured > 30, "{secured}");
}

#[test]
fn a_body_by_another_name_than_json_is_refused_wherever_it_is_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let server = started(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a", "owner": "acme"}))["key"].as_str().unwrap().to_owned();
    let takes_json = |said: &Value| {
        !said["requestBody"]["content"]["application/json"].is_null() && !said["responses"]["415"].is_null()
    };
    let with_body: Vec<_> = operations(&client).into_iter().filter(|(_, _, said)| takes_json(said)).collect();
    assert!(with_body.len() > 10, "{}", with_body.len());
    for (method, path, said) in with_body {
        let token = if caller(&said) == Some("user") { &key } else { &client.admin };
        let authorization = format!("Bearer {token}");
        for (media_type, refused) in [
            (Some("text/plain"), true),
            (Some("application/x-www-form-urlencoded"), true),
            (Some("application/jsonp"), true),
            (Some("application/json"), false),
            (Some("Application/JSON ; charset=utf-8"), false),
            (Some("application/merge-patch+json; charset=utf-8"), method != "PATCH"),
            (None, false),
        ] {
            let mut fields = vec![("authorization", authorization.as_str())];
            fields.extend(media_type.map(|media_type| ("content-type", media_type)));
            let answer = client.send_with(&method, &path, &fields, Some(b"{}".to_vec()));
            assert_eq!(answer.status == 415, refused, "{method} {path} {media_type:?}");
            if let Some(media_type) = media_type.filter(|_| refused) {
                let name = media_type.split(';').next().unwrap();
                let detail = answer.json()["detail"].as_str().unwrap().to_owned();
                assert!(detail.ends_with(&format!("got {name}")), "{detail}");
            }
        }
        let says_merge_patch = !said["requestBody"]["content"]["application/merge-patch+json"].is_null();
        assert_eq!(says_merge_patch, method == "PATCH", "{method} {path}");
    }
}
