//! The use of keys: told by edges, read by operators, and what follows where credits are used up.

use crate::harness::{Client, NOW_MS, Reader, TestServer, program, seconds, stderr, stdout, until};
use keyward_core::USAGE_PATH;
use keyward_core::wire::usage::{Batch, BatchId, KeyUsage, Receipt, Verdicts};
use serde_json::{Value, json};
use std::time::Duration;

fn fields(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect()
}

fn verdicts(counts: &[(&str, u64)]) -> Verdicts {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// What an edge tells of the newest secret of a key.
fn used(key: &Value, last_used_ms: Option<u64>, counts: &[(&str, u64)], credits: u64) -> KeyUsage {
    let secret = key["secrets"].as_array().unwrap().last().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (key_id, secret_id) = (text(&key["id"]), text(&secret["id"]));
    KeyUsage { key_id, secret_id, last_used_ms, verdicts: verdicts(counts), credits }
}

fn batch(id: u8, keys: Vec<KeyUsage>) -> Batch {
    Batch { id: BatchId([id; 16]), keys, others: Verdicts::new(), dropped: 0 }
}

fn tell(client: &Client, batch: &Batch) {
    let answer = client.send("POST", USAGE_PATH, Some(&client.edge), Some(batch.encode()));
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{answer:?}");
    assert_eq!(Receipt::decode(&answer.body), Ok(Receipt { interval_ms: 5000 }));
}

fn usage(client: &Client, key: &Value, query: &str) -> Value {
    client.get(&format!("/v1/keys/{}/usage{query}", key["id"].as_str().unwrap())).expect(200)
}

fn show(client: &Client, key: &Value) -> Value {
    client.get(&format!("/v1/keys/{}", key["id"].as_str().unwrap())).expect(200)
}

#[test]
fn what_edges_tell_is_read_by_key_by_hour_and_for_all() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let (one, other) = (client.create(json!({"name": "one"})), client.create(json!({"name": "other"})));
    assert_eq!((&one["last_used_at"], &one["secrets"][0]["last_used_at"]), (&Value::Null, &Value::Null));
    let before = NOW_MS - seconds(3600) - 1;
    let keys = vec![
        used(&one, Some(NOW_MS), &[("allow", 3), ("rate_limited", 1)], 3),
        used(&one, Some(before), &[("allow", 5)], 5),
        used(&other, None, &[("revoked", 4)], 0),
    ];
    tell(&client, &Batch { others: verdicts(&[("missing", 9), ("public", 7)]), ..batch(1, keys) });
    tell(&client, &batch(2, vec![used(&one, Some(before), &[("allow", 1)], 1)]));

    let told = usage(&client, &one, "");
    let (now, earlier) = ("2027-01-15T08:00:00.000Z", "2027-01-15T06:00:00.000Z");
    let hours = json!([{"hour": earlier, "verdicts": {"allow": 6}},
                       {"hour": now, "verdicts": {"allow": 3, "rate_limited": 1}}]);
    assert_eq!(
        told,
        json!({"key_id": one["id"], "from": "2027-01-14T09:00:00.000Z", "to": "2027-01-15T09:00:00.000Z",
               "totals": {"allow": 9, "rate_limited": 1}, "hours": hours})
    );
    assert_eq!(usage(&client, &one, "?to=2027-01-15T07:00:00Z")["totals"], json!({"allow": 6}));
    assert_eq!(
        usage(&client, &one, "?from=2027-01-15T09:30:00%2B02:00")["totals"],
        json!({"allow": 3, "rate_limited": 1})
    );
    let all = client.get("/v1/usage").expect(200);
    assert_eq!(all["keys"]["totals"], json!({"allow": 9, "rate_limited": 1, "revoked": 4}));
    assert_eq!(all["keys"]["hours"][0], hours[0]);
    assert_eq!(all["others"]["totals"], json!({"missing": 9, "public": 7}));
    assert_eq!(all["others"]["hours"][0]["hour"], now);

    let shown = show(&client, &one);
    assert_eq!((&shown["last_used_at"], &shown["spent"], &shown["credits"]), (&json!(now), &json!(9), &Value::Null));
    assert_eq!(shown["secrets"][0]["last_used_at"], now);
    assert_eq!(show(&client, &other)["last_used_at"], Value::Null, "a refused request is no use");
}

