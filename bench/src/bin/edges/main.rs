//! How many edges one control plane can have: what ten thousand long polls cost it, and how soon each has a change.
//!
//! `keyward serve` runs as it is, on SQLite; the edges are simulated in this process on a few threads, each on a connection
//! of its own. Both share the machine's processors, so delays and start-up include the simulator's work; the processor time
//! told is the server's alone. Writes `.keyward/bench/edges.json`.

mod found;
mod measure;
mod operator;

use clap::{Parser, ValueEnum};
use keyward_bench::results;
use keyward_harness::edges::Protocol;
use keyward_harness::{Failure, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::num::NonZeroU32;

/// Measures one control plane under thousands of edges.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many edges.
    #[arg(long, default_value_t = 10_000)]
    edges: usize,
    /// How many keys the database has; each edge is sent a snapshot of all, which is not what this measures.
    #[arg(long, default_value_t = 1_000)]
    keys: usize,
    /// What the edges speak.
    #[arg(long, default_value = "http2")]
    protocol: Spoken,
    /// On how many threads the edges are simulated.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// How many edges connect in a second; the edges of a fleet do not all start in one instant. After the restart they
    /// come back as the filter does.
    #[arg(long, default_value = "500")]
    openings: NonZeroU32,
    /// How many keys are revoked one after the other.
    #[arg(long, default_value_t = 30)]
    revocations: usize,
    /// How many changes a second the burst has; it lasts ten seconds.
    #[arg(long, default_value_t = 20)]
    burst: usize,
    /// Where the results are written: `.keyward/bench/NAME.json`.
    #[arg(long, default_value = "edges")]
    name: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Spoken {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge and keepalives, as Envoy speaks it.
    Http2,
}

/// File descriptors that are needed beside one for each edge.
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

/// Lets this process have so many files open, and tells what to do where it may not.
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
