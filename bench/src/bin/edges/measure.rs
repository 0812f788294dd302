//! The phases of the measurement.

use crate::found::{Arriving, Changes, Delays, Found, Idle, Restart};
use crate::operator::{Change, Operator};
use keyward_bench::process::Observed;
use keyward_harness::edges::{Edges, Memory, Options, Protocol};
use keyward_harness::{ControlPlane, Failure, Result, TestDir};
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::{Duration, Instant};
use tokio::time::{interval, sleep};

/// The parameters of the measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) edges: usize,
    pub(crate) keys: usize,
    pub(crate) protocol: Protocol,
    pub(crate) threads: usize,
    pub(crate) openings_per_s: NonZeroU32,
    pub(crate) revocations: usize,
    pub(crate) burst_per_s: usize,
}

/// The default of the filter's `poll_wait_s`.
const WAIT_S: u32 = 2;

/// The deadline of each phase for all edges together.
const LIMIT: Duration = Duration::from_secs(300);

const BURST: Duration = Duration::from_secs(10);

pub(crate) async fn run(plan: &Plan) -> Result<Found> {
    let burst = plan.burst_per_s * BURST.as_secs() as usize;
    // Two more for the restart.
    if plan.keys < plan.revocations + burst + 2 {
        return Err(Failure::new("expected more keys than are revoked: see --keys"));
    }
    let dir = TestDir::new()?;
    let mut plane = ControlPlane::new(dir.path(), "keyward")?;
    plane.start().await?;
    let operator = Operator::of(&plane)?;
    operator.import(plan.keys).await?;
    // So that the memory of the import is not measured.
    plane.restart().await?;
    let before = observed(&mut plane)?.anonymous_memory()?;

    let options = Options {
        edges: plan.edges,
        protocol: plan.protocol,
        memory: Memory::Position,
        wait_s: WAIT_S,
        threads: plan.threads,
        openings_per_s: Some(plan.openings_per_s),
    };
    let head = operator.head().await?.sequence;
    let (server, began) = (observed(&mut plane)?, Instant::now());
    let cpu = server.cpu_time()?;
    let edges = Edges::start(plane.address(), &plane.edge_token()?, options)?;
    edges.until_all_have(head, LIMIT).await?;
    let counts = edges.counts();
    let arrival = Arriving {
        took_s: began.elapsed().as_secs_f64(),
        page_bytes: counts.page_bytes,
        server_cpu_s: (server.cpu_time()? - cpu).as_secs_f64(),
        further_connections: counts.connections.saturating_sub(plan.edges as u64),
        refused_polls: counts.refused,
    };
    eprintln!("{arrival:?}");

    let idle = idle(&edges, server, before, plan).await?;
    eprintln!("{idle:?}");
    let revocations = one_after_the_other(&edges, &operator, server, 0..plan.revocations).await?;
    eprintln!("{revocations:?}");
    let last = plan.revocations + burst;
    let burst = at_once(&edges, &operator, server, plan.revocations..last, plan.burst_per_s).await?;
    eprintln!("{burst:?}");

    let counts = edges.counts();
    let began = Instant::now();
    plane.kill();
    plane.start().await?;
    let ready_s = began.elapsed().as_secs_f64();
    let first = operator.revoke(last).await?;
    until_all_have(&edges, &operator, &[first]).await?;
    let all_follow_s = began.elapsed().as_secs_f64();
    let server = observed(&mut plane)?;
    let server_cpu_s = server.cpu_time()?.as_secs_f64();
    let now = edges.counts();
    let restart = Restart {
        ready_s,
        all_follow_s,
        server_cpu_s,
        connections: now.connections - counts.connections,
        refused_polls: now.refused - counts.refused,
        revocation: one_after_the_other(&edges, &operator, server, last + 1..last + 2).await?,
    };
    let protocol = match plan.protocol {
        Protocol::Http1 => "HTTP/1.1",
        Protocol::Http2 => "HTTP/2",
    };
    let Plan { edges, keys, threads: simulator_threads, openings_per_s, .. } = *plan;
    Ok(Found { edges, keys, protocol, simulator_threads, openings_per_s, arrival, idle, revocations, burst, restart })
}

/// For a complete wait, so that each edge has polled once.
async fn idle(edges: &Edges, server: Observed, memory_before: u64, plan: &Plan) -> Result<Idle> {
    let (counts, cpu, began) = (edges.counts(), server.cpu_time()?, Instant::now());
    sleep(Duration::from_secs(WAIT_S.into())).await;
    let seconds = began.elapsed().as_secs_f64();
    let memory = server.anonymous_memory()?;
    Ok(Idle {
        memory_before,
        memory,
        memory_per_edge: memory.saturating_sub(memory_before) / plan.edges.max(1) as u64,
        polls_per_s: (edges.counts().pages - counts.pages) as f64 / seconds,
        server_cpu_share: (server.cpu_time()? - cpu).as_secs_f64() / seconds,
    })
}

