//! How many edges one control plane supports: the cost of ten thousand long polls, and the delay of a change until each
//! edge.
//!
//! `keyward serve` runs unchanged, on SQLite; the edges are simulated in this process on a few threads, each on its own
//! connection. Both share the machine's processors, so delays and start-up include the simulator's work; the reported
//! processor time is the server's only. Writes `.keyward/bench/edges.json`.

mod found;
mod measure;
mod operator;

use clap::{Parser, ValueEnum};
use keyward_bench::results;
use keyward_harness::edges::Protocol;
use keyward_harness::{Failure, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::num::NonZeroU32;

/// Measure one control plane with thousands of edges
#[derive(Debug, Parser)]
struct Arguments {
    /// The number of edges
    #[arg(long, default_value_t = 10_000)]
    edges: usize,
    /// The number of keys in the database; each edge receives a snapshot of all, which is not measured here
    #[arg(long, default_value_t = 1_000)]
    keys: usize,
    /// The protocol of the edges
    #[arg(long, default_value = "http2")]
    protocol: Spoken,
    /// The number of threads that simulate the edges
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// How many edges connect per second, since a fleet does not start at once; after the restart, edges reconnect as
    /// the filter does
    #[arg(long, default_value = "500")]
    openings: NonZeroU32,
    /// The number of keys to revoke one after the other
    #[arg(long, default_value_t = 30)]
    revocations: usize,
    /// The number of changes per second in the burst, which lasts ten seconds
    #[arg(long, default_value_t = 20)]
    burst: usize,
    /// The name of the results file, `.keyward/bench/NAME.json`
    #[arg(long, default_value = "edges")]
    name: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Spoken {
    /// HTTP/1.1
    Http1,
    /// HTTP/2 with prior knowledge and keepalives, as Envoy uses it
    Http2,
}

/// File descriptors needed in addition to one per edge.
const SPARE_FILES: u64 = 200;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    raise_open_files(arguments.edges as u64 + SPARE_FILES)?;
    let plan = measure::Plan {
        edges: arguments.edges,
        keys: arguments.keys,
        protocol: match arguments.protocol {
            Spoken::Http1 => Protocol::Http1,
            Spoken::Http2 => Protocol::Http2,
        },
        threads: arguments.threads,
        openings_per_s: arguments.openings,
        revocations: arguments.revocations,
        burst_per_s: arguments.burst,
    };
    let found = measure::run(&plan).await?;
    println!("{found}");
    println!("written to {}", results::write(&arguments.name, &found)?.display());
    Ok(())
}

/// Raises this process's limit of open files; the failure says what to do if the hard limit is too low.
fn raise_open_files(needed: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|hard| hard < needed) {
        return Err(Failure::new(format!(
            "so many edges need {needed} open files in this process and as many in the control plane, and the hard limit is \
             {}: raise it (`ulimit -Hn`, or LimitNOFILE= of the service), or ask for fewer with --edges",
            limit.maximum.unwrap_or_default()
        )));
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).map_err(|error| Failure::new(format!("the limit of open files: {error}")))
}
