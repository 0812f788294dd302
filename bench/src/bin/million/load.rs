//! Requests at a steady rate with known responses: their durations, and wrong responses.
//!
//! The due times are fixed in advance, and durations count from there: a gateway that stalls cannot hide it by
//! receiving fewer requests.

use crate::database::{FIRST, expected_status, key, unknown_key};
use keyward_bench::stats::quantile;
use keyward_harness::http::Connection;
use keyward_harness::{Failure, Request, Result};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Requests per second.
pub(crate) const RATE: usize = 500;

const CONNECTIONS: usize = 20;

/// Requests in flight until stopped.
pub(crate) struct Load {
    end: watch::Sender<bool>,
    clients: JoinSet<Result<Vec<Answered>>>,
}

/// A response.
#[derive(Clone, Copy)]
pub(crate) struct Answered {
    due: Instant,
    took: Duration,
    right: bool,
    status: u16,
}

/// All responses.
pub(crate) struct Answers(Vec<Answered>);

/// A request, and its expected status.
type Asked = (Request, u16);

impl Load {
    /// Starts to send requests: mostly with valid keys, some with revoked and unknown ones.
    pub(crate) async fn start(gateway: SocketAddr) -> Result<Self> {
        let asked: Vec<Asked> = (0..FIRST).map(asked).collect();
        let (end, ending) = watch::channel(false);
        let mut clients = JoinSet::new();
        let started = Instant::now() + Duration::from_millis(100);
        for client in 0..CONNECTIONS {
            let connection = Connection::open(gateway).await?;
            clients.spawn(send(connection, asked.clone(), client, started, ending.clone()));
        }
        Ok(Self { end, clients })
    }

    /// Stops the load; returns all responses, unordered.
    pub(crate) async fn stop(mut self) -> Result<Answers> {
        self.end.send_replace(true);
        let mut answers = Vec::new();
        while let Some(client) = self.clients.join_next().await {
            answers.extend(client.map_err(|error| Failure::new(error.to_string()))??);
        }
        Ok(Answers(answers))
    }
}

/// The nth request.
fn asked(n: usize) -> Asked {
    let (key, status) = if n % 10 == 9 { (unknown_key(n), 401) } else { (key(n), expected_status(n)) };
    (Request::get("/").bearer(&key), status)
}

async fn send(
    mut connection: Connection,
    asked: Vec<Asked>,
    client: usize,
    started: Instant,
    mut ending: watch::Receiver<bool>,
) -> Result<Vec<Answered>> {
    let mut answers = Vec::new();
    for n in (client..).step_by(CONNECTIONS) {
        let due = started + Duration::from_secs_f64(n as f64 / RATE as f64);
        let is_late = Instant::now() > due;
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            _ = ending.wait_for(|ending| *ending) => break,
        }
        // The gateway is not charged for a late timer, but is charged for a late response to the previous request.
        let from = if is_late { due } else { Instant::now() };
        // A step size that visits all of them.
        let (request, expected) = &asked[n * 7 % asked.len()];
        let status = connection.send(request).await?.status;
        answers.push(Answered { due, took: from.elapsed(), right: status == *expected, status });
    }
    Ok(answers)
}

impl Answers {
    /// Statistics of the requests that were due in a span.
    pub(crate) fn between(&self, from: Instant, to: Instant) -> Value {
        let due: Vec<_> = self.0.iter().filter(|answer| from <= answer.due && answer.due < to).collect();
        let mut took: Vec<f64> = due.iter().map(|answer| answer.took.as_secs_f64() * 1e3).collect();
        took.sort_by(f64::total_cmp);
        json!({
            "requests": due.len(),
            "seconds": (to - from).as_secs_f64(),
            "p50_ms": quantile(&took, 0.5),
            "p99_ms": quantile(&took, 0.99),
            "max_ms": took.last(),
            "wrong": due.iter().filter(|answer| !answer.right).count(),
            "wrong_statuses": due.iter().filter(|answer| !answer.right).map(|answer| answer.status).take(5).collect::<Vec<_>>(),
        })
    }
}
