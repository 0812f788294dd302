//! Envoy Gateway in standalone mode: resources from files, Envoy as its child.

use crate::common::{
    CHANGE, REQUESTS, World, check_refused, check_requests, refused_by, status, until_sent, until_status,
};
use keyward_harness::http::Request;
use keyward_harness::ports::{ReservedPort, loopback};
use keyward_harness::process::Process;
use keyward_harness::{CreatedKey, Echo, Failure, Result, artifacts, until};
use keyward_mesh::load::Load;
use keyward_mesh::registry::Image;
use keyward_mesh::report::Section;
use keyward_mesh::resources::{Resources, at};
use keyward_mesh::tools::{Tool, envoy_version, tool};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const START: Duration = Duration::from_secs(90);

const STOP: Duration = Duration::from_secs(30);

/// The port of Envoy Gateway's own readiness.
const READINESS: u16 = 8081;

/// What Envoy Gateway logs when it could not get a module.
const NOT_FETCHED: &str = "Failed to get Wasm module";

/// A running Envoy Gateway, with the resources of `envoy/mesh/envoy-gateway.yaml`.
struct EnvoyGateway {
    process: Process,
    port: ReservedPort,
    resources: Resources,
    file: PathBuf,
    log: PathBuf,
}

impl EnvoyGateway {
    /// The shipped resources with the addresses of this test, and a route to the upstream.
    fn resources(world: &World, port: u16, envoy_version: &str) -> Result<Resources> {
        let mut resources = Resources::shipped("envoy-gateway.yaml")?;
        *at(resources.find("Gateway", "gateway"), "/spec/listeners/0/port") = port.into();
        resources.find("EnvoyProxy", "gateway")["spec"]["provider"] =
            json!({"type": "Host", "host": {"envoyVersion": envoy_version}});
        let cluster = resources.find("EnvoyPatchPolicy", "keyward-control-plane");
        let address = "/spec/jsonPatches/0/operation/value/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address";
        *at(cluster, &format!("{address}/socket_address")) =
            json!({"address": "127.0.0.1", "port_value": world.control_plane.address().port()});
        let image = resources.find("EnvoyExtensionPolicy", "keyward");
        *at(image, "/spec/wasm/0/code/image/url") = world.images.artifact.reference.clone().into();
        *at(image, "/spec/wasm/0/code/image/sha256") = world.images.artifact.digest.clone().into();
        resources.add(&format!(
            r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: shop, namespace: gateway }}
spec:
  parentRefs: [{{ name: gateway }}]
  rules:
    - matches: [{{ path: {{ type: PathPrefix, value: / }} }}]
      backendRefs: [{{ group: gateway.envoyproxy.io, kind: Backend, name: shop }}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {{ name: shop, namespace: gateway }}
spec:
  endpoints: [{{ ip: {{ address: 127.0.0.1, port: {} }} }}]
---
# In standalone mode, Envoy cannot download modules from Envoy Gateway: the certificate that it is given is of another
# authority than Envoy Gateway's, whose file only the images have.
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyPatchPolicy
metadata: {{ name: standalone, namespace: gateway }}
spec:
  targetRef: {{ group: gateway.networking.k8s.io, kind: Gateway, name: gateway }}
  type: JSONPatch
  jsonPatches:
    - type: type.googleapis.com/envoy.config.cluster.v3.Cluster
      name: wasm_cluster
      operation: {{ op: replace, jsonPath: "..trusted_ca.filename", value: {certs}/ca.crt }}
    - type: type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
      name: envoy-gateway-system/envoy
      operation:
        op: replace
        path: /tls_certificate
        value: {{ certificate_chain: {{ filename: {certs}/tls.crt }}, private_key: {{ filename: {certs}/tls.key }} }}
"#,
            world.upstream.address().port(),
            certs = home(world, port).join("config/certs/envoy").display()
        ))?;
        Ok(resources)
    }

    /// Starts Envoy Gateway with these resources.
    async fn start(tool: &Tool, world: &World, port: ReservedPort, resources: Resources) -> Result<Self> {
        let failed = |error: std::io::Error| Failure::new(format!("Envoy Gateway's directory: {error}"));
        let envoy = artifacts::envoy()?;
        let home = home(world, port.port());
        // func-e, which Envoy Gateway has built in, takes an Envoy that is there instead of downloading it.
        let binary = home.join(format!("data/envoy-versions/{}/bin", envoy_version(&envoy)?));
        let watched = home.join("resources");
        fs::create_dir_all(&binary).and_then(|()| fs::create_dir_all(&watched)).map_err(failed)?;
        std::os::unix::fs::symlink(&envoy, binary.join("envoy")).map_err(failed)?;
        let config = json!({
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "EnvoyGateway",
            "gateway": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
            "provider": {"type": "Custom", "custom": {
                "resource": {"type": "File", "file": {"paths": [watched]}},
                "infrastructure": {"type": "Host", "host": {
                    "configHome": home.join("config"),
                    "dataHome": home.join("data"),
                    "stateHome": home.join("state"),
                    "runtimeDir": home.join("run"),
                }},
            }},
            "extensionApis": {"enableBackend": true, "enableEnvoyPatchPolicy": true, "enableLua": true},
        });
        let config_file = home.join("standalone.yaml");
        fs::write(&config_file, config.to_string()).map_err(failed)?;
        let log = home.join("envoy-gateway.log");
        let command = || {
            let mut command = Command::new(&tool.path);
            command.env("HOME", &home).current_dir(&home);
            command
        };
        let mut certificates = command();
        certificates.args(["certgen", "--local", "--config-home"]).arg(home.join("config"));
        let status = Process::spawn("certgen", &mut certificates, &log, &log)?.wait(START).await?;
        if !status.success() {
            return Err(Failure::new(format!(
                "envoy-gateway certgen: {status}: {}",
                fs::read_to_string(&log).map_err(failed)?
            )));
        }
        let file = watched.join("resources.yaml");
        resources.write(&file)?;
        let mut server = command();
        server.args(["server", "--config-path"]).arg(&config_file);
        server.env("KEYWARD_EDGE_TOKEN", world.control_plane.edge_token()?);
        let mut process = Process::spawn("Envoy Gateway", &mut server, &log, &log)?;
        process
            .until("Envoy Gateway is ready", START, async || match status_of(loopback(READINESS), "/readyz").await? {
                200 => Ok(()),
                other => Err(Failure::new(other.to_string())),
            })
            .await?;
        Ok(Self { process, port, resources, file, log })
    }

    /// Where clients connect.
    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Changes the resources, which Envoy Gateway watches.
    fn change(&mut self, change: impl FnOnce(&mut Resources)) -> Result<()> {
        change(&mut self.resources);
        self.resources.write(&self.file)
    }

    /// Changes the module of the filter.
    fn set_code(&mut self, code: Value) -> Result<()> {
        self.change(|resources| *at(resources.find("EnvoyExtensionPolicy", "keyward"), "/spec/wasm/0/code") = code)
    }

    /// How often the log has a text.
    fn logged(&self, text: &str) -> Result<usize> {
        let log = fs::read_to_string(&self.log).map_err(|error| Failure::new(error.to_string()))?;
        Ok(log.matches(text).count())
    }

    /// Sets the module, waits until Envoy Gateway failed to get it, and checks that no request passes.
    async fn check_no_module(&mut self, world: &World, key: &CreatedKey, code: Value) -> Result<()> {
        let before = self.logged(NOT_FETCHED)?;
        self.set_code(code)?;
        until("Envoy Gateway fails to get the module", CHANGE, async || {
            if self.logged(NOT_FETCHED)? > before { Ok(()) } else { Err(Failure::new("not yet")) }
        })
        .await?;
        until_status(self.address(), &Request::get("/hello"), 403).await?;
        check_refused(self.address(), world, key, 403).await
    }

    async fn stop(mut self) -> Result<()> {
        // Envoy is a child of Envoy Gateway, which stops it.
        if self.process.terminate(STOP).await? { Ok(()) } else { Err(Failure::new("Envoy Gateway did not stop")) }
    }
}

