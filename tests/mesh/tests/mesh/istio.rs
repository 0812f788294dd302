//! Istio: istiod with resources from files, and its agent with a real Envoy as a sidecar and as a gateway.

use crate::common::{
    CHANGE, CONNECTIONS, REQUESTS, World, check_refused, check_requests, refused_by, status, until_sent,
};
use keyward_harness::http::{self, Request};
use keyward_harness::ports::{ReservedPort, loopback};
use keyward_harness::{CreatedKey, Echo, Failure, artifacts, until};
use keyward_mesh::istio::{Istiod, Pod, Proxy};
use keyward_mesh::kubernetes::{Kubernetes, Objects, namespace, pod, service};
use keyward_mesh::load::Load;
use keyward_mesh::registry::Images;
use keyward_mesh::report::Section;
use keyward_mesh::resources::{Resources, at};
use keyward_mesh::tools::{Tool, envoy_version, source, tool};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;

/// What the agent logs about a module of another checksum,
const OTHER_CHECKSUM: &str = "which does not match: 1111";
/// about one that the registry does not have,
const NO_IMAGE: &str = "MANIFEST_UNKNOWN";
/// and about one that the HTTP server does not have.
const NO_FILE: &str = "wasm module download request failed: status code 404";

/// The name of the external authorizer in the mesh's configuration.
const AUTHORIZER: &str = "authorizer";

/// A kind of proxy. Each has a namespace, a label `app` and a service account of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sidecar,
    Gateway,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Sidecar, Self::Gateway];

    fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "shop",
            Self::Gateway => "gateway",
        }
    }

    /// The shipped resources for this kind: for a gateway, changed as their first lines say.
    fn resources(self, file: &str) -> Resources {
        let mut resources = Resources::shipped(file).unwrap();
        if self == Self::Gateway {
            resources.replace("SIDECAR_INBOUND", "GATEWAY");
            resources.replace("SIDECAR_OUTBOUND", "GATEWAY");
            // The namespace, and the label of the selectors.
            resources.replace("shop", "gateway");
        }
        resources
    }

    /// The shipped EnvoyFilter with the module at this path.
    fn envoy_filter(self, module: &str) -> Resources {
        let mut resources = self.resources("istio.yaml");
        resources.replace("/etc/keyward/keyward_filter.wasm", module);
        resources
    }

    /// The shipped guard and TrafficExtension with a module.
    fn traffic_extension(self, (url, sha256): (&str, &str)) -> Resources {
        let mut resources = self.resources("istio-traffic-extension.yaml");
        let extension = &mut resources.find("TrafficExtension", "keyward")["spec"];
        extension["wasm"]["url"] = url.into();
        extension["wasm"]["sha256"] = sha256.into();
        if self == Self::Gateway {
            assert!(extension.as_object_mut().unwrap().remove("match").is_some(), "the extension has a match");
        }
        resources
    }
}

/// The programs, and the world in which they run.
struct Setup {
    istiod: Tool,
    agent: Tool,
    source: PathBuf,
    world: World,
    section: Section,
}

/// `None` after a note of what is left out.
async fn setup(section: &str) -> Option<Setup> {
    let check = "Istio (test-mesh)";
    let (istiod, agent) = (tool("pilot-discovery", check)?, tool("pilot-agent", check)?);
    let (source, registry) = (source("istio", check)?, tool("registry", check)?);
    tool("crane", check)?;
    let envoy = envoy_version(&artifacts::envoy().unwrap()).unwrap();
    let versions = format!(
        "pilot-discovery and pilot-agent of istio.io/istio {}, Envoy {envoy}, registry {}.",
        istiod.version, registry.version
    );
    let world = World::start(&registry).await.unwrap();
    Some(Setup { istiod, agent, source, world, section: Section::new(section, &versions) })
}

