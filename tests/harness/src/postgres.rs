//! A PostgreSQL server for one test, run by `tools/postgres`.

use crate::{Failure, Result, artifacts};
use rustix::process::{Pid, Signal};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A PostgreSQL server that can be killed.
#[derive(Debug)]
pub struct Postgres {
    url: String,
    dir: PathBuf,
    /// Stops when its standard input is closed.
    keeper: Child,
}

impl Postgres {
    /// Whether PostgreSQL is installed.
    pub fn is_there() -> bool {
        let found = Command::new(artifacts::root().join("tools/postgres"))
            .arg("bin")
            .env("KEYWARD_INSTALL", "no")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        found.is_ok_and(|status| status.success())
    }

    /// Starts a server with its data in `dir`.
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
            return Err(Failure::new("PostgreSQL failed to start"));
        }
        Ok(Self { url: url.trim().to_owned(), dir: dir.to_owned(), keeper })
    }

    /// The database URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Kills the server, as in a crash.
    pub fn kill(&mut self) -> Result<()> {
        let file = self.dir.join("data/postmaster.pid");
        let text = fs::read_to_string(&file).map_err(|error| failure("postmaster.pid", &error))?;
        let id = text.lines().next().and_then(|id| Pid::from_raw(id.trim().parse().ok()?));
        let id = id.ok_or_else(|| Failure::new("expected a process id in postmaster.pid"))?;
        // SIGQUIT: all processes stop without cleanup, as after a crash, and none remains to block the next start.
        rustix::process::kill_process(id, Signal::QUIT).map_err(|error| Failure::new(error.to_string()))?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.keeper.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > deadline {
                return Err(Failure::new("PostgreSQL failed to exit"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Starts the server again at the same address.
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
