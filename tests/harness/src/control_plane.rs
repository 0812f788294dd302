//! The control plane: the `keyward` binary, and the part of its API that tests use.

use crate::failure::Context as _;
use crate::http::{self, Request, Response};
use crate::ports::{ReservedPort, loopback};
use crate::process::Process;
use crate::{Failure, Result, artifacts};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The deadline for the start.
const START: Duration = Duration::from_secs(30);

/// The deadline for the shutdown.
const STOP: Duration = Duration::from_secs(10);

/// A control plane with one port and one data directory, running or not.
#[derive(Debug)]
pub struct ControlPlane {
    process: Option<Process>,
    binary: PathBuf,
    address: SocketAddr,
    data_dir: PathBuf,
    dialect: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    _port: Option<ReservedPort>,
}

/// A newly created key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedKey {
    /// The public id.
    pub id: String,
    /// The secret key.
    pub key: String,
}

impl ControlPlane {
    /// A control plane on a free port, with its data and log in `dir`; not started yet.
    pub fn new(dir: &Path, dialect: &str) -> Result<Self> {
        let port = ReservedPort::new()?;
        let log = dir.join("control-plane.log");
        let mut plane = Self::on(port.port(), &dir.join("data"), dialect, &log)?;
        plane._port = Some(port);
        Ok(plane)
    }

    /// A control plane on this loopback port with this data directory; not started yet.
    pub fn on(port: u16, data_dir: &Path, dialect: &str, log: &Path) -> Result<Self> {
        Ok(Self {
            process: None,
            binary: artifacts::keyward()?,
            address: loopback(port),
            data_dir: data_dir.to_owned(),
            dialect: dialect.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            log: log.to_owned(),
            _port: None,
        })
    }

    /// Runs another program instead of `keyward`, such as a script that calls it.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.binary);
        self
    }

    /// Adds arguments of `serve`.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self
    }

    /// Adds environment variables.
    #[must_use]
    pub fn environment(mut self, environment: &[(String, String)]) -> Self {
        self.environment = environment.to_vec();
        self
    }

    /// Starts the control plane and waits until it is ready.
    pub async fn start(&mut self) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command
            .args(["serve", "--listen", &self.address.to_string(), "--dialect", &self.dialect])
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(artifacts::root());
        let mut process = Process::spawn("the control plane", &mut command, &self.log, &self.log)?;
        let address = self.address;
        process
            .until("the control plane is ready", START, async || {
                let answer = http::send(address, &Request::get("/readyz")).await?;
                if answer.status == 200 { Ok(()) } else { Err(Failure::new(format!("/readyz is {}", answer.status))) }
            })
            .await?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops the control plane with SIGTERM.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else {
            return Err(Failure::new("the control plane is not running"));
        };
        if process.terminate(STOP).await? {
            return Ok(());
        }
        Err(Failure::new(format!("the control plane did not exit within {STOP:?} of SIGTERM")))
    }

    /// Kills the control plane, as in a crash.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Restarts the control plane with the same port and data.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }

    /// The process, if running.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// Suspends the control plane: connections stay open without responses.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Resumes the control plane.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().ok_or_else(|| Failure::new("the control plane is not running"))?.signal(signal)
    }

    /// The listening address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The admin token, created on the first start.
    pub fn admin_token(&self) -> Result<String> {
        self.token("admin-token")
    }

    /// The edge token, created on the first start.
    pub fn edge_token(&self) -> Result<String> {
        self.token("edge-token")
    }

    /// Creates a key with these fields and waits for the response.
    pub async fn create(&self, fields: &Value) -> Result<CreatedKey> {
        let answer = self.api("POST", "/v1/keys", Some(fields)).await?;
        let created = if (200..300).contains(&answer.status) { answer.json() } else { Value::Null };
        match (created["id"].as_str(), created["key"].as_str()) {
            (Some(id), Some(key)) => Ok(CreatedKey { id: id.to_owned(), key: key.to_owned() }),
            // The body of a 2xx is not printed: it may contain a key.
            _ if created.is_null() => Err(unexpected("POST /v1/keys", &answer)),
            _ => Err(Failure::new("POST /v1/keys: expected an id and a key in the response")),
        }
    }

    /// Creates a key with only a name.
    pub async fn create_named(&self, name: &str) -> Result<CreatedKey> {
        self.create(&json!({ "name": name })).await
    }

    /// Revokes a key and waits for the response.
    pub async fn revoke(&self, id: &str) -> Result<()> {
        let path = format!("/v1/keys/{id}");
        let answer = self.api("DELETE", &path, None).await?;
        if (200..300).contains(&answer.status) { Ok(()) } else { Err(unexpected(&format!("DELETE {path}"), &answer)) }
    }

    /// Sends an API request with the admin token.
    pub async fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Response> {
        let mut request = Request::new(method, path).bearer(&self.admin_token()?);
        if let Some(body) = body {
            request = request.json(body);
        }
        http::send(self.address, &request).await
    }

    fn token(&self, file: &str) -> Result<String> {
        let path = self.data_dir.join(file);
        Ok(fs::read_to_string(&path).context(|| path.display().to_string())?.trim().to_owned())
    }
}

fn unexpected(what: &str, answer: &Response) -> Failure {
    Failure::new(format!("{what}: {} {}", answer.status, answer.text()))
}