/// Envoy Gateway's directory.
fn home(world: &World, port: u16) -> PathBuf {
    world.dir.path().join(format!("envoy-gateway-{port}"))
}

async fn status_of(to: SocketAddr, path: &str) -> Result<u16> {
    status(to, &Request::get(path)).await
}

fn image(url: &str, sha256: &str) -> Value {
    json!({"type": "Image", "image": {"url": url, "sha256": sha256}})
}

fn of(pushed: &Image) -> Value {
    image(&pushed.reference, &pushed.digest)
}

/// The programs, the world, and an Envoy Gateway that is not started yet.
struct Setup {
    gateway: Tool,
    world: World,
    port: ReservedPort,
    resources: Resources,
    section: Section,
}

/// `None` after a note of what is left out.
async fn setup(section: &str) -> Option<Setup> {
    let check = "Envoy Gateway (test-mesh)";
    let (gateway, registry) = (tool("envoy-gateway", check)?, tool("registry", check)?);
    tool("crane", check)?;
    let version = envoy_version(&artifacts::envoy().unwrap()).unwrap();
    let versions = format!(
        "Envoy Gateway {} in standalone mode, Envoy {version}, registry {}.",
        gateway.version, registry.version
    );
    let world = World::start(&registry).await.unwrap();
    let port = ReservedPort::new().unwrap();
    let resources = EnvoyGateway::resources(&world, port.port(), &version).unwrap();
    Some(Setup { gateway, world, port, resources, section: Section::new(section, &versions) })
}

