//! The cost of Keyward compared with common alternatives, on real Envoys with one worker each.
//!
//! All Envoys run at once on one processor, the load generator and the services that Envoy calls on another. Scenarios
//! alternate in short rounds, so that disturbances affect all of them alike. Writes `.keyward/bench/filters.json`.

mod authorizer;
mod keys;
mod measure;
mod scenarios;
mod testbed;
mod upstream;

use crate::measure::{Plan, Upstream};
use crate::scenarios::Scenario;
use clap::{Parser, Subcommand};
use keyward_bench::load::Protocol;
use keyward_bench::results;
use keyward_harness::{Result, artifacts};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Compare Keyward with Envoy's own filters and an authorization service
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Only these scenarios: a (no filter), b (Envoy's own), c (Keyward), d (with many keys), d2 (the same, with caches
    /// for all of them), e (ext_authz), e2 (over gRPC), f (Keyward with unknown keys), g (Keyward as a dynamic module),
    /// g2 (the same without the guard), h (the same with many keys)
    #[arg(long, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Only this protocol
    #[arg(long)]
    protocol: Option<Protocol>,
    /// Only this upstream
    #[arg(long)]
    upstream: Option<Upstream>,
    /// The number of rounds of each scenario with each protocol and upstream [default: 20]
    #[arg(long)]
    rounds: Option<usize>,
    /// The duration of a round in milliseconds, after a warm-up of a fifth of it [default: 500]
    #[arg(long)]
    round_ms: Option<u64>,
    /// Run only three rounds
    #[arg(long)]
    quick: bool,
    /// The number of keys in `d` and `d2`
    #[arg(long, default_value_t = 100_000)]
    many: usize,
    /// The Wasm filter [default: KEYWARD_WASM, or the one built]
    #[arg(long)]
    wasm: Option<PathBuf>,
    /// The name of the results file, `.keyward/bench/NAME.json` [default: filters, or filters-part for a partial run]
    #[arg(long)]
    name: Option<String>,
}

/// The processes that this binary starts.
#[derive(Clone, Debug, Subcommand)]
enum Part {
    /// Run the upstream
    #[command(hide = true)]
    Upstream { listen: SocketAddr },
    /// Run the authorization service
    #[command(hide = true)]
    Authorizer { listen: SocketAddr, keys: PathBuf },
}

// One thread: child processes inherit its processor (`testbed`).
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.part {
        Some(Part::Upstream { listen }) => return upstream::serve(*listen),
        Some(Part::Authorizer { listen, keys }) => return authorizer::serve(*listen, keys).await,
        None => {}
    }
    let chosen_all = arguments.only.is_empty() && arguments.protocol.is_none() && arguments.upstream.is_none();
    let as_usual = arguments.rounds.is_none() && arguments.round_ms.is_none() && !arguments.quick;
    let mut usual = Scenario::ALL.to_vec();
    if !artifacts::envoy_runs_native()? {
        println!("left out: the dynamic module, which this Envoy does not run (docs/reference/hosts.md)");
        usual.retain(|scenario| !scenario.is_native());
    }
    let plan = Plan {
        scenarios: chosen(arguments.only, &usual),
        protocols: chosen(arguments.protocol.into_iter().collect(), &[Protocol::Http1, Protocol::Http2]),
        upstreams: chosen(arguments.upstream.into_iter().collect(), &[Upstream::Direct, Upstream::Real]),
        rounds: arguments.rounds.unwrap_or(if arguments.quick { 3 } else { 20 }),
        round: Duration::from_millis(arguments.round_ms.unwrap_or(500)),
        many: arguments.many,
    };
    let found = measure::run(&plan, arguments.wasm).await?;
    println!("{found}");
    // Partial or short runs do not replace complete results.
    let name =
        arguments.name.unwrap_or_else(|| if chosen_all && as_usual { "filters" } else { "filters-part" }.to_owned());
    println!("written to {}", results::write(&name, &found)?.display());
    Ok(())
}

fn chosen<T: Copy>(given: Vec<T>, all: &[T]) -> Vec<T> {
    if given.is_empty() { all.to_vec() } else { given }
}
