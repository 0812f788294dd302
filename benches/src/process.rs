//! What a process has used, from Linux's `/proc` (proc(5)).

use keyward_harness::{Failure, Result};
use std::time::Duration;

/// A running process.
#[derive(Clone, Copy, Debug)]
pub struct Observed(u32);

impl Observed {
    /// The process with this id.
    pub fn new(id: u32) -> Self {
        Self(id)
    }

    /// The processor time of all its threads, user and system.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = self.read("stat")?;
        // The name of the process, in parentheses, may hold anything; field 3 follows it.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3).and_then(|field| field.parse::<u64>().ok());
        let (Some(user), Some(system)) = (ticks(14), ticks(15)) else {
            return Err(Failure::new(format!("/proc/{}/stat cannot be read", self.0)));
        };
        Ok(Duration::from_secs_f64((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// The memory that it has of its own, in bytes: `RssAnon`, which leaves out the pages of its executable.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn anonymous_memory(&self) -> Result<u64> {
        let status = self.read("status")?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| Failure::new(format!("/proc/{}/status has no RssAnon", self.0)))
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.0);
        std::fs::read_to_string(&path).map_err(|error| Failure::new(format!("{path}: {error}")))
    }
}
