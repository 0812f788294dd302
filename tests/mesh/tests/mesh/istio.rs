//! Istio: its control plane with resources from files, and its agent with a real Envoy, as a gateway and as a sidecar.

use crate::common::{CHANGE, REQUESTS, World, check_refused, check_requests, refused_by, status, until_status};
use keyward_harness::http::Request;
use keyward_harness::ports::ReservedPort;
use keyward_harness::process::Process;
use keyward_harness::{CreatedKey, Failure, Result, artifacts, until};
use keyward_mesh::load::Load;
use keyward_mesh::report::Section;
use keyward_mesh::resources::{Resources, at};
use keyward_mesh::tools::{Tool, envoy_version, module_file, tool};
use serde_json::json;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const START: Duration = Duration::from_secs(90);

const STOP: Duration = Duration::from_secs(30);

/// What the agent logs when it could not get a module.
const NOT_FETCHED: &str = "error in converting the wasm config to local";

/// A kind of proxy. Each has a namespace and a label `app` of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sidecar,
    Gateway,
}

impl Kind {
    /// The namespace, and the value of the label `app`.
    fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "shop",
            Self::Gateway => "gateway",
        }
    }

    /// The agent's name for it.
    fn role(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Gateway => "router",
        }
    }

    /// The shipped resources for this kind: for a gateway, changed as their first lines say.
    fn resources(self, file: &str) -> Result<Resources> {
        let mut resources = Resources::shipped(file)?;
        if self == Self::Gateway {
            resources.replace("SIDECAR_INBOUND", "GATEWAY").replace("SIDECAR_OUTBOUND", "GATEWAY");
            // The namespace, and the label of the selectors.
            resources.replace("shop", "gateway");
            resources.each("TrafficExtension", |extension| {
                drop(extension["spec"].as_object_mut().map(|spec| spec.remove("match")))
            });
        }
        Ok(resources)
    }
}

/// Istio's control plane.
struct Istiod {
    process: Process,
    grpc: ReservedPort,
    _ports: [ReservedPort; 2],
    config: PathBuf,
}

impl Istiod {
    async fn start(tool: &Tool, world: &World) -> Result<Self> {
        let failed = |error: std::io::Error| Failure::new(format!("istiod's directory: {error}"));
        let dir = world.dir.path().join("istiod");
        let config = dir.join("config");
        fs::create_dir_all(&config).map_err(failed)?;
        let mesh = dir.join("mesh.yaml");
        // Plain Envoy has no filter for Istio's telemetry.
        let settings = json!({
            "accessLogFile": "/dev/stdout",
            "defaultProviders": {},
            "enablePrometheusMerge": false,
        });
        fs::write(&mesh, settings.to_string()).map_err(failed)?;
        let grpc = ReservedPort::new()?;
        let ports = [ReservedPort::new()?, ReservedPort::new()?];
        let log = dir.join("istiod.log");
        let mut command = Command::new(&tool.path);
        command
            .args(["discovery", "--registries=", "--configDir"])
            .arg(&config)
            .arg("--meshConfig")
            .arg(&mesh)
            .args(["--grpcAddr", &grpc.address().to_string()])
            .args(["--httpAddr", &ports[0].address().to_string()])
            .args(["--monitoringAddr", &ports[1].address().to_string()])
            .args(["--secureGRPCAddr=", "--httpsAddr=", "--ctrlz_port=0"])
            .current_dir(&dir)
            .envs([
                ("POD_NAMESPACE", "istio-system"),
                ("ENABLE_CA_SERVER", "false"),
                // Filters that only Istio's build of Envoy has.
                ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
                ("PILOT_ENABLE_ALPN_FILTER", "false"),
            ]);
        let mut process = Process::spawn("istiod", &mut command, &log, &log)?;
        let http = ports[0].address();
        process
            .until("istiod is ready", START, async || match status(http, &Request::get("/ready")).await? {
                200 => Ok(()),
                other => Err(Failure::new(other.to_string())),
            })
            .await?;
        Ok(Self { process, grpc, _ports: ports, config })
    }

