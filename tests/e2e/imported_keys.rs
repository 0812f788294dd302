//! Imported keys are found by whichever digest the other system kept, and are subject to their plan.

use crate::common::SOON;
use crate::feed_double::Feed;
use hmac::{Hmac, Mac as _};
use keyward_core::key::digest::Digest;
use keyward_core::key::environment::Environment;
use keyward_core::key::limit::Limits;
use keyward_core::wire::cursor::{Cursor, Position};
use keyward_core::wire::entry::{Body, Entry, KeyRecord, PlanRecord};
use keyward_core::wire::page::{Extent, Page};
use keyward_harness::{Gateway, Request};
use serde_json::json;
use sha2::{Digest as _, Sha256, Sha512};

/// Raw bytes, although they look like base64.
const PEPPER: &str = "c2FsdHk= and more";
const KEYS: [&str; 3] = [
    "exo_live_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "exo_live_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    "exo_live_cccccccccccccccccccccccccccccccccccc",
];

fn page(answers: Position, sequence: u64, extent: Extent, mut records: Vec<(Digest, Body)>) -> Vec<u8> {
    records.sort_by_key(|(subject, _)| *subject);
    let mut entries = Vec::new();
    for (subject, body) in records {
        Entry { subject, version: sequence, body }.encode(&mut entries).unwrap();
    }
    Page { summary: None, answers, head: head(sequence), extent, entries: &entries }.encode()
}

fn head(sequence: u64) -> Cursor {
    Cursor { epoch: 1, sequence, chain: [u8::try_from(sequence).unwrap(); 16] }
}

fn plan(limit: &str) -> (Digest, Body) {
    let limits = Limits::new(vec![limit.parse().unwrap()]).unwrap();
    (Digest::of_plan("pro"), Body::Plan(PlanRecord { limits: Some(limits) }))
}

/// Keys imported by other digests pass, and a change of their plan takes effect.
#[tokio::test]
async fn imported_digests_pass_and_follow_plan_changes() {
    let feed = Feed::start().await;
    let gateway = Gateway::builder()
        .dialect("exona")
        .feed_from(feed.address())
        .envoy_environment("OLD_PEPPER", PEPPER)
        .configure(|config| {
            config.filter()["digests"] = json!(["sha256", "sha512", {"hmac_sha256": {"pepper_env": "OLD_PEPPER"}}]);
            for filter in config.wasm_filters() {
                filter["config"]["vm_config"]["environment_variables"]["host_env_keys"] =
                    json!(["KEYWARD_EDGE_TOKEN", "OLD_PEPPER"]);
            }
        })
        .start()
        .await
        .unwrap();
    let key = |key_id: &str| {
        Body::Key(KeyRecord {
            key_id: key_id.to_owned(),
            kind: "key".into(),
            environment: Some(Environment::Live),
            plan: Some("pro".into()),
            ..KeyRecord::default()
        })
    };
    let hmac = Hmac::<Sha256>::new_from_slice(PEPPER.as_bytes()).unwrap().chain_update(KEYS[1]);
    let records = vec![
        (Digest::of_sha512(&Sha512::digest(KEYS[0]).into()), key("key_sha512")),
        (Digest::of_hmac_sha256(&hmac.finalize().into_bytes().into()), key("key_hmac")),
        plan("100000/s"),
    ];
    assert_eq!(feed.asked().await, Position::Nothing);
    feed.send(page(Position::Nothing, 2, Extent::Snapshot { end: None }, records));

    let mut workers = gateway.envoy.every_worker().await.unwrap();
    for (key, key_id) in [(KEYS[0], "key_sha512"), (KEYS[1], "key_hmac")] {
        let request = Request::get("/").bearer(key);
        workers.until_status(&request, 200, SOON).await.unwrap();
        for answer in workers.send(&request).await.unwrap() {
            let headers = &answer.json()["headers"];
            assert_eq!(headers["x-keyward-key-id"], json!([key_id]));
            assert_eq!(headers["x-keyward-plan"], json!(["pro"]));
        }
    }
    workers.until_status(&Request::get("/").bearer(KEYS[2]), 401, SOON).await.unwrap();

    let at_two = Position::Changes { applied: 2, seen: head(2) };
    assert_eq!(feed.asked().await, at_two);
    feed.send(page(at_two, 3, Extent::Changes { to: 3 }, vec![plan("0/s")]));
    for key in &KEYS[..2] {
        workers.until_status(&Request::get("/").bearer(key), 429, SOON).await.unwrap();
    }
    let log = std::fs::read_to_string(gateway.dir().path().join("envoy.log")).unwrap();
    assert!(!log.contains(PEPPER), "the pepper is in the log");
}