/// Each change reaches all edges before the next is made.
async fn one_after_the_other(
    edges: &Edges,
    operator: &Operator,
    server: Observed,
    keys: Range<usize>,
) -> Result<Changes> {
    let changing = Changing::begin(edges, server)?;
    let mut changes = Vec::new();
    for key in keys {
        let change = operator.revoke(key).await?;
        until_all_have(edges, operator, &[change]).await?;
        changes.push(change);
    }
    changing.end(&changes)
}

/// At a fixed rate, independent of earlier changes.
async fn at_once(
    edges: &Edges,
    operator: &Operator,
    server: Observed,
    keys: Range<usize>,
    per_s: usize,
) -> Result<Changes> {
    let changing = Changing::begin(edges, server)?;
    let mut ticks = interval(Duration::from_secs(1) / per_s as u32);
    let mut tasks = Vec::new();
    for key in keys {
        ticks.tick().await;
        let operator = operator.clone();
        tasks.push(tokio::spawn(async move { operator.revoke(key).await }));
    }
    let mut changes = Vec::new();
    for task in tasks {
        changes.push(task.await.map_err(|error| Failure::new(error.to_string()))??);
    }
    until_all_have(edges, operator, &changes).await?;
    changing.end(&changes)
}

/// Waits until all edges have all of these changes, the only ones.
async fn until_all_have(edges: &Edges, operator: &Operator, changes: &[Change]) -> Result<()> {
    let known = keyward_harness::until("the edges have the changes", LIMIT, async || {
        let sequences = changes.iter().map(|change| edges.sequence_of(&change.subject));
        sequences.collect::<Option<Vec<_>>>().ok_or_else(|| Failure::new("some are missing"))
    });
    // An edge that was disconnected for long receives a snapshot instead of changes.
    let last = match known.await {
        Ok(sequences) => sequences.into_iter().max().unwrap_or_default(),
        Err(_) => operator.head().await?.sequence,
    };
    edges.until_all_have(last, LIMIT).await
}

/// A phase with changes.
struct Changing<'a> {
    edges: &'a Edges,
    server: Observed,
    began: Instant,
    cpu: Duration,
    pages: u64,
}

impl<'a> Changing<'a> {
    fn begin(edges: &'a Edges, server: Observed) -> Result<Self> {
        edges.forget_arrivals();
        Ok(Self { edges, server, began: Instant::now(), cpu: server.cpu_time()?, pages: edges.counts().pages })
    }

    fn end(self, changes: &[Change]) -> Result<Changes> {
        let Self { edges, server, began, cpu, pages } = self;
        let (took, cpu) = (began.elapsed(), server.cpu_time()? - cpu);
        let pages = edges.counts().pages - pages;
        let (mut from_answer, mut from_sending, mut everyone) = (Vec::new(), Vec::new(), 0);
        for change in changes {
            let Some(sequence) = edges.sequence_of(&change.subject) else {
                return Err(Failure::new("expected every change in a page of changes"));
            };
            let arrivals = edges.arrivals_of(sequence);
            everyone = arrivals.len();
            from_answer.extend(arrivals.iter().map(|at| signed_ms(*at, change.answered)));
            from_sending.extend(arrivals.iter().map(|at| signed_ms(*at, change.sent)));
        }
        let none = || Failure::new("expected at least one change");
        Ok(Changes {
            changes: changes.len(),
            took_s: took.as_secs_f64(),
            server_cpu_ms_per_change: cpu.as_secs_f64() * 1000.0 / changes.len() as f64,
            from_answer_ms: Delays::of(from_answer).ok_or_else(none)?,
            from_sending_ms: Delays::of(from_sending).ok_or_else(none)?,
            pages_per_edge_and_change: pages as f64 / (everyone * changes.len()).max(1) as f64,
        })
    }
}

/// Negative if an edge had the change before its requester had the response.
fn signed_ms(at: Instant, since: Instant) -> f64 {
    let after = at.saturating_duration_since(since).as_secs_f64();
    let before = since.saturating_duration_since(at).as_secs_f64();
    (after - before) * 1000.0
}

fn observed(plane: &mut ControlPlane) -> Result<Observed> {
    let process = plane.process().ok_or_else(|| Failure::new("the control plane is not running"))?;
    Ok(Observed::new(process.id()))
}
