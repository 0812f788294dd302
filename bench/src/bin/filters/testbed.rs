//! All processes that run at once: an Envoy per list of filters, the control planes, the upstream, the authorizer.
//!
//! The Envoys have a processor to themselves; this process and all others share another. On a machine with one
//! processor, results are not meaningful.

use crate::keys::{self, DIALECT};
use crate::scenarios::{Filters, HotKey, Keys, Places};
use keyward_bench::process::Observed;
use keyward_harness::envoy::Options;
use keyward_harness::ports::{ReservedPort, loopback};
use keyward_harness::process::Process;
use keyward_harness::{ControlPlane, Envoy, Failure, Result, TestDir, artifacts};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::net::TcpStream;

/// The deadline for a small process to listen.
const START: Duration = Duration::from_secs(20);

/// The deadline for a snapshot of many keys.
const SNAPSHOT: Duration = Duration::from_secs(120);

/// All processes. Dropping it stops them.
pub(crate) struct Testbed {
    envoys: BTreeMap<Filters, Envoy>,
    upstream: Process,
    authorizer: Process,
    _control_planes: BTreeMap<Keys, (ControlPlane, TestDir)>,
    _ports: Vec<ReservedPort>,
    // Last, so that the logs outlive the processes.
    _dirs: Vec<TestDir>,
}

/// The known keys.
pub(crate) struct Known {
    pub(crate) hot: Vec<String>,
    pub(crate) many: Vec<String>,
}

impl Known {
    fn of(&self, keys: Keys) -> &[String] {
        match keys {
            Keys::Hot => &self.hot,
            Keys::Many => &self.many,
        }
    }
}

impl Testbed {
    /// Starts what these filters need and waits until each gateway is ready.
    pub(crate) async fn start(filters: &[Filters], known: &Known, wasm: Option<PathBuf>) -> Result<Self> {
        let wasm = wasm.map_or_else(artifacts::wasm_filter, Ok)?;
        let wasm = wasm.canonicalize().map_err(|error| Failure::new(format!("{}: {error}", wasm.display())))?;
        let processors = Processors::share()?;
        let dir = TestDir::new()?;
        let hot = keys::hot(&known.hot);
        let mut ports = vec![ReservedPort::new()?, ReservedPort::new()?];
        let places = Places { upstream: ports[0].address(), authorizer: ports[1].address() };

        let upstream = part(&dir, "upstream", &ports[0], &[]).await?;
        let authorizer = part(&dir, "authorizer", &ports[1], &[&key_file(&dir, &hot)?]).await?;

        let mut control_planes: BTreeMap<Keys, (ControlPlane, TestDir)> = BTreeMap::new();
        for kind in filters.iter().filter_map(|filters| filters.control_plane()).collect::<BTreeSet<_>>() {
            let dir = TestDir::new()?;
            let mut control_plane = ControlPlane::new(dir.path(), DIALECT)?;
            control_plane.start().await?;
            keys::import(&control_plane, known.of(kind)).await?;
            control_planes.insert(kind, (control_plane, dir));
        }
        let mut envoys = BTreeMap::new();
        let mut dirs = vec![dir];
        for &of in filters {
            let mut options = Options { workers: 1, log_levels: "main:warning".to_owned(), ..Options::default() };
            // Without the filter, the control plane's cluster exists but is unused.
            let (mut feed, mut records) = (loopback(9), 0);
            if let Some(kind) = of.control_plane() {
                let control_plane = &control_planes[&kind].0;
                options.environment.push(("KEYWARD_EDGE_TOKEN".to_owned(), control_plane.edge_token()?));
                (feed, records) = (control_plane.address(), known.of(kind).len() as u64);
            }
            let own = [ReservedPort::new()?, ReservedPort::new()?];
            let module = if of.is_native() { artifacts::native_filter()? } else { wasm.clone() };
            let mut config = of.config(&places, &hot, &module, feed)?;
            config.set_gateway(own[0].address()).set_admin(own[1].address());
            ports.extend(own);
            let dir = TestDir::new()?;
            let mut envoy = processors.on_envoys(Envoy::start(&config, dir.path(), &options)).await?;
            if of.control_plane().is_some() {
                envoy.wait_for_snapshot(SNAPSHOT).await?;
                whole(&envoy, records).await?;
            }
            envoys.insert(of, envoy);
            dirs.push(dir);
        }
        Ok(Self { envoys, upstream, authorizer, _control_planes: control_planes, _ports: ports, _dirs: dirs })
    }