impl Setup {
    /// Starts istiod with a control plane behind its service at this address, whose pod has these labels.
    async fn istiod(&self, control_plane: u16, labels: &Value) -> Istiod {
        let (shop, shop_endpoints) =
            service("shop", "10.96.0.1", ("http", 80), ("127.0.0.1", self.world.upstream.address().port()));
        let (keyward, keyward_endpoints) =
            service("keyward", "10.96.0.2", ("http2", 8081), ("127.0.0.1", control_plane));
        let app = |name: &str| pod(name, "127.0.0.1", &json!({"app": name}));
        let objects = Objects::from([
            ("namespaces", ["istio-system", "shop", "gateway", "keyward"].map(namespace).to_vec()),
            ("services", vec![shop, keyward]),
            ("endpointslices", vec![shop_endpoints, keyward_endpoints]),
            ("pods", vec![app("shop"), app("gateway"), pod("keyward", "127.0.0.1", labels)]),
        ]);
        let kubernetes = Kubernetes::start(objects).await.unwrap();
        let mesh = json!({"extensionProviders": [{
            "name": AUTHORIZER,
            "envoyExtAuthzHttp": {
                "service": "shop.shop.svc.cluster.local",
                "port": 80,
                "includeRequestHeadersInCheck": ["authorization"],
            },
        }]});
        Istiod::start(&self.istiod, self.world.dir.path(), kubernetes, &mesh).await.unwrap()
    }

    /// Starts istiod with the control plane as a service without a sidecar.
    async fn plain_istiod(&self) -> Istiod {
        self.istiod(self.world.control_plane.address().port(), &json!({})).await
    }

    /// Starts a proxy in front of the upstream.
    fn proxy(&self, istiod: &Istiod, kind: Kind, port: &ReservedPort) -> Proxy {
        let upstream = self.world.upstream.address().port();
        let listener = match kind {
            Kind::Sidecar => sidecar("shop", port.port(), upstream),
            Kind::Gateway => gateway(port.port()),
        };
        istiod.set("listener", &listener).unwrap();
        let role = match kind {
            Kind::Sidecar => "sidecar",
            Kind::Gateway => "router",
        };
        self.agent(Pod { role, namespace: kind.name(), address: port.address() })
    }

    fn agent(&self, pod: Pod<'_>) -> Proxy {
        let token = self.world.control_plane.edge_token().unwrap();
        Proxy::start(&self.agent, &self.source, self.world.dir.path(), pod, &token).unwrap()
    }
}

/// The inbound listener of a sidecar, on a port of its own, since nothing redirects traffic to it.
fn sidecar(name: &str, port: u16, application: u16) -> Resources {
    Resources::parse(&format!(
        r#"
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{ name: {name}, namespace: {name} }}
spec:
  ingress:
    - port: {{ number: {port}, protocol: HTTP, name: http }}
      bind: 127.0.0.1
      captureMode: NONE
      defaultEndpoint: 127.0.0.1:{application}
  egress: [{{ hosts: ["keyward/*", "shop/*"] }}]
"#
    ))
    .unwrap()
}

/// The listener of a gateway, and its route to the upstream.
fn gateway(port: u16) -> Resources {
    Resources::parse(&format!(
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
    ))
    .unwrap()
}

/// The cases of a table, which must be the same in a sidecar and in a gateway.
type Rows = Vec<(String, String)>;

fn row(rows: &mut Rows, case: &str, outcome: &str) {
    rows.push((case.to_owned(), outcome.to_owned()));
}

/// Adds the rows of both kinds of proxy, which are the same.
fn add_rows(section: &mut Section, of_both: [Rows; 2]) {
    let [sidecar, gateway] = of_both;
    assert_eq!(sidecar, gateway, "sidecar and gateway differ");
    for (case, outcome) in sidecar {
        section.row(&case, outcome);
    }
}

