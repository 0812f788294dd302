//! The audit log over the API: who did what.

use crate::harness::{TestServer, path_of};
use serde_json::{Value, json};

fn actions(page: &Value) -> Vec<&str> {
    page["entries"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect()
}

#[test]
fn every_change_is_in_the_log_with_what_it_changed_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    client.ask("PUT", "/v1/plans/pro", Some(json!({"limits": ["1/s"]}))).expect(201);
    client.ask("PUT", "/v1/plans/pro", Some(json!({"limits": ["2/s"]}))).expect(200);
    let key = client.create(json!({"name": "a", "owner": "acme", "metadata": {"note": "private words"}}));
    client.ask("PATCH", "/v1/owners/acme", Some(json!({"disabled": true}))).expect(200);
    let change = json!({"name": "b", "plan": "pro", "metadata": {"note": "other private words", "more": "x"}});
    client.ask("PATCH", &path_of(&key), Some(change)).expect(200);
    let rotated = client.ask("POST", &format!("{}/rotate", path_of(&key)), None).expect(201);
    let first = rotated["secrets"].as_array().unwrap().iter().find(|secret| !secret["not_after"].is_null()).unwrap();
    let first = first["id"].as_str().unwrap();
    client.ask("DELETE", &format!("{}/secrets/{first}", path_of(&key)), None).expect(200);
    client.ask("PATCH", &path_of(&key), Some(json!({"plan": null}))).expect(200);
    client.ask("DELETE", "/v1/plans/pro", None);
    client.ask("DELETE", &path_of(&key), None).expect(200);
    let answer = client.get("/v1/audit");
    for secret in [&key["key"], &rotated["key"], &json!("private words")] {
        assert!(!crate::harness::contains(&answer.body, secret.as_str().unwrap()));
    }
    let log = answer.expect(200);
    assert_eq!(
        actions(&log),
        [
            "key.revoked",
            "plan.deleted",
            "key.changed",
            "key.secret_ended",
            "key.rotated",
            "key.changed",
            "owner.changed",
            "key.created",
            "owner.created",
            "plan.changed",
            "plan.created",
        ]
    );
    let entry = |n: usize| (&log["entries"][n]["subject"], &log["entries"][n]["details"]);
    assert_eq!(entry(3), (&key["id"], &json!({"secret": first})));
    let changed =
        json!({"name": {"old": "a", "new": "b"}, "plan": {"old": null, "new": "pro"}, "metadata": ["more", "note"]});
    assert_eq!(entry(5), (&key["id"], &changed));
    assert_eq!(entry(6), (&json!("acme"), &json!({"disabled": {"old": false, "new": true}})));
    let changed = json!({"limits": {"old": ["1/s"], "new": ["2/s"]}});
    assert_eq!(entry(9), (&json!("pro"), &changed));
    assert_eq!(
        (&log["entries"][0]["sequence"], &log["entries"][0]["at"], &log["entries"][0]["actor"]),
        (&json!(11), &json!("2027-01-15T08:00:00.000Z"), &json!("token-file"))
    );
}

#[test]
fn the_log_has_pages_and_can_be_asked_for_one_subject() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a"}));
    for n in 0..4 {
        client.create(json!({"name": format!("{n}")}));
    }
    client.ask("DELETE", &path_of(&key), None).expect(200);
    let page = client.get("/v1/audit?limit=4").expect(200);
    assert_eq!((actions(&page).len(), &page["next"]), (4, &json!(3)));
    let rest = client.get("/v1/audit?limit=4&before=3").expect(200);
    assert_eq!((actions(&rest).len(), &rest["next"]), (2, &Value::Null));
    let of_key = client.get(&format!("/v1/audit?subject={}", key["id"].as_str().unwrap())).expect(200);
    assert_eq!(actions(&of_key), ["key.revoked", "key.created"]);
    let problem = client.get("/v1/audit?limit=x&before=-1&since=3").expect(400);
    assert_eq!(problem["errors"].as_array().unwrap().len(), 3);
}
