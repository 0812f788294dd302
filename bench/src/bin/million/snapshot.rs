//! A snapshot of all keys is loaded by an Envoy that serves requests with a thousand of them; then changes are made.

use crate::database::{self, FIRST, PATIENCE, key};
use crate::load::{Load, RATE};
use crate::rig::Rig;
use keyward_bench::stats::quantile;
use keyward_core::key::digest::Digest;
use keyward_harness::{Failure, Request, Result, WorkerConnections};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long requests are made beforehand, for comparison.
const BEFORE: Duration = Duration::from_secs(10);

/// How long requests are made before that, to warm up.
const WARM: Duration = Duration::from_secs(2);

/// The number of keys to create and revoke among all.
const CHANGES: usize = 20;

pub(crate) async fn measure(keys: usize, workers: &[u32], rounds: u32) -> Result<Value> {
    let (small, big) = (database::with_keys(FIRST).await?, database::with_keys(keys).await?);
    // The last key of the snapshot, which is sorted by digest.
    let last = (0..keys).map(key).max_by_key(|key| Digest::of_key(key.as_bytes()).0).unwrap_or_default();
    let mut runs = Vec::new();
    for &workers in workers {
        println!("{keys} keys, {workers} workers");
        let mut rig = Rig::start(&small, workers, &[]).await?;
        let few = rig.until_records(|records| records >= FIRST as u64).await?;
        let mut loads = Vec::new();
        let mut memory = Vec::new();
        for round in 1..=rounds {
            let load = Load::start(rig.envoy.gateway()).await?;
            // Requests allocate memory in the workers before it is measured.
            let warm = Instant::now() + WARM;
            tokio::time::sleep_until((warm + BEFORE).into()).await;
            memory.push(rig.memory().await?);
            let began = Instant::now();
            rig.switch_to(&big).await?;
            let answering = Instant::now();
            let complete = rig.until_open(&last).await?;
            let answers = load.stop().await?;
            let found = json!({
                "load_s": (complete - answering).as_secs_f64(),
                "requests_before": answers.between(warm, began),
                "requests_during": answers.between(answering, complete),
                "requests_in_all": answers.between(warm, complete),
            });
            println!("{found}");
            loads.push(found);
            rig.until_records(|records| records >= keys as u64).await?;
            memory.push(rig.memory().await?);
            if round < rounds {
                rig.switch_to(&small).await?;
                rig.until_records(|records| records < keys as u64).await?;
            }
        }
        let records = rig.until_records(|records| records >= keys as u64).await?;
        let changes = changes(&rig).await?;
        let ticks = rig.ticks().await?;
        let asked = rig.restart_envoy().await?;
        rig.envoy.wait_for_snapshot(PATIENCE).await?;
        let fresh = asked.elapsed();
        let run = json!({
            "workers": workers,
            "records": records,
            "first_load_s": fresh.as_secs_f64(),
            "first_load_memory_bytes": rig.memory().await?,
            "first_load_ticks": rig.ticks().await?,
            "loads": loads,
            "memory_bytes": memory,
            "bytes_per_key": memory[1].saturating_sub(memory[0]) as f64 / (records - few) as f64,
            "requests_per_s": RATE,
            "ticks": ticks,
            "changes": changes,
        });
        println!("{run:#}");
        runs.push(run);
    }
    Ok(json!({"keys": keys, "first": FIRST, "runs": runs}))
}

/// Creates and revokes keys, and measures the time until every worker has the change.
async fn changes(rig: &Rig) -> Result<Value> {
    let mut workers = rig.envoy.every_worker().await?;
    let (mut acceptance, mut revocation) = (Vec::new(), Vec::new());
    for n in 0..CHANGES {
        let created = rig.plane.create_named(&format!("change {n}")).await?;
        let request = Request::get("/").bearer(&created.key);
        acceptance.push(time_until(&mut workers, &request, 200).await?);
        rig.plane.revoke(&created.id).await?;
        revocation.push(time_until(&mut workers, &request, 401).await?);
    }
    Ok(json!({"rounds": CHANGES, "created": summary(acceptance), "revoked": summary(revocation)}))
}

async fn time_until(workers: &mut WorkerConnections, request: &Request, status: u16) -> Result<f64> {
    let started = Instant::now();
    while workers.statuses(request).await?.iter().any(|answered| *answered != status) {
        if started.elapsed() > PATIENCE {
            return Err(Failure::new(format!("not every worker answers {status}")));
        }
    }
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

fn summary(mut times: Vec<f64>) -> Value {
    times.sort_by(f64::total_cmp);
    json!({"p50_ms": quantile(&times, 0.5), "p99_ms": quantile(&times, 0.99)})
}
