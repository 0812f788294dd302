//! `make faults`: runs campaigns for `FAULT_SECONDS` seconds, from the seed in `SEED` or a random one.

use keyward_faults::campaign;
use std::process::ExitCode;
use std::time::Duration;

/// The number of faults per campaign; each campaign has a new server, so that no database grows large.
const FAULTS: usize = 30;

#[tokio::main]
async fn main() -> ExitCode {
    let number = |name: &str| match std::env::var(name) {
        Ok(text) if !text.is_empty() => {
            text.parse::<u64>().map(Some).map_err(|error| format!("{name}={text}: {error}"))
        }
        _ => Ok(None),
    };
    let (seconds, seed) = match (number("FAULT_SECONDS"), number("SEED")) {
        (Ok(seconds), Ok(seed)) => (seconds.unwrap_or(300), seed.unwrap_or_else(|| fastrand::u64(..1_000_000))),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("faults: {error}");
            return ExitCode::from(2);
        }
    };
    match campaign::run_for(Duration::from_secs(seconds), seed, FAULTS).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("faults: {failure}");
            ExitCode::FAILURE
        }
    }
}
