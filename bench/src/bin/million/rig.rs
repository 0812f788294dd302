//! A control plane on one port, whatever its database, and an Envoy that follows it.

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
    // Last, so that it outlives those whose logs are in it.
    dir: TestDir,
}

impl Rig {
    /// Starts both; whether the filter has a snapshot is not waited for.
    pub(crate) async fn start(data_dir: &Path, workers: u32, arguments: &[&str]) -> Result<Self> {
        let ports = [ReservedPort::new()?, ReservedPort::new()?, ReservedPort::new()?];
        let dir = TestDir::new()?;
        let plane = plane(&ports[2], data_dir, arguments).await?;
        let mut config = EnvoyConfig::shipped()?;
        config
            .set_gateway(ports[0].address())
            .set_admin(ports[1].address())
            .set_cluster(CONTROL_PLANE, ports[2].address())
            .set_wasm(&artifacts::filter()?);
        // Envoy answers itself: what is measured is the gateway.
        *config.routes() = vec![json!({"match": {"prefix": "/"}, "direct_response": {"status": 200}})];
        // Histograms are told as of the last flush.
        config.tree_mut()["stats_flush_interval"] = "1s".into();
        // A line for each request would be measured, too.
        let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/access_log";
        if let Some(access_log) = config.tree_mut().pointer_mut(manager) {
            *access_log = json!([]);
        }
        let environment = vec![("KEYWARD_EDGE_TOKEN".to_owned(), plane.edge_token()?)];
        let options = Options { workers, environment, ..Options::default() };
        let envoy = Envoy::start(&config, dir.path(), &options).await?;
        Ok(Self { plane, envoy, config, options, ports, dir })
    }

    /// Puts another database behind the same address, with the same token.
    pub(crate) async fn switch_to(&mut self, data_dir: &Path) -> Result<()> {
        let token = "edge-token";
        std::fs::copy(self.plane.data_dir().join(token), data_dir.join(token))
            .map_err(|error| Failure::new(format!("{}: {error}", data_dir.display())))?;
        self.plane.stop().await?;
        self.plane = plane(&self.ports[2], data_dir, &[]).await?;
        Ok(())
    }

    /// Starts another Envoy in the place of this one, and says when it first asked the control plane.
    pub(crate) async fn restart_envoy(&mut self) -> Result<Instant> {
        self.envoy.stop().await?;
        self.envoy = Envoy::start(&self.config, self.dir.path(), &self.options).await?;
        until("Envoy asks the control plane", PATIENCE, async || {
            let asked = self.envoy.stats(r"^cluster\.keyward_control_plane\.upstream_rq_total$").await?;
            if asked.values().sum::<u64>() > 0 { Ok(Instant::now()) } else { Err(Failure::new("it does not")) }
        })
        .await
    }

    /// Waits until Envoy tells of a number of records that will do.
    pub(crate) async fn until_records(&self, will_do: impl Fn(u64) -> bool) -> Result<u64> {
        until("Envoy has so many records", PATIENCE, async || {
            let stats = self.envoy.stats(r"keyward_snapshot_records$").await?;
            let records = stats.values().copied().next().unwrap_or_default();
            if will_do(records) { Ok(records) } else { Err(Failure::new(format!("{records}"))) }
        })
        .await
    }

    /// Waits until the gateway lets a key in.
    pub(crate) async fn until_open(&self, key: &str) -> Result<Instant> {
        let request = Request::get("/").bearer(key);
        until("the key opens", PATIENCE, async || {
            let status = self.envoy.send(&request).await?.status;
            if status == 200 { Ok(Instant::now()) } else { Err(Failure::new(status.to_string())) }
        })
        .await
    }

    /// Envoy's own memory, in bytes, once it rises no longer.
    pub(crate) async fn memory(&mut self) -> Result<u64> {
        let process = Observed::new(self.envoy.process().id());
        let (mut steady_at, mut since) = (process.anonymous_memory()?, Instant::now());
        until("the memory is steady", PATIENCE, async || {
            let now = process.anonymous_memory()?;
            if now.abs_diff(steady_at) > STEADY_BYTES {
                (steady_at, since) = (now, Instant::now());
            }
            if since.elapsed() >= STEADY { Ok(now) } else { Err(Failure::new("it changes")) }
        })
        .await
    }

    /// How long the filter's calls took since Envoy started: the most, and how many of how many were longer than 5 ms.
    pub(crate) async fn ticks(&self) -> Result<Value> {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let text = self.envoy.admin_get("/stats?filter=keyward_tick_us").await?.text();
        let buckets = self.envoy.admin_get("/stats?filter=keyward_tick_us&histogram_buckets=cumulative").await?.text();
        // "… P99(1,2) P100(3,4)" and "… B5000(1,2) …": since the last flush, and since the start.
        let told = |text: &str, name: &str| {
            let (_, rest) = text.split_once(&format!(" {name}("))?;
            rest.split_once(')')?.0.rsplit_once(',')?.1.parse::<f64>().ok()
        };
        let last = buckets.trim().rsplit_once(" B").and_then(|(_, last)| last.split_once('(')).map(|(name, _)| name);
        let all = last.and_then(|last| told(&buckets, &format!("B{last}")));
        let within = told(&buckets, "B5000");
        Ok(json!({
            "p50_us": told(&text, "P50"),
            "p99_us": told(&text, "P99"),
            "p999_us": told(&text, "P99.9"),
            "max_us": told(&text, "P100"),
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

/// Lets Envoy and its clients go before the control plane, which elsewhere has a machine of its own.
fn stand_back(id: u32) -> Result<()> {
    let priority = rustix::process::getpriority_process(None).map_err(|error| Failure::new(error.to_string()))?;
    let tasks = format!("/proc/{id}/task");
    let failed = |error: std::io::Error| Failure::new(format!("{tasks}: {error}"));
    for task in std::fs::read_dir(&tasks).map_err(failed)? {
        let task = task.map_err(failed)?.file_name();
        let id = task.to_string_lossy().parse().ok().and_then(rustix::process::Pid::from_raw);
        // On Linux a priority is a thread's. One that has ended meanwhile needs none.
        let _ = rustix::process::setpriority_process(id, priority.saturating_add(19));
    }
    Ok(())
}
