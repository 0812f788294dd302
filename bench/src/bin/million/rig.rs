//! A control plane on one port, with any of the databases, and an Envoy that follows it.

use crate::database::{PATIENCE, bench_dir};
use keyward_bench::process::Observed;
use keyward_harness::config::CONTROL_PLANE;
use keyward_harness::envoy::Options;
use keyward_harness::ports::ReservedPort;
use keyward_harness::{ControlPlane, Envoy, EnvoyConfig, Failure, Request, Result, TestDir, artifacts, until};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long Envoy's memory must not rise by more than `STEADY_BYTES` to count as settled.
const STEADY: Duration = Duration::from_millis(1500);
const STEADY_BYTES: u64 = 256 << 10;

pub(crate) struct Rig {
    pub(crate) plane: ControlPlane,
    pub(crate) envoy: Envoy,
    config: EnvoyConfig,
    options: Options,
    ports: [ReservedPort; 3],
    // Last, so that the logs outlive the processes.
    dir: TestDir,
}

impl Rig {
    /// Starts both; does not wait for the filter's snapshot.
    pub(crate) async fn start(data_dir: &Path, workers: u32, arguments: &[&str]) -> Result<Self> {
        let ports = [ReservedPort::new()?, ReservedPort::new()?, ReservedPort::new()?];
        let dir = TestDir::new()?;
        let plane = plane(&ports[2], data_dir, arguments).await?;
        let mut config = EnvoyConfig::shipped()?;
        config
            .set_gateway(ports[0].address())
            .set_admin(ports[1].address())
            .set_cluster(CONTROL_PLANE, ports[2].address())
            .set_module(&artifacts::filter()?);
        // Envoy itself answers: only the gateway is measured.
        *config.routes() = vec![json!({"match": {"prefix": "/"}, "direct_response": {"status": 200}})];
        // Histograms are reported as of the last flush.
        config.tree_mut()["stats_flush_interval"] = "1s".into();
        // Access logging would be measured too.
        let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/access_log";
        if let Some(access_log) = config.tree_mut().pointer_mut(manager) {
            *access_log = json!([]);
        }
        let environment = vec![("KEYWARD_EDGE_TOKEN".to_owned(), plane.edge_token()?)];
        let options = Options { workers, environment, ..Options::default() };
        let envoy = Envoy::start(&config, dir.path(), &options).await?;
        Ok(Self { plane, envoy, config, options, ports, dir })
    }

    /// Restarts the control plane with another database at the same address, with the same token.
    pub(crate) async fn switch_to(&mut self, data_dir: &Path) -> Result<()> {
        let token = "edge-token";
        std::fs::copy(self.plane.data_dir().join(token), data_dir.join(token))
            .map_err(|error| Failure::new(format!("{}: {error}", data_dir.display())))?;
        self.plane.stop().await?;
        self.plane = plane(&self.ports[2], data_dir, &[]).await?;
        Ok(())
    }

    /// Replaces Envoy by a new one; returns when it first called the control plane.
    pub(crate) async fn restart_envoy(&mut self) -> Result<Instant> {
        self.envoy.stop().await?;
        self.envoy = Envoy::start(&self.config, self.dir.path(), &self.options).await?;
        until("Envoy calls the control plane", PATIENCE, async || {
            let asked = self.envoy.stats(r"^cluster\.keyward_control_plane\.upstream_rq_total$").await?;
            if asked.values().sum::<u64>() > 0 { Ok(Instant::now()) } else { Err(Failure::new("no call yet")) }
        })
        .await
    }

    /// Waits until Envoy's number of records satisfies a condition.
    pub(crate) async fn until_records(&self, will_do: impl Fn(u64) -> bool) -> Result<u64> {
        until("Envoy has the expected number of records", PATIENCE, async || {
            let stats = self.envoy.stats(r"keyward_snapshot_records$").await?;
            let records = stats.values().copied().next().unwrap_or_default();
            if will_do(records) { Ok(records) } else { Err(Failure::new(format!("{records}"))) }
        })
        .await
    }

    /// Waits until the gateway accepts a key.
    pub(crate) async fn until_open(&self, key: &str) -> Result<Instant> {
        let request = Request::get("/").bearer(key);
        until("the key is accepted", PATIENCE, async || {
            let status = self.envoy.send(&request).await?.status;
            if status == 200 { Ok(Instant::now()) } else { Err(Failure::new(status.to_string())) }
        })
        .await
    }

    /// Envoy's anonymous memory, in bytes, once it no longer rises.
    pub(crate) async fn memory(&mut self) -> Result<u64> {
        let process = Observed::new(self.envoy.process().id());
        let (mut steady_at, mut since) = (process.anonymous_memory()?, Instant::now());
        until("the memory is steady", PATIENCE, async || {
            let now = process.anonymous_memory()?;
            if now.abs_diff(steady_at) > STEADY_BYTES {
                (steady_at, since) = (now, Instant::now());
            }
            if since.elapsed() >= STEADY { Ok(now) } else { Err(Failure::new("still changing")) }
        })
        .await
    }

    /// The duration of the filter's calls since Envoy's start: the longest, and how many exceeded 5 ms.
    pub(crate) async fn ticks(&self) -> Result<Value> {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let text = self.envoy.admin_get("/stats?filter=keyward_tick_us").await?.text();
        let buckets = self.envoy.admin_get("/stats?filter=keyward_tick_us&histogram_buckets=cumulative").await?.text();
        // "… P99(1,2) P100(3,4)" and "… B5000(1,2) …": since the last flush, and since the start.
        let value = |text: &str, name: &str| {
            let (_, rest) = text.split_once(&format!(" {name}("))?;
            rest.split_once(')')?.0.rsplit_once(',')?.1.parse::<f64>().ok()
        };
        let last = buckets.trim().rsplit_once(" B").and_then(|(_, last)| last.split_once('(')).map(|(name, _)| name);
        let all = last.and_then(|last| value(&buckets, &format!("B{last}")));
        let within = value(&buckets, "B5000");
        Ok(json!({
            "p50_us": value(&text, "P50"),
            "p99_us": value(&text, "P99"),
            "p999_us": value(&text, "P99.9"),
            "max_us": value(&text, "P100"),
            "ticks": all,
            "over_5_ms": all.zip(within).map(|(all, within)| all - within),
        }))
    }
}

async fn plane(port: &ReservedPort, data_dir: &Path, arguments: &[&str]) -> Result<ControlPlane> {
    let log = bench_dir().join("control-plane.log");
    let mut plane = ControlPlane::on(port.port(), data_dir, "keyward", &log)?.arguments(arguments);
    plane.start().await?;
    if let Some(process) = plane.process() {
        stand_back(process.id())?;
    }
    Ok(plane)
}

/// Gives Envoy and its clients priority over the control plane, which normally runs on another machine.
fn stand_back(id: u32) -> Result<()> {
    let priority = rustix::process::getpriority_process(None).map_err(|error| Failure::new(error.to_string()))?;
    let tasks = format!("/proc/{id}/task");
    let failed = |error: std::io::Error| Failure::new(format!("{tasks}: {error}"));
    for task in std::fs::read_dir(&tasks).map_err(failed)? {
        let task = task.map_err(failed)?.file_name();
        let id = task.to_string_lossy().parse().ok().and_then(rustix::process::Pid::from_raw);
        // On Linux, priorities are per thread. A thread that has exited needs none.
        let _ = rustix::process::setpriority_process(id, priority.saturating_add(19));
    }
    Ok(())
}