/// The guard refuses everything that the filter did not pass, whatever becomes of the filter's policy; with the filter,
/// requests are decided as in `envoy/envoy.yaml`.
#[tokio::test]
async fn envoy_gateway_stays_closed_without_the_filter() {
    let Some(Setup { gateway, world, port, mut resources, mut section }) = setup("Envoy Gateway").await else { return };
    let key = world.key_of("shop").await.unwrap();
    let policy = resources.find("EnvoyExtensionPolicy", "keyward").clone();
    resources.remove("EnvoyExtensionPolicy", "keyward");
    let mut gateway = EnvoyGateway::start(&gateway, &world, port, resources).await.unwrap();
    let address = gateway.address();

    until_status(address, &Request::get("/hello"), 403).await.unwrap();
    check_refused(address, &world, &key, 403).await.unwrap();
    section.row("guard without the EnvoyExtensionPolicy", "403");

    gateway.resources.add(&policy.to_string()).unwrap();
    let wrong = "1".repeat(64);
    gateway.check_no_module(&world, &key, image(&world.images.artifact.reference, &wrong)).await.unwrap();
    section.row("image with another digest than `sha256`", "403");
    gateway.check_no_module(&world, &key, image(&world.registry.missing_image(), &"2".repeat(64))).await.unwrap();
    section.row("image that the registry does not have", "403");
    let modules = {
        let module = world.module.clone();
        Echo::start_with("modules", loopback(0), move |request| {
            let found = request.path == "/keyward_filter.wasm";
            let answer =
                if found { (200, "application/wasm", module.clone()) } else { (404, "text/plain", Vec::new()) };
            std::future::ready(answer)
        })
        .await
        .unwrap()
    };
    let http = |path: &str, sha256: &str| json!({"type": "HTTP", "http": {"url": format!("http://{}/{path}", modules.address()), "sha256": sha256}});
    let sha256 = hex::encode(Sha256::digest(&world.module));
    gateway.check_no_module(&world, &key, http("missing.wasm", &sha256)).await.unwrap();
    section.row("module that the HTTP server does not have", "403");
    gateway.check_no_module(&world, &key, http("keyward_filter.wasm", &wrong)).await.unwrap();
    section.row("module of another SHA-256 than `sha256`", "403");

    let ready = Request::get("/keyward/ready");
    for (format, code) in [
        ("image as an OCI artifact, pulled by Envoy Gateway", of(&world.images.artifact)),
        ("image in Docker's format, pulled by Envoy Gateway", of(&world.images.docker)),
        ("module over HTTP, downloaded by Envoy Gateway", http("keyward_filter.wasm", &sha256)),
    ] {
        gateway.set_code(code).unwrap();
        until_status(address, &ready, 200).await.unwrap();
        assert_eq!(check_requests(address, &world).await.unwrap(), REQUESTS.1, "{format}");
        section.row(&format!("{format}: {}", REQUESTS.0), REQUESTS.1);
        // The next module starts from a closed gateway.
        gateway.check_no_module(&world, &key, http("missing.wasm", &sha256)).await.unwrap();
    }

    // What the guard is for: these are the only outcomes that Envoy Gateway alone gives.
    gateway.change(|resources| resources.remove("EnvoyPatchPolicy", "keyward-guard")).unwrap();
    until_status(address, &Request::get("/hello"), 500).await.unwrap();
    section.row("without the guard: EnvoyExtensionPolicy whose module is not there", "500");
    gateway.change(|resources| resources.remove("EnvoyExtensionPolicy", "keyward")).unwrap();
    until_status(address, &Request::get("/hello"), 200).await.unwrap();
    section.row("without the guard and without the EnvoyExtensionPolicy", "200: everything passes");
    gateway.stop().await.unwrap();
    section.finish();
}

