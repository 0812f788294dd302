//! The compared Envoys, which differ only in their HTTP filters.

use keyward_harness::config::CONTROL_PLANE;
use keyward_harness::{EnvoyConfig, Result};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;

/// A measured scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// No filter.
    #[value(name = "a")]
    None,
    /// Envoy's own filters for API keys and local rate limits.
    #[value(name = "b")]
    Native,
    /// Keyward, with a few keys in constant use.
    #[value(name = "c")]
    Keyward,
    /// Keyward with many keys, uniformly used, and the shipped size of the workers' caches.
    #[value(name = "d")]
    KeywardMany,
    /// The same, with caches for all keys.
    #[value(name = "d2")]
    KeywardManyCached,
    /// A separate service that is called for each request over HTTP/1.1.
    #[value(name = "e")]
    ExtAuthz,
    /// The same service, called over gRPC.
    #[value(name = "e2")]
    ExtAuthzGrpc,
    /// Keyward with unknown keys.
    #[value(name = "f")]
    KeywardUnknown,
    /// Keyward as a dynamic module, with a few keys in constant use.
    #[value(name = "g")]
    KeywardNative,
    /// The same without the guard behind it, as the other filters have none.
    #[value(name = "g2")]
    KeywardNativeUnguarded,
    /// The same as `d`, as a dynamic module.
    #[value(name = "h")]
    KeywardNativeMany,
}

/// The Envoys. Scenarios that differ only in their requests share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Filters {
    None,
    Native,
    Keyward,
    KeywardMany,
    KeywardManyCached,
    ExtAuthz,
    ExtAuthzGrpc,
    KeywardNative,
    KeywardNativeUnguarded,
    KeywardNativeMany,
}

/// The addresses that all configurations contain.
pub(crate) struct Places {
    pub(crate) upstream: SocketAddr,
    pub(crate) authorizer: SocketAddr,
}

/// A key and its client's name for Envoy's own filter.
pub(crate) struct HotKey {
    pub(crate) client: String,
    pub(crate) key: String,
}

/// The cluster of the authorization service.
const AUTHORIZER: &str = "authorizer";

/// The same cluster with HTTP/2.
const AUTHORIZER_GRPC: &str = "authorizer_grpc";

/// The scope that Keyward's rule requires and each key has.
pub(crate) const SCOPE: &str = "read";

/// Two windows whose limits are never reached.
pub(crate) const LIMITS: [&str; 2] = ["1000000000/s", "4000000000/min"];

/// The size of a cache for all keys.
pub(crate) const LARGE_CACHE: u64 = 131_072;

impl Scenario {
    /// All scenarios.
    pub(crate) const ALL: [Self; 11] = [
        Self::None,
        Self::Native,
        Self::Keyward,
        Self::KeywardMany,
        Self::KeywardManyCached,
        Self::ExtAuthz,
        Self::ExtAuthzGrpc,
        Self::KeywardUnknown,
        Self::KeywardNative,
        Self::KeywardNativeUnguarded,
        Self::KeywardNativeMany,
    ];

    /// Whether the filter is a dynamic module, which some versions of Envoy do not run.
    pub(crate) fn is_native(self) -> bool {
        self.filters().is_native()
    }

    /// Whether the keys are many, uniformly used.
    pub(crate) fn has_many_keys(self) -> bool {
        self.filters().control_plane() == Some(Keys::Many)
    }

    /// The filters of the scenario.
    pub(crate) fn filters(self) -> Filters {
        match self {
            Self::None => Filters::None,
            Self::Native => Filters::Native,
            Self::Keyward | Self::KeywardUnknown => Filters::Keyward,
            Self::KeywardMany => Filters::KeywardMany,
            Self::KeywardManyCached => Filters::KeywardManyCached,
            Self::ExtAuthz => Filters::ExtAuthz,
            Self::ExtAuthzGrpc => Filters::ExtAuthzGrpc,
            Self::KeywardNative => Filters::KeywardNative,
            Self::KeywardNativeUnguarded => Filters::KeywardNativeUnguarded,
            Self::KeywardNativeMany => Filters::KeywardNativeMany,
        }
    }

    /// The expected status.
    pub(crate) fn status(self) -> u16 {
        if self == Self::KeywardUnknown { 401 } else { 200 }
    }
}

impl Filters {
    /// The control plane that the filter follows, if any.
    pub(crate) fn control_plane(self) -> Option<Keys> {
        match self {
            Self::None | Self::Native | Self::ExtAuthz | Self::ExtAuthzGrpc => None,
            Self::Keyward | Self::KeywardNative | Self::KeywardNativeUnguarded => Some(Keys::Hot),
            Self::KeywardMany | Self::KeywardManyCached | Self::KeywardNativeMany => Some(Keys::Many),
        }
    }

    /// Whether the filter is a dynamic module.
    pub(crate) fn is_native(self) -> bool {
        matches!(self, Self::KeywardNative | Self::KeywardNativeUnguarded | Self::KeywardNativeMany)
    }

