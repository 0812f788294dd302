//! The shipped configuration, with only the necessary differences changed in place rather than a copy, so that the
//! shipped file is the one tested.
//!
//! A change without a target panics: the file has then changed without the tests.

use crate::failure::Context as _;
use crate::{Failure, Result, artifacts};
use serde_json::{Map, Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

const DYNAMIC_MODULE: &str = "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter";

/// The runtime feature by which metrics of a dynamic module have the names of a Wasm filter's.
const STRIP_PREFIX: &str = "envoy.reloadable_features.dynamic_modules_strip_custom_stat_prefix";

const STRING_VALUE: &str = "type.googleapis.com/google.protobuf.StringValue";

/// The filter's configuration within a Wasm filter's `typed_config`.
const FILTER_CONFIGURATION: &str = "/config/configuration/value";

/// The cluster of the control plane.
pub const CONTROL_PLANE: &str = "keyward_control_plane";

/// The cluster of the rate-limit service. Every cluster but these two is an upstream.
pub const RATE_LIMIT: &str = "rate_limit";

/// The HTTP filter that lets no request without a verdict pass.
const GUARD: &str = "keyward_guard";

/// The HTTP filter that calls the rate-limit service.
pub const RATE_LIMIT_FILTER: &str = "envoy.filters.http.ratelimit";

/// The listener of the gateway.
pub const GATEWAY: &str = "gateway";

/// An Envoy configuration as a tree.
#[derive(Clone, Debug)]
pub struct EnvoyConfig {
    tree: Value,
    file: PathBuf,
    listener_file: Option<PathBuf>,
    example: Example,
    serve: Vec<String>,
}

impl EnvoyConfig {
    /// The shipped `envoy/envoy.yaml`.
    pub fn shipped() -> Result<Self> {
        Self::read(&artifacts::root().join("envoy/envoy.yaml"))
    }

    /// The shipped `envoy/envoy.yaml`, with the lines that are commented out by `#OPTION ` enabled.
    pub fn shipped_with(option: &str) -> Result<Self> {
        let file = artifacts::root().join("envoy/envoy.yaml");
        let text = fs::read_to_string(&file).context(|| file.display().to_string())?;
        let mark = format!("#{option} ");
        if !text.contains(&mark) {
            return Err(Failure::new(format!("{}: no lines with {mark:?}", file.display())));
        }
        Self::parse(&text.replace(&mark, ""), &file)
    }

    /// The shipped `envoy/envoy-native.yaml`.
    pub fn shipped_native() -> Result<Self> {
        Self::read(&artifacts::root().join("envoy/envoy-native.yaml"))
    }

    /// The shipped `envoy/fleet.yaml`.
    pub fn fleet() -> Result<Self> {
        Self::read(&artifacts::root().join("envoy/fleet.yaml"))
    }

    /// The shipped file merged with the dialect's variant in `envoy/variants`, if any.
    pub fn variant(dialect: &str) -> Result<Self> {
        let mut config = Self::shipped()?;
        let file = artifacts::root().join(format!("envoy/variants/{dialect}.yaml"));
        if file.exists() {
            let text = fs::read_to_string(&file).context(|| file.display().to_string())?;
            let variant: Variant = serde_saphyr::from_str(&text).context(|| file.display().to_string())?;
            config.file = file;
            config.apply(variant);
        }
        Ok(config)
    }

    /// Reads a YAML file.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).context(|| file.display().to_string())?;
        Self::parse(&text, file)
    }

    fn parse(text: &str, file: &Path) -> Result<Self> {
        let tree = serde_saphyr::from_str(text).context(|| file.display().to_string())?;
        let mut config =
            Self { tree, file: file.to_owned(), listener_file: None, example: Example::default(), serve: Vec::new() };
        // A filter's configuration may be JSON in a string; here it is parsed into the tree.
        for filter in config.wasm_filters() {
            if let Some(value) = filter.pointer_mut(FILTER_CONFIGURATION)
                && let Some(json) = value.as_str()
            {
                *value = serde_json::from_str(json).context(|| format!("{}: {json}", file.display()))?;
            }
        }
        Ok(config)
    }

    #[track_caller]
    fn apply(&mut self, variant: Variant) {
        self.example = variant.example.unwrap_or_default();
        self.serve = variant.serve;
        merge(self.filter(), &variant.filter);
        let host = self.tree.pointer_mut(&format!("{HCM}/route_config/virtual_hosts/0")).expect("a virtual host");
        if !variant.routes.is_empty() {
            let routes = host["routes"].as_array_mut().expect("routes");
            assert_eq!(routes[0]["match"]["path"], "/health", "the shipped public route comes first");
            routes.truncate(1);
            routes.extend(variant.routes);
        }
        let filters = self.http_filters();
        let position = |filters: &[Value], name: &str| {
            filters.iter().position(|filter| filter["name"] == name).unwrap_or_else(|| panic!("no filter {name}"))
        };
        let guard = position(filters, GUARD);
        merge(&mut filters[guard]["typed_config"]["rules"]["policies"], &variant.policies);
        filters.splice(guard..guard, variant.before_guard);
        let keyward = position(filters, "keyward");
        filters.splice(keyward..keyward, variant.before_filter);
        for (name, port) in variant.upstreams.into_iter().zip(8091..) {
            self.add_upstream(&name, SocketAddr::from(([127, 0, 0, 1], port)));
        }
        let clusters = self.tree["static_resources"]["clusters"].as_array_mut().expect("clusters");
        clusters.extend(variant.clusters);
    }

    /// Writes the configuration as JSON, which Envoy recognizes by the file's extension. A filter whose module is a shared
    /// library is written as a dynamic module.
    pub fn write(&self, file: &Path) -> Result<()> {
        let (mut config, mut is_native) = (self.clone(), false);
        for filter in config.wasm_filters() {
            let is_text = filter.pointer_mut("/config/configuration/@type").is_some_and(|of| *of == STRING_VALUE);
            if let Some(value) = filter.pointer_mut(FILTER_CONFIGURATION)
                && is_text
            {
                *value = value.to_string().into();
            }
            is_native |= use_dynamic_module(filter);
        }
        if is_native {
            config.tree["layered_runtime"] =
                json!({"layers": [{"name": "keyward", "static_layer": {STRIP_PREFIX: true}}]});
        }
        if let Some(listener_file) = &self.listener_file {
            let listeners = config.tree["static_resources"]["listeners"].take();
            config.tree["static_resources"]["listeners"] = Value::Array(Vec::new());
            config.tree["node"] = json!({"id": "test", "cluster": "test"});
            config.tree["dynamic_resources"] = json!({"lds_config": {"path_config_source": {"path": listener_file}}});
            write_listeners(listeners, listener_file)?;
        }
        fs::write(file, format!("{:#}\n", config.tree)).context(|| file.display().to_string())
    }

    /// Moves the listeners into a separate file, which Envoy watches.
    pub fn set_listener_file(&mut self, file: &Path) -> &mut Self {
        self.listener_file = Some(file.to_owned());
        self
    }

    /// The whole tree, for changes without a method here.
    pub fn tree_mut(&mut self) -> &mut Value {
        &mut self.tree
    }

    /// Passes the filter its configuration as JSON in a string, which preserves the order of fields.
    pub fn set_configuration_as_text(&mut self) -> &mut Self {
        for filter in self.wasm_filters() {
            if let Some(of) = filter.pointer_mut("/config/configuration/@type") {
                *of = STRING_VALUE.into();
            }
        }
        self
    }

    /// The configuration of the first filter.
    #[track_caller]
    pub fn filter(&mut self) -> &mut Value {
        let message = self.describe("no Wasm filter with a configuration");
        let filter = self.wasm_filters().into_iter().next();
        filter.and_then(|filter| filter.pointer_mut(FILTER_CONFIGURATION)).unwrap_or_else(|| panic!("{message}"))
    }

    /// Every Wasm filter's `typed_config`.
    pub fn wasm_filters(&mut self) -> Vec<&mut Map<String, Value>> {
        let mut found = Vec::new();
        collect(&mut self.tree, &mut found, |map| map.get("@type").is_some_and(|of| of == WASM));
        found
    }

    /// Passes this environment variable of Envoy to every Wasm filter.
    #[track_caller]
    pub fn pass_to_filter(&mut self, variable: &str) -> &mut Self {
        let message = self.describe("no Wasm filter with host_env_keys");
        let mut passed = false;
        for filter in self.wasm_filters() {
            let names = filter.pointer_mut("/config/vm_config/environment_variables/host_env_keys");
            if let Some(names) = names.and_then(Value::as_array_mut) {
                names.push(variable.into());
                passed = true;
            }
        }
        assert!(passed, "{message}");
        self
    }

    /// The gateway's `http_filters` list, to add or remove a filter.
    #[track_caller]
    pub fn http_filters(&mut self) -> &mut Vec<Value> {
        let message = self.describe("no http_filters");
        let mut found = Vec::new();
        collect(&mut self.tree, &mut found, |map| map.contains_key("http_filters"));
        let first = found.into_iter().next().and_then(|map| map.get_mut("http_filters")?.as_array_mut());
        first.unwrap_or_else(|| panic!("{message}"))
    }

    /// Turns the filter off, so that only the guard stands before the upstream.
    #[track_caller]
    pub fn disable_filter(&mut self) -> &mut Self {
        self.named_filter("keyward")["disabled"] = true.into();
        self
    }

    /// Removes the guard behind the filter.
    #[track_caller]
    pub fn remove_guard(&mut self) -> &mut Self {
        self.named_filter(GUARD);
        self.http_filters().retain(|filter| filter["name"] != GUARD);
        self
    }

    #[track_caller]
    fn named_filter(&mut self, name: &str) -> &mut Value {
        let message = self.describe(&format!("no filter {name:?}"));
        let filter = self.http_filters().iter_mut().find(|filter| filter["name"] == name);
        filter.unwrap_or_else(|| panic!("{message}"))
    }

    /// The configuration of the rate-limit filter.
    #[track_caller]
    pub fn rate_limit_filter(&mut self) -> &mut Value {
        &mut self.named_filter(RATE_LIMIT_FILTER)["typed_config"]
    }

    /// The routes of the gateway.
    #[track_caller]
    pub fn routes(&mut self) -> &mut Vec<Value> {
        let message = self.describe("no routes");
        let host = self.tree.pointer_mut(&format!("{HCM}/route_config/virtual_hosts/0/routes"));
        host.and_then(Value::as_array_mut).unwrap_or_else(|| panic!("{message}"))
    }

    /// Sets the dialect of every Wasm filter: a name, or a complete dialect.
    #[track_caller]
    pub fn set_dialect(&mut self, dialect: &Value) -> &mut Self {
        self.every_wasm_filter("/config/configuration/value/dialect", dialect)
    }

    /// Sets the module of every filter.
    #[track_caller]
    pub fn set_module(&mut self, module: &Path) -> &mut Self {
        self.every_wasm_filter("/config/vm_config/code/local/filename", &module.to_string_lossy().into())
    }

    /// Sets the address of the admin interface.
    #[track_caller]
    pub fn set_admin(&mut self, address: SocketAddr) -> &mut Self {
        let message = self.describe("no admin address");
        set_address(self.tree.pointer_mut("/admin/address"), address, &message);
        self
    }

    /// Sets the address of the gateway.
    #[track_caller]
    pub fn set_gateway(&mut self, address: SocketAddr) -> &mut Self {
        let message = self.describe("no listener \"gateway\" with an address");
        let listener = self.resource("listeners", GATEWAY);
        set_address(listener.and_then(|listener| listener.get_mut("address")), address, &message);
        // The URLs in responses to clients.
        replace(&mut self.tree, "127.0.0.1:8080", &address.to_string());
        self
    }

    /// Sets the only endpoint of a cluster, and of all clusters with the same endpoint: one server behind several
    /// clusters, each with its own limits.
    #[track_caller]
    pub fn set_cluster(&mut self, name: &str, address: SocketAddr) -> &mut Self {
        let message = self.describe(&format!("no cluster {name:?} with one endpoint"));
        let before = self.resource("clusters", name).and_then(|cluster| address_of(cluster.pointer(ENDPOINT)));
        let Some(before) = before else { panic!("{message}") };
        let clusters = self.tree["static_resources"]["clusters"].as_array_mut();
        for endpoint in clusters.into_iter().flatten().filter_map(|cluster| cluster.pointer_mut(ENDPOINT)) {
            if address_of(Some(endpoint)) == Some(before) {
                set_address(Some(endpoint), address, &message);
            }
        }
        self
    }

    /// Adds a cluster like `upstream`, and returns it.
    #[track_caller]
    pub fn add_upstream(&mut self, name: &str, address: SocketAddr) -> &mut Value {
        let message = self.describe("no cluster \"upstream\"");
        let mut cluster = self.resource("clusters", "upstream").unwrap_or_else(|| panic!("{message}")).clone();
        cluster["name"] = name.into();
        cluster["load_assignment"]["cluster_name"] = name.into();
        set_address(cluster.pointer_mut(ENDPOINT), address, &message);
        let clusters = self.tree["static_resources"]["clusters"].as_array_mut().expect("clusters");
        clusters.push(cluster);
        clusters.last_mut().expect("the one that was added")
    }

    /// Adds an endpoint to a cluster that has one.
    #[track_caller]
    pub fn add_endpoint(&mut self, name: &str, address: SocketAddr) -> &mut Self {
        let message = self.describe(&format!("no cluster {name:?} with one endpoint"));
        let cluster = self.resource("clusters", name);
        let endpoints = cluster.and_then(|of| of.pointer_mut("/load_assignment/endpoints/0/lb_endpoints"));
        let endpoints = endpoints.and_then(Value::as_array_mut).unwrap_or_else(|| panic!("{message}"));
        let mut added = endpoints.first().unwrap_or_else(|| panic!("{message}")).clone();
        set_address(added.pointer_mut("/endpoint/address"), address, &message);
        endpoints.push(added);
        self
    }

    /// An example key and request.
    pub fn example(&self) -> &Example {
        &self.example
    }

    /// The arguments of `keyward serve` for this configuration.
    pub fn serve_arguments(&self) -> Vec<&str> {
        self.serve.iter().map(String::as_str).collect()
    }

    /// The address of the admin interface.
    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        address_of(self.tree.pointer("/admin/address"))
            .unwrap_or_else(|| panic!("{}", self.describe("no admin address")))
    }

    /// The address of the gateway.
    #[track_caller]
    pub fn gateway(&self) -> SocketAddr {
        let listeners = self.tree.pointer("/static_resources/listeners").and_then(Value::as_array);
        let listener = listeners.into_iter().flatten().find(|listener| listener["name"] == GATEWAY);
        address_of(listener.and_then(|listener| listener.get("address")))
            .unwrap_or_else(|| panic!("{}", self.describe("no listener \"gateway\" with an address")))
    }

    /// The path on which the filter reports its readiness; `None` without such a path or without the filter.
    pub fn readiness_path(&self) -> Option<&str> {
        let mut found = None;
        visit(&self.tree, &mut |map| found = found.or_else(|| map.get("readiness_path")?.as_str()));
        found
    }

    /// The upstream clusters with their addresses in the file. Of several with the same address, the first.
    pub fn upstreams(&self) -> Vec<(String, SocketAddr)> {
        let clusters = self.tree.pointer("/static_resources/clusters").and_then(Value::as_array);
        let named = || {
            clusters.into_iter().flatten().filter_map(|cluster| {
                Some((cluster.get("name")?.as_str()?.to_owned(), address_of(cluster.pointer(ENDPOINT))?))
            })
        };
        let ours = named().filter(|(name, _)| name == CONTROL_PLANE || name == RATE_LIMIT);
        let mut known: Vec<_> = ours.map(|(_, address)| address).collect();
        let mut upstreams: Vec<_> = named().collect();
        upstreams.retain(|(_, address)| {
            let is_new = !known.contains(address);
            known.push(*address);
            is_new
        });
        upstreams
    }

    #[track_caller]
    fn every_wasm_filter(&mut self, pointer: &str, value: &Value) -> &mut Self {
        let message = self.describe(&format!("no Wasm filter with {pointer}"));
        let mut changed = 0;
        for filter in self.wasm_filters() {
            if let Some(there) = filter.pointer_mut(pointer) {
                *there = value.clone();
                changed += 1;
            }
        }
        assert!(changed > 0, "{message}");
        self
    }

    fn resource(&mut self, kind: &str, name: &str) -> Option<&mut Value> {
        let list = self.tree.pointer_mut(&format!("/static_resources/{kind}"))?.as_array_mut()?;
        list.iter_mut().find(|resource| resource["name"] == name)
    }

    fn describe(&self, problem: &str) -> String {
        format!("{}: {problem}", self.file.display())
    }
}

