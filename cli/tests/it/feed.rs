//! The feed, as an edge reads it.

use crate::harness::{DEADLINE, NOW_MS, Reader, TestServer, seconds};
use keyward_core::key::digest::Digest;
use keyward_core::wire::cursor::{Cursor, Position};
use keyward_core::wire::entry::Frames;
use keyward_core::wire::page::{Extent, Page};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[test]
fn an_empty_database_gives_an_empty_snapshot_that_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let bytes = server.client().feed(Position::Nothing, 0);
    let page = Page::decode(&bytes).unwrap();
    assert_eq!((page.answers, page.extent), (Position::Nothing, Extent::Snapshot { end: None }));
    assert_eq!((page.head.sequence, page.head.chain, page.entries), (0, [0; 16], &[][..]));
}

#[test]
fn a_new_key_reaches_an_edge_and_its_end_does_too() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    let key = client.create(json!({"name": "a", "scopes": ["read"], "allow_ip": ["10.0.0.0/8"]}));
    reader.catch_up();
    let record = reader.record(&key["key"]).unwrap();
    assert_eq!((record.key_id.as_str(), record.revoked_at_ms), (key["id"].as_str().unwrap(), None));
    assert_eq!(record.secret_id, key["secrets"][0]["id"].as_str().unwrap());
    assert_eq!((record.scopes.as_slice(), record.allowlist.len()), (&["read".to_owned()][..], 1));
    client.ask("DELETE", &format!("/v1/keys/{}", key["id"].as_str().unwrap()), None).expect(200);
    reader.catch_up();
    assert_eq!(reader.record(&key["key"]).unwrap().revoked_at_ms, Some(NOW_MS));
    assert_eq!(reader.snapshot_pages, 1);
}

#[test]
fn who_waits_is_woken_by_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let mut readers: Vec<_> = (0..20).map(|_| Reader::new(client.clone())).collect();
    readers.iter_mut().for_each(Reader::catch_up);
    let started = Instant::now();
    let waiting: Vec<_> = readers
        .into_iter()
        .map(|mut reader| {
            std::thread::spawn(move || {
                reader.read(60);
                reader
            })
        })
        .collect();
    let key = client.create(json!({"name": "a"}));
    for waiter in waiting {
        assert!(waiter.join().unwrap().record(&key["key"]).is_some());
    }
    assert!(started.elapsed() < DEADLINE);
}

#[test]
fn who_asks_without_waiting_gets_a_page_of_no_changes() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    client.create(json!({"name": "a"}));
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    let bytes = client.feed(reader.position, 0);
    let page = Page::decode(&bytes).unwrap();
    assert_eq!((page.answers, page.next(), page.entries), (reader.position, reader.position, &[][..]));
}

#[test]
fn what_is_no_position_is_refused_and_so_is_an_odd_wait() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    for query in ["?after=", "?after=zz", "?after=0000", "?wait=-1", "?wait=soon", "?since=3"] {
        let answer = client.send("GET", &format!("/v1/edge/feed{query}"), Some(&client.edge), None);
        assert_eq!(answer.status, 400, "{query}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    // Longer than allowed is clamped, and a snapshot never waits.
    assert_eq!(client.send("GET", "/v1/edge/feed?wait=99999", Some(&client.edge), None).status, 200);
}

/// Keys with so many scopes that some hundred of them do not fit one page.
fn many_large_keys(server: &TestServer, keys: usize) -> Vec<Value> {
    let client = server.client();
    let scopes: Vec<_> = (0..300).map(|n| format!("{n:0>60}")).collect();
    (0..keys).map(|n| client.create(json!({"name": format!("{n}"), "scopes": scopes}))).collect()
}

#[test]
fn a_snapshot_of_several_pages_is_complete_and_goes_on_while_keys_change() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let keys = many_large_keys(&server, 120);
    let client = server.client();
    let mut reader = Reader::new(client.clone());
    assert!(reader.read(0));
    let Position::Snapshot { base, .. } = reader.position else { panic!("one page: {:?}", reader.position) };
    assert_eq!(base, 120);
    let meanwhile = client.create(json!({"name": "meanwhile"}));
    client.ask("DELETE", &format!("/v1/keys/{}", keys[0]["id"].as_str().unwrap()), None).expect(200);
    reader.catch_up();
    assert_eq!((reader.snapshot_pages, reader.known.len()), (10, 121));
    for key in keys.iter().chain([&meanwhile]) {
        assert!(reader.record(&key["key"]).is_some());
    }
    assert!(reader.record(&keys[0]["key"]).unwrap().revoked_at_ms.is_some());
}

