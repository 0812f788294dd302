//! Pins the encoding: an edge and a control plane of different releases must read each other.
//!
//! A difference here is a change of the wire. If it is meant, the version of the framing rises or the new field is
//! ignorable, and `KEYWARD_GOLDEN=write cargo test -p keyward-core --test golden` writes the files anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use keyward_core::dialect::Dialect;
use keyward_core::dialect::error_shape::{ErrorShape, Facts};
use keyward_core::key::digest::Digest;
use keyward_core::key::environment::Environment;
use keyward_core::key::limit::Limits;
use keyward_core::refusal::Refusal;
use keyward_core::wire::cursor::{Cursor, Position, chain};
use keyward_core::wire::entry::{Body, Entry, Frames, KeyRecord, OwnerRecord, PlanRecord};
use keyward_core::wire::page::{Extent, Page};
use keyward_core::wire::summary::Summary;
use std::path::Path;

fn entries() -> Vec<Entry> {
    let full = KeyRecord {
        key_id: "key_0123456789abcdefghij".into(),
        secret_id: "sec_0123456789abcdefghij".into(),
        kind: "key".into(),
        environment: Some(Environment::Live),
        revoked_at_ms: Some(1_700_000_000_000),
        expires_at_ms: Some(1_800_000_000_000),
        secret_not_after_ms: Some(1_750_000_000_000),
        owner: Some("acme".into()),
        scopes: vec!["read".into(), "write".into()],
        allowlist: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        limits: Some(limits()),
        credits_exhausted: true,
        ..KeyRecord::default()
    };
    let bare =
        KeyRecord { key_id: "key_1".into(), secret_id: "sec_1".into(), kind: "key".into(), ..KeyRecord::default() };
    let owner = OwnerRecord { disabled: true, permissions: Some(vec!["read".into()]) };
    vec![
        Entry { subject: Digest::of_key(b"exo_live_x"), version: 7, body: Body::Key(full) },
        Entry { subject: Digest::of_key(b"exo_live_y"), version: 8, body: Body::Key(bare) },
        Entry { subject: Digest::of_owner("acme"), version: 6, body: Body::Owner(owner) },
        Entry { subject: Digest::of_key(b"exo_live_z"), version: 9, body: Body::Removed },
    ]
}

/// What was added since; the bytes of the others stay as they are.
fn newer_entries() -> Vec<Entry> {
    let key = |key_id: &str| KeyRecord { key_id: key_id.into(), kind: "key".into(), ..KeyRecord::default() };
    let on_plan = KeyRecord { plan: Some("pro".into()), ..key("key_2") };
    let hashed = KeyRecord { needs_verification: true, ..key("key_3") };
    let paused = KeyRecord { paused: true, ..key("key_5") };
    let plan = |limits| Body::Plan(PlanRecord { limits });
    vec![
        Entry { subject: Digest::of_plan("pro"), version: 10, body: plan(Some(limits())) },
        Entry { subject: Digest::of_plan("unlimited"), version: 11, body: plan(Some(Limits::default())) },
        Entry { subject: Digest::of_plan("usual"), version: 12, body: plan(None) },
        Entry { subject: Digest::of_sha512(&[5; 64]), version: 13, body: Body::Key(on_plan) },
        Entry { subject: Digest::of_hmac_sha256(&[2; 32]), version: 14, body: Body::Key(key("key_4")) },
        Entry { subject: Digest::of_selector(b"exo_live_"), version: 15, body: Body::Key(hashed) },
        Entry { subject: Digest::of_key(b"exo_live_p"), version: 16, body: Body::Key(paused) },
    ]
}

fn limits() -> Limits {
    Limits::new(vec!["10/s".parse().unwrap(), "200/min".parse().unwrap()]).unwrap()
}

fn encoded(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        entry.encode(&mut out).unwrap();
    }
    out
}

fn check(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var("KEYWARD_GOLDEN").is_ok_and(|value| value == "write") {
        let hex = hex::encode(bytes);
        let lines: Vec<_> = hex.as_bytes().chunks(96).map(|line| std::str::from_utf8(line).unwrap()).collect();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let golden = hex::decode(golden.split_whitespace().collect::<String>()).unwrap();
    assert_eq!(hex::encode(bytes), hex::encode(&golden), "{name}");
    golden
}

#[test]
fn entries_are_encoded_and_read_as_they_always_were() {
    for (name, entries) in [("entries.hex", entries()), ("entries-newer.hex", newer_entries())] {
        let golden = check(name, &encoded(&entries));
        let read: Vec<Entry> = Frames::new(&golden)
            .map(|frame| {
                let frame = frame.unwrap();
                Entry { subject: frame.subject, version: frame.version, body: frame.decode().unwrap() }
            })
            .collect();
        assert_eq!(read, entries, "{name}");
    }
}

#[test]
fn pages_are_encoded_and_read_as_they_always_were() {
    let entries = encoded(&entries());
    let head = Cursor { epoch: 0x0123_4567_89ab_cdef, sequence: 9, chain: chain(&[0; 16], &entries) };
    let changes = Position::Changes { applied: 5, seen: Cursor { sequence: 6, ..head } };
    let snapshot = Position::Snapshot { base: 4, next: Digest([0; 32]), seen: head };
    let summary = Frames::new(&entries).map(|frame| frame.unwrap().summary()).reduce(Summary::plus);
    for (name, answers, extent, summary) in [
        ("page-changes.hex", changes, Extent::Changes { to: 9 }, summary),
        ("page-snapshot.hex", snapshot, Extent::Snapshot { end: Some(Digest([0xff; 32])) }, None),
        ("page-last.hex", Position::Nothing, Extent::Snapshot { end: None }, summary),
    ] {
        let page = Page { summary, answers, head, extent, entries: &entries };
        let golden = check(name, &page.encode());
        assert_eq!(Page::decode(&golden), Ok(page), "{name}");
    }
}

/// The replies of all built-in dialects and shapes: rewriting a file must not change them.
#[test]
fn answers_to_refusals_are_pinned() {
    let facts = Facts {
        header: "X-Header",
        request_id: "req-1",
        key_id: "key_1",
        expired_at_ms: 1_704_067_200_000,
        scope: "read",
        retry_after_s: 7,
        limit: 10,
        window_s: 60,
        ..Facts::default()
    };
    let dialects = Dialect::built_in_names().map(|name| (name, Dialect::built_in(name).unwrap().unwrap().errors));
    let shapes = ErrorShape::built_in_names().map(|name| (name, ErrorShape::built_in(name).unwrap().unwrap()));
    let mut out = String::new();
    for (name, shape) in dialects.chain(shapes) {
        for refusal in Refusal::ALL {
            let rendered = shape.render(refusal, &facts);
            out += &format!("{name} {} {}\n", refusal.name(), rendered.status);
            for (field, value) in &rendered.headers {
                out += &format!("  {field}: {value}\n");
            }
            out += &format!("  {}\n", rendered.body);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/refusals.txt");
    if std::env::var("KEYWARD_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, &out).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), out);
}
