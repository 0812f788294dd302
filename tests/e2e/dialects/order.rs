//! Each request has exactly one verdict: if several things are wrong with a key, the first in a fixed order.

use super::records::{Records, page};
use crate::common::SOON;
use crate::feed_double::Feed;
use keyward_core::key::digest::Digest;
use keyward_core::key::limit::Limits;
use keyward_core::wire::entry::{Body, KeyRecord, OwnerRecord};
use keyward_harness::{Gateway, Request};
use serde_json::json;

/// A fault of a key, in the order of decision, and the change that causes it.
type Fault = (&'static str, fn(&mut KeyRecord));

const FAULTS: [Fault; 9] = [
    ("revoked", |key| key.revoked_at_ms = Some(u64::MAX)),
    ("expired", |key| key.expires_at_ms = Some(1)),
    ("paused", |key| key.paused = true),
    ("unassociated", |key| key.owner = Some("gone".to_owned())),
    ("wrong_kind", |key| key.kind = "internal".to_owned()),
    ("forbidden_ip", |key| key.allowlist = vec!["2001:db8::/32".parse().unwrap()]),
    ("insufficient_scope", |key| key.scopes = Vec::new()),
    ("rate_limited", |key| key.limits = Some(Limits::new(vec!["0/min".parse().unwrap()]).unwrap())),
    ("quota_exhausted", |key| key.credits_exhausted = true),
];

#[tokio::test]
async fn first_of_several_faults_decides() {
    let feed = Feed::start().await;
    let gateway = Gateway::builder()
        .filter(|filter| {
            let rule = json!({"path": {"prefix": "/"}, "access": "key", "kinds": ["key"], "scopes": ["admin"]});
            filter["rules"] = json!([rule]);
        })
        .feed_from(feed.address())
        .start()
        .await
        .unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let records = Records::of("keyward");

    // The first key has every fault, the next all but the first, and so on; the last has none.
    let names: Vec<String> = (0..=FAULTS.len()).map(|without| format!("without {without}")).collect();
    let mut entries = vec![(Digest::of_owner("gone"), Body::Owner(OwnerRecord { disabled: true, permissions: None }))];
    for (without, name) in names.iter().enumerate() {
        let mut key = KeyRecord {
            key_id: format!("key_{without}"),
            kind: "key".to_owned(),
            scopes: vec!["admin".to_owned()],
            ..KeyRecord::default()
        };
        FAULTS[without..].iter().for_each(|(_, make)| make(&mut key));
        entries.push((Digest::of_key(records.credential(name).as_bytes()), Body::Key(key)));
    }
    // A missing snapshot comes before any fault of a request.
    for answer in workers.send(&Request::get("/")).await.unwrap() {
        assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("unavailable")));
    }
    feed.asked().await;
    feed.send(page(entries));

    let request = |name: &str| Request::get("/").bearer(&records.credential(name));
    workers.until_status(&request(&names[FAULTS.len()]), 200, SOON).await.unwrap();
    for (name, (verdict, _)) in names.iter().zip(FAULTS) {
        for answer in workers.send(&request(name)).await.unwrap() {
            assert_eq!(answer.json()["code"], verdict);
        }
    }
}