/// What Envoy Gateway adds to a route that has policies of its own, and the order of the filters.
#[tokio::test]
async fn envoy_gateway_filter_comes_first() {
    let Some(Setup { gateway: tool, world, port, resources, mut section }) = setup("Envoy Gateway policies").await
    else {
        return;
    };
    let version = envoy_version(&artifacts::envoy().unwrap()).unwrap();
    let key = world.key_of("shop").await.unwrap();
    let blocked = world.key_of("blocked").await.unwrap();
    let mut gateway = EnvoyGateway::start(&tool, &world, port, resources).await.unwrap();
    let address = gateway.address();
    let with_key = Request::get("/hello").bearer(&key.key);
    until_status(address, &with_key, 200).await.unwrap();

    // A route's own policy replaces that of the Gateway: the guard refuses its requests.
    gateway.change(|resources| resources.add(OWN_POLICY).unwrap()).unwrap();
    until_status(address, &with_key, 403).await.unwrap();
    check_refused(address, &world, &key, 403).await.unwrap();
    section.row("route with an EnvoyExtensionPolicy of its own, which replaces the filter's", "403");
    gateway
        .change(|resources| {
            resources.find("EnvoyExtensionPolicy", "own")["spec"]["mergeType"] = "StrategicMerge".into()
        })
        .unwrap();
    until_status(address, &with_key, 200).await.unwrap();
    assert_eq!(status(address, &Request::get("/hello")).await.unwrap(), 401);
    section.row("the same with `mergeType: StrategicMerge`: with a key, without", "200, 401");
    gateway.change(|resources| resources.remove("EnvoyExtensionPolicy", "own")).unwrap();

    // Behind the filter, a policy can rely on the filter's headers, and sees no credential.
    gateway.change(|resources| resources.add(SECURITY_POLICY).unwrap()).unwrap();
    let with_blocked = Request::get("/hello").bearer(&blocked.key);
    until_status(address, &with_blocked, 403).await.unwrap();
    assert_eq!(status(address, &with_key).await.unwrap(), 200);
    assert_eq!(status(address, &with_key.clone().header("x-keyward-owner", "blocked")).await.unwrap(), 200);
    section.row(
        "SecurityPolicy that denies `x-keyward-owner: blocked`: with a key of that owner, with another key, with another key and that header forged",
        "403, 200, 200",
    );
    assert_eq!(refused_by(address).await.unwrap(), "Keyward");
    section.row("SecurityPolicy with `jwt`, and an invalid JWT in `Authorization`", "401, by Keyward");
    gateway.stop().await.unwrap();

    let port = ReservedPort::new().unwrap();
    let mut resources = EnvoyGateway::resources(&world, port.port(), &version).unwrap();
    let order = resources.find("EnvoyProxy", "gateway")["spec"].as_object_mut().unwrap().remove("filterOrder");
    assert!(order.is_some(), "the shipped EnvoyProxy has a filterOrder");
    resources.add(SECURITY_POLICY).unwrap();
    let gateway = EnvoyGateway::start(&tool, &world, port, resources).await.unwrap();
    let address = gateway.address();
    until("jwt_authn comes first", CHANGE, async || match refused_by(address).await? {
        "jwt_authn" => Ok(()),
        other => Err(Failure::new(other)),
    })
    .await
    .unwrap();
    assert_eq!(status(address, &with_key).await.unwrap(), 401);
    section.row(
        "the same without `filterOrder` of the EnvoyProxy: with an invalid JWT, with a key in `Authorization`",
        "401, 401, both by `jwt`",
    );
    gateway.stop().await.unwrap();
    section.finish();
}

