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

/// How long it may take to start.
const START: Duration = Duration::from_secs(30);

/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// A control plane on one port with one data directory, running or not.
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

/// A key that was just made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedKey {
    /// Its public id.
    pub id: String,
    /// The key itself.
    pub key: String,
}

impl ControlPlane {
    /// One on a free port, with its data and its log in `dir`; it does not run yet.
    ///
    /// # Errors
    /// When there is no `keyward` binary or no free port.
    pub fn new(dir: &Path, dialect: &str) -> Result<Self> {
        let port = ReservedPort::new()?;
        let log = dir.join("control-plane.log");
        let mut plane = Self::on(port.port(), &dir.join("data"), dialect, &log)?;
        plane._port = Some(port);
        Ok(plane)
    }

    /// One on this port of the loopback interface with this data directory; it does not run yet.
    ///
    /// # Errors
    /// When there is no `keyward` binary.
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

    /// With another program in the place of `keyward`, such as a script that runs it.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.binary);
        self
    }

    /// With these arguments of `serve` as well.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self
    }

    /// With these variables in its environment.
    #[must_use]
    pub fn environment(mut self, environment: &[(String, String)]) -> Self {
        self.environment = environment.to_vec();
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it ends at once or is not ready in time, with its log.
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

    /// Ends it as an operator would.
    ///
    /// # Errors
    /// When it does not run or does not end in time.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Err(Failure::new("the control plane does not run")) };
        if process.terminate(STOP).await? {
            return Ok(());
        }
        Err(Failure::new(format!("the control plane did not end within {STOP:?} of SIGTERM")))
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Stops it and starts it again with the same port and data.
    ///
    /// # Errors
    /// Those of [`ControlPlane::stop`] and [`ControlPlane::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }

    /// Its process, if it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
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
        self.process.as_mut().ok_or_else(|| Failure::new("the control plane does not run"))?.signal(signal)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The token of its API, which it made on its first start.
    ///
    /// # Errors
    /// When it never ran.
    pub fn admin_token(&self) -> Result<String> {
        self.token("admin-token")
    }

    /// The token of the edge, which it made on its first start.
    ///
    /// # Errors
    /// When it never ran.
    pub fn edge_token(&self) -> Result<String> {
        self.token("edge-token")
    }

    /// Makes a key with these fields and waits for the answer.
    ///
    /// # Errors
    /// When the answer is not a created key.
    pub async fn create(&self, fields: &Value) -> Result<CreatedKey> {
        let answer = self.api("POST", "/v1/keys", Some(fields)).await?;
        let created = if (200..300).contains(&answer.status) { answer.json() } else { Value::Null };
        match (created["id"].as_str(), created["key"].as_str()) {
            (Some(id), Some(key)) => Ok(CreatedKey { id: id.to_owned(), key: key.to_owned() }),
            // Not the body of a 2xx: there may be a key in it.
            _ if created.is_null() => Err(unexpected("POST /v1/keys", &answer)),
            _ => Err(Failure::new("POST /v1/keys: no id or no key in the answer")),
        }
    }

    /// Makes a key that has only a name.
    ///
    /// # Errors
    /// Those of [`ControlPlane::create`].
    pub async fn create_named(&self, name: &str) -> Result<CreatedKey> {
        self.create(&json!({ "name": name })).await
    }

    /// Revokes a key and waits for the answer.
    ///
    /// # Errors
    /// When it is not a success.
    pub async fn revoke(&self, id: &str) -> Result<()> {
        let path = format!("/v1/keys/{id}");
        let answer = self.api("DELETE", &path, None).await?;
        if (200..300).contains(&answer.status) { Ok(()) } else { Err(unexpected(&format!("DELETE {path}"), &answer)) }
    }

    /// Any request of its API, with the admin token.
    ///
    /// # Errors
    /// When there is no answer.
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