/// `envoy/mesh/istio.yaml`, in a sidecar and in a gateway.
#[tokio::test]
async fn istio_runs_the_shipped_envoy_filter() {
    let Some(mut setup) = setup("Istio EnvoyFilter").await else { return };
    let istiod = setup.plain_istiod().await;
    let module = artifacts::filter().unwrap();
    let module = module.to_str().unwrap();
    let mut of_both = [Rows::new(), Rows::new()];
    for (kind, rows) in Kind::ALL.into_iter().zip(&mut of_both) {
        let world = &setup.world;
        let key = world.key_of("shop").await.unwrap();

        // Envoy refuses a listener whose module it cannot read, and so a new one listens nowhere.
        istiod.set("filter", &kind.envoy_filter("/etc/keyward/missing.wasm")).unwrap();
        let port = ReservedPort::new().unwrap();
        let mut proxy = setup.proxy(&istiod, kind, &port);
        let address = proxy.address();
        until_logged(&proxy, "/etc/keyward/missing.wasm", 0).await;
        assert!(http::send(address, &Request::get("/hello").bearer(&key.key)).await.is_err(), "{kind:?}");
        row(rows, "module file that is not there, in a new proxy", "Envoy does not listen");

        let shipped = kind.envoy_filter(module);
        let mut guard = shipped.clone();
        let patches = at(guard.find("EnvoyFilter", "keyward"), "/spec/configPatches").as_array_mut().unwrap();
        patches.retain(|patch| patch["patch"]["value"]["name"] != "keyward");
        istiod.set("filter", &guard).unwrap();
        proxy.until_status(&Request::get("/hello"), 403, CHANGE).await.unwrap();
        check_refused(address, world, &key, 403).await.unwrap();
        row(rows, "guard without the filter", "403");

        istiod.set("filter", &shipped).unwrap();
        proxy.until_status(&Request::get("/keyward/ready"), 200, CHANGE).await.unwrap();
        assert_eq!(check_requests(address, world).await.unwrap(), REQUESTS.1, "{kind:?}");
        row(rows, REQUESTS.0, REQUESTS.1);
        filter_comes_first(&istiod, &mut proxy, kind, world, rows).await;

        let mut changed = shipped.clone();
        let filter = inserted(&mut changed, "keyward", "keyward");
        open_rule(at(filter, "/typed_config/config/configuration/value"));
        open_guard(inserted(&mut changed, "keyward", "keyward_guard"));
        update_under_load(&istiod, &mut proxy, world, &shipped, &changed, rows).await;
        proxy.stop().await.unwrap();
        istiod.remove("filter").unwrap();
        istiod.remove("listener").unwrap();
    }
    istiod.stop().await.unwrap();
    add_rows(&mut setup.section, of_both);
    setup.section.finish();
}