/// Changes of rules and of the whole policy, while requests arrive.
#[tokio::test]
async fn envoy_gateway_update_under_load_stays_closed() {
    let Some(Setup { gateway, world, port, resources, mut section }) = setup("Envoy Gateway updates").await else {
        return;
    };
    let key = world.key_of("shop").await.unwrap();
    let mut gateway = EnvoyGateway::start(&gateway, &world, port, resources).await.unwrap();
    let address = gateway.address();
    let with_key = Request::get("/hello").bearer(&key.key);
    until_status(address, &with_key, 200).await.unwrap();
    assert_eq!(status(address, &Request::get("/open")).await.unwrap(), 401);

    let load = Load::start(address, with_key.clone(), Request::get("/hello"));
    gateway
        .change(|resources| {
            let rules = at(resources.find("EnvoyExtensionPolicy", "keyward"), "/spec/wasm/0/config/rules");
            rules.as_array_mut().unwrap().insert(0, json!({"path": {"exact": "/open"}, "access": "public"}));
            let public = "/spec/jsonPatches/0/operation/value/typed_config/rules/policies/public_routes/permissions";
            let permissions = at(resources.find("EnvoyPatchPolicy", "keyward-guard"), public);
            permissions.as_array_mut().unwrap().push(json!({"url_path": {"path": {"exact": "/open"}}}));
        })
        .unwrap();
    until_status(address, &Request::get("/open"), 200).await.unwrap();
    until_sent(&load, 200).await;
    let (with, without) = load.stop().await;
    assert_eq!(with.keys().collect::<Vec<_>>(), ["200"], "with a key: {with:?}");
    assert_eq!(without.keys().collect::<Vec<_>>(), ["401"], "without a key: {without:?}");
    section.row("a rule is added under load: requests with a key, without", "only 200, only 401");

    let load = Load::start(address, with_key.clone(), Request::get("/hello"));
    let wrong = "1".repeat(64);
    gateway.check_no_module(&world, &key, image(&world.images.artifact.reference, &wrong)).await.unwrap();
    gateway.set_code(of(&world.images.docker)).unwrap();
    until_status(address, &with_key, 200).await.unwrap();
    until_sent(&load, 200).await;
    let (with, without) = load.stop().await;
    // 503 until the new filter has its first snapshot.
    assert!(with.keys().all(|outcome| ["200", "403", "503"].contains(&outcome.as_str())), "with a key: {with:?}");
    assert!(
        without.keys().all(|outcome| ["401", "403", "503"].contains(&outcome.as_str())),
        "without a key: {without:?}"
    );
    section.row("the policy is refused under load, and comes back: requests without a key", "only 401, 403 and 503");
    gateway.stop().await.unwrap();
    section.finish();
}

/// A policy that has nothing to do with keys.
const OWN_POLICY: &str = "
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyExtensionPolicy
metadata: { name: own, namespace: gateway }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop }]
  lua:
    - type: Inline
      inline: |
        function envoy_on_response(response)
          response:headers():add('x-own', 'yes')
        end
";

/// Accepts requests without a JWT, and denies an owner.
const SECURITY_POLICY: &str = r#"
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: { name: security, namespace: gateway }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: gateway }]
  jwt:
    optional: true
    providers:
      - name: issuer
        issuer: https://issuer.example
        localJWKS:
          type: Inline
          inline: '{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}'
  authorization:
    defaultAction: Allow
    rules:
      - action: Deny
        principal: { headers: [{ name: x-keyward-owner, values: [blocked] }] }
"#;
