//! Connections to every worker of an Envoy: each worker has its own VM, and its state can differ from the others'.
//!
//! The kernel assigns a new connection to any worker, where it stays. So connections are opened one at a time, and
//! Envoy's count of accepted connections per worker shows which worker has each.

use crate::http::{Connection, Request};
use crate::{Envoy, Failure, Response, Result, until};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// More than enough: with four workers, 200 connections miss one with a probability of 10⁻²⁴.
const ATTEMPTS: usize = 200;

/// One kept-alive connection to each worker, in the workers' order.
#[derive(Debug)]
pub struct WorkerConnections(Vec<Connection>);

impl WorkerConnections {
    /// Opens the connections. No other connections may be opened to the gateway meanwhile.
    pub async fn open(envoy: &Envoy) -> Result<Self> {
        let mut found = BTreeMap::new();
        let mut accepted = accepted_by_worker(envoy).await?;
        for _ in 0..ATTEMPTS {
            if found.len() == envoy.workers() as usize {
                return Ok(Self(found.into_values().collect()));
            }
            let mut connection = Connection::open(envoy.gateway()).await?;
            // A worker accepts the connection once a request was sent on it.
            connection.send(&Request::get(envoy.readiness_path().unwrap_or("/"))).await?;
            let now = until("a worker accepts a connection", Duration::from_secs(10), async || {
                let now = accepted_by_worker(envoy).await?;
                if now == accepted { Err(Failure::new("none yet")) } else { Ok(now) }
            })
            .await?;
            let more: Vec<u32> =
                now.iter().filter(|(id, count)| accepted.get(id) != Some(count)).map(|(id, _)| *id).collect();
            let total = |counts: &BTreeMap<u32, u64>| counts.values().sum::<u64>();
            // If another connection was accepted in between, the worker of this one is unknown.
            if let ([worker], 1) = (more.as_slice(), total(&now) - total(&accepted)) {
                found.entry(*worker).or_insert(connection);
            }
            accepted = now;
        }
        Err(Failure::new(format!("{ATTEMPTS} connections reached only the workers {:?}", found.keys())))
    }

    /// Sends the same request to every worker; returns the responses in the workers' order.
    pub async fn send(&mut self, request: &Request) -> Result<Vec<Response>> {
        let mut answers = Vec::new();
        for connection in &mut self.0 {
            answers.push(connection.send(request).await?);
        }
        Ok(answers)
    }

    /// The status of the same request on every worker.
    pub async fn statuses(&mut self, request: &Request) -> Result<Vec<u16>> {
        Ok(self.send(request).await?.iter().map(|answer| answer.status).collect())
    }

    /// Waits until every worker answers a request with this status.
    pub async fn until_status(&mut self, request: &Request, status: u16, limit: Duration) -> Result<()> {
        until(&format!("every worker answers {status}"), limit, async || {
            let statuses = self.statuses(request).await?;
            if statuses.iter().all(|&got| got == status) { Ok(()) } else { Err(Failure::new(format!("{statuses:?}"))) }
        })
        .await
    }

    /// The connection to one worker.
    pub fn worker(&mut self, worker: usize) -> &mut Connection {
        &mut self.0[worker]
    }
}

async fn accepted_by_worker(envoy: &Envoy) -> Result<BTreeMap<u32, u64>> {
    let listener = stat_name(envoy.gateway());
    let prefix = format!("listener.{listener}.worker_");
    let stats = envoy.stats(r"^listener\..*\.worker_[0-9]+\.downstream_cx_total$").await?;
    let of_gateway = stats.iter().filter_map(|(name, count)| {
        let worker = name.strip_prefix(&prefix)?.strip_suffix(".downstream_cx_total")?;
        Some((worker.parse().ok()?, *count))
    });
    Ok(of_gateway.collect())
}

fn stat_name(address: SocketAddr) -> String {
    address.to_string().replace(':', "_")
}
