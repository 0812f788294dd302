//! A million keys on a real Envoy: the time and memory that they take, and the effect on requests.
//!
//! Each part writes its results under its own name. The databases stay in `.keyward/bench`, so that a second run need
//! not import them.

mod churn;
mod database;
mod growth;
mod load;
mod rig;
mod snapshot;

use clap::{Parser, ValueEnum};
use keyward_bench::results;
use keyward_harness::Result;
use std::process::ExitCode;

/// Measure a million keys on a real Envoy
#[derive(Parser)]
#[command(name = "bench-million")]
struct Options {
    /// The parts to measure [default: all]
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// The final number of keys
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(2 * database::FIRST as i64..))]
    keys: u32,
    /// The numbers of workers; `growth` and `churn` use the first
    #[arg(long, default_values_t = [2, 8], value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    workers: Vec<u32>,
    /// How often `million` replaces the few keys by all: repeated, since the machine's state varies
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    /// Load a snapshot of all keys into an Envoy that serves requests, and then make changes
    Million,
    /// Add all keys to an Envoy that serves requests, change by change
    Growth,
    /// Create, revoke and purge as many keys
    Churn,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench-million: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    let keys = options.keys as usize;
    let parts = if options.parts.is_empty() { Part::value_variants() } else { &options.parts };
    for part in parts {
        let (name, found) = match part {
            Part::Million => ("million", snapshot::measure(keys, &options.workers, options.rounds).await?),
            Part::Growth => ("growth", growth::measure(keys, options.workers[0]).await?),
            Part::Churn => ("churn", churn::measure(keys, options.workers[0]).await?),
        };
        println!("{found:#}");
        println!("written to {}", results::write(name, &found)?.display());
    }
    Ok(())
}
