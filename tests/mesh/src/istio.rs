//! Istio's control plane and its agents with Envoy, as processes.
//!
//! istiod has its services and pods from a stub of the Kubernetes API, and all other resources from files. Agents have
//! their certificates from istiod's authority, and listen without redirection of traffic: Istio calls this interception
//! mode `NONE`.

use crate::kubernetes::{Kubernetes, service_account_token};
use crate::resources::Resources;
use crate::tools::Tool;
use keyward_harness::http::{self, Request};
use keyward_harness::ports::{ReservedPort, loopback};
use keyward_harness::process::Process;
use keyward_harness::{Failure, Result, artifacts};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Agents ask for their certificates without TLS only on this port.
const GRPC: u16 = 15010;

const START: Duration = Duration::from_secs(90);

const STOP: Duration = Duration::from_secs(30);

/// The number of connections that reach both workers, with a probability of all but 10⁻⁹.
const CONNECTIONS: usize = 30;

/// A running istiod.
#[derive(Debug)]
pub struct Istiod {
    process: Process,
    resources: PathBuf,
    _kubernetes: Kubernetes,
    _ports: [ReservedPort; 2],
}

impl Istiod {
    /// Starts istiod without resources, in this directory. `mesh` is merged into the mesh's configuration.
    pub async fn start(tool: &Tool, dir: &Path, kubernetes: Kubernetes, mesh: &Value) -> Result<Self> {
        let failed = |error: std::io::Error| Failure::new(format!("istiod's directory: {error}"));
        let dir = dir.join("istiod");
        let resources = dir.join("resources");
        fs::create_dir_all(&resources).map_err(failed)?;
        let kubeconfig = dir.join("kubeconfig");
        kubernetes.write_config(&kubeconfig)?;
        let mut settings = json!({
            "accessLogFile": "/dev/stdout",
            // Envoy without Istio's extensions has no filter for Istio's telemetry.
            "defaultProviders": {},
            "enablePrometheusMerge": false,
        });
        for (name, value) in mesh.as_object().into_iter().flatten() {
            settings[name] = value.clone();
        }
        let mesh = dir.join("mesh.yaml");
        fs::write(&mesh, settings.to_string()).map_err(failed)?;
        let ports = [ReservedPort::new()?, ReservedPort::new()?];
        let log = dir.join("istiod.log");
        let mut command = Command::new(&tool.path);
        command
            .args(["discovery", "--registries=Kubernetes", "--kubeconfig"])
            .arg(&kubeconfig)
            .arg("--configDir")
            .arg(&resources)
            .arg("--meshConfig")
            .arg(&mesh)
            .args(["--grpcAddr", &loopback(GRPC).to_string()])
            .args(["--httpAddr", &ports[0].address().to_string()])
            .args(["--monitoringAddr", &ports[1].address().to_string()])
            .args(["--secureGRPCAddr=", "--httpsAddr=", "--ctrlz_port=0"])
            .current_dir(&dir)
            .envs([
                ("POD_NAME", "istiod-1"),
                ("POD_NAMESPACE", "istio-system"),
                // Its own certificate and webhooks, which nothing here uses.
                ("PILOT_CERT_PROVIDER", "none"),
                ("VALIDATION_WEBHOOK_CONFIG_NAME", ""),
                ("INJECTION_WEBHOOK_CONFIG_NAME", ""),
                ("PILOT_ENABLE_IP_AUTOALLOCATE", "false"),
                // Agents prove who they are, although without TLS.
                ("XDS_AUTH_PLAINTEXT", "true"),
                // Watches that begin with a list, which the stub does not offer.
                ("KUBE_FEATURE_WatchListClient", "false"),
                // Filters that only Istio's build of Envoy has.
                ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
                ("PILOT_ENABLE_ALPN_FILTER", "false"),
            ]);
        let mut process = Process::spawn("istiod", &mut command, &log, &log)?;
        let http = ports[0].address();
        let ready = Request::get("/ready");
        process
            .until("istiod is ready", START, async || match http::send(http, &ready).await?.status {
                200 => Ok(()),
                other => Err(Failure::new(other.to_string())),
            })
            .await?;
        Ok(Self { process, resources, _kubernetes: kubernetes, _ports: ports })
    }

    /// Sets the resources of one file, which istiod watches.
    pub fn set(&self, file: &str, resources: &Resources) -> Result<()> {
        resources.write(&self.resources.join(format!("{file}.yaml")))
    }

    /// Removes the resources of one file.
    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.resources.join(format!("{file}.yaml"));
        fs::remove_file(&path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
    }

    /// Stops istiod.
    pub async fn stop(mut self) -> Result<()> {
        if self.process.terminate(STOP).await? { Ok(()) } else { Err(Failure::new("istiod did not stop")) }
    }
}

/// A pod's proxy: Istio's agent with its Envoy.
#[derive(Debug)]
pub struct Proxy {
    process: Process,
    address: SocketAddr,
    admin: ReservedPort,
    _ports: [ReservedPort; 3],
}

/// Which proxy to start.
#[derive(Clone, Copy, Debug)]
pub struct Pod<'a> {
    /// `sidecar` or `router`.
    pub role: &'a str,
    /// The namespace, which is also the value of the label `app` and the service account.
    pub namespace: &'a str,
    /// The pod's address, and the port on which istiod has Envoy listen.
    pub address: SocketAddr,
}