    /// Sets the resources of one file.
    fn set(&self, file: &str, resources: &Resources) -> Result<()> {
        resources.write(&self.config.join(format!("{file}.yaml")))
    }

    /// Removes the resources of one file.
    fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.config.join(format!("{file}.yaml")))
            .map_err(|error| Failure::new(format!("{file}: {error}")))
    }

    async fn stop(mut self) -> Result<()> {
        if self.process.terminate(STOP).await? { Ok(()) } else { Err(Failure::new("istiod did not stop")) }
    }
}

/// Istio's agent with its Envoy.
struct Proxy {
    process: Process,
    port: ReservedPort,
    _ports: [ReservedPort; 3],
    log: PathBuf,
}

impl Proxy {
    /// Starts the agent; Envoy gets its listeners from istiod.
    async fn start(tool: &Tool, istiod: &Istiod, world: &World, kind: Kind) -> Result<Self> {
        let failed = |error: std::io::Error| Failure::new(format!("the proxy's directory: {error}"));
        let dir = world.dir.path().join(kind.name());
        let bootstrap = dir.join("var/lib/istio/envoy");
        fs::create_dir_all(&bootstrap).map_err(failed)?;
        let template = module_file("pilot-agent", "tools/packaging/common/envoy_bootstrap.json")?;
        fs::copy(template, bootstrap.join("envoy_bootstrap_tmpl.json")).map_err(failed)?;
        let port = ReservedPort::new()?;
        let ports = [ReservedPort::new()?, ReservedPort::new()?, ReservedPort::new()?];
        let settings = json!({
            "discoveryAddress": istiod.grpc.address().to_string(),
            "controlPlaneAuthPolicy": "NONE",
            "binaryPath": artifacts::envoy()?,
            "proxyAdminPort": ports[0].port(),
            "statusPort": 0,
            "concurrency": 2,
            "terminationDrainDuration": "1s",
        });
        let name = kind.name();
        let log = dir.join("agent.log");
        let mut command = Command::new(&tool.path);
        command
            .args(["proxy", kind.role(), "--domain", &format!("{name}.svc.cluster.local")])
            .args(["--proxyLogLevel", "warning,wasm:info"])
            .current_dir(&dir)
            .env("PROXY_CONFIG", settings.to_string())
            .env("POD_NAME", format!("{name}-1"))
            .env("POD_NAMESPACE", name)
            .env("SERVICE_ACCOUNT", name)
            .env("INSTANCE_IP", "127.0.0.1")
            .env("ISTIO_META_INTERCEPTION_MODE", "NONE")
            .env("ISTIO_METAJSON_LABELS", json!({"app": name}).to_string())
            .env("ISTIO_META_CLUSTER_ID", "Kubernetes")
            .env("FILE_MOUNTED_CERTS", "true")
            .env("MINIMUM_DRAIN_DURATION", "0s")
            .env("ENVOY_STATUS_PORT", ports[1].port().to_string())
            .env("ENVOY_PROMETHEUS_PORT", ports[2].port().to_string())
            .env("WASM_INSECURE_REGISTRIES", world.registry.address().to_string())
            .env("KEYWARD_EDGE_TOKEN", world.control_plane.edge_token()?);
        istiod.set(&format!("listener-{name}"), &listener(kind, port.port(), world)?)?;
        let process = Process::spawn(&format!("the {kind:?}"), &mut command, &log, &log)?;
        Ok(Self { process, port, _ports: ports, log })
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// How often the agent's log has a text.
    fn logged(&self, text: &str) -> Result<usize> {
        let log = fs::read_to_string(&self.log).map_err(|error| Failure::new(error.to_string()))?;
        Ok(log.matches(text).count())
    }

    /// Waits until a request gets this status; fails with the agent's log.
    async fn until_status(&mut self, request: &Request, expected: u16) -> Result<()> {
        let address = self.address();
        self.process
            .until(&format!("a request gets {expected}"), CHANGE, async || match status(address, request).await? {
                got if got == expected => Ok(()),
                got => Err(Failure::new(got.to_string())),
            })
            .await
    }

    async fn stop(mut self) -> Result<()> {
        // Envoy is a child of the agent, which stops it.
        if self.process.terminate(STOP).await? { Ok(()) } else { Err(Failure::new("the agent did not stop")) }
    }
}

/// The services of the mesh.
fn services(world: &World) -> Result<Resources> {
    Resources::parse(&format!(
        r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: keyward, namespace: keyward }}
spec:
  hosts: [keyward.keyward.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{ number: 8081, name: http2, protocol: HTTP2 }}]
  endpoints: [{{ address: 127.0.0.1, ports: {{ http2: {} }} }}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: shop, namespace: shop }}
