//! A relay: the `keyward` binary between a control plane and an Envoy.

use crate::ports::ReservedPort;
use crate::process::Process;
use crate::{ControlPlane, Failure, Request, Result, artifacts, http};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long it may take to answer.
const START: Duration = Duration::from_secs(30);

/// A relay on one port with one data directory, running or not. Its edges show the token that they would show the
/// control plane.
#[derive(Debug)]
pub struct Relay {
    process: Option<Process>,
    port: ReservedPort,
    dir: PathBuf,
}

impl Relay {
    /// One on a free port, with its data and its log in `dir`; it does not run yet.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn new(dir: &Path) -> Result<Self> {
        Ok(Self { process: None, port: ReservedPort::new()?, dir: dir.to_owned() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Starts it behind a control plane that has run once, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends at once or is not ready in time, with its log.
    pub async fn start(&mut self, upstream: &ControlPlane) -> Result<()> {
        let token = upstream.data_dir().join("edge-token");
        let log = self.dir.join("relay.log");
        let mut command = Command::new(artifacts::keyward()?);
        command
            .args(["relay", "--listen", &self.address().to_string(), "--poll-wait", "1s"])
            .args(["--upstream", &format!("http://{}", upstream.address())])
            .arg("--upstream-token-file")
            .arg(&token)
            .arg("--edge-token-file")
            .arg(&token)
            .arg("--data-dir")
            .arg(self.dir.join("relay"));
        let mut process = Process::spawn("the relay", &mut command, &log, &log)?;
        let address = self.address();
        process
            .until("the relay is ready", START, async || {
                let answer = http::send(address, &Request::get("/readyz")).await?;
                if answer.status == 200 { Ok(()) } else { Err(Failure::new(format!("/readyz is {}", answer.status))) }
            })
            .await?;
        self.process = Some(process);
        Ok(())
    }

    /// Lets it hang: its connections stay, and nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().ok_or_else(|| Failure::new("the relay does not run"))?.signal(signal)
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }
}
