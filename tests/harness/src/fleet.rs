//! Several gateways with one control plane, one rate-limit service and one Redis, started for one test.

use crate::config::RATE_LIMIT;
use crate::envoy::Options;
use crate::failure::Context as _;
use crate::gateway::{Builder, SNAPSHOT};
use crate::ports::ReservedPort;
use crate::process::Process;
use crate::{Envoy, EnvoyConfig, Failure, Gateway, Result, TestDir, artifacts};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long Redis and the service may take to start.
const START: Duration = Duration::from_secs(30);

/// Two gateways of one fleet. Dropping it ends all.
#[derive(Debug)]
pub struct Fleet {
    /// The first, with the control plane and the upstream of both.
    pub gateway: Gateway,
    /// The second.
    pub second: Envoy,
    /// What both ask.
    pub service: RateLimitService,
    _ports: [ReservedPort; 2],
    _second_dir: TestDir,
}

/// The rate-limit service and its Redis, running or not.
#[derive(Debug)]
pub struct RateLimitService {
    binary: PathBuf,
    limits: Vec<String>,
    process: Option<Process>,
    port: ReservedPort,
    redis_port: ReservedPort,
    redis: Process,
    // Last, so that it outlives those whose logs are in it.
    dir: TestDir,
}

impl Fleet {
    /// Starts one with the shipped `envoy/fleet.yaml` and a change to it. `limits` are the service's.
    ///
    /// # Errors
    /// When a part ends or is not ready in time, with its log.
    pub async fn start(service: &Path, limits: &[&str], change: impl FnOnce(&mut EnvoyConfig)) -> Result<Self> {
        let service = RateLimitService::start(service, limits).await?;
        let builder = Self::gateway(&service).configure(change);
        let gateway = builder.start().await?;
        let ports = [ReservedPort::new()?, ReservedPort::new()?];
        let mut config = gateway.config.clone();
        config.set_gateway(ports[0].address()).set_admin(ports[1].address());
        let token = ("KEYWARD_EDGE_TOKEN".to_owned(), gateway.control_plane.edge_token()?);
        let options = Options { environment: vec![token], ..Options::default() };
        let second_dir = TestDir::new()?;
        let mut second = Envoy::start(&config, second_dir.path(), &options).await?;
        second.wait_for_snapshot(SNAPSHOT).await?;
        Ok(Self { gateway, second, service, _ports: ports, _second_dir: second_dir })
    }

    fn gateway(service: &RateLimitService) -> Builder {
        let address = service.port.address();
        Gateway::builder().config(EnvoyConfig::fleet()).configure(|config| {
            config.set_cluster(RATE_LIMIT, address);
        })
    }
}

impl RateLimitService {
    /// Starts a Redis and the service.
    ///
    /// # Errors
    /// When one ends or is not ready in time, with its log.
    pub async fn start(binary: &Path, limits: &[&str]) -> Result<Self> {
        let dir = TestDir::new()?;
        let (port, redis_port) = (ReservedPort::new()?, ReservedPort::new()?);
        let log = dir.path().join("redis.log");
        let mut command = Command::new(artifacts::redis()?);
        command
            .args(["--port", &redis_port.port().to_string(), "--bind", "127.0.0.1"])
            // Nothing is kept: what is counted is gone when the test is.
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(dir.path());
        let mut redis = Process::spawn("Redis", &mut command, &log, &log)?;
        listens(&mut redis, &redis_port).await?;
        let limits = limits.iter().map(|&limit| limit.to_owned()).collect();
        let mut service = Self { binary: binary.to_owned(), limits, process: None, port, redis_port, redis, dir };
        service.start_again().await?;
        Ok(service)
    }

    /// Starts the service again; what was counted is still in Redis.
    ///
    /// # Errors
    /// When it ends or is not ready in time, with its log.
    pub async fn start_again(&mut self) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command
            .args(["--listen", &self.port.address().to_string()])
            .args(["--redis", &format!("redis://{}", self.redis_port.address())]);
        for limit in &self.limits {
            command.args(["--limit", limit]);
        }
        let log = self.dir.path().join("service.log");
        let mut process = Process::spawn("the rate-limit service", &mut command, &self.output(), &log)?;
        listens(&mut process, &self.port).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends the service as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Ends the Redis as a crash would; the service runs on.
    pub fn kill_redis(&mut self) {
        self.redis.kill();
    }

    /// Holds the service still: connections stay, and nothing is answered.
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
        let Some(process) = &mut self.process else { return Err(Failure::new("the rate-limit service does not run")) };
        process.signal(signal)
    }

    /// What it was asked, in order: the descriptors of each request, and whether it was admitted.
    ///
    /// # Errors
    /// When what it wrote cannot be read.
    pub fn asked(&self) -> Result<Vec<Value>> {
        let output = self.output();
        let text = fs::read_to_string(&output).context(|| output.display().to_string())?;
        text.lines().map(|line| serde_json::from_str(line).context(|| line.to_owned())).collect()
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("asked.jsonl")
    }
}

async fn listens(process: &mut Process, port: &ReservedPort) -> Result<()> {
    let address = port.address();
    let what = format!("{} listens", process.name());
    let connect = async || TcpStream::connect(address).await.map(drop).map_err(|error| Failure::new(error.to_string()));
    process.until(&what, START, connect).await
}
