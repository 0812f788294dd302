//! A real Envoy, and its admin interface.

use crate::config::EnvoyConfig;
use crate::failure::Context as _;
use crate::http::{self, Request, Response};
use crate::process::Process;
use crate::{Failure, Result, WorkerConnections, artifacts};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The deadline for the start: a module is compiled first, and the machine may be busy.
const START: Duration = Duration::from_secs(60);

/// The deadline for the shutdown.
const STOP: Duration = Duration::from_secs(10);

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
    gateway: SocketAddr,
    readiness_path: Option<String>,
    workers: u32,
    access_log: PathBuf,
}

/// Options of an Envoy process.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number of worker threads.
    pub workers: u32,
    /// Additional environment variables.
    pub environment: Vec<(String, String)>,
    /// Additional command-line arguments.
    pub arguments: Vec<String>,
    /// The value of `--component-log-level`.
    pub log_levels: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 2,
            environment: Vec::new(),
            arguments: Vec::new(),
            // At info, `main` lists every extension in hundreds of lines.
            log_levels: "wasm:debug,dynamic_modules:debug,main:warning".to_owned(),
        }
    }
}

impl Envoy {
    /// Starts Envoy with a configuration, which is written to `dir` like the logs, and waits until the listeners are
    /// ready.
    pub async fn start(config: &EnvoyConfig, dir: &Path, options: &Options) -> Result<Self> {
        let mut envoy = Self::spawn(config, dir, options)?;
        let admin = envoy.admin;
        envoy
            .process
            .until("Envoy is ready", START, async || {
                let answer = http::send(admin, &Request::get("/ready")).await?;
                if answer.status == 200 { Ok(()) } else { Err(Failure::new(answer.text())) }
            })
            .await?;
        Ok(envoy)
    }

    fn spawn(config: &EnvoyConfig, dir: &Path, options: &Options) -> Result<Self> {
        let file = dir.join("envoy.json");
        config.write(&file)?;
        let access_log = dir.join("access.log");
        let mut command = Command::new(artifacts::envoy()?);
        command
            .arg("--config-path")
            .arg(&file)
            .args(["--concurrency", &options.workers.to_string()])
            // Otherwise, two Envoys of one user treat each other as hot restarts.
            .arg("--use-dynamic-base-id")
            .args(["--component-log-level", &options.log_levels])
            // Access logs are written at once rather than every ten seconds.
            .args(["--file-flush-interval-msec", "50"])
            .args(&options.arguments)
            .envs(options.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(artifacts::root());
        let process = Process::spawn("Envoy", &mut command, &access_log, &dir.join("envoy.log"))?;
        Ok(Self {
            process,
            admin: config.admin(),
            gateway: config.gateway(),
            readiness_path: config.readiness_path().map(str::to_owned),
            workers: options.workers,
            access_log,
        })
    }

    /// Waits until the filter is ready.
    pub async fn wait_for_snapshot(&mut self, limit: Duration) -> Result<()> {
        let Some(path) = &self.readiness_path else {
            return Err(Failure::new("the filter's configuration has no readiness_path"));
        };
        let (gateway, request) = (self.gateway, Request::get(path));
        self.process
            .until("the gateway has its snapshot", limit, async || {
                let answer = http::send(gateway, &request).await?;
                if answer.status == 200 { Ok(()) } else { Err(unexpected(&request, &answer)) }
            })
            .await
    }

    /// One kept-alive connection to each worker.
    pub async fn every_worker(&self) -> Result<WorkerConnections> {
        WorkerConnections::open(self).await
    }

    /// Sends a request to the gateway on a new connection.
    pub async fn send(&self, request: &Request) -> Result<Response> {
        http::send(self.gateway, request).await
    }

    /// Stops Envoy with SIGTERM.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.terminate(STOP).await.map(|_| ())
    }

    /// The gateway's address.
    pub fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// The address of the admin interface.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The path on which the filter reports its readiness.
    pub fn readiness_path(&self) -> Option<&str> {
        self.readiness_path.as_deref()
    }

    /// The number of workers.
    pub fn workers(&self) -> u32 {
        self.workers
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The counters and gauges whose names match a regular expression, without histograms.
    pub async fn stats(&self, filter: &str) -> Result<BTreeMap<String, u64>> {
        let escaped: String = filter.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let text = self.admin_get(&format!("/stats?filter={escaped}")).await?.text();
        let values = text.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(values.collect())
    }

    /// The configuration dump of the admin interface.
    pub async fn config_dump(&self) -> Result<Value> {
        Ok(self.admin_get("/config_dump").await?.json())
    }

    /// The version and state.
    pub async fn server_info(&self) -> Result<Value> {
        Ok(self.admin_get("/server_info").await?.json())
    }

    /// Sends a GET to the admin interface, which must answer 200.
    pub async fn admin_get(&self, path: &str) -> Result<Response> {
        let request = Request::get(path);
        let answer = http::send(self.admin, &request).await?;
        if answer.status == 200 { Ok(answer) } else { Err(unexpected(&request, &answer)) }
    }

    /// The access log so far: a line per completed request, delayed by some milliseconds.
    pub fn access_log(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.access_log).context(|| self.access_log.display().to_string())?;
        // The last line may be incomplete.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines().map(|line| serde_json::from_str(line).context(|| line.to_owned()));
        lines.collect()
    }

    /// Envoy's own log so far.
    pub fn log(&self) -> Result<String> {
        self.process.log()
    }
}

fn unexpected(request: &Request, answer: &Response) -> Failure {
    Failure::new(format!("{request:?}: {} {}", answer.status, answer.text()))
}
