//! `keyward measure-verifications`: how many first uses of keys this machine can check in a second.

use super::{CliError, print};
use clap::Args;
use keyward_server::auth::password::{self, SALT_LENGTH};
use keyward_server::model::PasswordHash;
use keyward_server::serve::default_max_verifications;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// How to measure.
#[derive(Debug, Args)]
pub struct MeasureArguments {
    /// How many are checked at once [default: one for each processor]
    #[arg(long, env = "KEYWARD_MAX_VERIFICATIONS", value_name = "N")]
    max_verifications: Option<NonZeroUsize>,
    /// For how long
    #[arg(long, value_parser = humantime::parse_duration, default_value = "3s", value_name = "DURATION")]
    duration: Duration,
}

/// Checks keys against Argon2id hashes as a server makes them, as often as that goes, and tells how often it went.
///
/// # Errors
/// If there is no memory for it.
pub fn measure(arguments: &MeasureArguments) -> Result<(), CliError> {
    let at_once = arguments.max_verifications.unwrap_or_else(default_max_verifications).get();
    let hash = password::hash(b"key", &[0; SALT_LENGTH]).map_err(CliError::NotMeasured)?;
    let started = Instant::now();
    let checked: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..at_once).map(|_| scope.spawn(|| check_until(started + arguments.duration, &hash))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).sum()
    });
    let each_s = f64::from(checked) / started.elapsed().as_secs_f64();
    print(&format!("{each_s:.0} verifications a second, {at_once} at once\n"))
}

/// How often the hash was checked by then, at least once.
fn check_until(end: Instant, hash: &PasswordHash) -> u32 {
    let mut checked = 0;
    loop {
        checked += u32::from(password::verify(b"another key", hash).is_ok());
        if Instant::now() >= end {
            return checked;
        }
    }
}