    /// The Envoy with these filters.
    pub(crate) fn envoy(&mut self, filters: Filters) -> Result<&mut Envoy> {
        self.envoys.get_mut(&filters).ok_or_else(|| Failure::new(format!("no Envoy with {filters:?} was started")))
    }

    /// The upstream's process.
    pub(crate) fn upstream(&self) -> Observed {
        Observed::new(self.upstream.id())
    }

    /// The authorizer's process.
    pub(crate) fn authorizer(&self) -> Observed {
        Observed::new(self.authorizer.id())
    }
}

/// Waits until a gateway has this many records.
async fn whole(envoy: &Envoy, records: u64) -> Result<()> {
    let has = async || {
        let stats = envoy.stats("keyward_snapshot_records$").await?;
        let found = stats.values().copied().max().unwrap_or_default();
        if found >= records { Ok(()) } else { Err(Failure::new(format!("{found} records of {records}"))) }
    };
    keyward_harness::until("the snapshot is complete", SNAPSHOT, has).await
}

/// The clients and keys for the authorizer.
fn key_file(dir: &TestDir, hot: &[HotKey]) -> Result<PathBuf> {
    let path = dir.path().join("keys");
    let lines: String = hot.iter().map(|HotKey { client, key }| format!("{client} {key}\n")).collect();
    std::fs::write(&path, lines).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    Ok(path)
}

/// Starts this binary as another process.
async fn part(dir: &TestDir, name: &str, port: &ReservedPort, arguments: &[&Path]) -> Result<Process> {
    let binary = std::env::current_exe().map_err(|error| Failure::new(format!("this binary: {error}")))?;
    let mut command = Command::new(binary);
    command.arg(name).arg(port.address().to_string()).args(arguments);
    let log = dir.path().join(format!("{name}.log"));
    let mut process = Process::spawn(name, &mut command, &log, &log)?;
    let address = port.address();
    process
        .until("listens", START, async || {
            TcpStream::connect(address).await.map(drop).map_err(|error| Failure::new(error.to_string()))
        })
        .await?;
    Ok(process)
}

/// The assignment of processors.
struct Processors {
    envoys: CpuSet,
    others: CpuSet,
}

impl Processors {
    /// The first processor available to this process for the Envoys, the last for everything else, including this
    /// process from now on.
    fn share() -> Result<Self> {
        let failed = |error: rustix::io::Errno| Failure::new(format!("sched_getaffinity: {error}"));
        let allowed = sched_getaffinity(None).map_err(failed)?;
        let mut allowed = (0..CpuSet::MAX_CPU).filter(|&processor| allowed.is_set(processor));
        let first = allowed.next().unwrap_or_default();
        let only = |processor| {
            let mut set = CpuSet::new();
            set.set(processor);
            set
        };
        let last = allowed.next_back().unwrap_or(first);
        let shared = Self { envoys: only(first), others: only(last) };
        pin(&shared.others)?;
        Ok(shared)
    }

    /// Makes a child process inherit the Envoys' processor. This thread runs there meanwhile, which is why the runtime
    /// has only one.
    async fn on_envoys<T>(&self, start: impl Future<Output = Result<T>>) -> Result<T> {
        pin(&self.envoys)?;
        let started = start.await;
        pin(&self.others)?;
        started
    }
}

fn pin(set: &CpuSet) -> Result<()> {
    sched_setaffinity(None, set).map_err(|error| Failure::new(format!("sched_setaffinity: {error}")))
}