#[test]
fn a_batch_that_comes_twice_or_at_the_same_time_again_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a"}));
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (client, key) = (client.clone(), &key);
            scope.spawn(move || tell(&client, &batch(n % 2, vec![used(key, Some(NOW_MS - 1), &[("allow", 1)], 1)])));
        }
    });
    assert_eq!(usage(&client, &key, "")["totals"], json!({"allow": 2}));
    assert_eq!(show(&client, &key)["spent"], 2);
}

#[test]
fn a_key_that_has_gone_is_no_mistake_and_what_is_no_batch_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let gone = KeyUsage {
        key_id: "key_gone".into(),
        secret_id: "sec_gone".into(),
        last_used_ms: Some(NOW_MS),
        verdicts: verdicts(&[("allow", 1)]),
        credits: 1,
    };
    tell(&client, &batch(1, vec![gone.clone()]));
    assert_eq!(client.get("/v1/usage").expect(200)["keys"]["totals"], json!({}));
    client.get("/v1/keys/key_gone/usage").expect(404);

    let send = |token: &str, body: Vec<u8>| client.send("POST", USAGE_PATH, Some(token), Some(body));
    let mut too_many = batch(2, vec![gone; 101]);
    for body in [b"".to_vec(), b"{}".to_vec(), too_many.encode()] {
        let problem = send(&client.edge, body).expect(400);
        assert_eq!(problem["type"], "urn:keyward:problem:invalid_usage", "{problem}");
    }
    too_many.keys.clear();
    assert_eq!(send(&client.admin, too_many.encode()).status, 401, "only edges tell of usage");
    assert_eq!(client.send("GET", "/v1/usage", Some(&client.edge), None).status, 401, "and only operators read it");
}

#[test]
fn all_mistakes_of_a_span_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    for (query, expected) in [
        ("from=yesterday&to=1&colour=red", vec!["from", "to", "colour"]),
        ("from=2027-01-15T09:00:00Z", vec!["from"]),
        ("from=2026-12-15T07:59:59Z", vec!["from"]),
        ("from=2026-12-15T08:00:00Z", vec![]),
        ("to=2027-01-15T08:30:00Z&from=2026-12-15T08:30:00Z", vec![]),
    ] {
        let answer = client.get(&format!("/v1/usage?{query}"));
        if expected.is_empty() {
            answer.expect(200);
        } else {
            assert_eq!(fields(&answer.expect(400)), expected, "{query}");
        }
    }
}

#[test]
fn credits_that_are_used_up_reach_the_edges_and_more_of_them_do_too() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let create = |environment| client.create(json!({"name": "a", "environment": environment, "credits": 10}));
    let (live, test) = (create("live"), create("test"));
    let mut reader = Reader::new(client.clone());
    let mut exhausted = |key: &Value| {
        reader.catch_up();
        reader.record(&key["key"]).unwrap().credits_exhausted
    };
    let spend = |id: u8, credits| {
        let keys = [&live, &test].map(|key| used(key, Some(NOW_MS), &[("allow", 1)], credits));
        tell(&client, &batch(id, keys.into()));
    };
    spend(1, 9);
    assert!(!exhausted(&live));
    spend(2, 1);
    assert!(exhausted(&live) && !exhausted(&test));
    let shown = show(&client, &live);
    assert_eq!((&shown["credits"], &shown["spent"], &shown["state"]), (&json!(10), &json!(10), &json!("active")));
    assert_eq!(show(&client, &test)["spent"], 0, "a test key spends nothing");

    let path = format!("/v1/keys/{}", live["id"].as_str().unwrap());
    client.ask("PATCH", &path, Some(json!({"credits": 11}))).expect(200);
    assert!(!exhausted(&live));
}