spec:
  hosts: [shop.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{ number: 80, name: http, protocol: HTTP }}]
  endpoints: [{{ address: 127.0.0.1, ports: {{ http: {} }} }}]
"#,
        world.control_plane.address().port(),
        world.upstream.address().port()
    ))
}

/// The listener of a proxy, in front of the upstream.
fn listener(kind: Kind, port: u16, world: &World) -> Result<Resources> {
    let upstream = world.upstream.address();
    match kind {
        // Without iptables, so the sidecar listens on a port of its own.
        Kind::Sidecar => Resources::parse(&format!(
            r#"
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{ name: shop, namespace: shop }}
spec:
  workloadSelector: {{ labels: {{ app: shop }} }}
  ingress:
    - port: {{ number: {port}, protocol: HTTP, name: http }}
      bind: 127.0.0.1
      captureMode: NONE
      defaultEndpoint: {upstream}
  egress: [{{ hosts: ["keyward/*"] }}]
"#
        )),
        Kind::Gateway => Resources::parse(&format!(
            r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{ name: gateway, namespace: gateway }}
spec:
  selector: {{ app: gateway }}
  servers: [{{ port: {{ number: {port}, name: http, protocol: HTTP }}, bind: 127.0.0.1, hosts: ["*"] }}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: shop, namespace: gateway }}
spec:
  hosts: ["*"]
  gateways: [gateway]
  http: [{{ route: [{{ destination: {{ host: shop.shop.svc.cluster.local, port: {{ number: 80 }} }} }}] }}]
"#
        )),
    }
}

/// `envoy/mesh/istio.yaml`, in a sidecar and in a gateway.
#[tokio::test]
async fn istio_runs_the_shipped_envoy_filter() {
    let check = "Istio's EnvoyFilter (test-mesh)";
    let (Some(istiod), Some(agent), Some(registry)) =
        (tool("pilot-discovery", check), tool("pilot-agent", check), tool("registry", check))
    else {
        return;
    };
    let envoy = envoy_version(&artifacts::envoy().unwrap()).unwrap();
    let versions = format!("pilot-discovery and pilot-agent of istio.io/istio {}, Envoy {envoy}.", istiod.version);
    let mut section = Section::new("Istio EnvoyFilter", &versions);
    let world = World::start(&registry).await.unwrap();
    let istiod = Istiod::start(&istiod, &world).await.unwrap();
    istiod.set("services", &services(&world).unwrap()).unwrap();
    let module = artifacts::filter().unwrap();
    for kind in [Kind::Sidecar, Kind::Gateway] {
        let mut filter = kind.resources("istio.yaml").unwrap();
        filter.replace("/etc/keyward/keyward_filter.wasm", module.to_str().unwrap());
        istiod.set("filter", &filter).unwrap();
        let mut proxy = Proxy::start(&agent, &istiod, &world, kind).await.unwrap();
        proxy.until_status(&Request::get("/keyward/ready"), 200).await.unwrap();
        assert_eq!(check_requests(proxy.address(), &world).await.unwrap(), REQUESTS.1);
        section.row(&format!("{kind:?}: {}", REQUESTS.0), REQUESTS.1);
        proxy.stop().await.unwrap();
        istiod.remove("filter").unwrap();
    }
    istiod.stop().await.unwrap();
    section.finish();
}

