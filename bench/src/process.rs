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

    /// The processor time of all its running threads, user and system, in the scheduler's nanoseconds.
    ///
    /// The scheduler adds to a thread's account when the thread gives the processor up, and else at its tick, so this is exact
    /// for a process that is idle and up to a tick (some milliseconds) behind for one that is busy.
    ///
    /// # Errors
    /// If the process is gone, or the kernel keeps no such account.
    pub fn cpu_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/task", self.0);
        let failed = |error: std::io::Error| Failure::new(format!("{path}: {error}"));
        let mut nanoseconds = 0;
        for thread in std::fs::read_dir(&path).map_err(failed)? {
            let name = thread.map_err(failed)?.file_name();
            // A thread may end between the two: what it used is lost with it.
            let Ok(account) = self.read(&format!("task/{}/schedstat", name.to_string_lossy())) else { continue };
            let on_processor = account.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
            nanoseconds += on_processor.ok_or_else(|| Failure::new(format!("{path}: no schedstat")))?;
        }
        if nanoseconds == 0 {
            return Err(Failure::new(format!("{path}: no thread has used any time: the kernel keeps no schedstat")));
        }
        Ok(Duration::from_nanos(nanoseconds))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_processor_time_of_a_process_grows_with_its_work() {
        let own = Observed::new(std::process::id());
        let (before, deadline) = (own.cpu_time().unwrap(), Instant::now() + Duration::from_secs(30));
        while own.cpu_time().unwrap() < before + Duration::from_millis(10) {
            assert!(Instant::now() < deadline);
        }
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(Observed::new(u32::MAX).cpu_time().is_err());
    }
}
