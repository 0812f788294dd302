//! The API's description: served to whoever asks, and true of the server in what every operation has in common.

use crate::harness::{TestServer, program, stdout};
use serde_json::Value;
use ureq::http::Request;

/// Every operation that the server tells of: method, path with an id in it, and what is said of it.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, said) in item.as_object().unwrap() {
            operations.push((method.to_uppercase(), path.replace("{id}", "key_1"), said.clone()));
        }
    }
    operations
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
fn an_operation_asks_for_a_token_if_and_only_if_it_is_said_to() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let mut secured = 0;
    for (method, path, said) in operations(&client.get("/v1/openapi.json").expect(200)) {
        let scheme = said["security"][0].as_object().map(|scheme| scheme.keys().next().unwrap().as_str());
        let (right, wrong) = match scheme {
            Some("operator") => (&client.admin, &client.edge),
            Some("edge") => (&client.edge, &client.admin),
            Some(other) => panic!("{other}"),
            None => {
                assert_eq!(client.send(&method, &path, None, None).status, 200, "{method} {path}");
                continue;
            }
        };
        secured += 1;
        for token in [None, Some(wrong.as_str())] {
            assert_eq!(client.send(&method, &path, token, None).status, 401, "{method} {path}");
        }
        assert_ne!(client.send(&method, &path, Some(right), None).status, 401, "{method} {path}");
    }
    assert!(secured > 5);
}

#[test]
fn a_body_by_another_name_than_json_is_refused_wherever_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let document = client.get("/v1/openapi.json").expect(200);
    let with_body: Vec<_> =
        operations(&document).into_iter().filter(|(_, _, said)| !said["requestBody"].is_null()).collect();
    assert!(with_body.len() > 2);
    for (method, path, _) in with_body {
        for (media_type, refused) in [
            (Some("text/plain"), true),
            (Some("application/x-www-form-urlencoded"), true),
            (Some("application/jsonp"), true),
            (Some("application/json"), false),
            (Some("Application/JSON ; charset=utf-8"), false),
            (None, false),
        ] {
            let mut request = Request::builder().method(&*method).uri(format!("{}{path}", client.url));
            request = request.header("authorization", format!("Bearer {}", client.admin));
            if let Some(media_type) = media_type {
                request = request.header("content-type", media_type);
            }
            let answer = client.run(request.body(b"{}".to_vec()).unwrap());
            assert_eq!(answer.status == 415, refused, "{method} {path} {media_type:?}");
        }
    }
}