    /// The shipped configuration with these filters, except for the ports of the gateway and its admin interface.
    pub(crate) fn config(
        self,
        places: &Places,
        hot: &[HotKey],
        module: &Path,
        feed: SocketAddr,
    ) -> Result<EnvoyConfig> {
        let mut config = common(places, feed)?;
        config.set_module(module);
        let snapshot = match self {
            // About one bucket per 16 keys, as in docs/reference/rate-limits.md.
            Self::KeywardMany | Self::KeywardNativeMany => json!({ "limit_buckets": 8192 }),
            Self::KeywardManyCached => json!({ "limit_buckets": 8192, "cache_records": LARGE_CACHE }),
            _ => json!({}),
        };
        let filter = config.filter();
        for (name, value) in snapshot.as_object().into_iter().flatten() {
            filter["snapshot"][name] = value.clone();
        }
        filter["rules"][1] = json!({ "path": { "prefix": "/" }, "access": "key", "scopes": [SCOPE] });
        let instead = match self {
            Self::Keyward
            | Self::KeywardMany
            | Self::KeywardManyCached
            | Self::KeywardNative
            | Self::KeywardNativeMany => return Ok(config),
            Self::KeywardNativeUnguarded => {
                config.remove_guard();
                return Ok(config);
            }
            Self::None => Vec::new(),
            Self::Native => native(hot),
            Self::ExtAuthz => vec![ext_authz(&json!({
                "http_service": {
                    "server_uri": { "uri": "http://authorizer", "cluster": AUTHORIZER, "timeout": "1s" },
                    "authorization_response": {
                        "allowed_upstream_headers": { "patterns": [{ "exact": "x-client" }] },
                    },
                },
            }))],
            Self::ExtAuthzGrpc => vec![ext_authz(&json!({
                "grpc_service": { "envoy_grpc": { "cluster_name": AUTHORIZER_GRPC }, "timeout": "1s" },
            }))],
        };
        let filters = config.http_filters();
        filters.retain(|filter| filter["name"] == "envoy.filters.http.router");
        filters.splice(..0, instead);
        Ok(config)
    }
}

/// The keys of a control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Keys {
    Hot,
    Many,
}

/// The common part: the shipped hardening, two routes, the same clusters, no access log.
fn common(places: &Places, feed: SocketAddr) -> Result<EnvoyConfig> {
    let mut config = EnvoyConfig::shipped()?;
    config.set_cluster("upstream", places.upstream).set_cluster(CONTROL_PLANE, feed);
    config.routes().insert(
        0,
        json!({
            "match": { "path": "/direct" },
            "direct_response": { "status": 200, "body": { "inline_string": "ok" } },
        }),
    );
    let tree = config.tree_mut();
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let manager = tree.pointer_mut(manager).and_then(Value::as_object_mut).expect("an HTTP connection manager");
    manager.remove("access_log").expect("an access log");
    // Connections idle between their rounds longer than clients' may.
    manager["common_http_protocol_options"]["idle_timeout"] = "3600s".into();
    let listener = tree["static_resources"]["listeners"][0].as_object_mut().expect("a listener");
    listener.remove("listener_filters").expect("listener filters");
    // HTTP/2, like the feed.
    let options = "typed_extension_protocol_options";
    let clusters = tree["static_resources"]["clusters"].as_array().expect("clusters");
    let control_plane = clusters.iter().find(|cluster| cluster["name"] == CONTROL_PLANE).expect("a shipped cluster");
    let http2 = control_plane[options].clone();
    config.add_upstream(AUTHORIZER, places.authorizer);
    config.add_upstream(AUTHORIZER_GRPC, places.authorizer)[options] = http2;
    Ok(config)
}

/// Envoy's own filters: plaintext keys in the configuration, and two token buckets per client.
fn native(hot: &[HotKey]) -> Vec<Value> {
    let credentials: Vec<Value> =
        hot.iter().map(|HotKey { client, key }| json!({ "client": client, "key": key })).collect();
    // A descriptor without a value matches every value, with a separate bucket for each.
    let windows = [("client_second", "1s"), ("client_minute", "60s")];
    let always = json!({ "default_value": { "numerator": 100, "denominator": "HUNDRED" } });
    vec![
        json!({
            "name": "envoy.filters.http.api_key_auth",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
                "credentials": credentials,
                "key_sources": [{ "header": "authorization" }],
                "forwarding": { "header": "x-client", "hide_credentials": true },
            },
        }),
        json!({
            "name": "envoy.filters.http.local_ratelimit",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
                "stat_prefix": "limits",
                "filter_enabled": always,
                "filter_enforced": always,
                "always_consume_default_token_bucket": false,
                // The maximum number of clients with buckets; the default is 20.
                "max_dynamic_descriptors": 1024,
                "token_bucket": bucket("1s"),
                "rate_limits": windows.map(|(descriptor, _)| json!({
                    "actions": [{
                        "request_headers": { "header_name": "x-client", "descriptor_key": descriptor }
                    }]
                })),
                "descriptors": windows.map(|(descriptor, window)| json!({
                    "entries": [{ "key": descriptor }],
                    "token_bucket": bucket(window),
                })),
            },
        }),
    ]
}

fn bucket(window: &str) -> Value {
    json!({ "max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000, "fill_interval": window })
}

/// Calls an authorization service, which receives the key and no other header field.
fn ext_authz(service: &Value) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "allowed_headers": { "patterns": [{ "exact": "authorization" }] },
    });
    for (name, value) in service.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    json!({ "name": "envoy.filters.http.ext_authz", "typed_config": config })
}
