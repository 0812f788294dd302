//! Growth from a thousand keys to all of them, change by change, during requests.

use crate::database::{self, FIRST, key};
use crate::load::{Load, RATE};
use crate::rig::Rig;
use keyward_harness::Result;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long requests are made beforehand, for comparison.
const BEFORE: Duration = Duration::from_secs(15);

pub(crate) async fn measure(keys: usize, workers: u32) -> Result<Value> {
    let mut rig = Rig::start(&database::small_copy("growth").await?, workers, &[]).await?;
    let few = rig.until_records(|records| records >= FIRST as u64).await?;
    let load = Load::start(rig.envoy.gateway()).await?;
    let warm = Instant::now() + Duration::from_secs(5);
    tokio::time::sleep_until((warm + BEFORE).into()).await;
    let before = rig.memory().await?;
    let began = Instant::now();
    database::import(&rig.plane, FIRST..keys, None).await?;
    let imported = Instant::now();
    let complete = rig.until_open(&key(keys - 1)).await?;
    let answers = load.stop().await?;
    let records = rig.until_records(|records| records >= keys as u64).await?;
    let after = rig.memory().await?;
    Ok(json!({
        "keys": keys,
        "first": FIRST,
        "workers": workers,
        "records": records,
        "import_s": (imported - began).as_secs_f64(),
        "behind_s": (complete - imported).as_secs_f64(),
        "memory_before_bytes": before,
        "memory_after_bytes": after,
        "bytes_per_key": after.saturating_sub(before) as f64 / (records - few) as f64,
        "requests_per_s": RATE,
        "requests_before": answers.between(warm, began),
        "requests_during": answers.between(began, complete),
        "requests_in_all": answers.between(warm, complete),
        "ticks": rig.ticks().await?,
    }))
}
