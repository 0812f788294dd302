//! Twenty thousand keys are added while Envoy serves requests: no response is wrong meanwhile, and their memory is
//! bounded. `make bench-million` measures the same with a million keys, including the time.

use crate::common::SOON;
use keyward_core::dialect::Dialect;
use keyward_core::key::digest::Digest;
use keyward_harness::{ControlPlane, Gateway, Request};
use serde_json::json;
use std::convert::Infallible;
use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

const KEYS: usize = 20_000;

/// Keys per import.
const BATCH: usize = 5_000;

const OWNERS: usize = 100;

/// The deadline for all keys, on a busy machine.
const GIVEN_UP: Duration = Duration::from_secs(150);

/// The maximum memory per key in Envoy, in bytes. With few keys, each takes more, since nearly every key has its own
/// bucket.
const BYTES_PER_KEY: u64 = 450;

#[tokio::test]
async fn many_keys_cause_no_wrong_response_in_little_memory() {
    let mut gateway = Gateway::start().await.unwrap();
    let kept = gateway.control_plane.create_named("kept").await.unwrap();
    let revoked = gateway.control_plane.create_named("revoked").await.unwrap();
    gateway.control_plane.revoke(&revoked.id).await.unwrap();
    let asked = [(kept.key, 200), (revoked.key, 401), (unknown_key(), 401)]
        .map(|(key, status)| (Request::get("/").bearer(&key), status));
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    for (request, status) in &asked {
        workers.until_status(request, *status, SOON).await.unwrap();
    }
    let before = anonymous_memory(gateway.envoy.process().id());

    // The two keys in use, the added ones, and their owners.
    let wanted = (2 + KEYS + OWNERS) as u64;
    let importing = import(&gateway.control_plane);
    let asking = async {
        let started = Instant::now();
        for rounds in 0.. {
            for (request, status) in &asked {
                assert_eq!(workers.statuses(request).await.unwrap(), [*status; 2], "{request:?}, {rounds} rounds");
            }
            match records(&gateway).await {
                records if records >= wanted => return,
                records => assert!(started.elapsed() < GIVEN_UP, "{records} of {wanted} records"),
            }
        }
    };
    tokio::join!(importing, asking);

    assert_eq!(records(&gateway).await, wanted);
    let grown = anonymous_memory(gateway.envoy.process().id()).saturating_sub(before);
    println!("{} bytes a key", grown / KEYS as u64);
    assert!(grown > 0 && grown < BYTES_PER_KEY * KEYS as u64, "{} bytes a key", grown / KEYS as u64);
}

async fn import(control_plane: &ControlPlane) {
    let token = control_plane.admin_token().unwrap();
    for first in (0..KEYS).step_by(BATCH) {
        let import = Request::new("POST", "/v1/keys/import")
            .bearer(&token)
            .header("content-type", "application/x-ndjson")
            .body(rows(first..first + BATCH));
        let report = keyward_harness::http::send(control_plane.address(), &import).await.unwrap().json();
        assert_eq!(report["imported"], BATCH, "{report}");
    }
}

/// Rows of keys that are never presented.
fn rows(numbers: Range<usize>) -> Vec<u8> {
    let row = |n: usize| {
        let digest: String = Digest::of_key(&n.to_le_bytes()).0.iter().map(|byte| format!("{byte:02x}")).collect();
        let row = json!({
            "name": format!("key {n}"), "sha256": digest, "owner": format!("owner-{}", n % OWNERS),
            "environment": "live", "scopes": ["orders:read", "orders:write"],
        });
        format!("{row}\n").into_bytes()
    };
    numbers.flat_map(row).collect()
}

/// A well-formed key that does not exist.
fn unknown_key() -> String {
    let dialect = Dialect::built_in("keyward").unwrap().unwrap();
    let drawn = |bytes: &mut [u8]| {
        bytes.fill(7);
        Ok::<_, Infallible>(())
    };
    dialect.formats[0].issue(drawn).unwrap().expose().to_owned()
}

/// The number of records according to Envoy's metrics.
async fn records(gateway: &Gateway) -> u64 {
    let stats = gateway.envoy.stats(r"keyward_snapshot_records$").await.unwrap();
    stats.into_values().next().unwrap_or_default()
}

/// A process's anonymous memory (proc(5), `RssAnon`), in bytes.
fn anonymous_memory(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}
