//! Owners over the API, and what the edges hear of them.

use crate::harness::{Reader, TestServer};
use keyward_contract::digest::Digest;
use keyward_contract::entry::{Body, Frames, OwnerRecord};
use keyward_contract::page::Page;
use serde_json::{Value, json};

#[test]
fn an_owner_is_known_once_a_key_names_it_and_before_that_key() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    client.get("/v1/owners/acme").expect(404);
    client.ask("PATCH", "/v1/owners/acme", Some(json!({"disabled": true}))).expect(404);
    let key = client.create(json!({"name": "a", "owner": "acme"}));
    let owner = client.get("/v1/owners/acme").expect(200);
    assert_eq!((&owner["disabled"], &owner["permissions"]), (&json!(false), &Value::Null));
    let bytes = client.feed(reader.position, 0);
    let subjects: Vec<_> =
        Frames::new(Page::decode(&bytes).unwrap().entries).map(|frame| frame.unwrap().subject).collect();
    assert_eq!(subjects, [Digest::of_owner("acme"), Digest::of_key(key["key"].as_str().unwrap().as_bytes())]);
}

#[test]
fn a_change_of_an_owner_is_one_entry_and_leaves_out_what_was_not_said() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    for name in ["a", "b", "c"] {
        client.create(json!({"name": name, "owner": "team/ops%1"}));
    }
    let path = "/v1/owners/team%2Fops%251";
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    let change = |document| client.ask("PATCH", path, Some(document)).expect(200);
    change(json!({"permissions": ["read", "write"]}));
    assert_eq!(change(json!({"disabled": true}))["permissions"], json!(["read", "write"]));
    let entries = client.feed(reader.position, 0);
    assert_eq!(Frames::new(Page::decode(&entries).unwrap().entries).count(), 1);
    reader.catch_up();
    let permissions = Some(vec!["read".to_owned(), "write".to_owned()]);
    let known = &reader.known[&Digest::of_owner("team/ops%1")].1;
    assert_eq!(known, &Body::Owner(OwnerRecord { disabled: true, permissions }));
    change(json!({"disabled": true}));
    assert!(!reader.read(0), "what changes nothing tells the edges nothing");
    change(json!({"disabled": false, "permissions": null}));
    reader.catch_up();
    let known = &reader.known[&Digest::of_owner("team/ops%1")].1;
    assert_eq!(known, &Body::Owner(OwnerRecord { disabled: false, permissions: None }));
}

#[test]
fn all_mistakes_of_a_change_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let change = json!({"disabled": "yes", "permissions": ["a b"], "name": "x"});
    let problem = server.client().ask("PATCH", "/v1/owners/acme", Some(change)).expect(422);
    assert_eq!(problem["errors"].as_array().unwrap().len(), 3);
}