/// `envoy/mesh/istio-traffic-extension.yaml`, in a sidecar and in a gateway: the agent pulls the filter from a registry,
/// or downloads it.
#[tokio::test]
async fn istio_runs_the_shipped_traffic_extension() {
    let Some(mut setup) = setup("Istio TrafficExtension").await else { return };
    let istiod = setup.plain_istiod().await;
    let modules = {
        let module = setup.world.module.clone();
        Echo::start_with("modules", loopback(0), move |request| {
            let found = request.path == "/keyward_filter.wasm";
            let answer =
                if found { (200, "application/wasm", module.clone()) } else { (404, "text/plain", Vec::new()) };
            std::future::ready(answer)
        })
        .await
        .unwrap()
    };
    let world = &setup.world;
    let oci = |reference: &str| format!("oci://{reference}");
    let Images { artifact, docker } = &world.images;
    let missing = oci(&world.registry.missing_image());
    let file = |path: &str| format!("http://{}/{path}", modules.address());
    let sha256 = hex::encode(Sha256::digest(&world.module));
    // The agent does not fetch a module whose digest it knows.
    let (wrong, unknown) = ("1".repeat(64), "2".repeat(64));
    let mut of_both = [Rows::new(), Rows::new()];
    for (kind, rows) in Kind::ALL.into_iter().zip(&mut of_both) {
        let key = world.key_of("shop").await.unwrap();
        let port = ReservedPort::new().unwrap();
        let shipped = kind.traffic_extension((&oci(&artifact.reference), &artifact.digest));
        let mut guard = shipped.clone();
        guard.remove("TrafficExtension", "keyward");
        istiod.set("filter", &guard).unwrap();
        let mut proxy = setup.proxy(&istiod, kind, &port);
        proxy.until_status(&Request::get("/hello"), 403, CHANGE).await.unwrap();
        check_refused(proxy.address(), world, &key, 403).await.unwrap();
        row(rows, "guard without the TrafficExtension", "403");

        for (case, code, reason) in [
            ("image with another digest than `sha256`", (oci(&artifact.reference), &wrong), OTHER_CHECKSUM),
            ("image that the registry does not have", (missing.clone(), &unknown), NO_IMAGE),
            ("module that the HTTP server does not have", (file("missing.wasm"), &sha256), NO_FILE),
            ("module of another SHA-256 than `sha256`", (file("keyward_filter.wasm"), &wrong), OTHER_CHECKSUM),
        ] {
            let resources = kind.traffic_extension((&code.0, code.1));
            check_no_module(&istiod, &mut proxy, world, &key, (&resources, reason)).await;
            row(rows, case, "403");
        }
        let mut open = kind.traffic_extension((&missing, &unknown));
        *at(open.find("TrafficExtension", "keyward"), "/spec/wasm/failStrategy") = "FAIL_OPEN".into();
        check_no_module(&istiod, &mut proxy, world, &key, (&open, NO_IMAGE)).await;
        row(rows, "image that the registry does not have, with `failStrategy: FAIL_OPEN`", "403");

        for (format, code) in [
            ("image as an OCI artifact, pulled by the agent", (oci(&artifact.reference), &artifact.digest)),
            ("image in Docker's format, pulled by the agent", (oci(&docker.reference), &docker.digest)),
            ("module over HTTP, downloaded by the agent", (file("keyward_filter.wasm"), &sha256)),
        ] {
            istiod.set("filter", &kind.traffic_extension((&code.0, code.1))).unwrap();
            proxy.until_status(&Request::get("/keyward/ready"), 200, CHANGE).await.unwrap();
            assert_eq!(check_requests(proxy.address(), world).await.unwrap(), REQUESTS.1, "{kind:?}, {format}");
            row(rows, &format!("{format}: {}", REQUESTS.0), REQUESTS.1);
            // The next module starts from a closed proxy.
            istiod.set("filter", &guard).unwrap();
            proxy.until_status(&Request::get("/keyward/ready"), 403, CHANGE).await.unwrap();
        }

        istiod.set("filter", &shipped).unwrap();
        proxy.until_status(&Request::get("/keyward/ready"), 200, CHANGE).await.unwrap();
        filter_comes_first(&istiod, &mut proxy, kind, world, rows).await;
        let mut changed = shipped.clone();
        open_rule(at(changed.find("TrafficExtension", "keyward"), "/spec/wasm/pluginConfig"));
        open_guard(inserted(&mut changed, "keyward-guard", "keyward_guard"));
        update_under_load(&istiod, &mut proxy, world, &shipped, &changed, rows).await;

        // The module's absence under load.
        let with_key = Request::get("/hello").bearer(&key.key);
        let load = Load::start(proxy.address(), with_key.clone(), Request::get("/hello"));
        let without_module = kind.traffic_extension((&missing, &unknown));
        check_no_module(&istiod, &mut proxy, world, &key, (&without_module, NO_IMAGE)).await;
        istiod.set("filter", &kind.traffic_extension((&oci(&docker.reference), &docker.digest))).unwrap();
        proxy.until_status(&with_key, 200, CHANGE).await.unwrap();
        until_sent(&load, 200).await;
        let (_, without) = load.stop().await;
        assert!(
            without.keys().all(|outcome| ["401", "403", "503"].contains(&outcome.as_str())),
            "without a key: {without:?}"
        );
        row(
            rows,
            "the module is not there under load, and comes back: requests without a key",
            "only 401, 403 and 503",
        );

        // What the guard is for: these are the only outcomes that Istio alone gives.
        let mut alone = kind.traffic_extension((&missing, &unknown));
        alone.remove("EnvoyFilter", "keyward-guard");
        let before = proxy.logged(NO_IMAGE).unwrap();
        istiod.set("filter", &alone).unwrap();
        until_logged(&proxy, NO_IMAGE, before).await;
        proxy.until_status(&Request::get("/hello"), 403, CHANGE).await.unwrap();
        check_refused(proxy.address(), world, &key, 403).await.unwrap();
        row(rows, "without the guard: TrafficExtension whose module is not there", "403");
        open.remove("EnvoyFilter", "keyward-guard");
        istiod.set("filter", &open).unwrap();
        proxy.until_status(&Request::get("/hello"), 200, CHANGE).await.unwrap();
        row(rows, "the same with `failStrategy: FAIL_OPEN`", "200: everything passes");
        istiod.remove("filter").unwrap();
        proxy.until_status(&Request::get("/keyward/ready"), 200, CHANGE).await.unwrap();
        row(rows, "without the guard and without the TrafficExtension", "200: everything passes");
        proxy.stop().await.unwrap();
        istiod.remove("listener").unwrap();
    }
    istiod.stop().await.unwrap();
    add_rows(&mut setup.section, of_both);
    setup.section.finish();
}

