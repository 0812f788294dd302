//! The promise of time: from the API's answer to the last worker, 100 ms.

use keyward_harness::{Attempt, Gateway, Request, WorkerConnections};
use serde_json::json;
use std::time::{Duration, Instant};

const ROUNDS: usize = 100;
const PROMISED: Duration = Duration::from_millis(100);

/// A worker that never gets there ends the test here.
const GIVEN_UP: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_new_key_opens_and_a_revoked_one_closes_every_worker_within_100_ms() {
    let gateway = Gateway::start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    for attempt in Attempt::several() {
        let (mut opening, mut closing) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let created = gateway.control_plane.create_named(&format!("round {round}")).await.unwrap();
            let request = Request::get("/").bearer(&created.key);
            opening.push(time_until(&mut workers, &request, 200).await);
            gateway.control_plane.revoke(&created.id).await.unwrap();
            closing.push(time_until(&mut workers, &request, 401).await);
        }
        if attempt.keeps(PROMISED, &[("opening", p99("opening", opening)), ("closing", p99("closing", closing))]) {
            break;
        }
    }
}

#[tokio::test]
async fn a_revoked_key_of_which_only_a_password_hash_is_kept_closes_every_worker_within_100_ms() {
    let gateway = Gateway::builder().dialect("auxot").start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    for attempt in Attempt::several() {
        let mut closing = Vec::new();
        for round in 0..ROUNDS {
            let fields = json!({"name": format!("round {round}"), "kind": "user", "owner": "alice"});
            let created = gateway.control_plane.create(&fields).await.unwrap();
            let request = Request::get("/api/agents").bearer(&created.key);
            workers.until_status(&request, 200, GIVEN_UP).await.unwrap();
            gateway.control_plane.revoke(&created.id).await.unwrap();
            closing.push(time_until(&mut workers, &request, 401).await);
        }
        if attempt.keeps(PROMISED, &[("closing", p99("closing", closing))]) {
            break;
        }
    }
}

/// From now, when the API has answered, until the last worker answers with this status.
async fn time_until(workers: &mut WorkerConnections, request: &Request, status: u16) -> Duration {
    let started = Instant::now();
    while workers.statuses(request).await.unwrap().iter().any(|answered| *answered != status) {
        assert!(started.elapsed() < GIVEN_UP, "not every worker answers {status}");
    }
    started.elapsed()
}

fn p99(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let (median, p99, max) = (times[times.len() / 2], times[times.len() * 99 / 100 - 1], times[times.len() - 1]);
    println!("{what}: median {median:?}, p99 {p99:?}, max {max:?} of {ROUNDS}");
    p99
}
