//! The state of a server, from its API for operators and its feed for edges.

use crate::oracle::{Observed, ObservedKey};
use keyward_core::FEED_PATH;
use keyward_core::wire::cursor::Position;
use keyward_core::wire::entry::Body;
use keyward_core::wire::page::Page;
use keyward_harness::edges::{Entries, Memory, Options, Protocol};
use keyward_harness::{ControlPlane, Edges, Failure, Request, Result, http};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// The deadline for an edge to reach the server's position: three polls with lost responses, on a busy machine.
const CONVERGED: Duration = Duration::from_secs(60);

/// The options of the simulated edges.
pub(crate) const fn edges(count: usize) -> Options {
    Options {
        edges: count,
        protocol: Protocol::Http2,
        memory: Memory::Entries,
        wait_s: 2,
        threads: 1,
        openings_per_s: None,
    }
}

/// Reads the complete state.
pub async fn observe(plane: &ControlPlane) -> Result<Observed> {
    let mut observed = Observed::default();
    let answer = ask(plane, "/v1/keys/export").await?;
    for line in answer.text().lines() {
        let key: Value = serde_json::from_str(line).map_err(|error| Failure::new(format!("the export: {error}")))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let secrets = key["secrets"].as_array().into_iter().flatten().map(|secret| text(&secret["id"])).collect();
        let found = ObservedKey { id: text(&key["id"]), revoked: !key["revoked_at"].is_null(), secrets };
        observed.keys.entry(text(&key["name"])).or_default().push(found);
    }
    for plan in ask(plane, "/v1/plans").await?.json()["plans"].as_array().into_iter().flatten() {
        let limit = plan["limits"][0].as_str().and_then(|limit| limit.split_once('/')?.0.parse().ok());
        observed.plans.insert(plan["id"].as_str().unwrap_or_default().to_owned(), limit.unwrap_or_default());
    }
    for (subject, (_, body)) in newcomer(plane).await? {
        if let Some(Body::Key(record)) = body {
            observed.edge.insert(subject, (record.key_id, record.revoked_at_ms.is_some()));
        }
    }
    Ok(observed)
}

/// Waits until the edges reach the server's position; returns their differences from a new edge.
pub async fn converge(plane: &ControlPlane, edges: &Edges) -> Result<Vec<String>> {
    let sequence = head(plane).await?;
    edges.until_all_have(sequence, CONVERGED).await?;
    let expected = newcomer(plane).await?;
    let mut differences = Vec::new();
    for (number, known) in edges.entries().into_iter().enumerate() {
        let missing = expected.iter().filter(|(subject, entry)| known.get(subject) != Some(entry)).count();
        let beyond = known.keys().filter(|subject| !expected.contains_key(subject)).count();
        if missing + beyond > 0 {
            differences.push(format!("edge {number}: {missing} entries missing or different, {beyond} additional"));
        }
    }
    Ok(differences)
}

/// The entries of a new edge.
async fn newcomer(plane: &ControlPlane) -> Result<Entries> {
    let sequence = head(plane).await?;
    let newcomer = Edges::start(plane.address(), &plane.edge_token()?, edges(1))?;
    newcomer.until_all_have(sequence, CONVERGED).await?;
    Ok(newcomer.entries().into_iter().next().unwrap_or_else(BTreeMap::new))
}

/// The sequence of the server's latest change.
async fn head(plane: &ControlPlane) -> Result<u64> {
    let path = format!("{FEED_PATH}?after={}", Position::Nothing);
    let request = Request::get(&path).bearer(&plane.edge_token()?);
    let answer = http::send(plane.address(), &request).await?;
    let page = Page::decode(&answer.body).map_err(|error| Failure::new(format!("the feed: {error}")))?;
    Ok(page.head.sequence)
}

async fn ask(plane: &ControlPlane, path: &str) -> Result<keyward_harness::Response> {
    let answer = plane.api("GET", path, None).await?;
    if answer.status == 200 {
        return Ok(answer);
    }
    Err(Failure::new(format!("GET {path}: {} {}", answer.status, answer.text())))
}
