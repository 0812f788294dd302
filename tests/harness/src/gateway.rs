//! The whole product, started for one test.

use crate::config::CONTROL_PLANE;
use crate::envoy::Options;
use crate::ports::{ReservedPort, loopback};
use crate::{ControlPlane, Echo, Envoy, EnvoyConfig, Failure, Result, TestDir, artifacts};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How long the first snapshot may take.
pub(crate) const SNAPSHOT: Duration = Duration::from_secs(20);

/// Control plane, upstreams and Envoy, all on ports of their own. Dropping it ends all.
#[derive(Debug)]
pub struct Gateway {
    /// Envoy.
    pub envoy: Envoy,
    /// The control plane.
    pub control_plane: ControlPlane,
    /// The upstreams, in the configuration's order; none with [`Builder::upstream_from`].
    pub upstreams: Vec<Echo>,
    /// What Envoy runs with.
    pub config: EnvoyConfig,
    _ports: [ReservedPort; 2],
    // Last, so that it outlives those whose logs are in it.
    dir: TestDir,
}

/// What is to be different from the shipped configuration.
pub struct Builder {
    dialect: String,
    config: Result<EnvoyConfig>,
    wasm: Option<PathBuf>,
    options: Options,
    control_plane_arguments: Vec<String>,
    control_plane_environment: Vec<(String, String)>,
    feed: Option<SocketAddr>,
    upstream: Option<SocketAddr>,
    control_plane_unavailable: bool,
    snapshot_awaited: bool,
}

impl Gateway {
    /// The shipped configuration and the default dialect.
    ///
    /// # Errors
    /// Those of [`Builder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// To change something first.
    pub fn builder() -> Builder {
        Builder {
            dialect: "keyward".to_owned(),
            config: EnvoyConfig::shipped(),
            wasm: None,
            options: Options::default(),
            control_plane_arguments: Vec::new(),
            control_plane_environment: Vec::new(),
            feed: None,
            upstream: None,
            control_plane_unavailable: false,
            snapshot_awaited: true,
        }
    }

    /// The only upstream, or the first of several.
    pub fn upstream(&self) -> &Echo {
        &self.upstreams[0]
    }

    /// The directory of logs and state.
    pub fn dir(&self) -> &TestDir {
        &self.dir
    }
}

impl Builder {
    /// With this dialect on both sides, and the configuration that is shipped for it.
    #[must_use]
    pub fn dialect(mut self, name: &str) -> Self {
        self.dialect = name.to_owned();
        self.config(EnvoyConfig::variant(name))
    }

    /// With this number of workers; otherwise there are two.
    #[must_use]
    pub fn workers(mut self, workers: u32) -> Self {
        self.options.workers = workers;
        self
    }

    /// With another configuration than the shipped `envoy/envoy.yaml`; said before anything is changed in it.
    #[must_use]
    pub fn config(mut self, config: Result<EnvoyConfig>) -> Self {
        self.config = config;
        self
    }

    /// With a change to the configuration.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut EnvoyConfig)) -> Self {
        if let Ok(config) = &mut self.config {
            change(config);
        }
        self
    }

    /// With a change to the filter's own configuration.
    #[must_use]
    pub fn filter(self, change: impl FnOnce(&mut Value)) -> Self {
        self.configure(|config| change(config.filter()))
    }

    /// With another module than the built filter.
    #[must_use]
    pub fn wasm(mut self, module: PathBuf) -> Self {
        self.wasm = Some(module);
        self
    }

    /// With a variable more in Envoy's environment.
    #[must_use]
    pub fn envoy_environment(mut self, name: &str, value: &str) -> Self {
        self.options.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With these arguments of Envoy as well.
    #[must_use]
    pub fn envoy_arguments(mut self, arguments: &[&str]) -> Self {
        self.options.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// With these arguments of `keyward serve` as well.
    #[must_use]
    pub fn control_plane_arguments(mut self, arguments: &[&str]) -> Self {
        self.control_plane_arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self
    }

    /// With a variable more in the control plane's environment.
    #[must_use]
    pub fn control_plane_environment(mut self, name: &str, value: &str) -> Self {
        self.control_plane_environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With the filter's feed from somewhere else than the control plane; no snapshot is waited for.
    #[must_use]
    pub fn feed_from(mut self, address: SocketAddr) -> Self {
        self.feed = Some(address);
        self.without_snapshot()
    }

    /// With every upstream somewhere else than at an echo server of its own: the gateway then has no `upstreams`.
    #[must_use]
    pub fn upstream_from(mut self, address: SocketAddr) -> Self {
        self.upstream = Some(address);
        self
    }

    /// With a control plane that has run once, for its tokens, and does not run when Envoy starts; no snapshot is
    /// waited for.
    #[must_use]
    pub fn control_plane_unavailable(mut self) -> Self {
        self.control_plane_unavailable = true;
        self.without_snapshot()
    }

    /// Without waiting for a snapshot, which may never come.
    #[must_use]
    pub fn without_snapshot(mut self) -> Self {
        self.snapshot_awaited = false;
        self
    }

    /// Starts all parts and waits until the gateway can decide.
    ///
    /// # Errors
    /// When a part ends or is not ready in time, with its log.
    pub async fn start(self) -> Result<Gateway> {
        let dir = TestDir::new()?;
        let mut config = self.config?;
        let mut arguments = config.serve_arguments();
        arguments.extend(self.control_plane_arguments.iter().map(String::as_str));
        let mut control_plane = ControlPlane::new(dir.path(), &self.dialect)?
            .arguments(&arguments)
            .environment(&self.control_plane_environment);
        control_plane.start().await?;
        let token = control_plane.edge_token()?;
        if self.control_plane_unavailable {
            control_plane.stop().await?;
        }

        let clusters = config.upstreams();
        if clusters.is_empty() {
            return Err(Failure::new("the configuration has no upstream"));
        }
        let mut upstreams = Vec::new();
        for (name, _) in clusters {
            if let Some(address) = self.upstream {
                config.set_cluster(&name, address);
            } else {
                let upstream = Echo::start(&name, loopback(0)).await?;
                config.set_cluster(&name, upstream.address());
                upstreams.push(upstream);
            }
        }

        let ports = [ReservedPort::new()?, ReservedPort::new()?];
        let wasm = self.wasm.map_or_else(artifacts::filter, Ok)?;
        config
            .set_gateway(ports[0].address())
            .set_admin(ports[1].address())
            .set_cluster(CONTROL_PLANE, self.feed.unwrap_or(control_plane.address()))
            .set_wasm(&wasm);
        let mut options = self.options;
        options.environment.insert(0, ("KEYWARD_EDGE_TOKEN".to_owned(), token));
        let mut envoy = Envoy::start(&config, dir.path(), &options).await?;
        if self.snapshot_awaited {
            envoy.wait_for_snapshot(SNAPSHOT).await?;
        }
        Ok(Gateway { envoy, control_plane, upstreams, config, _ports: ports, dir })
    }
}
