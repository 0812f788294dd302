//! What Keyward costs beside what people would use instead, on real Envoys with one worker each.
//!
//! All Envoys run at once on one processor, the load and whatever Envoy asks on another. Scenarios take turns in short rounds,
//! so that what disturbs the machine disturbs all of them alike. Writes `.keyward/bench/filters.json`.

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
use keyward_harness::Result;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Measures Keyward beside Envoy's own filters and an authorization service.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Only these scenarios: a (no filter), b (Envoy's own), c (Keyward), d (with many keys), d2 (the same, with caches that
    /// hold all), e (ext_authz), e2 (by gRPC), f (Keyward refusing unknown keys).
    #[arg(long, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Only this protocol.
    #[arg(long)]
    protocol: Option<Protocol>,
    /// Only this upstream.
    #[arg(long)]
    upstream: Option<Upstream>,
    /// How many rounds each scenario has with each protocol and upstream; otherwise 20.
    #[arg(long)]
    rounds: Option<usize>,
    /// How long a round is measured, in milliseconds; otherwise 500, and a fifth of it goes before to warm up.
    #[arg(long)]
    round_ms: Option<u64>,
    /// A quick look: three rounds.
    #[arg(long)]
    quick: bool,
    /// How many keys `d` and `d2` have.
    #[arg(long, default_value_t = 100_000)]
    many: usize,
    /// The filter; otherwise KEYWARD_WASM, or the one built.
    #[arg(long)]
    wasm: Option<PathBuf>,
    /// The results are written to `.keyward/bench/NAME.json`; otherwise to `filters.json`, or to `filters-part.json` if
    /// something was left out or the rounds are others.
    #[arg(long)]
    name: Option<String>,
}

/// What this binary starts beside itself.
#[derive(Clone, Debug, Subcommand)]
enum Part {
    /// The upstream.
    #[command(hide = true)]
    Upstream { listen: SocketAddr },
    /// The service that `ext_authz` asks.
    #[command(hide = true)]
    Authorizer { listen: SocketAddr, keys: PathBuf },
}

// One thread: who starts a process hands it its own processor (`testbed`).
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
    let plan = Plan {
        scenarios: chosen(arguments.only, &Scenario::ALL),
        protocols: chosen(arguments.protocol.into_iter().collect(), &[Protocol::Http1, Protocol::Http2]),
        upstreams: chosen(arguments.upstream.into_iter().collect(), &[Upstream::Direct, Upstream::Real]),
        rounds: arguments.rounds.unwrap_or(if arguments.quick { 3 } else { 20 }),
        round: Duration::from_millis(arguments.round_ms.unwrap_or(500)),
        many: arguments.many,
    };
    let found = measure::run(&plan, arguments.wasm).await?;
    println!("{found}");
    // What was measured in part, or briefly, does not replace what was measured whole.
    let name =
        arguments.name.unwrap_or_else(|| if chosen_all && as_usual { "filters" } else { "filters-part" }.to_owned());
    println!("written to {}", results::write(&name, &found)?.display());
    Ok(())
}

fn chosen<T: Copy>(given: Vec<T>, all: &[T]) -> Vec<T> {
    if given.is_empty() { all.to_vec() } else { given }
}
