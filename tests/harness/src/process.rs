//! A child process: monitored, with its logs in files, and stopped when its owner is dropped.

use crate::failure::Context as _;
use crate::until::PAUSE;
use crate::{Failure, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The number of log lines in a failure.
const TAIL_LINES: usize = 40;

/// The number of characters of a line in a failure: Envoy logs whole configurations on one line.
const TAIL_WIDTH: usize = 400;

/// A running process, or one that has exited.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a process. Standard error is appended to `log`, and standard output to `output`, which may be the same
    /// file.
    pub fn spawn(name: &str, command: &mut Command, output: &Path, log: &Path) -> Result<Self> {
        let append = |path: &Path| {
            File::options().create(true).append(true).open(path).context(|| format!("the log {}", path.display()))
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(append(output)?)
            .stderr(append(log)?)
            .spawn()
            .context(|| format!("{name} ({})", command.get_program().to_string_lossy()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Checks that the process is running; otherwise the failure has the exit status and the end of the log.
    pub fn ensure_running(&mut self) -> Result<()> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => Err(Failure::new(format!("{} exited: {status}\n{}", self.name, self.log_tail()))),
        }
    }

    /// Polls until the result is `Ok`; fails with the end of the log if the process exits or the limit is reached.
    pub async fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            self.ensure_running()?;
            match probe().await {
                Ok(answer) => return Ok(answer),
                Err(last) if Instant::now() >= deadline => {
                    let tail = self.log_tail();
                    return Err(Failure::new(format!("{what}: not within {limit:?}: {last}\n{tail}")));
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Waits until the process exits by itself; fails after `limit` with the end of the log, and leaves the process
    /// running.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.exit_status()? {
                Some(status) => return Ok(status),
                None if Instant::now() >= deadline => {
                    let tail = self.log_tail();
                    return Err(Failure::new(format!("{}: still running after {limit:?}\n{tail}", self.name)));
                }
                None => sleep(PAUSE).await,
            }
        }
    }

    /// Stops the process with SIGTERM, and after `grace` with SIGKILL; returns whether SIGTERM was enough.
    pub async fn terminate(&mut self, grace: Duration) -> Result<bool> {
        if self.exit_status()?.is_none() {
            // The process is a child that has not been waited for, so its id cannot have been reused.
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
        let deadline = Instant::now() + grace;
        while self.exit_status()?.is_none() {
            if Instant::now() >= deadline {
                self.kill();
                return Ok(false);
            }
            sleep(PAUSE).await;
        }
        Ok(true)
    }

    /// Sends a signal to the process.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.ensure_running()?;
        kill_process(Pid::from_child(&self.child), signal).context(|| self.name.clone())
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The process's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The content of the log.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.log).context(|| self.log.display().to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn log_tail(&self) -> String {
        let log = self.log().unwrap_or_else(|error| error.to_string());
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(TAIL_LINES)..].iter();
        let last: Vec<String> = last.map(|line| line.chars().take(TAIL_WIDTH).collect()).collect();
        let of = self.log.display();
        format!("--- the end of {of}\n{}\n---", last.join("\n"))
    }

    fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context(|| format!("waiting for {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        self.kill();
    }
}

/// Removes a log of an earlier run.
pub fn forget_log(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::new(format!("{}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TestDir;

    fn shell(dir: &TestDir, script: &str) -> Process {
        let log = dir.path().join("log");
        Process::spawn("the shell", Command::new("sh").args(["-c", script]), &log, &log).unwrap()
    }

    #[tokio::test]
    async fn early_exit_reports_the_status_and_the_log() {
        let dir = TestDir::new().unwrap();
        let mut process = shell(&dir, "echo the cause >&2; exit 7");
        let never = async || Err::<(), _>(Failure::new("not yet"));
        let error = process.until("ready", Duration::from_secs(30), never).await.unwrap_err().to_string();
        assert!(error.contains("the shell exited: exit status: 7"), "{error}");
        assert!(error.contains("the cause"), "{error}");
    }

    #[tokio::test]
    async fn deadline_reports_the_last_result_and_the_log() {
        let dir = TestDir::new().unwrap();
        let mut process = shell(&dir, "echo busy >&2; exec sleep 60");
        process
            .until("log", Duration::from_secs(30), async || {
                let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
                if log.is_empty() { Err(Failure::new("empty")) } else { Ok(()) }
            })
            .await
            .unwrap();
        let never = async || Err::<(), _>(Failure::new("still closed"));
        let error = process.until("ready", Duration::ZERO, never).await.unwrap_err().to_string();
        assert!(error.contains("still closed"), "{error}");
        assert!(error.contains("busy"), "{error}");
    }

    #[tokio::test]
    async fn wait_returns_the_status_or_fails_at_the_limit() {
        let dir = TestDir::new().unwrap();
        let status = shell(&dir, "exit 7").wait(Duration::from_secs(30)).await.unwrap();
        assert_eq!(status.code(), Some(7));
        let error = shell(&dir, "exec sleep 60").wait(Duration::ZERO).await.unwrap_err().to_string();
        assert!(error.contains("the shell: still running after 0ns"), "{error}");
    }

    #[tokio::test]
    async fn dropped_process_is_stopped() {
        let dir = TestDir::new().unwrap();
        let process = shell(&dir, "exec sleep 60");
        let id = Pid::from_child(&process.child);
        rustix::process::test_kill_process(id).unwrap();
        drop(process);
        assert!(rustix::process::test_kill_process(id).is_err());
    }

    #[tokio::test]
    async fn process_ignoring_sigterm_is_killed_after_its_grace() {
        let dir = TestDir::new().unwrap();
        let mut process = shell(&dir, "trap '' TERM; echo set >&2; while :; do sleep 1; done");
        until_log(&mut process, "set").await;
        assert!(!process.terminate(Duration::from_millis(100)).await.unwrap());
        assert!(process.ensure_running().is_err());
    }

    async fn until_log(process: &mut Process, text: &str) {
        let log = process.log.clone();
        process
            .until("log", Duration::from_secs(30), async || {
                let seen = fs::read_to_string(&log).unwrap_or_default();
                if seen.contains(text) { Ok(()) } else { Err(Failure::new(seen)) }
            })
            .await
            .unwrap();
    }
}