/// Turns a Wasm filter whose module is a shared library into the same filter as a dynamic module. It finds all of Envoy's
/// environment, and shares its memory with all filters of its process. Returns whether it is one.
fn use_dynamic_module(filter: &mut Map<String, Value>) -> bool {
    let module = filter.pointer_mut("/config/vm_config/code/local/filename").cloned();
    let Some(module) = module.filter(|module| module.as_str().is_some_and(|module| module.ends_with(".so"))) else {
        return false;
    };
    let configuration = filter.pointer_mut("/config/configuration").map(Value::take);
    let dynamic = json!({
        "@type": DYNAMIC_MODULE,
        "dynamic_module_config": {
            "module": {"local": {"filename": module}},
            "do_not_close": true,
            "metrics_namespace": "wasmcustom",
        },
        "filter_name": "keyward",
        "filter_config": configuration,
    });
    if let Value::Object(dynamic) = dynamic {
        *filter = dynamic;
    }
    true
}

/// Writes listeners in the format of listener discovery; the file is replaced atomically, as Envoy requires.
fn write_listeners(mut listeners: Value, file: &Path) -> Result<()> {
    for listener in listeners.as_array_mut().into_iter().flatten() {
        listener["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener".into();
    }
    let new = file.with_extension("new");
    fs::write(&new, json!({"resources": listeners}).to_string()).context(|| new.display().to_string())?;
    fs::rename(&new, file).context(|| file.display().to_string())
}

/// The HTTP connection manager of the gateway.
const HCM: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

/// The endpoint of a cluster with one endpoint.
const ENDPOINT: &str = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address";

/// An example key and request.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// The arguments of `keyward keys create`.
    pub create: String,
    /// A path that the key may access.
    pub path: String,
}

