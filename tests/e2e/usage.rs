//! Reported usage is exact, whatever happens to a batch on its way.

use crate::common::SOON;
use crate::feed_double::{Feed, OnUsage};
use crate::listener_replaced::{replace, replaceable};
use keyward_core::key::digest::Digest;
use keyward_core::key::environment::Environment;
use keyward_core::key::limit::{Limit, Limits};
use keyward_core::wire::cursor::{Cursor, Position};
use keyward_core::wire::entry::{Body, Entry, KeyRecord};
use keyward_core::wire::page::{Extent, Page};
use keyward_core::wire::usage::Batch;
use keyward_harness::{Failure, Gateway, Request, TestDir, WorkerConnections, until};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const USED: &str = "exo_live_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const LIMITED: &str = "exo_live_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const REVOKED: &str = "exo_live_cccccccccccccccccccccccccccccccccccc";
const UNKNOWN: &str = "exo_live_dddddddddddddddddddddddddddddddddddd";

/// The cost of an allowed request.
const COST: u64 = 3;

/// The deadline for a batch that failed several times.
const LATE: Duration = Duration::from_secs(30);

/// Requests by key (`-` for none) and verdict.
type Counts = BTreeMap<(String, String), u64>;

fn snapshot() -> Vec<u8> {
    let record = |id: &str, limit: &str| KeyRecord {
        key_id: format!("key_{id}"),
        secret_id: format!("sec_{id}"),
        kind: "key".into(),
        environment: Some(Environment::Live),
        limits: Some(Limits::new(vec![limit.parse::<Limit>().unwrap()]).unwrap()),
        ..KeyRecord::default()
    };
    let mut revoked = record("revoked", "1000000/s");
    revoked.revoked_at_ms = Some(1);
    let mut keys = [(USED, record("used", "1000000/s")), (LIMITED, record("limited", "0/s")), (REVOKED, revoked)]
        .map(|(key, record)| (Digest::of_key(key.as_bytes()), record));
    keys.sort_by_key(|(subject, _)| *subject);
    let mut entries = Vec::new();
    for (subject, record) in keys {
        Entry { subject, version: 1, body: Body::Key(record) }.encode(&mut entries).unwrap();
    }
    let head = Cursor { epoch: 1, sequence: 3, chain: [1; 16] };
    Page { summary: None, answers: Position::Nothing, head, extent: Extent::Snapshot { end: None }, entries: &entries }
        .encode()
}

/// A gateway with the keys, and counts of the requests sent to it.
struct Asked {
    gateway: Gateway,
    counts: Counts,
}

impl Asked {
    async fn start(feed: &Feed, listeners: Option<&Path>) -> Self {
        let builder = Gateway::builder().dialect("exona").feed_from(feed.address()).configure(|config| {
            config.filter()["rules"].as_array_mut().unwrap().last_mut().unwrap()["cost"] = COST.into();
            if let Some(file) = listeners {
                replaceable(file)(config);
            }
        });
        // A replaced listener is drained soon, so that the new one reports in the end.
        let mut gateway = builder.envoy_arguments(&["--drain-time-s", "1"]).start().await.unwrap();
        feed.send(snapshot());
        gateway.envoy.wait_for_snapshot(SOON).await.unwrap();
        Self { gateway, counts: Counts::new() }
    }

    /// Connections to every worker, each with the snapshot.
    async fn workers(&mut self) -> WorkerConnections {
        let mut workers = self.gateway.envoy.every_worker().await.unwrap();
        until("every worker has the snapshot", SOON, async || {
            let statuses = workers.statuses(&Request::get("/").bearer(USED)).await?;
            for status in &statuses {
                match status {
                    200 => self.note("key_used", "allow"),
                    _ => self.note("-", "unavailable"),
                }
            }
            if statuses.iter().all(|&status| status == 200) { Ok(()) } else { Err(Failure::new("not yet")) }
        })
        .await
        .unwrap();
        workers
    }

    /// Sends every kind of request to every worker.
    async fn ask(&mut self, workers: &mut WorkerConnections) {
        let with = |key: &str| Request::get("/").bearer(key);
        for (request, key, verdict, status) in [
            (with(USED), "key_used", "allow", 200),
            (with(USED), "key_used", "allow", 200),
            (with(LIMITED), "key_limited", "rate_limited", 429),
            (with(REVOKED), "key_revoked", "revoked", 401),
            (with(UNKNOWN), "-", "unknown", 401),
            (Request::get("/"), "-", "missing", 401),
            (Request::get("/health"), "-", "public", 200),
        ] {
            for got in workers.statuses(&request).await.unwrap() {
                assert_eq!(got, status, "{verdict}");
                self.note(key, verdict);
            }
        }
    }

    fn note(&mut self, key: &str, verdict: &str) {
        *self.counts.entry((key.to_owned(), verdict.to_owned())).or_default() += 1;
    }

    /// Waits until the reported usage equals the requests sent; returns the batches.
    async fn until_reported(&self, feed: &Feed) -> Vec<Batch> {
        until("all usage is reported", LATE, async || {
            let reported = counts(&feed.usage_taken());
            if reported == self.counts {
                Ok(())
            } else {
                Err(Failure::new(format!("sent {:?}\nreported {reported:?}", self.counts)))
            }
        })
        .await
        .unwrap();
        feed.usage_taken()
    }
}

