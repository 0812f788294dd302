//! The complete product, started for one test.

use crate::config::CONTROL_PLANE;
use crate::envoy::Options;
use crate::ports::{ReservedPort, loopback};
use crate::{ControlPlane, Echo, Envoy, EnvoyConfig, Failure, Result, TestDir, artifacts};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The deadline for the first snapshot.
pub(crate) const SNAPSHOT: Duration = Duration::from_secs(20);

/// Control plane, upstreams and Envoy, each on its own port. Dropping the gateway stops all parts.
#[derive(Debug)]
pub struct Gateway {
    /// Envoy.
    pub envoy: Envoy,
    /// The control plane.
    pub control_plane: ControlPlane,
    /// The upstreams, in the configuration's order; none with [`Builder::upstream_from`].
    pub upstreams: Vec<Echo>,
    /// Envoy's configuration.
    pub config: EnvoyConfig,
    _ports: [ReservedPort; 2],
    // Last, so that the logs outlive the processes.
    dir: TestDir,
}

/// Differences from the shipped configuration.
pub struct Builder {
    dialect: String,
    config: Result<EnvoyConfig>,
    module: Option<PathBuf>,
    options: Options,
    control_plane_arguments: Vec<String>,
    control_plane_environment: Vec<(String, String)>,
    feed: Option<SocketAddr>,
    upstream: Option<SocketAddr>,
    control_plane_unavailable: bool,
    snapshot_awaited: bool,
}

impl Gateway {
    /// Starts the shipped configuration with the default dialect.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// A builder for a changed configuration.
    pub fn builder() -> Builder {
        Builder {
            dialect: "keyward".to_owned(),
            config: EnvoyConfig::shipped(),
            module: None,
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
    /// Sets this dialect on both sides, with the configuration that is shipped for it.
    #[must_use]
    pub fn dialect(mut self, name: &str) -> Self {
        self.dialect = name.to_owned();
        self.config(EnvoyConfig::variant(name))
    }

    /// Sets the number of workers; the default is two.
    #[must_use]
    pub fn workers(mut self, workers: u32) -> Self {
        self.options.workers = workers;
        self
    }

    /// Replaces the shipped `envoy/envoy.yaml`; must come before any change to the configuration.
    #[must_use]
    pub fn config(mut self, config: Result<EnvoyConfig>) -> Self {
        self.config = config;
        self
    }

    /// Changes the configuration.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut EnvoyConfig)) -> Self {
        if let Ok(config) = &mut self.config {
            change(config);
        }
        self
    }

    /// Changes the filter's own configuration.
    #[must_use]
    pub fn filter(self, change: impl FnOnce(&mut Value)) -> Self {
        self.configure(|config| change(config.filter()))
    }

    /// Uses another module than the built filter.
    #[must_use]
    pub fn module(mut self, module: PathBuf) -> Self {
        self.module = Some(module);
        self
    }

    /// Adds a variable to Envoy's environment.
    #[must_use]
    pub fn envoy_environment(mut self, name: &str, value: &str) -> Self {
        self.options.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds arguments of Envoy.
    #[must_use]
    pub fn envoy_arguments(mut self, arguments: &[&str]) -> Self {
        self.options.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Adds arguments of `keyward serve`.
    #[must_use]
    pub fn control_plane_arguments(mut self, arguments: &[&str]) -> Self {
        self.control_plane_arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self
    }

    /// Adds a variable to the control plane's environment.
    #[must_use]
    pub fn control_plane_environment(mut self, name: &str, value: &str) -> Self {
        self.control_plane_environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Serves the filter's feed from another address than the control plane's; does not wait for a snapshot.
    #[must_use]
    pub fn feed_from(mut self, address: SocketAddr) -> Self {
        self.feed = Some(address);
        self.without_snapshot()
    }

    /// Sends every upstream's requests to this address instead of an echo server: the gateway then has no `upstreams`.
    #[must_use]
    pub fn upstream_from(mut self, address: SocketAddr) -> Self {
        self.upstream = Some(address);
        self
    }

    /// Starts Envoy while the control plane is stopped, after one run that creates its tokens; does not wait for a
    /// snapshot.
    #[must_use]
    pub fn control_plane_unavailable(mut self) -> Self {
        self.control_plane_unavailable = true;
        self.without_snapshot()
    }

    /// Does not wait for a snapshot, which may never arrive.
    #[must_use]
    pub fn without_snapshot(mut self) -> Self {
        self.snapshot_awaited = false;
        self
    }

    /// Starts all parts and waits until the gateway is ready.
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
            return Err(Failure::new("expected an upstream in the configuration"));
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
        let module = self.module.map_or_else(artifacts::filter, Ok)?;
        config
            .set_gateway(ports[0].address())
            .set_admin(ports[1].address())
            .set_cluster(CONTROL_PLANE, self.feed.unwrap_or(control_plane.address()))
            .set_module(&module);
        let mut options = self.options;
        options.environment.insert(0, ("KEYWARD_EDGE_TOKEN".to_owned(), token));
        let mut envoy = Envoy::start(&config, dir.path(), &options).await?;
        if self.snapshot_awaited {
            envoy.wait_for_snapshot(SNAPSHOT).await?;
        }
        Ok(Gateway { envoy, control_plane, upstreams, config, _ports: ports, dir })
    }
}