impl Default for Example {
    fn default() -> Self {
        Self { create: "--name demo".to_owned(), path: "/hello".to_owned() }
    }
}

/// The differences of a dialect's gateway from the shipped file.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Variant {
    /// An example key and request.
    example: Option<Example>,
    /// The arguments of `keyward serve`.
    serve: Vec<String>,
    /// Merged into the filter's configuration.
    filter: Value,
    /// Replaces the routes after the first, which is public.
    routes: Vec<Value>,
    /// Names of additional clusters like `upstream`.
    upstreams: Vec<String>,
    /// Other additional clusters.
    clusters: Vec<Value>,
    /// HTTP filters before the filter.
    before_filter: Vec<Value>,
    /// HTTP filters between the filter and the guard.
    before_guard: Vec<Value>,
    /// Merged into the guard's policies.
    policies: Value,
}

/// Applies a JSON Merge Patch (RFC 7386); an absent patch changes nothing.
fn merge(there: &mut Value, patch: &Value) {
    match (there, patch) {
        (Value::Object(there), Value::Object(patch)) => {
            for (name, patch) in patch {
                if patch.is_null() {
                    there.remove(name);
                } else {
                    merge(there.entry(name.clone()).or_insert(Value::Null), patch);
                }
            }
        }
        (_, Value::Null) => {}
        (there, patch) => *there = patch.clone(),
    }
}

