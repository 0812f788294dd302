//! A PostgreSQL for one test, by `tools/postgres`.

use crate::{Failure, Result, artifacts};
use rustix::process::{Pid, Signal};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A PostgreSQL that can be killed.
#[derive(Debug)]
pub struct Postgres {
    url: String,
    dir: PathBuf,
    /// Ends when its standard input does.
    keeper: Child,
}

impl Postgres {
    /// Whether there is one on this machine.
    pub fn is_there() -> bool {
        let found = Command::new(artifacts::root().join("tools/postgres"))
            .arg("bin")
            .env("KEYWARD_INSTALL", "no")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        found.is_ok_and(|status| status.success())
    }

    /// Starts one that has its data in `dir`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(dir: &Path) -> Result<Self> {
        let mut keeper = Command::new(artifacts::root().join("tools/postgres"))
            .arg("serve")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failure("tools/postgres", &error))?;
        let mut url = String::new();
        if let Some(output) = keeper.stdout.as_mut() {
            let _ = BufReader::new(output).read_line(&mut url);
        }
        if url.trim().is_empty() {
            return Err(Failure::new("PostgreSQL does not start"));
        }
        Ok(Self { url: url.trim().to_owned(), dir: dir.to_owned(), keeper })
    }

    /// How a control plane reaches it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends it as a crash would.
    ///
    /// # Errors
    /// When it does not run or does not end.
    pub fn kill(&mut self) -> Result<()> {
        let file = self.dir.join("data/postmaster.pid");
        let text = fs::read_to_string(&file).map_err(|error| failure("postmaster.pid", &error))?;
        let id = text.lines().next().and_then(|id| Pid::from_raw(id.trim().parse().ok()?));
        let id = id.ok_or_else(|| Failure::new("postmaster.pid has no process id"))?;
        // SIGQUIT: none of its processes does anything more, as after a crash, and none is left that another start would trip over.
        rustix::process::kill_process(id, Signal::QUIT).map_err(|error| Failure::new(error.to_string()))?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.keeper.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > deadline {
                return Err(Failure::new("PostgreSQL does not end"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Starts it again, at the same address.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<()> {
        let _ = fs::remove_file(self.dir.join("data/postmaster.pid"));
        *self = Self::start(&self.dir)?;
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn failure(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(format!("{what}: {error}"))
}