#[test]
fn the_pages_of_a_snapshot_are_sorted_and_meet() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    many_large_keys(&server, 120);
    let client = server.client();
    let (mut position, mut expected_start, mut last) = (Position::Nothing, Digest([0; 32]), None);
    loop {
        let bytes = client.feed(position, 0);
        let page = Page::decode(&bytes).unwrap();
        let Extent::Snapshot { end } = page.extent else { panic!("changes") };
        let start = page.start();
        assert_eq!(start, expected_start);
        for frame in Frames::new(page.entries) {
            let subject = frame.unwrap().subject;
            assert!(Some(subject) > last && subject >= start && end.is_none_or(|end| subject < end));
            last = Some(subject);
        }
        position = page.next();
        let Some(end) = end else { break };
        expected_start = end;
    }
}

#[test]
fn changes_of_several_pages_arrive_from_memory_and_from_the_database_alike() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let mut reader = Reader::new(server.client());
    reader.catch_up();
    let start = reader.position;
    let keys = many_large_keys(&server, 120);
    reader.catch_up();
    assert_eq!((reader.snapshot_pages, reader.known.len()), (1, 120));
    server.stop();
    let server = TestServer::start(dir.path());
    let mut again = Reader { position: start, ..Reader::new(server.client()) };
    again.catch_up();
    assert_eq!(again.snapshot_pages, 0);
    assert_eq!(again.known, reader.known);
    assert!(keys.iter().all(|key| again.record(&key["key"]).is_some()));
}

fn with_other(position: Position, change: impl FnOnce(&mut Cursor)) -> Position {
    let Position::Changes { applied, mut seen } = position else { panic!("{position:?}") };
    change(&mut seen);
    Position::Changes { applied, seen }
}

pub(crate) fn leads_to_a_snapshot(server: &TestServer, position: Position) -> bool {
    let bytes = server.client().feed(position, 0);
    Page::decode(&bytes).unwrap().answers == Position::Nothing
}

#[test]
fn a_cursor_of_another_history_leads_to_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    server.client().create(json!({"name": "a"}));
    let mut reader = Reader::new(server.client());
    reader.catch_up();
    assert!(!leads_to_a_snapshot(&server, reader.position));
    for other in [
        with_other(reader.position, |cursor| cursor.epoch ^= 1),
        with_other(reader.position, |cursor| cursor.sequence += 1),
        with_other(reader.position, |cursor| cursor.sequence = u64::MAX),
        with_other(reader.position, |cursor| cursor.chain[0] ^= 1),
        with_other(reader.position, |cursor| (cursor.sequence, cursor.chain) = (0, [1; 16])),
    ] {
        assert!(leads_to_a_snapshot(&server, other), "{other:?}");
        let Position::Changes { applied: base, seen } = other else { panic!() };
        let in_a_snapshot = Position::Snapshot { base, next: Digest([9; 32]), seen };
        assert!(leads_to_a_snapshot(&server, in_a_snapshot), "{other:?}");
    }
}

#[test]
fn what_ended_a_month_ago_is_forgotten_by_the_edges_and_still_listed() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let (ended, kept) = (client.create(json!({"name": "ended"})), client.create(json!({"name": "kept"})));
    let path = format!("/v1/keys/{}", ended["id"].as_str().unwrap());
    client.ask("DELETE", &path, None).expect(200);
    let mut reader = Reader::new(client);
    reader.catch_up();
    server.stop();
    let server = TestServer::start_with(dir.path(), NOW_MS + seconds(31 * 86_400), Duration::from_millis(10));
    reader.client = server.client();
    let started = Instant::now();
    while reader.record(&ended["key"]).is_some() {
        reader.read(10);
        assert!(started.elapsed() < DEADLINE);
    }
    assert!(reader.record(&kept["key"]).is_some());
    assert_eq!(server.client().get(&path).expect(200)["state"], "revoked");
    assert_eq!(reader.snapshot_pages, 1);
}

#[test]
fn nothing_is_forgotten_at_a_start_and_in_an_interval_in_which_the_clock_was_set() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(dir.path(), NOW_MS, Duration::from_millis(300));
    let key = server.client().create(json!({"name": "a", "expires_in_s": 60}));
    let mut reader = Reader::new(server.client());
    reader.catch_up();
    let started = Instant::now();
    server.advance(seconds(40 * 86_400));
    // The interval in which the clock was set passes, the next does not.
    reader.read(10);
    assert!(reader.record(&key["key"]).is_none());
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    server.stop();
    let server = TestServer::start_with(dir.path(), NOW_MS, Duration::from_millis(10));
    reader.client = server.client();
    reader.read(10);
    assert!(reader.record(&key["key"]).is_some(), "the clock was wrong");
}
