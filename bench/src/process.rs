//! Resource usage of a process, from Linux's `/proc` (proc(5)).

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

    /// The processor time of all running threads, user and system, from the scheduler's nanoseconds.
    ///
    /// The scheduler updates a thread's account when the thread yields the processor, and otherwise at its tick, so the
    /// value is exact for an idle process, and up to a tick (some milliseconds) behind for a busy one.
    pub fn cpu_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/task", self.0);
        let failed = |error: std::io::Error| Failure::new(format!("{path}: {error}"));
        let mut nanoseconds = 0;
        for thread in std::fs::read_dir(&path).map_err(failed)? {
            let name = thread.map_err(failed)?.file_name();
            // A thread may exit between the two reads: its time is lost.
            let Ok(account) = self.read(&format!("task/{}/schedstat", name.to_string_lossy())) else { continue };
            let on_processor = account.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
            nanoseconds += on_processor.ok_or_else(|| Failure::new(format!("{path}: no schedstat")))?;
        }
        if nanoseconds == 0 {
            return Err(Failure::new(format!("{path}: no thread has used any time: the kernel keeps no schedstat")));
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// The anonymous memory in bytes: `RssAnon`, which excludes the pages of the executable.
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
    fn processor_time_grows_with_work() {
        let own = Observed::new(std::process::id());
        let (before, deadline) = (own.cpu_time().unwrap(), Instant::now() + Duration::from_secs(30));
        while own.cpu_time().unwrap() < before + Duration::from_millis(10) {
            assert!(Instant::now() < deadline);
        }
    }

    #[test]
    fn exited_process_is_an_error() {
        assert!(Observed::new(u32::MAX).cpu_time().is_err());
    }
}