impl Proxy {
    /// Starts an agent in a directory of its own below `dir`. The agent starts Envoy, which gets everything from
    /// istiod through the agent. `istio` is the source of Istio, which has the template of Envoy's bootstrap.
    pub fn start(tool: &Tool, istio: &Path, dir: &Path, pod: Pod<'_>, token: &str) -> Result<Self> {
        let failed = |error: std::io::Error| Failure::new(format!("the proxy's directory: {error}"));
        let name = pod.namespace;
        let dir = dir.join(name);
        // The agent keeps modules in /var/lib/istio/data, which requires an own /var/lib.
        let var_lib = dir.join("var-lib");
        let tokens = dir.join("var/run/secrets/tokens");
        fs::create_dir_all(var_lib.join("istio/data")).and_then(|()| fs::create_dir_all(&tokens)).map_err(failed)?;
        fs::write(tokens.join("istio-token"), service_account_token(name)).map_err(failed)?;
        let admin = ReservedPort::new()?;
        let ports = [ReservedPort::new()?, ReservedPort::new()?, ReservedPort::new()?];
        let settings = json!({
            "discoveryAddress": loopback(GRPC).to_string(),
            "controlPlaneAuthPolicy": "NONE",
            "binaryPath": artifacts::envoy()?,
            "proxyAdminPort": admin.port(),
            "statusPort": ports[0].port(),
            "concurrency": 2,
            "terminationDrainDuration": "1s",
        });
        let log = dir.join("agent.log");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-ec", r#"mount --bind "$1" /var/lib; shift; exec "$@""#, "sh"])
            .arg(&var_lib)
            .arg(&tool.path)
            .args(["proxy", pod.role, "--domain", &format!("{name}.svc.cluster.local")])
            .args(["--proxyLogLevel", "warning,wasm:info"])
            .current_dir(&dir)
            .env("PROXY_CONFIG", settings.to_string())
            .env("POD_NAME", format!("{name}-1"))
            .env("POD_NAMESPACE", name)
            .env("SERVICE_ACCOUNT", name)
            .env("INSTANCE_IP", pod.address.ip().to_string())
            .env("ISTIO_BOOTSTRAP", istio.join("tools/packaging/common/envoy_bootstrap.json"))
            .env("ISTIO_META_INTERCEPTION_MODE", "NONE")
            .env("ISTIO_METAJSON_LABELS", json!({"app": name}).to_string())
            .env("ISTIO_META_CLUSTER_ID", "Kubernetes")
            .env("MINIMUM_DRAIN_DURATION", "0s")
            .env("ENVOY_STATUS_PORT", ports[1].port().to_string())
            .env("ENVOY_PROMETHEUS_PORT", ports[2].port().to_string())
            .env("KEYWARD_EDGE_TOKEN", token);
        let process = Process::spawn(&format!("the proxy of {name}"), &mut command, &log, &log)?;
        Ok(Self { process, address: pod.address, admin, _ports: ports })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often the log of agent and Envoy has a text.
    pub fn logged(&self, text: &str) -> Result<usize> {
        Ok(self.process.log()?.matches(text).count())
    }

    /// Waits until a request gets this status from all workers; fails with the log of agent and Envoy.
    pub async fn until_status(&mut self, request: &Request, expected: u16, limit: Duration) -> Result<()> {
        let address = self.address;
        self.process
            .until(&format!("a request gets {expected}"), limit, async || {
                for _ in 0..CONNECTIONS {
                    let answer = http::send(address, request).await?;
                    if answer.status != expected {
                        return Err(Failure::new(format!("{} {}", answer.status, answer.text())));
                    }
                }
                Ok(())
            })
            .await
    }

    /// The names of the HTTP filters of the listener, which are the same in all its filter chains.
    pub async fn http_filters(&self) -> Result<Vec<String>> {
        let dump = http::send(self.admin.address(), &Request::get("/config_dump?resource=dynamic_listeners")).await?;
        let dump: Value = serde_json::from_slice(&dump.body).map_err(|error| Failure::new(error.to_string()))?;
        let listeners = dump["configs"].as_array().into_iter().flatten();
        let listener = listeners
            .map(|dynamic| &dynamic["active_state"]["listener"])
            .find(|listener| listener["address"]["socket_address"]["port_value"] == self.address.port())
            .ok_or_else(|| Failure::new(format!("no listener on {} in {dump}", self.address)))?;
        let chains = listener["filter_chains"].as_array().into_iter().flatten();
        let mut chains = chains.map(|chain| {
            let filters = chain["filters"].as_array().into_iter().flatten();
            let filters = filters.flat_map(|filter| filter["typed_config"]["http_filters"].as_array()).flatten();
            filters.map(|filter| filter["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        });
        let first = chains.next().ok_or_else(|| Failure::new("no filter chain"))?;
        if let Some(other) = chains.find(|other| *other != first) {
            return Err(Failure::new(format!("filter chains that differ: {first:?}, {other:?}")));
        }
        Ok(first)
    }

    /// Stops the agent, and with it its Envoy.
    pub async fn stop(mut self) -> Result<()> {
        if self.process.terminate(STOP).await? { Ok(()) } else { Err(Failure::new("the agent did not stop")) }
    }
}
