//! Bad pages of the feed cannot stop the gateway: truncated pages, pages of another version, and entries that this edge
//! cannot parse.

use crate::common::{SOON, assert_refused};
use crate::feed_double::Feed;
use keyward_core::key::digest::Digest;
use keyward_core::key::environment::Environment;
use keyward_core::wire::cursor::{Cursor, Position};
use keyward_core::wire::entry::{Body, Entry, KeyRecord};
use keyward_core::wire::page::{Extent, Page};
use keyward_harness::ports::loopback;
use keyward_harness::{Echo, Failure, Gateway, Request, until};
use std::time::{Duration, Instant};

const KEYS: [&str; 3] = [
    "exo_live_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "exo_live_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    "exo_live_cccccccccccccccccccccccccccccccccccc",
];

fn head(sequence: u64) -> Cursor {
    Cursor { epoch: 1, sequence, chain: [u8::try_from(sequence).unwrap(); 16] }
}

fn frame(key: &str, version: u64) -> Vec<u8> {
    let body = Body::Key(KeyRecord {
        key_id: format!("key_{version}"),
        kind: "key".into(),
        environment: Some(Environment::Live),
        ..KeyRecord::default()
    });
    let mut out = Vec::new();
    Entry { subject: Digest::of_key(key.as_bytes()), version, body }.encode(&mut out).unwrap();
    out
}

/// A frame with a field that a newer control plane marks as critical.
fn frame_from_the_future(key: &str, version: u64) -> Vec<u8> {
    let mut out = frame(key, version);
    out.extend_from_slice(&[0x60, 1, 0, 9]);
    let length = u16::try_from(out.len() - 2).unwrap();
    out[..2].copy_from_slice(&length.to_le_bytes());
    out
}

fn snapshot(sequence: u64) -> Vec<u8> {
    let mut keys = [KEYS[0], KEYS[1]];
    keys.sort_by_key(|key| Digest::of_key(key.as_bytes()));
    let entries: Vec<u8> = keys.iter().flat_map(|key| frame(key, sequence)).collect();
    let extent = Extent::Snapshot { end: None };
    Page { summary: None, answers: Position::Nothing, head: head(sequence), extent, entries: &entries }.encode()
}