/// Reports of an edge whose token was stolen, and of another.
#[test]
fn what_a_stolen_edge_token_reported_is_seen_and_undone() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a", "credits": 100}));
    let made = client.ask("POST", "/v1/tokens", Some(json!({"name": "edge", "role": "edge"}))).expect(201);
    let thief = client.at(&client.url, made["token"].as_str().unwrap());
    let token = made["id"].as_str().unwrap();
    let path = format!("/v1/keys/{}", key["id"].as_str().unwrap());
    let mut reader = Reader::new(client.clone());
    let mut exhausted = || {
        reader.catch_up();
        reader.record(&key["key"]).unwrap().credits_exhausted
    };
    tell(&client, &batch(1, vec![used(&key, Some(NOW_MS), &[("allow", 5)], 5)]));
    server.advance(2 * seconds(3600));
    for n in 2..6 {
        let told = used(&key, Some(NOW_MS), &[("allow", 1 << 30), ("revoked", 7)], (1 << 53) - 1);
        tell(&thief, &Batch { others: verdicts(&[("missing", 3)]), ..batch(n, vec![told]) });
    }
    assert_eq!(show(&client, &key)["spent"], (1_u64 << 53) - 1, "no more than can be set");
    assert!(exhausted());

    let reports = client.get("/v1/usage/reports").expect(200);
    let of_thief = &reports["tokens"][0];
    assert_eq!((&of_thief["token"], &of_thief["keys"]), (&json!(token), &json!(1)), "{reports}");
    assert_eq!(
        (&of_thief["credits"], &of_thief["requests"]),
        (&json!((1_u64 << 53) - 6), &json!(4 * ((1_u64 << 30) + 10)))
    );
    assert_eq!(reports["tokens"][1]["token"], "token-file", "{reports}");
    let of_key = client.get(&format!("/v1/usage/reports?key={}", key["id"].as_str().unwrap())).expect(200);
    assert_eq!(of_key["tokens"].as_array().unwrap().len(), 2);
    assert_eq!(client.get("/v1/usage/reports?key=key_none").expect(200)["tokens"], json!([]));

    let undo = |since: &str| client.ask("POST", "/v1/usage/undo", Some(json!({"token": token, "since": since})));
    let undone = undo("2027-01-15T09:59:00Z").expect(200);
    assert_eq!((&undone["credits"], &undone["since"]), (&of_thief["credits"], &json!("2027-01-15T09:00:00.000Z")));
    assert_eq!(show(&client, &key)["spent"], 5);
    assert!(!exhausted(), "the edges are told");
    assert_eq!(usage(&client, &key, "")["totals"], json!({"allow": 5}));
    assert_eq!(client.get("/v1/usage").expect(200)["others"]["totals"], json!({}));
    assert_eq!(undo("2027-01-15T09:59:00Z").expect(200)["requests"], 0, "once");
    client.ask("PATCH", &path, Some(json!({"spent": 2}))).expect(200);
    assert_eq!(show(&client, &key)["spent"], 2);
    let audit = client.get(&format!("/v1/audit?subject={token}")).expect(200);
    let entry = &audit["entries"][0];
    assert_eq!(
        (&entry["action"], &entry["details"]["credits"]),
        (&json!("usage.undone"), &of_thief["credits"]),
        "{audit}"
    );
    let audit = client.get(&format!("/v1/audit?subject={}", key["id"].as_str().unwrap())).expect(200);
    assert_eq!(audit["entries"][0]["details"], json!({"spent": {"old": 5, "new": 2}}));
    let problem = client.ask("POST", "/v1/usage/undo", Some(json!({"token": thief.edge, "since": "now"}))).expect(422);
    assert_eq!(fields(&problem), ["token"], "a secret is refused before anything else");
    assert!(!problem.to_string().contains(&thief.edge));
}

#[test]
fn a_batch_beyond_what_can_be_true_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a"}));
    for (n, allowed, credits) in [(1, 0, 1), (2, 1, 1 << 33), (3, 1, (1 << 53) - 1)] {
        let told = batch(n, vec![used(&key, Some(NOW_MS), &[("allow", allowed)], credits)]);
        let answer = client.send("POST", USAGE_PATH, Some(&client.edge), Some(told.encode()));
        assert_eq!(answer.expect(400)["type"], "urn:keyward:problem:invalid_usage", "{allowed} {credits}");
    }
    assert_eq!(show(&client, &key)["spent"], 0);
}

#[test]
fn a_verdict_of_a_newer_edge_is_counted_as_other() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a"}));
    let told = used(&key, Some(NOW_MS), &[("allow", 2), ("call_me_back", 3), ("some_new_verdict", 4)], 2);
    tell(&client, &Batch { others: verdicts(&[("free_text", 5)]), ..batch(1, vec![told]) });
    assert_eq!(usage(&client, &key, "")["totals"], json!({"allow": 2, "other": 7}));
    assert_eq!(client.get("/v1/usage").expect(200)["others"]["totals"], json!({"other": 5}));
}

