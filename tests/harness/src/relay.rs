//! A relay: the `keyward` binary between a control plane and an Envoy.

use crate::ports::ReservedPort;
use crate::process::Process;
use crate::{ControlPlane, Failure, Request, Result, artifacts, http};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The deadline for the start.
const START: Duration = Duration::from_secs(30);

/// A relay with one port and one data directory, running or not. Its edges use the control plane's edge token.
#[derive(Debug)]
pub struct Relay {
    process: Option<Process>,
    port: ReservedPort,
    dir: PathBuf,
}

impl Relay {
    /// A relay on a free port, with its data and log in `dir`; not started yet.
    pub fn new(dir: &Path) -> Result<Self> {
        Ok(Self { process: None, port: ReservedPort::new()?, dir: dir.to_owned() })
    }

    /// The listening address.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Starts the relay of a control plane that has run before, and waits until it is ready.
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

    /// Suspends the relay: connections stay open without responses.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Resumes the relay.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().ok_or_else(|| Failure::new("the relay is not running"))?.signal(signal)
    }

    /// Kills the relay, as in a crash.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }
}