/// `envoy/mesh/istio-traffic-extension.yaml`, in a sidecar and in a gateway: the agent pulls the filter from a registry.
#[tokio::test]
async fn istio_runs_the_shipped_traffic_extension() {
    let check = "Istio's TrafficExtension (test-mesh)";
    let (Some(istiod), Some(agent), Some(registry)) =
        (tool("pilot-discovery", check), tool("pilot-agent", check), tool("registry", check))
    else {
        return;
    };
    let envoy = envoy_version(&artifacts::envoy().unwrap()).unwrap();
    let versions = format!(
        "pilot-discovery and pilot-agent of istio.io/istio {}, Envoy {envoy}, registry {}.",
        istiod.version, registry.version
    );
    let mut section = Section::new("Istio TrafficExtension", &versions);
    let world = World::start(&registry).await.unwrap();
    let istiod = Istiod::start(&istiod, &world).await.unwrap();
    istiod.set("services", &services(&world).unwrap()).unwrap();
    for kind in [Kind::Sidecar, Kind::Gateway] {
        let mut proxy = Proxy::start(&agent, &istiod, &world, kind).await.unwrap();
        closed_without_the_extension(&istiod, &mut proxy, kind, &world, &mut section).await;
        for (format, tag, sha256) in
            [("an OCI artifact", "artifact", &world.artifact), ("an image in Docker's format", "docker", &world.docker)]
        {
            istiod.set("filter", &extension(kind, &world.image(tag), sha256)).unwrap();
            proxy.until_status(&Request::get("/keyward/ready"), 200).await.unwrap();
            assert_eq!(check_requests(proxy.address(), &world).await.unwrap(), REQUESTS.1, "{kind:?}, {format}");
            section.row(&format!("{kind:?}, {format}: {}", REQUESTS.0), REQUESTS.1);
        }
        filter_comes_first(&istiod, &mut proxy, kind, &world, &mut section).await;
        update_under_load(&istiod, &proxy, kind, &world, &mut section).await;
        proxy.stop().await.unwrap();
        istiod.remove("filter").unwrap();
    }
    istiod.stop().await.unwrap();
    section.finish();
}

/// The shipped guard and extension, with this image.
fn extension(kind: Kind, image: &str, sha256: &str) -> Resources {
    let mut resources = kind.resources("istio-traffic-extension.yaml").unwrap();
    let wasm = at(resources.find("TrafficExtension", "keyward"), "/spec/wasm");
    wasm["url"] = format!("oci://{image}").into();
    wasm["sha256"] = sha256.into();
    resources
}

/// No request passes where the guard is alone, or the agent cannot get the module.
async fn closed_without_the_extension(
    istiod: &Istiod,
    proxy: &mut Proxy,
    kind: Kind,
    world: &World,
    section: &mut Section,
) {
    let key: CreatedKey = world.key_of("shop").await.unwrap();
    let address = proxy.address();
    let mut guard = extension(kind, &world.image("artifact"), &world.artifact);
    guard.remove("TrafficExtension", "keyward");
    istiod.set("filter", &guard).unwrap();
    proxy.until_status(&Request::get("/hello"), 403).await.unwrap();
    check_refused(address, world, &key, 403).await.unwrap();
    section.row(&format!("{kind:?}: guard without the TrafficExtension"), "403");
    let wrong = "1".repeat(64);
    for (case, tag, sha256, strategy) in [
        ("image with another digest than `sha256`", "artifact", &wrong, "FAIL_RELOAD"),
        ("image that the registry does not have", "missing", &world.artifact, "FAIL_RELOAD"),
        ("the same with `failStrategy: FAIL_OPEN`", "missing", &world.artifact, "FAIL_OPEN"),
    ] {
        let before = proxy.logged(NOT_FETCHED).unwrap();
        let mut resources = extension(kind, &world.image(tag), sha256);
        *at(resources.find("TrafficExtension", "keyward"), "/spec/wasm/failStrategy") = strategy.into();
        istiod.set("filter", &resources).unwrap();
        until("the agent fails to get the module", CHANGE, async || {
            if proxy.logged(NOT_FETCHED)? > before { Ok(()) } else { Err(Failure::new("not yet")) }
        })
        .await
        .unwrap();
        proxy.until_status(&Request::get("/hello"), 403).await.unwrap();
        check_refused(address, world, &key, 403).await.unwrap();
        section.row(&format!("{kind:?}: {case}"), "403");
    }
}