/// Whatever an edge says of when, it counts within the last day.
#[test]
fn hours_of_the_far_past_and_future_are_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a"}));
    let times = [0, NOW_MS - seconds(90 * 86_400), NOW_MS + seconds(90 * 86_400), (1 << 53) - 1];
    for (n, time) in (1..).zip(times) {
        tell(&client, &batch(n, vec![used(&key, Some(time), &[("allow", 1)], 0)]));
    }
    let told = usage(&client, &key, "?from=2027-01-14T08:00:00Z");
    let hours: Vec<_> = told["hours"].as_array().unwrap().iter().map(|hour| hour["hour"].as_str().unwrap()).collect();
    assert_eq!(hours, ["2027-01-14T08:00:00.000Z", "2027-01-15T08:00:00.000Z"]);
    assert_eq!(told["totals"], json!({"allow": 4}));
    assert_eq!(show(&client, &key)["last_used_at"], "2027-01-15T08:00:00.000Z");
}

#[test]
fn the_command_line_lists_reports_and_undoes_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(&dir.path().join(".keyward"));
    let client = server.client();
    let key = client.create(json!({"name": "a"}));
    tell(&client, &batch(1, vec![used(&key, Some(NOW_MS), &[("allow", 42)], 42)]));
    let run = |arguments: &[&str]| {
        let command = ["usage"].iter().chain(arguments);
        program().args(command).current_dir(dir.path()).env("KEYWARD_URL", &server.address).output().unwrap()
    };
    let reports = run(&["reports"]);
    assert!(stdout(&reports).contains("token-file  1     42        42"), "{reports:?}");
    let undone = run(&["undo", "--reporter", "token-file", "--since", "2027-01-15T08:00:00Z"]);
    assert_eq!(stdout(&undone), "undone since 2027-01-15T08:00:00.000Z: 42 requests, 42 credits\n", "{undone:?}");
    assert_eq!(show(&client, &key)["spent"], 0);
    let pasted = run(&["undo", "--reporter", &client.edge, "--since", "2027-01-15T08:00:00Z"]);
    assert_eq!(pasted.status.code(), Some(2));
    assert!(!stderr(&pasted).contains(&client.edge), "{pasted:?}");
}

#[test]
fn old_usage_goes_with_the_retention() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a"}));
    tell(&client, &batch(1, vec![used(&key, Some(NOW_MS), &[("allow", 1)], 0)]));
    server.stop();
    let later = NOW_MS + 401 * seconds(86_400);
    let server = TestServer::start_with(dir.path(), later, Duration::from_millis(1));
    let of_then = "?from=2027-01-15T00:00:00Z&to=2027-01-16T00:00:00Z";
    until(|| usage(&server.client(), &key, of_then)["totals"] == json!({}));
}

#[test]
fn the_command_line_shows_usage_as_a_table_and_as_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(&dir.path().join(".keyward"));
    let client = server.client();
    let key = client.create(json!({"name": "a"}));
    let told = batch(1, vec![used(&key, Some(NOW_MS), &[("allow", 42)], 0)]);
    tell(&client, &Batch { others: verdicts(&[("unknown", 17)]), ..told });
    let run = |arguments: &[&str]| {
        let command = ["usage"].iter().chain(arguments);
        program().args(command).current_dir(dir.path()).env("KEYWARD_URL", &server.address).output().unwrap()
    };
    let id = key["id"].as_str().unwrap();
    let all = run(&[]);
    assert!(stdout(&all).contains("42") && stdout(&all).contains("17"), "{all:?}");
    let one = run(&[id]);
    assert!(stdout(&one).starts_with("HOUR ") && !stdout(&one).contains("17"), "{one:?}");
    let json: Value = serde_json::from_slice(&run(&[id, "--json"]).stdout).unwrap();
    assert_eq!(json["totals"], json!({"allow": 42}));
    assert_eq!(stdout(&run(&[id, "--to", "2027-01-15T10:00:00+02:00"])), "no requests\n");
    let pasted = run(&["kw_live_not_an_id"]);
    assert_eq!(pasted.status.code(), Some(2));
    assert!(!stderr(&pasted).contains("kw_live"), "{pasted:?}");
    let shown =
        program().args(["keys", "show", id]).current_dir(dir.path()).env("KEYWARD_URL", &server.address).output();
    assert!(stdout(&shown.unwrap()).contains("last used at  2027-01-15"));
}
