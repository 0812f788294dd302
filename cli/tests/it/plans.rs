//! Plans over the API, and what the edges hear of them.

use crate::harness::{NOW_MS, Reader, TestServer, fields, path_of, seconds, until};
use keyward_core::key::digest::Digest;
use keyward_core::wire::entry::{Body, Frames, PlanRecord};
use keyward_core::wire::page::Page;
use serde_json::{Value, json};
use std::time::Duration;

fn plan(limits: &[&str]) -> Body {
    let limits: Vec<_> = limits.iter().map(|limit| limit.parse().unwrap()).collect();
    let limits = (!limits.is_empty()).then(|| keyward_core::key::limit::Limits::new(limits).unwrap());
    Body::Plan(PlanRecord { limits })
}

#[test]
fn a_plan_is_told_before_its_keys_and_a_change_of_it_is_one_entry() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    let put = |document| client.ask("PUT", "/v1/plans/pro", Some(document));
    let made = put(json!({"limits": ["200/min", "10/s"], "credits": 1000})).expect(201);
    assert_eq!((&made["limits"], &made["credits"]), (&json!(["10/s", "200/min"]), &json!(1000)));
    let keys: Vec<_> = (0..3).map(|n| client.create(json!({"name": format!("{n}"), "plan": "pro"}))).collect();
    let bytes = client.feed(reader.position, 0);
    let first = Frames::new(Page::decode(&bytes).unwrap().entries).next().unwrap().unwrap();
    assert_eq!(first.subject, Digest::of_plan("pro"));
    reader.catch_up();
    assert_eq!(reader.known[&Digest::of_plan("pro")].1, plan(&["10/s", "200/min"]));
    for key in &keys {
        let record = reader.record(&key["key"]).unwrap();
        assert_eq!((record.plan.as_deref(), &record.limits), (Some("pro"), &None));
    }

    put(json!({"limits": ["5/s"], "credits": 1000})).expect(200);
    let bytes = client.feed(reader.position, 0);
    assert_eq!(Frames::new(Page::decode(&bytes).unwrap().entries).count(), 1);
    reader.catch_up();
    assert_eq!(reader.known[&Digest::of_plan("pro")].1, plan(&["5/s"]));
    assert_eq!(put(json!({"limits": ["5/s"], "credits": 7})).header("etag"), "\"3\"");
    assert_eq!(put(json!({"limits": ["5/s"], "credits": 7})).header("etag"), "\"3\"", "nothing has changed");
    assert!(!reader.read(0), "with what later keys begin is nothing to the edges");
    assert_eq!(client.get(&path_of(&keys[0])).expect(200)["credits"], 1000);
    assert_eq!(client.create(json!({"name": "later", "plan": "pro"}))["credits"], 7);
    let problem = client.ask("PUT", "/v1/plans/two%20words", Some(json!({"limits": ["often"]}))).expect(422);
    assert_eq!(fields(&problem), ["id", "limits[0]"]);
}

#[test]
fn a_plan_goes_once_no_key_is_on_it_and_the_edges_hear_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    client.ask("PUT", "/v1/plans/pro", None).expect(201);
    let key = client.create(json!({"name": "a", "plan": "pro"}));
    let delete = || client.ask("DELETE", "/v1/plans/pro", None);
    let problem = delete().expect(409);
    assert!(problem["detail"].as_str().unwrap().contains("edges know 1 of its keys"), "{problem}");
    client.ask("PATCH", &path_of(&key), Some(json!({"plan": null}))).expect(200);
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    assert_eq!(reader.record(&key["key"]).unwrap().plan, None);
    assert!(reader.known.contains_key(&Digest::of_plan("pro")));
    assert_eq!(delete().status, 204);
    reader.catch_up();
    assert!(!reader.known.contains_key(&Digest::of_plan("pro")));
    delete().expect(404);
    client.get("/v1/plans/pro").expect(404);
    client.ask("PUT", "/v1/plans/pro", Some(json!({"limits": ["1/s"]}))).expect(201);
    reader.catch_up();
    assert_eq!(reader.known[&Digest::of_plan("pro")].1, plan(&["1/s"]));
}

#[test]
fn a_revoked_key_keeps_its_plan_there_until_the_edges_have_forgotten_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    client.ask("PUT", "/v1/plans/pro", None).expect(201);
    let key = client.create(json!({"name": "a", "plan": "pro"}));
    client.ask("DELETE", &path_of(&key), None).expect(200);
    client.ask("DELETE", "/v1/plans/pro", None).expect(409);
    server.stop();
    let server = TestServer::start_with(dir.path(), NOW_MS + seconds(31 * 86_400), Duration::from_millis(10));
    let client = server.client();
    until(|| client.ask("DELETE", "/v1/plans/pro", None).status == 204);
    assert_eq!(client.get(&path_of(&key)).expect(200)["plan"], Value::Null);
    let log = client.get("/v1/audit?subject=pro&limit=1").expect(200);
    assert_eq!(log["entries"][0]["details"], json!({"ended_keys": 1}));
}

#[test]
fn plans_are_listed_by_id_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    for id in ["b", "a", "c%2Fd"] {
        client.ask("PUT", &format!("/v1/plans/{id}"), None).expect(201);
    }
    let page = client.get("/v1/plans?limit=2").expect(200);
    assert_eq!(
        (&page["plans"][0]["id"], &page["plans"][1]["id"], &page["next"]),
        (&json!("a"), &json!("b"), &json!("b"))
    );
    let page = client.get("/v1/plans?limit=2&after=b").expect(200);
    assert_eq!((&page["plans"][0]["id"], &page["next"]), (&json!("c/d"), &Value::Null));
    assert_eq!(client.get("/v1/plans/c%2Fd").expect(200)["limits"], Value::Null);
}
