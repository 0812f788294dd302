//! Owners over the API, and what the edges hear of them.

use crate::harness::{Reader, TestServer, fields, path_of};
use keyward_core::key::digest::Digest;
use keyward_core::wire::entry::{Body, Frames, OwnerRecord};
use keyward_core::wire::page::Page;
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

#[test]
fn an_owner_is_made_and_replaced_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let put = |document| client.ask("PUT", "/v1/owners/acme", Some(document));
    let made = put(json!({"kind": "organization", "permissions": ["read"]})).expect(201);
    assert_eq!(
        (&made["kind"], &made["disabled"], &made["permissions"]),
        (&json!("organization"), &json!(false), &json!(["read"]))
    );
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    let known = |reader: &Reader| reader.known[&Digest::of_owner("acme")].1.clone();
    assert_eq!(known(&reader), Body::Owner(OwnerRecord { disabled: false, permissions: Some(vec!["read".into()]) }));
    let replaced = put(json!({"disabled": true})).expect(200);
    assert_eq!((&replaced["kind"], &replaced["permissions"]), (&Value::Null, &Value::Null));
    reader.catch_up();
    assert_eq!(known(&reader), Body::Owner(OwnerRecord { disabled: true, permissions: None }));
    let same = put(json!({"disabled": true}));
    assert_eq!((same.status, same.header("etag")), (200, "\"2\""));
    client.ask("PATCH", "/v1/owners/acme", Some(json!({"kind": "team"}))).expect(200);
    assert!(!reader.read(0), "neither is anything to the edges");
    assert_eq!(client.get("/v1/owners/acme").expect(200)["kind"], "team");
    let problem = client.ask("PUT", "/v1/owners/two%20words", Some(json!({"kind": "robot"}))).expect(422);
    assert_eq!(fields(&problem), ["id", "kind"]);
}

#[test]
fn owners_are_listed_by_id_in_pages_and_by_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    for (id, document) in [
        ("b", json!({"kind": "team"})),
        ("a", json!({"kind": "user", "disabled": true})),
        ("d", json!({"disabled": true})),
        ("c", json!({"kind": "team", "disabled": true})),
    ] {
        client.ask("PUT", &format!("/v1/owners/{id}"), Some(document)).expect(201);
    }
    let page = |query: &str| client.get(&format!("/v1/owners{query}")).expect(200);
    let ids = |page: &Value| {
        let owners = page["owners"].as_array().unwrap();
        owners.iter().map(|owner| owner["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = page("?limit=3");
    assert_eq!((ids(&first), &first["next"]), (vec!["a".into(), "b".into(), "c".into()], &json!("c")));
    let rest = page("?limit=3&after=c");
    assert_eq!((ids(&rest), &rest["next"]), (vec!["d".into()], &Value::Null));
    assert_eq!(ids(&page("?kind=team")), ["b", "c"]);
    assert_eq!(ids(&page("?disabled=true")), ["a", "c", "d"]);
    assert_eq!(ids(&page("?disabled=false")), ["b"]);
    assert_eq!(ids(&page("?kind=team&disabled=true")), ["c"]);
    let problem = client.get("/v1/owners?kind=robot&disabled=maybe&limit=0").expect(400);
    assert_eq!(fields(&problem).len(), 3);
}

#[test]
fn all_keys_of_an_owner_or_of_one_member_are_revoked_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let create = |owner: &str, member: &str| client.create(json!({"name": "a", "owner": owner, "member": member}));
    let (ann, bob, other) = (create("acme", "ann"), create("acme", "bob"), create("globex", "ann"));
    let ended = client.create(json!({"name": "a", "owner": "acme", "expires_in_s": 1}));
    client.ask("POST", &format!("{}/rotate", path_of(&ann)), None).expect(201);
    server.advance(1000);
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    let revoke = |document| client.ask("POST", "/v1/owners/acme/revoke-keys", document).expect(200);
    assert_eq!(revoke(Some(json!({"member": "nobody"}))), json!({"revoked": 0}));
    assert!(!reader.read(0));
    assert_eq!(revoke(Some(json!({"member": "ann"}))), json!({"revoked": 1}));
    let page = client.feed(reader.position, 0);
    assert_eq!(Frames::new(Page::decode(&page).unwrap().entries).count(), 2, "both secrets of the key");
    reader.catch_up();
    let revoked = |reader: &Reader, key: &Value| reader.record(&key["key"]).unwrap().revoked_at_ms.is_some();
    assert_eq!((revoked(&reader, &ann), revoked(&reader, &bob)), (true, false));
    assert_eq!(revoke(None), json!({"revoked": 1}));
    reader.catch_up();
    assert_eq!((revoked(&reader, &bob), revoked(&reader, &other)), (true, false));
    assert_eq!(client.get(&path_of(&ended)).expect(200)["state"], "expired");
    assert_eq!(client.get(&path_of(&bob)).header("etag"), "\"2\"");
    client.ask("POST", "/v1/owners/nobody/revoke-keys", None).expect(404);
    client.ask("POST", "/v1/owners/acme/revoke-keys", Some(json!({"member": "two words"}))).expect(422);
    let log = client.get(&format!("/v1/audit?subject={}", bob["id"].as_str().unwrap())).expect(200);
    assert_eq!(log["entries"][0]["action"], "key.revoked");
    let log = client.get("/v1/audit?subject=acme").expect(200);
    assert_eq!(
        (&log["entries"][1]["action"], &log["entries"][1]["details"]),
        (&json!("owner.keys_revoked"), &json!({"member": "ann", "revoked": 1}))
    );
}
