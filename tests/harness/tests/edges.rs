//! Hundreds of simulated edges on one control plane: each receives every change, even across a crash.

use keyward_core::FEED_PATH;
use keyward_core::key::digest::Digest;
use keyward_core::wire::cursor::Position;
use keyward_core::wire::page::Page;
use keyward_harness::edges::{Memory, Options, Protocol};
use keyward_harness::{ControlPlane, CreatedKey, Edges, Failure, Request, TestDir, http, until};
use serde_json::json;
use std::time::Duration;

/// For a debug build on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

async fn running(dir: &TestDir) -> ControlPlane {
    let mut plane = ControlPlane::new(dir.path(), "keyward").unwrap();
    plane.start().await.unwrap();
    plane
}

fn follow(plane: &ControlPlane, edges: usize, protocol: Protocol) -> Edges {
    let options = Options { edges, protocol, memory: Memory::Versions, wait_s: 20, threads: 1, openings_per_s: None };
    Edges::start(plane.address(), &plane.edge_token().unwrap(), options).unwrap()
}

/// The head of the control plane's history.
async fn head(plane: &ControlPlane) -> Position {
    let request = Request::get(FEED_PATH).bearer(&plane.edge_token().unwrap());
    let answer = http::send(plane.address(), &request).await.unwrap();
    let seen = Page::decode(&answer.body).unwrap().head;
    Position::Changes { applied: seen.sequence, seen }
}

/// Waits until every edge is at the control plane's head, and compares its entries with those of a new edge.
async fn agree(plane: &ControlPlane, edges: &Edges) {
    let head @ Position::Changes { applied, .. } = head(plane).await else { panic!("expected a head") };
    edges.until_all_have(applied, LIMIT).await.unwrap();
    assert!(edges.positions().iter().all(|position| *position == head));
    let newcomer = follow(plane, 1, Protocol::Http2);
    newcomer.until_all_have(applied, LIMIT).await.unwrap();
    let expected = &newcomer.versions()[0];
    for versions in edges.versions() {
        assert_eq!(versions, *expected);
    }
}

/// Creations, plans and revocations; returns a key that was not revoked, for the next round.
async fn mixed_changes(plane: &ControlPlane, round: usize) -> CreatedKey {
    let limits = json!({ "limits": [format!("{}/s", round + 10)] });
    assert!(plane.api("PUT", "/v1/plans/pro", Some(&limits)).await.unwrap().status < 300);
    let revoked = plane.create(&json!({ "name": "revoked", "plan": "pro", "owner": "acme" })).await.unwrap();
    let kept = plane.create(&json!({ "name": "kept", "plan": "pro", "owner": "acme" })).await.unwrap();
    plane.revoke(&revoked.id).await.unwrap();
    kept
}

/// A revocation reaches five hundred edges, and none misses a change in a burst or a crash.
#[tokio::test]
async fn five_hundred_edges_receive_every_change() {
    let dir = TestDir::new().unwrap();
    let mut plane = running(&dir).await;
    let key = mixed_changes(&plane, 0).await;
    let edges = follow(&plane, 500, Protocol::Http2);
    agree(&plane, &edges).await;

    let subject = Digest::of_key(key.key.as_bytes());
    plane.revoke(&key.id).await.unwrap();
    let known = until("an edge has the change", LIMIT, async || {
        edges.sequence_of(&subject).ok_or_else(|| Failure::new("no edge yet"))
    });
    let sequence = known.await.unwrap();
    edges.until_all_have(sequence, LIMIT).await.unwrap();
    assert_eq!(edges.arrivals_of(sequence).len(), 500);
    let before = edges.counts();

    for round in 1..10 {
        mixed_changes(&plane, round).await;
    }
    plane.kill();
    plane.start().await.unwrap();
    for round in 10..20 {
        mixed_changes(&plane, round).await;
    }
    agree(&plane, &edges).await;
    let after = edges.counts();
    assert!(after.connections >= before.connections + 500, "{after:?}");
    // Reconnecting edges continue at their position: no page is refused, and no snapshot is fetched again.
    assert_eq!((after.unfit, after.refused), (before.unfit, before.refused), "{after:?}");
    plane.stop().await.unwrap();
}

#[tokio::test]
async fn edges_can_follow_over_http_1() {
    let dir = TestDir::new().unwrap();
    let plane = running(&dir).await;
    let edges = follow(&plane, 20, Protocol::Http1);
    for round in 0..3 {
        mixed_changes(&plane, round).await;
    }
    agree(&plane, &edges).await;
}