/// Waits until the log has a text once more.
async fn until_logged(proxy: &Proxy, text: &str, before: usize) {
    until(&format!("the proxy logs {text:?}"), CHANGE, async || {
        if proxy.logged(text)? > before { Ok(()) } else { Err(Failure::new("not yet")) }
    })
    .await
    .unwrap();
}

/// Sets resources whose module the agent cannot get for this reason, and checks that no request passes.
async fn check_no_module(
    istiod: &Istiod,
    proxy: &mut Proxy,
    world: &World,
    key: &CreatedKey,
    (resources, reason): (&Resources, &str),
) {
    let before = proxy.logged(reason).unwrap();
    istiod.set("filter", resources).unwrap();
    until_logged(proxy, reason, before).await;
    proxy.until_status(&Request::get("/hello"), 403, CHANGE).await.unwrap();
    check_refused(proxy.address(), world, key, 403).await.unwrap();
}

/// Istio's authentication does not see the key, which is no JWT; its authorization sees the filter's headers. What an
/// external authorizer sees is in the table.
async fn filter_comes_first(istiod: &Istiod, proxy: &mut Proxy, kind: Kind, world: &World, rows: &mut Rows) {
    let key = world.key_of("shop").await.unwrap();
    let blocked = world.key_of("blocked").await.unwrap();
    let address = proxy.address();
    let (with_key, with_blocked) =
        (Request::get("/hello").bearer(&key.key), Request::get("/hello").bearer(&blocked.key));
    let policies = |text: &str| Resources::parse(&text.replace("shop", kind.name())).unwrap();
    istiod.set("policies", &policies(POLICIES)).unwrap();
    proxy.until_status(&with_blocked, 403, CHANGE).await.unwrap();
    assert_eq!(status(address, &with_key).await.unwrap(), 200);
    assert_eq!(status(address, &with_key.clone().header("x-keyward-owner", "blocked")).await.unwrap(), 200);
    assert_eq!(status(address, &Request::get("/hello")).await.unwrap(), 401);
    row(
        rows,
        "AuthorizationPolicy that denies `x-keyward-owner: blocked`: with a key of that owner, with another key, with another key and that header forged, without a key",
        "403, 200, 200, 401",
    );
    assert_eq!(refused_by(address).await.unwrap(), "Keyward");
    row(rows, "RequestAuthentication, and an invalid JWT in `Authorization`", "401, by Keyward");

    let mut with_authorizer = policies(POLICIES);
    let custom = CUSTOM.replace("AUTHORIZER", AUTHORIZER).replace("shop", kind.name());
    with_authorizer.add(&custom).unwrap();
    istiod.set("policies", &with_authorizer).unwrap();
    let filters = until("there is an external authorizer", CHANGE, async || {
        let filters = proxy.http_filters().await?;
        let is_there = filters.iter().any(|name| name == "envoy.filters.http.ext_authz");
        if is_there { Ok(filters) } else { Err(Failure::new(filters.join(", "))) }
    })
    .await
    .unwrap();
    let sees_key = until("the external authorizer is asked by all workers", CHANGE, async || {
        world.upstream.take_seen();
        for _ in 0..CONNECTIONS {
            assert_eq!(status(address, &with_key).await?, 200);
        }
        let seen = world.upstream.take_seen();
        match seen.len() == 2 * CONNECTIONS {
            true => Ok(seen.iter().any(|request| !request.header("authorization").is_empty())),
            false => Err(Failure::new(format!("the upstream saw {} requests", seen.len()))),
        }
    })
    .await
    .unwrap();
    assert_eq!(status(address, &Request::get("/hello")).await.unwrap(), 401);
    let is_asked = !world.upstream.take_seen().is_empty();
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    row(
        rows,
        "AuthorizationPolicy with `CUSTOM`: the external authorizer sees the credential, is asked about requests without one",
        &format!("{}, {}", yes(sees_key), yes(is_asked)),
    );
    let filters: Vec<String> = filters.iter().map(|name| format!("`{name}`")).collect();
    row(
        rows,
        "HTTP filters, in every filter chain",
        &filters.join(", ").replace(&format!("/{}.", kind.name()), "/NAMESPACE."),
    );
    istiod.remove("policies").unwrap();
    proxy.until_status(&with_blocked, 200, CHANGE).await.unwrap();
}

