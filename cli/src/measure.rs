//! `keyward measure-verifications`.

use super::CliError;
use super::output::OutputFormat;
use clap::Args;
use keyward_server::auth::password::{self, SALT_LENGTH};
use keyward_server::model::PasswordHash;
use keyward_server::serve::default_max_verifications;
use serde_json::json;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// How to measure.
#[derive(Debug, Args)]
pub(super) struct MeasureArguments {
    /// Simultaneous verifications [default: one for each processor]
    #[arg(long, env = "KEYWARD_MAX_VERIFICATIONS", value_name = "N")]
    max_verifications: Option<NonZeroUsize>,
    /// Duration of the measurement
    #[arg(long, value_parser = humantime::parse_duration, default_value = "3s", value_name = "DURATION")]
    duration: Duration,
}

/// Verifies keys against Argon2id hashes with the parameters of the server, as often as this machine can.
pub(super) fn run(arguments: &MeasureArguments, format: OutputFormat) -> Result<(), CliError> {
    let at_once = arguments.max_verifications.unwrap_or_else(default_max_verifications).get();
    let hash = password::hash(b"key", &[0; SALT_LENGTH])?;
    let started = Instant::now();
    let verified: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..at_once).map(|_| scope.spawn(|| verify_until(started + arguments.duration, &hash))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).sum()
    });
    let per_second = (f64::from(verified) / started.elapsed().as_secs_f64()).round();
    format.print(&json!({"per_second": per_second, "at_once": at_once}), |_| {
        format!("{per_second:.0} verifications a second, {at_once} at once\n")
    })
}

/// Counts verifications until the end; there is at least one.
fn verify_until(end: Instant, hash: &PasswordHash) -> u32 {
    let mut verified = 0;
    loop {
        verified += u32::from(password::verify(b"another key", hash).is_ok());
        if Instant::now() >= end {
            return verified;
        }
    }
}
