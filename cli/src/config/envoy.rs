//! What the filter needs around it in a configuration of Envoy: the guard, the clusters, the environment variables.

use super::document::{FilterConfig, Plugin};
use super::guard::{Guard, Policy};
use super::report::{Report, problem};
use keyward_filter::engine::rules::{Access, PathMatch, Rule};
use keyward_filter::policy::{Config, DigestSetting};
use serde_json::Value;

/// Checks what is around a configuration that has no mistakes itself.
pub(super) fn check(config: &Config, filter: &FilterConfig, report: &mut Report) {
    match &filter.plugin {
        None => return,
        Some(Plugin::Wasm(plugin)) => {
            check_environment(config, plugin, report);
            check_module(config, plugin, report);
        }
        // It has all of Envoy's environment, and one file for all configurations.
        Some(Plugin::DynamicModule) => {}
    }
    check_cluster(config, &filter.document, report);
    let configured = filter.configuration.as_ref().ok();
    if filter.is_struct && configured.is_some_and(|value| value.get("dialect").is_some_and(Value::is_object)) {
        report.warnings.push(problem(
            "dialect",
            "expected a google.protobuf.StringValue with the configuration as JSON, got a Struct: a Struct does not keep the order \
             of fields, which is the order in error bodies",
        ));
    }
    match guard_of(filter) {
        Some(guard) => check_guard(config, &guard, report),
        None => report.mistakes.push(problem(
            "",
            "no guard behind the filter: if the filter cannot start, Envoy skips it and passes every request. Add the RBAC filter \
             keyward_guard of envoy/envoy.yaml behind the filter",
        )),
    }
}

/// The guard behind the filter, or anywhere if the filter is not in a list.
pub(crate) fn guard_of(filter: &FilterConfig) -> Option<Guard> {
    match &filter.behind {
        Some(behind) => Guard::among(behind),
        None => Guard::in_document(&filter.document),
    }
}

fn check_environment(config: &Config, plugin: &Value, report: &mut Report) {
    let environment = plugin.pointer("/vm_config/environment_variables");
    let is_passed = |name: &str| {
        let keys = environment.and_then(|given| given.get("host_env_keys")).and_then(Value::as_array);
        let is_key = keys.is_some_and(|keys| keys.iter().any(|key| key == name));
        is_key || environment.and_then(|given| given.get("key_values")).is_some_and(|given| given.get(name).is_some())
    };
    let peppers = config.digests.iter().filter_map(|digest| match digest {
        DigestSetting::HmacSha256 { pepper_env } => Some((pepper_env, "without its pepper the filter does not start")),
        DigestSetting::Sha256 | DigestSetting::Sha512 => None,
    });
    let token = config
        .control_plane
        .token_env
        .iter()
        .map(|name| (name, "without the edge token the control plane answers 401"));
    for (name, why) in token.chain(peppers).filter(|(name, _)| !is_passed(name)) {
        report.mistakes.push(problem(
            "vm_config.environment_variables.host_env_keys",
            format!("add {name:?}: Envoy passes the filter only the variables named here, and {why}"),
        ));
    }
}

fn check_module(config: &Config, plugin: &Value, report: &mut Report) {
    let module = plugin.pointer("/vm_config/code/local/filename").and_then(Value::as_str);
    let is_plain = module.is_some_and(|module| module.ends_with("keyward_filter.wasm"));
    if is_plain && config.policy.rate_limit_headers.are_on_allowed() {
        report.mistakes.push(problem(
            "rate_limit_headers",
            "`always` needs the module keyward_filter_response_headers.wasm, which Envoy calls for responses, too; vm_config.code \
             names keyward_filter.wasm",
        ));
    }
}

fn check_cluster(config: &Config, document: &Value, report: &mut Report) {
    let Some(clusters) = document.pointer("/static_resources/clusters").and_then(Value::as_array) else { return };
    let cluster = &config.control_plane.cluster;
    if clusters.iter().any(|given| given.get("name").is_some_and(|name| name == cluster)) {
        return;
    }
    let names: Vec<_> = clusters.iter().filter_map(|given| given.get("name")?.as_str()).collect();
    let message = format!("no cluster {cluster:?} in static_resources.clusters, which has: {}", names.join(", "));
    let others = document.pointer("/dynamic_resources/cds_config");
    let list = if others.is_some() { &mut report.warnings } else { &mut report.mistakes };
    list.push(problem("control_plane.cluster", message));
}