/// The filter of this name that an EnvoyFilter inserts.
fn inserted<'a>(resources: &'a mut Resources, envoy_filter: &str, name: &str) -> &'a mut Value {
    let patches = at(resources.find("EnvoyFilter", envoy_filter), "/spec/configPatches").as_array_mut().unwrap();
    let mut values = patches.iter_mut().map(|patch| at(patch, "/patch/value"));
    values.find(|value| value["name"] == name).unwrap_or_else(|| panic!("{envoy_filter} inserts no {name}"))
}

/// Makes `/open` public in the filter's configuration.
fn open_rule(configuration: &mut Value) {
    let rules = at(configuration, "/rules").as_array_mut().unwrap();
    rules.insert(0, json!({"path": {"exact": "/open"}, "access": "public"}));
}

/// Makes `/open` public in the guard.
fn open_guard(guard: &mut Value) {
    let permissions = at(guard, "/typed_config/rules/policies/public_routes/permissions").as_array_mut().unwrap();
    permissions.push(json!({"url_path": {"path": {"exact": "/open"}}}));
}

/// A rule is added and removed while requests arrive.
async fn update_under_load(
    istiod: &Istiod,
    proxy: &mut Proxy,
    world: &World,
    shipped: &Resources,
    changed: &Resources,
    rows: &mut Rows,
) {
    let key = world.key_of("shop").await.unwrap();
    let address = proxy.address();
    let (with_key, open) = (Request::get("/hello").bearer(&key.key), Request::get("/open"));
    proxy.until_status(&with_key, 200, CHANGE).await.unwrap();
    assert_eq!(status(address, &open).await.unwrap(), 401);
    let load = Load::start(address, with_key, Request::get("/hello"));
    istiod.set("filter", changed).unwrap();
    proxy.until_status(&open, 200, CHANGE).await.unwrap();
    until_sent(&load, 200).await;
    istiod.set("filter", shipped).unwrap();
    proxy.until_status(&open, 401, CHANGE).await.unwrap();
    until_sent(&load, 200).await;
    let (with, without) = load.stop().await;
    assert_eq!(with.keys().collect::<Vec<_>>(), ["200"], "with a key: {with:?}");
    assert_eq!(without.keys().collect::<Vec<_>>(), ["401"], "without a key: {without:?}");
    row(rows, "a rule is added and removed under load: requests with a key, without", "only 200, only 401");
}