/// Istio's authentication does not see the key, which is no JWT; its authorization sees the filter's headers.
async fn filter_comes_first(istiod: &Istiod, proxy: &mut Proxy, kind: Kind, world: &World, section: &mut Section) {
    let key = world.key_of("shop").await.unwrap();
    let blocked = world.key_of("blocked").await.unwrap();
    let address = proxy.address();
    let policies = SECURITY.replace("shop", kind.name());
    istiod.set("security", &Resources::parse(&policies).unwrap()).unwrap();
    let with_key = Request::get("/hello").bearer(&key.key);
    proxy.until_status(&Request::get("/hello").bearer(&blocked.key), 403).await.unwrap();
    assert_eq!(status(address, &with_key).await.unwrap(), 200);
    assert_eq!(status(address, &with_key.clone().header("x-keyward-owner", "blocked")).await.unwrap(), 200);
    assert_eq!(status(address, &Request::get("/hello")).await.unwrap(), 401);
    section.row(
        &format!(
            "{kind:?}: AuthorizationPolicy that denies `x-keyward-owner: blocked`: with a key of that owner, with another key, with another key and that header forged"
        ),
        "403, 200, 200",
    );
    assert_eq!(refused_by(address).await.unwrap(), "Keyward");
    section.row(&format!("{kind:?}: RequestAuthentication, and an invalid JWT in `Authorization`"), "401, by Keyward");
    istiod.remove("security").unwrap();
    proxy.until_status(&Request::get("/hello").bearer(&blocked.key), 200).await.unwrap();
}

/// A rule is added while requests arrive.
async fn update_under_load(istiod: &Istiod, proxy: &Proxy, kind: Kind, world: &World, section: &mut Section) {
    let key = world.key_of("shop").await.unwrap();
    let address = proxy.address();
    let with_key = Request::get("/hello").bearer(&key.key);
    until_status(address, &with_key, 200).await.unwrap();
    assert_eq!(status(address, &Request::get("/open")).await.unwrap(), 401);
    let load = Load::start(address, with_key, Request::get("/hello"));
    let mut resources = extension(kind, &world.image("docker"), &world.docker);
    let rules = at(resources.find("TrafficExtension", "keyward"), "/spec/wasm/pluginConfig/rules");
    rules.as_array_mut().unwrap().insert(0, json!({"path": {"exact": "/open"}, "access": "public"}));
    let public = "/spec/configPatches/1/patch/value/typed_config/rules/policies/public_routes/permissions";
    let permissions = at(resources.find("EnvoyFilter", "keyward-guard"), public);
    permissions.as_array_mut().unwrap().push(json!({"url_path": {"path": {"exact": "/open"}}}));
    istiod.set("filter", &resources).unwrap();
    until_status(address, &Request::get("/open"), 200).await.unwrap();
    let goal = load.sent() + 200;
    until("the load continues", CHANGE, async || {
        if load.sent() >= goal { Ok(()) } else { Err(Failure::new(format!("{} requests", load.sent()))) }
    })
    .await
    .unwrap();
    let (with, without) = load.stop().await;
    assert_eq!(with.keys().collect::<Vec<_>>(), ["200"], "with a key: {with:?}");
    assert_eq!(without.keys().collect::<Vec<_>>(), ["401"], "without a key: {without:?}");
    section.row(&format!("{kind:?}: a rule is added under load: requests with a key, without"), "only 200, only 401");
}

/// Istio's own authentication and authorization of the workload.
const SECURITY: &str = r#"
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: shop, namespace: shop }
spec:
  selector: { matchLabels: { app: shop } }
  jwtRules:
    - issuer: https://issuer.example
      jwks: '{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}'
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: shop, namespace: shop }
spec:
  selector: { matchLabels: { app: shop } }
  action: DENY
  rules: [{ when: [{ key: "request.headers[x-keyward-owner]", values: [blocked] }] }]
"#;
