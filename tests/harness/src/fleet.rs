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

/// The deadline for Redis and the service to start.
const START: Duration = Duration::from_secs(30);

/// Two gateways of one fleet. Dropping the fleet stops all parts.
#[derive(Debug)]
pub struct Fleet {
    /// The first gateway, with the control plane and the upstream of both.
    pub gateway: Gateway,
    /// The second gateway.
    pub second: Envoy,
    /// The rate-limit service that both call.
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
    // Last, so that the logs outlive the processes.
    dir: TestDir,
}

impl Fleet {
    /// Starts a fleet with the shipped `envoy/fleet.yaml` and a change to it. `limits` are the service's.
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
    pub async fn start(binary: &Path, limits: &[&str]) -> Result<Self> {
        let dir = TestDir::new()?;
        let (port, redis_port) = (ReservedPort::new()?, ReservedPort::new()?);
        let log = dir.path().join("redis.log");
        let mut command = Command::new(artifacts::redis()?);
        command
            .args(["--port", &redis_port.port().to_string(), "--bind", "127.0.0.1"])
            // No persistence: the counts end with the test.
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(dir.path());
        let mut redis = Process::spawn("Redis", &mut command, &log, &log)?;
        listens(&mut redis, &redis_port).await?;
        let limits = limits.iter().map(|&limit| limit.to_owned()).collect();
        let mut service = Self { binary: binary.to_owned(), limits, process: None, port, redis_port, redis, dir };
        service.start_again().await?;
        Ok(service)
    }

    /// Restarts the service; its counts are still in Redis.
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

    /// Kills the service, as in a crash.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Kills Redis, as in a crash; the service keeps running.
    pub fn kill_redis(&mut self) {
        self.redis.kill();
    }

    /// Suspends the service: connections stay open without responses.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Resumes the service.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let Some(process) = &mut self.process else {
            return Err(Failure::new("the rate-limit service is not running"));
        };
        process.signal(signal)
    }

    /// The requests to the service, in order: the descriptors of each, and whether it was admitted.
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