/// `envoy/mesh/istio-control-plane.yaml`: the filter's requests to the control plane have the proxy's identity.
#[tokio::test]
async fn istio_control_plane_accepts_edges_only() {
    let Some(mut setup) = setup("Istio control plane").await else { return };
    let world = &setup.world;
    let control_plane = ReservedPort::new().unwrap();
    // `tlsMode` is the label of injected pods, the others are those of the chart.
    let labels = json!({
        "app.kubernetes.io/name": "keyward",
        "app.kubernetes.io/component": "control-plane",
        "security.istio.io/tlsMode": "istio",
    });
    let istiod = setup.istiod(control_plane.port(), &labels).await;
    let policies = Resources::shipped("istio-control-plane.yaml").unwrap();
    istiod.set("control-plane", &policies).unwrap();
    let sidecar_of_it = sidecar("keyward", control_plane.port(), world.control_plane.address().port());
    istiod.set("control-plane-sidecar", &sidecar_of_it).unwrap();
    let sidecar_of_it = setup.agent(Pod { role: "sidecar", namespace: "keyward", address: control_plane.address() });
    let image = format!("oci://{}", world.images.artifact.reference);
    let extension = Kind::Sidecar.traffic_extension((&image, &world.images.artifact.digest));
    istiod.set("filter", &extension).unwrap();
    let port = ReservedPort::new().unwrap();
    let mut proxy = setup.proxy(&istiod, Kind::Sidecar, &port);
    proxy.until_status(&Request::get("/keyward/ready"), 200, CHANGE).await.unwrap();
    assert_eq!(check_requests(proxy.address(), world).await.unwrap(), REQUESTS.1);
    let mut rows = Rows::new();
    row(&mut rows, &format!("the workload of the policy, over mutual TLS: {}", REQUESTS.0), REQUESTS.1);
    // Without TLS.
    let readiness = Request::get("/readyz");
    assert!(http::send(control_plane.address(), &readiness).await.is_err(), "STRICT");
    row(&mut rows, "a client without TLS", "connection closed");
    proxy.stop().await.unwrap();

    // Another identity: the gateway's.
    istiod.set("filter", &Kind::Gateway.traffic_extension((&image, &world.images.artifact.digest))).unwrap();
    let port = ReservedPort::new().unwrap();
    let mut proxy = setup.proxy(&istiod, Kind::Gateway, &port);
    until_logged(&sidecar_of_it, "rbac_access_denied_matched_policy[none]", 0).await;
    proxy.until_status(&Request::get("/keyward/ready"), 503, CHANGE).await.unwrap();
    let key = world.key_of("shop").await.unwrap();
    assert_eq!(status(proxy.address(), &Request::get("/hello").bearer(&key.key)).await.unwrap(), 503);
    row(&mut rows, "a gateway whose principal is not in the policy: `readiness_path`, with a key", "503, 503");
    let mut policies = policies.clone();
    policies.replace("cluster.local/ns/shop/sa/shop", "cluster.local/ns/gateway/sa/gateway");
    istiod.set("control-plane", &policies).unwrap();
    proxy.until_status(&Request::get("/hello").bearer(&key.key), 200, CHANGE).await.unwrap();
    row(&mut rows, "the same once the policy has its principal: with a key", "200");
    proxy.stop().await.unwrap();
    sidecar_of_it.stop().await.unwrap();
    istiod.stop().await.unwrap();
    for (case, outcome) in rows {
        setup.section.row(&case, outcome);
    }
    setup.section.finish();
}

/// Istio's own authentication and authorization of the workload.
const POLICIES: &str = r#"
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

/// An external authorizer for every request.
const CUSTOM: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: custom, namespace: shop }
spec:
  selector: { matchLabels: { app: shop } }
  action: CUSTOM
  provider: { name: AUTHORIZER }
  rules: [{ to: [{ operation: { paths: [\"/*\"] } }] }]
";
