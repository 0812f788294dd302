//! Keys are created, revoked and purged, a tenth of all at a time: Envoy's memory must not keep rising.

use crate::database::{self, FIRST};
use crate::load::Load;
use crate::rig::Rig;
use keyward_harness::Result;
use serde_json::{Value, json};
use std::time::Instant;

/// The number of batches.
const ROUNDS: usize = 10;

/// The number of keys per owner, all revoked with one request.
const OF_AN_OWNER: usize = 5_000;

pub(crate) async fn measure(keys: usize, workers: u32) -> Result<Value> {
    let small = database::small_copy("churn").await?;
    let mut rig = Rig::start(&small, workers, &["--retention", "1s"]).await?;
    let few = rig.until_records(|records| records >= FIRST as u64 / 2).await?;
    let began = Instant::now();
    let load = Load::start(rig.envoy.gateway()).await?;
    let before = rig.memory().await?;
    let mut rounds = Vec::new();
    let (mut next, mut owners) = (FIRST, 0);
    for round in 0..ROUNDS {
        let started = Instant::now();
        let end = FIRST + (round + 1) * (keys / ROUNDS);
        let first_owner = owners;
        while next < end {
            let batch = next..end.min(next + OF_AN_OWNER);
            next = batch.end;
            database::import(&rig.plane, batch, Some(&format!("churn-{owners}"))).await?;
            owners += 1;
        }
        // The records of owners remain.
        let most = rig.until_records(|records| records >= few + (owners + keys / ROUNDS) as u64).await?;
        let with_all = rig.memory().await?;
        for owner in first_owner..owners {
            database::revoke_all(&rig.plane, &format!("churn-{owner}")).await?;
        }
        let left = rig.until_records(|records| records <= few + owners as u64).await?;
        let found = json!({
            "records": most,
            "memory_bytes": with_all,
            "records_left": left,
            "memory_left_bytes": rig.memory().await?,
            "seconds": started.elapsed().as_secs_f64(),
        });
        println!("{found}");
        rounds.push(found);
    }
    let ended = Instant::now();
    let answers = load.stop().await?;
    let left = |round: usize| rounds[round]["memory_left_bytes"].as_f64().unwrap_or_default();
    Ok(json!({
        "keys": keys,
        "first": FIRST,
        "workers": workers,
        "memory_before_bytes": before,
        "rounds": rounds,
        "growth_after_first_round_bytes": left(ROUNDS - 1) - left(0),
        "requests_in_all": answers.between(began, ended),
        "ticks": rig.ticks().await?,
    }))
}