#[tokio::test]
async fn bad_page_is_counted_and_the_feed_continues() {
    let feed = Feed::start().await;
    let gateway = Gateway::builder().dialect("exona").feed_from(feed.address()).start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let with = |key: &str| Request::get("/").bearer(key);
    let counted = async |name: &str| {
        let stats = gateway.envoy.stats(&format!("{name}$")).await.unwrap();
        stats.into_values().next().unwrap_or_default()
    };

    assert_eq!(feed.asked().await, Position::Nothing);
    feed.send(snapshot(2));
    workers.until_status(&with(KEYS[0]), 200, SOON).await.unwrap();
    let at_two = Position::Changes { applied: 2, seen: head(2) };
    assert_eq!(feed.asked().await, at_two);

    // Another version: the edge repeats the request, in case of a transient fault.
    let changes = |entries: &[u8]| {
        Page { summary: None, answers: at_two, head: head(4), extent: Extent::Changes { to: 4 }, entries }.encode()
    };
    let mut other_version = changes(&[]);
    other_version[4] = 9;
    feed.send(other_version);
    assert_eq!(feed.asked().await, at_two);

    // Truncated: nothing in the page can be trusted, and the request is repeated.
    let whole = changes(&frame(KEYS[2], 3));
    feed.send(whole[..whole.len() - 1].to_vec());
    assert_eq!(feed.asked().await, at_two);

    // Intact but inconsistent: the edge requests a new snapshot.
    let beyond_its_head =
        Page { summary: None, answers: at_two, head: head(4), extent: Extent::Changes { to: 5 }, entries: &[] }
            .encode();
    feed.send(beyond_its_head);
    assert_eq!(feed.asked().await, Position::Nothing);
    assert_eq!(workers.statuses(&with(KEYS[0])).await.unwrap(), [200, 200], "the last snapshot is still served");
    feed.send(snapshot(2));
    assert_eq!(feed.asked().await, at_two);

    // One unreadable entry among readable ones: its key is refused, the others are applied.
    feed.send(changes(&[frame_from_the_future(KEYS[1], 3), frame(KEYS[2], 4)].concat()));
    workers.until_status(&with(KEYS[2]), 200, SOON).await.unwrap();
    assert_eq!(workers.statuses(&with(KEYS[0])).await.unwrap(), [200, 200]);
    assert_eq!(workers.statuses(&with(KEYS[1])).await.unwrap(), [503, 503]);
    assert_eq!(feed.asked().await, Position::Changes { applied: 4, seen: head(4) });

    until("the counters are set", SOON, async || {
        let counts = [
            counted("keyward_feed_pages_refused").await,
            counted("keyward_feed_entries_unreadable").await,
            counted("keyward_snapshot_sequence").await,
            counted("keyward_snapshot_records").await,
        ];
        if counts == [3, 1, 4, 3] { Ok(()) } else { Err(Failure::new(format!("{counts:?}"))) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn page_with_a_flipped_bit_keeps_revoked_keys_invalid() {
    let keys: Vec<String> = (0..10).map(|n| format!("exo_live_{}", n.to_string().repeat(36))).collect();
    let at = |sequence| Position::Changes { applied: sequence, seen: head(sequence) };
    let entry = |key: &str, version, revoked_at_ms| {
        let body = Body::Key(KeyRecord {
            key_id: format!("key_{version}"),
            kind: "key".into(),
            environment: Some(Environment::Live),
            revoked_at_ms,
            ..KeyRecord::default()
        });
        let mut out = Vec::new();
        Entry { subject: Digest::of_key(key.as_bytes()), version, body }.encode(&mut out).unwrap();
        out
    };
    let mut snapshot: Vec<_> = keys.iter().map(|key| (Digest::of_key(key.as_bytes()), entry(key, 1, None))).collect();
    snapshot.sort();
    let entries: Vec<u8> = snapshot.into_iter().flat_map(|(_, frame)| frame).collect();
    let extent = Extent::Snapshot { end: None };
    let feed = Feed::start().await;
    let gateway = Gateway::builder().dialect("exona").feed_from(feed.address()).start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let with = |key: &str| Request::get("/").bearer(key);
    feed.send(Page { summary: None, answers: Position::Nothing, head: head(1), extent, entries: &entries }.encode());
    workers.until_status(&with(&keys[0]), 200, SOON).await.unwrap();

    for (key, sequence) in keys.iter().zip(1..) {
        assert_eq!(feed.asked().await, at(sequence));
        assert_eq!(workers.statuses(&with(key)).await.unwrap(), [200, 200]);
        let entries = entry(key, sequence + 1, Some(1_700_000_000_000));
        let extent = Extent::Changes { to: sequence + 1 };
        let page =
            Page { summary: None, answers: at(sequence), head: head(sequence + 1), extent, entries: &entries }.encode();
        // A bit of the record's digest: the frame begins with two bytes of length.
        let mut damaged = page.clone();
        let digest = damaged.len() - entries.len() + 2;
        damaged[digest + usize::try_from(sequence).unwrap()] ^= 1;
        feed.send(damaged);
        assert_eq!(feed.asked().await, at(sequence), "the damaged page is rejected and requested again");
        feed.send(page);
        workers.until_status(&with(key), 401, SOON).await.unwrap();
    }

    until("each rejected page is counted", SOON, async || {
        let stats = gateway.envoy.stats("keyward_feed_pages_refused$").await.unwrap();
        if stats.values().eq(&[10]) { Ok(()) } else { Err(Failure::new(format!("{stats:?}"))) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn lost_response_on_a_live_connection_is_retried() {
    let feed = Feed::start().await;
    let gateway = Gateway::builder().dialect("exona").feed_from(feed.address()).start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    feed.send(snapshot(2));
    workers.until_status(&Request::get("/").bearer(KEYS[0]), 200, SOON).await.unwrap();
    feed.hold();
    let at_two = Position::Changes { applied: 2, seen: head(2) };
    // The poll in flight may have been sent earlier.
    assert_eq!(feed.asked().await, at_two);
    // 2 s of waiting and 1 s of grace, then, with the longer grace, 5 s; plus one second each for a busy machine.
    for at_most in [4, 8] {
        assert_eq!(feed.asked().await, at_two);
        let asked = Instant::now();
        assert_eq!(feed.asked().await, at_two, "the poll is repeated");
        assert!(asked.elapsed() < Duration::from_secs(at_most), "{:?}", asked.elapsed());
    }
    feed.send(
        Page { summary: None, answers: at_two, head: head(2), extent: Extent::Changes { to: 2 }, entries: &[] }
            .encode(),
    );
    let answered = Instant::now();
    assert_eq!(feed.asked().await, at_two);
    assert_eq!(feed.asked().await, at_two, "the next poll got no response");
    assert!(answered.elapsed() < Duration::from_secs(5), "{:?}", answered.elapsed());
}

#[tokio::test]
async fn invalid_feed_makes_the_gateway_refuse_everything() {
    let answers =
        Echo::start_with("nonsense", loopback(0), |_| std::future::ready((200, "text/html", b"<html>".to_vec())));
    let server = answers.await.unwrap();
    let gateway = Gateway::builder().feed_from(server.address()).start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let mut asked = 0;
    until("the filter has polled several times", SOON, async || {
        asked += server.take_seen().len();
        if asked > 2 { Ok(()) } else { Err(Failure::new(format!("{asked} times"))) }
    })
    .await
    .unwrap();
    for answer in workers.send(&Request::get("/")).await.unwrap() {
        assert_refused(&answer, 503, "unavailable");
    }
}