fn counts(batches: &[Batch]) -> Counts {
    let mut counts = Counts::new();
    let mut add = |key: &str, verdict: &str, count: u64| {
        *counts.entry((key.to_owned(), verdict.to_owned())).or_default() += count;
    };
    for batch in batches {
        assert_eq!(batch.dropped, 0);
        for key in &batch.keys {
            assert_eq!(key.secret_id, key.key_id.replace("key_", "sec_"));
            key.verdicts.iter().for_each(|(verdict, count)| add(&key.key_id, verdict, *count));
        }
        batch.others.iter().for_each(|(verdict, count)| add("-", verdict, *count));
    }
    counts
}

#[tokio::test]
async fn reported_usage_is_exact_and_contains_no_secret() {
    let feed = Feed::start().await;
    let began_ms = unix_ms();
    let mut asked = Asked::start(&feed, None).await;
    let mut workers = asked.workers().await;
    for _ in 0..20 {
        asked.ask(&mut workers).await;
    }
    let batches = asked.until_reported(&feed).await;
    let keys = || batches.iter().flat_map(|batch| &batch.keys);
    let allowed = asked.counts[&("key_used".to_owned(), "allow".to_owned())];
    assert!(allowed >= 82);
    assert_eq!(keys().map(|key| key.credits).sum::<u64>(), COST * allowed);
    for key in keys() {
        let is_used = key.verdicts.contains_key("allow");
        assert_eq!(key.last_used_ms.is_some(), is_used, "{key:?}");
        // Envoy and the test share a clock.
        assert!(key.last_used_ms.is_none_or(|ms| (began_ms..=unix_ms()).contains(&ms)), "{key:?}");
    }
    let token = asked.gateway.control_plane.edge_token().unwrap();
    for (_, body) in feed.usage_received() {
        let body = String::from_utf8(body).unwrap();
        for key in [USED, LIMITED, REVOKED, UNKNOWN] {
            let digest: String = Digest::of_key(key.as_bytes()).0.iter().map(|byte| format!("{byte:02x}")).collect();
            for secret in [key, &key[10..30], &digest, &token] {
                assert!(!body.contains(secret), "{body}");
            }
        }
    }
    let stats = asked.gateway.envoy.stats("keyward_usage_(failures|dropped)$").await.unwrap();
    assert!(stats.values().all(|&count| count == 0), "{stats:?}");
}

#[tokio::test]
async fn failed_batch_is_resent_without_loss_or_duplicates() {
    let feed = Feed::start().await;
    feed.on_usage(&[OnUsage::Refuse(503), OnUsage::TakeAndClose, OnUsage::TakeAndClose], OnUsage::Take);
    let mut asked = Asked::start(&feed, None).await;
    let mut workers = asked.workers().await;
    for _ in 0..20 {
        asked.ask(&mut workers).await;
    }
    // Counting continues while batches fail: these requests follow the first failure.
    until("three batches failed", LATE, async || {
        if feed.usage_received().len() >= 3 { Ok(()) } else { Err(Failure::new("fewer")) }
    })
    .await
    .unwrap();
    asked.ask(&mut workers).await;
    let batches = asked.until_reported(&feed).await;
    let received = feed.usage_received();
    let again: Vec<_> = received.iter().map(|(_, body)| Batch::decode(body).unwrap().id).collect();
    assert_eq!(again.len(), batches.len() + 3, "expected one more batch per failure: {received:?}");
    for (on_usage, body) in received.iter().filter(|(on_usage, _)| *on_usage != OnUsage::Take) {
        let times = received.iter().filter(|(_, other)| other == body).count();
        assert!(times > 1, "{on_usage:?} {}", String::from_utf8_lossy(body));
    }
    until("the failures are counted", SOON, async || {
        let stats = asked.gateway.envoy.stats("keyward_usage_failures$").await?;
        let failures = stats.values().sum::<u64>();
        if failures == 3 { Ok(()) } else { Err(Failure::new(format!("{failures}"))) }
    })
    .await
    .unwrap();
    let log = asked.gateway.envoy.log().unwrap();
    assert!(log.contains("failed to report usage") && log.contains("usage reporting recovered"), "{log}");
}

#[tokio::test]
async fn replaced_listener_with_failed_batches_loses_none() {
    let dir = TestDir::new().unwrap();
    let feed = Feed::start().await;
    feed.on_usage(&[], OnUsage::Refuse(503));
    let mut asked = Asked::start(&feed, Some(&dir.path().join("listeners.json"))).await;
    for records in 101..104 {
        let mut workers = asked.workers().await;
        asked.ask(&mut workers).await;
        drop(workers);
        replace(&mut asked.gateway, records).await;
    }
    until("the old listeners are gone", SOON, async || {
        let stats = asked.gateway.envoy.stats("^listener_manager.total_(listeners|filter_chains)_draining$").await?;
        if stats.len() == 2 && stats.values().all(|&count| count == 0) {
            Ok(())
        } else {
            Err(Failure::new(format!("{stats:?}")))
        }
    })
    .await
    .unwrap();
    assert!(feed.usage_taken().is_empty());
    feed.on_usage(&[], OnUsage::Take);
    asked.until_reported(&feed).await;
}

fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}
