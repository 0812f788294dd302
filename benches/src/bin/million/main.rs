//! A million keys on a real Envoy: how long they take to come, what they cost in memory, and what requests notice of it.
//!
//! `bench-million [PART…] [--keys N] [--workers N,N]`. The parts are `million` (a snapshot of all keys comes to an Envoy that
//! serves requests, and then changes among them), `growth` (an import comes to it change by change) and `churn` (keys are
//! made and revoked by the hundred thousand); without one, all are measured. Each writes its results by its own name.

mod churn;
mod database;
mod growth;
mod load;
mod rig;
mod snapshot;

use keyward_bench::results;
use keyward_harness::{Failure, Result};
use std::process::ExitCode;

/// What is to be measured.
struct Options {
    parts: Vec<String>,
    keys: usize,
    workers: Vec<u32>,
}

const PARTS: [&str; 3] = ["million", "growth", "churn"];

const USAGE: &str = "usage: bench-million [million|growth|churn …] [--keys N] [--workers N,N]";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench-million: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let options = Options::read(std::env::args().skip(1))?;
    for part in &options.parts {
        let found = match part.as_str() {
            "million" => snapshot::measure(options.keys, &options.workers).await?,
            "growth" => growth::measure(options.keys, options.workers[0]).await?,
            _ => churn::measure(options.keys, options.workers[0]).await?,
        };
        println!("{found:#}");
        println!("written to {}", results::write(part, &found)?.display());
    }
    Ok(())
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { parts: Vec::new(), keys: 1_000_000, workers: vec![2, 8] };
        let wrong = || Failure::new(USAGE);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--keys" => options.keys = arguments.next().and_then(|n| n.parse().ok()).ok_or_else(wrong)?,
                "--workers" => {
                    let numbers = arguments.next().ok_or_else(wrong)?;
                    let numbers: std::result::Result<_, _> = numbers.split(',').map(str::parse).collect();
                    options.workers = numbers.map_err(|_| wrong())?;
                }
                part if PARTS.contains(&part) => options.parts.push(argument),
                _ => return Err(wrong()),
            }
        }
        if options.parts.is_empty() {
            options.parts = PARTS.map(str::to_owned).into();
        }
        if options.keys < 2 * database::FIRST {
            return Err(Failure::new(format!("at least {} keys are needed", 2 * database::FIRST)));
        }
        Ok(options)
    }
}
