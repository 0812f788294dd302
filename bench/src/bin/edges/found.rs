//! The results, with their JSON and text formats.

use keyward_bench::stats::quantile;
use serde::Serialize;
use std::fmt;
use std::num::NonZeroU32;

/// All results.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    pub(crate) edges: usize,
    pub(crate) keys: usize,
    pub(crate) protocol: &'static str,
    pub(crate) simulator_threads: usize,
    pub(crate) openings_per_s: NonZeroU32,
    pub(crate) arrival: Arriving,
    pub(crate) idle: Idle,
    pub(crate) revocations: Changes,
    pub(crate) burst: Changes,
    pub(crate) restart: Restart,
}

/// The start: all edges connect, at a fixed rate, and receive their snapshot.
#[derive(Debug, Serialize)]
pub(crate) struct Arriving {
    pub(crate) took_s: f64,
    pub(crate) page_bytes: u64,
    pub(crate) server_cpu_s: f64,
    /// Connections in addition to one per edge: reconnections after errors or timeouts.
    pub(crate) further_connections: u64,
    pub(crate) refused_polls: u64,
}

/// All edges wait for changes.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) memory_before: u64,
    pub(crate) memory: u64,
    pub(crate) memory_per_edge: u64,
    pub(crate) polls_per_s: f64,
    /// As a share of one processor.
    pub(crate) server_cpu_share: f64,
}

/// Changes, and their delays until the edges.
#[derive(Debug, Serialize)]
pub(crate) struct Changes {
    pub(crate) changes: usize,
    pub(crate) took_s: f64,
    pub(crate) server_cpu_ms_per_change: f64,
    /// From the response to the change's request, over all edges and changes.
    pub(crate) from_answer_ms: Delays,
    /// From the sending of the request.
    pub(crate) from_sending_ms: Delays,
    /// Pages of changes per edge and change: below 1 if pages contain several changes.
    pub(crate) pages_per_edge_and_change: f64,
}

/// Order statistics.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Delays {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// The control plane is killed and restarted.
#[derive(Debug, Serialize)]
pub(crate) struct Restart {
    /// From the kill until the control plane was ready.
    pub(crate) ready_s: f64,
    /// From the kill until every edge had a change made as soon as the control plane was ready.
    pub(crate) all_follow_s: f64,
    pub(crate) server_cpu_s: f64,
    pub(crate) connections: u64,
    pub(crate) refused_polls: u64,
    /// A revocation after that.
    pub(crate) revocation: Changes,
}

impl Delays {
    pub(crate) fn of(mut delays: Vec<f64>) -> Option<Self> {
        delays.sort_by(f64::total_cmp);
        let at = |share| quantile(&delays, share);
        Some(Self { p50: at(0.5)?, p99: at(0.99)?, max: at(1.0)? })
    }
}

const MIB: f64 = (1 << 20) as f64;

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { edges, keys, protocol, openings_per_s, arrival, idle, restart, .. } = self;
        writeln!(f, "{edges} edges over {protocol}, {keys} keys")?;
        writeln!(
            f,
            "start:       at {openings_per_s}/s, all have a snapshot after {:.1} s ({:.0} MiB of pages, {:.1} s of the server's processor; {} \
             connections again, {} polls refused)",
            arrival.took_s,
            arrival.page_bytes as f64 / MIB,
            arrival.server_cpu_s,
            arrival.further_connections,
            arrival.refused_polls
        )?;
        writeln!(
            f,
            "waiting:     {:.0} MiB ({:.0} MiB before; {:.1} KiB for each edge), {:.0} polls/s, {:.1} % of a processor",
            idle.memory as f64 / MIB,
            idle.memory_before as f64 / MIB,
            idle.memory_per_edge as f64 / 1024.0,
            idle.polls_per_s,
            idle.server_cpu_share * 100.0
        )?;
        writeln!(f, "revocations: {}", self.revocations)?;
        writeln!(f, "burst:       {}", self.burst)?;
        writeln!(
            f,
            "killed:      ready after {:.1} s, all follow after {:.1} s ({:.1} s of the server's processor; {} connections, {} \
             polls refused)",
            restart.ready_s, restart.all_follow_s, restart.server_cpu_s, restart.connections, restart.refused_polls
        )?;
        write!(f, "then:        {}", restart.revocation)
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in {:.1} s; at the edges {} after the answer, {} after sending; {:.1} ms of the server's processor for each; \
             {:.2} pages for each edge and change",
            self.changes,
            self.took_s,
            self.from_answer_ms,
            self.from_sending_ms,
            self.server_cpu_ms_per_change,
            self.pages_per_edge_and_change
        )
    }
}

impl fmt::Display for Delays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}/{:.0}/{:.0} ms (p50/p99/max)", self.p50, self.p99, self.max)
    }
}