fn check_guard(config: &Config, guard: &Guard, report: &mut Report) {
    let rules = &config.policy.rules;
    // The rules for metadata, which the filter answers itself, precede the rules of the configuration.
    let written = rules.rules.iter().filter(|rule| !matches!(rule.route.access, Access::Metadata(_)));
    for (n, rule) in written.enumerate() {
        for verdict in verdicts_of(&rule.route.access) {
            let samples = samples(&rule.path);
            let Some(path) = samples.iter().find(|path| guard.passes(verdict, path) == Err(false)) else { continue };
            let policy = match *verdict {
                "public" => "public_routes",
                "delegated" => "delegated_routes",
                _ => "accepted_key",
            };
            report.warnings.push(problem(
                format!("rules[{n}]"),
                format!(
                    "no policy of the guard passes the verdict `{verdict}` at {path}, so Envoy answers 403 `RBAC: access denied`: \
                     add to the permissions of {policy} {}",
                    permission(&rule.path)
                ),
            ));
        }
    }
    for (path, is_prefix) in guard.of_verdict("public").flat_map(Policy::paths) {
        let below = format!("{}/x", path.trim_end_matches('/'));
        let opens = |rule: &Rule| {
            let is_open = matches!(rule.route.access, Access::Public | Access::Optional(_));
            is_open
                && (rule.path.matches(path.as_bytes(), rules.ignore_case)
                    || (is_prefix && overlaps(&rule.path, &path, &below)))
        };
        if !rules.rules.iter().any(opens) {
            report.warnings.push(problem(
                "guard",
                format!(
                    "the guard passes the verdict `public` at {path}, where no rule is public: remove it from the guard"
                ),
            ));
        }
    }
}

/// Whether a rule's paths and those below a prefix have some in common.
fn overlaps(path: &PathMatch, prefix: &str, below: &str) -> bool {
    path.matches(below.as_bytes(), false) || samples(path).iter().any(|sample| sample.starts_with(prefix))
}

/// The verdicts of a rule that the guard has to pass.
pub(super) fn verdicts_of(access: &Access) -> &'static [&'static str] {
    match access {
        Access::Key(_) => &["allow"],
        Access::Optional(_) => &["allow", "public"],
        Access::Public => &["public"],
        Access::Delegated(_) => &["delegated"],
        Access::Metadata(_) => &[],
    }
}

/// Examples of the paths that a rule matches.
pub(crate) fn samples(path: &PathMatch) -> Vec<String> {
    match path {
        PathMatch::Exact(path) => vec![path.clone()],
        PathMatch::Prefix(path) if path.is_empty() => vec!["/".to_owned(), "/x".to_owned()],
        PathMatch::Prefix(path) => vec![path.clone(), format!("{path}/x")],
        PathMatch::Template(segments) => {
            let segments: Vec<_> = segments.iter().map(|segment| segment.as_deref().unwrap_or("x")).collect();
            vec![segments.join("/")]
        }
    }
}

/// A permission of RBAC for those paths.
pub(super) fn permission(path: &PathMatch) -> String {
    let matcher = match path {
        PathMatch::Exact(path) => format!("exact: {path}"),
        PathMatch::Prefix(path) if path.is_empty() => "prefix: /".to_owned(),
        PathMatch::Prefix(path) => format!("prefix: {path}"),
        PathMatch::Template(segments) => {
            let segments: Vec<_> = segments
                .iter()
                .map(|segment| segment.as_deref().map_or_else(|| "[^/]+".to_owned(), regex_escaped))
                .collect();
            format!("safe_regex: {{ regex: {:?} }}", segments.join("/"))
        }
    };
    format!("{{ url_path: {{ path: {{ {matcher} }} }} }}")
}

fn regex_escaped(literal: &str) -> String {
    literal.chars().fold(String::new(), |mut escaped, c| {
        if "\\.+*?()|[]{}^$".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
        escaped
    })
}