/// `Value::pointer_mut` for a map.
trait PointerMut {
    fn pointer_mut(&mut self, pointer: &str) -> Option<&mut Value>;
}

impl PointerMut for Map<String, Value> {
    fn pointer_mut(&mut self, pointer: &str) -> Option<&mut Value> {
        let (name, rest) = pointer.strip_prefix('/')?.split_once('/')?;
        self.get_mut(name)?.pointer_mut(&format!("/{rest}"))
    }
}

/// Collects all matching maps of a tree, without descending into matches.
fn collect<'a>(
    tree: &'a mut Value,
    found: &mut Vec<&'a mut Map<String, Value>>,
    wanted: impl Fn(&Map<String, Value>) -> bool + Copy,
) {
    match tree {
        Value::Object(map) => {
            if wanted(map) {
                found.push(map);
            } else {
                map.values_mut().for_each(|value| collect(value, found, wanted));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| collect(value, found, wanted)),
        _ => {}
    }
}

fn visit<'a>(tree: &'a Value, see: &mut impl FnMut(&'a Map<String, Value>)) {
    match tree {
        Value::Object(map) => {
            see(map);
            map.values().for_each(|value| visit(value, see));
        }
        Value::Array(list) => list.iter().for_each(|value| visit(value, see)),
        _ => {}
    }
}

/// Replaces a substring in every string.
fn replace(tree: &mut Value, old: &str, new: &str) {
    match tree {
        Value::String(text) => *text = text.replace(old, new),
        Value::Array(list) => list.iter_mut().for_each(|value| replace(value, old, new)),
        Value::Object(map) => map.values_mut().for_each(|value| replace(value, old, new)),
        _ => {}
    }
}

#[track_caller]
fn set_address(there: Option<&mut Value>, address: SocketAddr, message: &str) {
    let Some(socket) = there.and_then(|address| address.pointer_mut("/socket_address")) else { panic!("{message}") };
    socket["address"] = address.ip().to_string().into();
    socket["port_value"] = address.port().into();
}

fn address_of(there: Option<&Value>) -> Option<SocketAddr> {
    let socket = there?.pointer("/socket_address")?;
    let port = u16::try_from(socket.get("port_value")?.as_u64()?).ok()?;
    Some(SocketAddr::new(socket.get("address")?.as_str()?.parse().ok()?, port))
}

/// Validates a configuration with Envoy.
pub fn validate(envoy: &Path, file: &Path) -> Result<()> {
    let output = std::process::Command::new(envoy)
        .args(["--mode", "validate", "--config-path"])
        .arg(file)
        .current_dir(artifacts::root())
        .output()
        .context(|| envoy.display().to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(String::from_utf8_lossy(&output.stderr)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::loopback;

    #[test]
    fn shipped_file_has_all_that_a_run_changes() {
        let mut config = EnvoyConfig::shipped().unwrap();
        assert_eq!(config.gateway(), loopback(8080));
        assert_eq!(config.admin(), loopback(9901));
        assert_eq!(config.upstreams(), [("upstream".to_owned(), loopback(8090))]);
        assert_eq!(config.readiness_path(), Some("/keyward/ready"));
        config
            .set_gateway(loopback(1))
            .set_admin(loopback(2))
            .set_cluster("upstream", loopback(3))
            .set_cluster(CONTROL_PLANE, loopback(4))
            .set_module(Path::new("/filter.wasm"))
            .set_dialect(&"exona".into());
        assert_eq!((config.gateway(), config.admin()), (loopback(1), loopback(2)));
        assert_eq!(config.upstreams(), [("upstream".to_owned(), loopback(3))]);
        assert_eq!(config.filter()["dialect"], "exona");
        let text = config.tree_mut().to_string();
        for default in ["8080", "8081", "8090", "9901", "target/"] {
            assert!(!text.contains(default), "{default} is still in {text}");
        }
    }

    /// The limits of one client are below the limits of all requests with keys.
    #[test]
    fn shipped_limits_fit_the_number_of_streams() {
        let mut files: Vec<_> = ["keyward", "exograph", "exona", "graph8", "ai-api", "auxot"]
            .map(|dialect| EnvoyConfig::variant(dialect).unwrap())
            .into();
        files.push(EnvoyConfig::fleet().unwrap());
        for config in files {
            let of = |pointer: &str| config.tree.pointer(pointer).cloned().unwrap_or_else(|| panic!("no {pointer}"));
            let streams = of(&format!("{HCM}/http2_protocol_options/max_concurrent_streams")).as_u64().unwrap();
            let routes = of(&format!("{HCM}/route_config/virtual_hosts/0/routes"));
            let clusters = of("/static_resources/clusters");
            for route in routes.as_array().unwrap().iter().filter(|route| route.get("route").is_some()) {
                let cluster = &route["route"]["cluster"];
                assert_ne!(cluster, CONTROL_PLANE, "expected a separate cluster for user requests: {route}");
                let cluster = clusters.as_array().unwrap().iter().find(|known| known["name"] == *cluster).unwrap();
                let bounds = &cluster["circuit_breakers"]["thresholds"][0];
                let bound = |name: &str| bounds[name].as_u64().unwrap_or_else(|| panic!("{name} of {cluster}"));
                let timeout = route["route"].pointer("/max_stream_duration/max_stream_duration");
                // Either for requests with keys, or few and short.
                if cluster["name"] == "upstream" || cluster["name"] == "sandbox" {
                    assert!(bound("max_requests") >= 50 * streams && bound("max_connections") > bound("max_requests"));
                } else {
                    assert!(bound("max_requests") <= 100 && timeout.is_some(), "{route}");
                }
                let is_public = route["match"]["path"] == "/health";
                assert_eq!(cluster["name"] == "upstream_public", is_public, "{route}");
            }
        }
    }

    #[test]
    fn native_file_is_the_shipped_one_with_the_module() {
        let module = format!("target/native/lib{}.so", artifacts::native_name().unwrap());
        let file = std::env::temp_dir().join(format!("keyward-native-{}.json", std::process::id()));
        EnvoyConfig::shipped().unwrap().set_module(Path::new(&module)).write(&file).unwrap();
        let written: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(EnvoyConfig::shipped_native().unwrap().tree, written);
    }

    #[test]
    fn fleet_file_is_the_shipped_one_with_four_additions() {
        let mut fleet = EnvoyConfig::fleet().unwrap();
        let shipped = EnvoyConfig::shipped().unwrap();
        assert_eq!(fleet.upstreams(), shipped.upstreams());
        let names: Vec<_> = fleet.http_filters().iter().map(|filter| filter["name"].clone()).collect();
        let expected =
            ["keyward", "keyward_guard", "envoy.filters.http.buffer", RATE_LIMIT_FILTER, "envoy.filters.http.router"];
        assert_eq!(names, expected);
        fleet.http_filters().retain(|filter| filter["name"] != RATE_LIMIT_FILTER);
        let clusters = fleet.tree["static_resources"]["clusters"].as_array_mut().unwrap();
        clusters.retain(|cluster| cluster["name"] != RATE_LIMIT);
        let manager = fleet.tree.pointer_mut(HCM).unwrap();
        assert!(manager.as_object_mut().unwrap().remove("local_reply_config").is_some());
        let host = manager.pointer_mut("/route_config/virtual_hosts/0").unwrap();
        assert!(host.as_object_mut().unwrap().remove("rate_limits").is_some());
        assert_eq!(fleet.tree, shipped.tree);
    }

    /// Istio's filter and guard equal the shipped ones except for the module and the cluster.
    #[test]
    fn istio_filter_and_guard_match_the_shipped_ones() {
        let text = fs::read_to_string(artifacts::root().join("envoy/mesh/istio.yaml")).unwrap();
        let istio: Value = serde_saphyr::from_str(&text).unwrap();
        let patches = istio["spec"]["configPatches"].as_array().unwrap();
        let mut shipped = EnvoyConfig::shipped().unwrap();
        for name in ["keyward", "keyward_guard"] {
            let mut patched =
                patches.iter().map(|patch| &patch["patch"]["value"]).filter(|value| value["name"] == name);
            let mut filter = patched.next().unwrap().clone();
            let expected = shipped.http_filters().iter().find(|filter| filter["name"] == name).unwrap().clone();
            for field in [
                "/typed_config/config/vm_config/code/local/filename",
                "/typed_config/config/configuration/value/control_plane/cluster",
            ] {
                if let Some(value) = filter.pointer_mut(field) {
                    *value = expected.pointer(field).unwrap().clone();
                }
            }
            assert_eq!(filter, expected);
            assert_eq!(patched.next(), None);
        }
    }

    /// Guard and settings of the TrafficExtension's file equal those of Istio's other file, and its filter the shipped one.
    #[test]
    fn istio_traffic_extension_matches_the_envoy_filter() {
        let read = |name: &str| -> Vec<Value> {
            let text = fs::read_to_string(artifacts::root().join("envoy/mesh").join(name)).unwrap();
            serde_saphyr::from_multiple(&text).unwrap()
        };
        let patches = |resource: &Value| -> Vec<(Value, Value)> {
            let patches = resource["spec"]["configPatches"].as_array().unwrap().iter();
            patches.map(|patch| (patch["applyTo"].clone(), patch["patch"]["value"].clone())).collect()
        };
        let (filter, extension) = (read("istio.yaml"), read("istio-traffic-extension.yaml"));
        let mut expected = patches(&filter[0]);
        expected.retain(|(_, value)| value["name"] != "keyward");
        assert_eq!(patches(&extension[0]), expected);
        assert_eq!(extension[1]["kind"], "TrafficExtension");
        let mut configuration = extension[1].pointer("/spec/wasm/pluginConfig").unwrap().clone();
        let mut shipped = EnvoyConfig::shipped().unwrap();
        configuration["control_plane"]["cluster"] = shipped.filter()["control_plane"]["cluster"].clone();
        assert_eq!(&configuration, shipped.filter());
    }

    /// Filter, guard and cluster of Envoy Gateway equal the shipped ones except for the module and the cluster's address.
    #[test]
    fn envoy_gateway_policies_match_the_shipped_configuration() {
        let text = fs::read_to_string(artifacts::root().join("envoy/mesh/envoy-gateway.yaml")).unwrap();
        let gateway: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let named = |resources: &[Value], kind: &str, name: &str, pointer: &str| {
            let mut found = resources.iter().filter(|one| one["kind"] == kind && one["metadata"]["name"] == name);
            found.next().unwrap().pointer(pointer).unwrap().clone()
        };
        let mut shipped = EnvoyConfig::shipped().unwrap();
        let guard = shipped.http_filters().iter().find(|filter| filter["name"] == GUARD).unwrap().clone();
        let filter = shipped.filter().clone();
        let patch = "/spec/jsonPatches/0/operation/value";
        assert_eq!(named(&gateway, "EnvoyPatchPolicy", "keyward-guard", patch), guard);
        assert_eq!(named(&gateway, "EnvoyExtensionPolicy", "keyward", "/spec/wasm/0/config"), filter);
        let clusters = shipped.tree["static_resources"]["clusters"].as_array().unwrap();
        let expected = clusters.iter().find(|cluster| cluster["name"] == CONTROL_PLANE).unwrap();
        let mut cluster = named(&gateway, "EnvoyPatchPolicy", "keyward-control-plane", patch);
        cluster["type"] = expected["type"].clone();
        cluster["load_assignment"] = expected["load_assignment"].clone();
        assert_eq!(&cluster, expected);
    }

    #[test]
    #[should_panic(expected = "no cluster \"nonsense\"")]
    fn change_without_a_target_panics() {
        EnvoyConfig::shipped().unwrap().set_cluster("nonsense", loopback(1));
    }
}
