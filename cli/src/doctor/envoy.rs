//! Envoy, by its admin interface: its state, the filter in it, and its connection to the control plane.

use super::files::judge_configuration;
use crate::config::FilterConfig;
use crate::envoy_admin::EnvoyAdmin;
use crate::findings::Check;
use serde_json::Value;

/// From this age on the snapshot is not followed: long polls take seconds.
const MAX_SNAPSHOT_AGE_MS: u64 = 60_000;

pub(super) fn checks(admin: Option<&EnvoyAdmin>) -> Vec<Check> {
    let mut envoy = Check::new("envoy", "Envoy is live and runs the filter");
    let mut cluster = Check::new("feed", "Envoy follows the control plane");
    let Some(admin) = admin else {
        for check in [&mut envoy, &mut cluster] {
            check.cannot("no admin interface was named", "name Envoy's with --admin");
        }
        return vec![envoy, cluster];
    };
    match live(&mut envoy, admin) {
        Ok(filters) => follows(&mut cluster, admin, &filters),
        Err(error) => {
            envoy.fail(error, "start Envoy, and name the address under `admin` of its configuration with --admin");
            cluster.cannot("Envoy's admin interface does not answer", "see above");
        }
    }
    vec![envoy, cluster]
}

fn live(check: &mut Check, admin: &EnvoyAdmin) -> Result<Vec<FilterConfig>, String> {
    let info = admin.json("/server_info")?;
    let text = |pointer: &str| info.pointer(pointer).and_then(Value::as_str).unwrap_or("unknown").to_owned();
    let (version, state) = (text("/version"), text("/state"));
    let version = version.split('/').nth(1).unwrap_or(&version).to_owned();
    if state == "LIVE" {
        check.pass(format!("Envoy {version} is live"));
    } else {
        check.fail(
            format!("Envoy {version} is in the state {state}"),
            "wait until its clusters and listeners are initialized, and look into its log",
        );
    }
    let filters = admin.filters()?;
    if filters.is_empty() {
        check.fail(
            "no listener runs the filter",
            "see that Envoy runs the configuration that is meant, and that its listeners were accepted (its log)",
        );
    }
    filters.iter().for_each(|filter| judge_configuration(check, "the configuration that Envoy runs", filter));
    let stats = admin.stats("keyward_")?;
    let has_metrics = stats.keys().any(|name| name.ends_with("keyward_feed_pages"));
    if has_metrics {
        check.pass("the module is loaded: it reports metrics");
    } else if !filters.is_empty() {
        check.fail(
            "the module is not loaded: it reports no metrics",
            "Envoy skips a Wasm filter that cannot start, and the guard refuses its requests: look for `wasm` or \
             `dynamic_modules` in Envoy's log",
        );
    }
    Ok(filters)
}

fn follows(check: &mut Check, admin: &EnvoyAdmin, filters: &[FilterConfig]) {
    let mut clusters: Vec<String> =
        filters.iter().filter_map(|filter| Some(filter.parse().ok()?.control_plane.cluster)).collect();
    clusters.dedup();
    match admin.json("/clusters?format=json") {
        Ok(document) => clusters.iter().for_each(|name| judge_cluster(check, &document, name)),
        Err(error) => check.cannot(error, "see above"),
    }
    match admin.stats("keyward_(snapshot_age_ms%7Csnapshot_records%7Cfeed_failures%7Cfeed_pages%24)") {
        Ok(stats) => judge_snapshot(check, &stats),
        Err(error) => check.cannot(error, "see above"),
    }
}

fn judge_cluster(check: &mut Check, document: &Value, name: &str) {
    let clusters = document.get("cluster_statuses").and_then(Value::as_array);
    let cluster = clusters.into_iter().flatten().find(|cluster| cluster.get("name").is_some_and(|of| of == name));
    let Some(cluster) = cluster else {
        return check.fail(
            format!("Envoy has no cluster {name}"),
            "add the cluster of the control plane, as in envoy/envoy.yaml",
        );
    };
    let hosts = cluster.get("host_statuses").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let healthy = hosts.iter().filter(|host| is_healthy(host)).count();
    match (hosts.len(), healthy) {
        (0, _) => check
            .fail(format!("the cluster {name} has no host"), "see that the name of the control plane can be resolved"),
        (number, 0) => check.fail(
            format!("of the cluster {name}, none of {number} hosts is healthy"),
            "start the control plane, and see that Envoy's machine reaches it under the cluster's address",
        ),
        (number, healthy) if healthy < number => {
            check.warn(format!("of the cluster {name}, {healthy} of {number} hosts are healthy"), "look at the others");
        }
        (number, _) => check.pass(format!("the cluster {name} is healthy ({number})")),
    }
}

fn is_healthy(host: &Value) -> bool {
    let health = host.get("health_status");
    let failed = health
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .any(|(name, value)| name.starts_with("failed_") && *value == true);
    let status = health.and_then(|health| health.get("eds_health_status")).and_then(Value::as_str).unwrap_or("HEALTHY");
    !failed && status == "HEALTHY"
}

fn judge_snapshot(check: &mut Check, stats: &std::collections::BTreeMap<String, u64>) {
    let of = |name: &str| stats.iter().find(|(of, _)| of.ends_with(name)).map(|(_, value)| *value);
    let (age, failures) = (of("keyward_snapshot_age_ms"), of("keyward_feed_failures").unwrap_or(0));
    // Without a page the age is 0.
    let has_pages = of("keyward_feed_pages").is_some_and(|pages| pages > 0);
    if let Some(records) = of("keyward_snapshot_records") {
        check.measure("records", records);
    }
    check.measure("feed_failures", failures);
    let action = "see that Envoy's machine reaches the control plane, and that its edge token is valid (status \
                  401 in Envoy's log)";
    match age {
        Some(age) if has_pages && age > MAX_SNAPSHOT_AGE_MS => check.fail(
            format!(
                "the control plane last answered {} s ago: changes since then do not hold at this gateway",
                age / 1000
            ),
            action,
        ),
        Some(age) if has_pages => {
            check.measure("snapshot_age_ms", age);
            check.pass(format!("the control plane last answered {age} ms ago"));
        }
        _ if failures > 0 => {
            check.fail(format!("the control plane has sent no keys, and {failures} polls have failed"), action);
        }
        _ => check
            .cannot("the age of the keys is not known", "see that the filter is loaded, and look again in a moment"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Outcome;
    use serde_json::json;

    #[test]
    fn cluster_is_judged_by_its_hosts() {
        let judged = |hosts: Value| {
            let document = json!({"cluster_statuses": [{"name": "c", "host_statuses": hosts}]});
            let mut check = Check::new("feed", "");
            judge_cluster(&mut check, &document, "c");
            check.outcome()
        };
        let healthy = || json!({"health_status": {"eds_health_status": "HEALTHY"}});
        let ejected = || json!({"health_status": {"eds_health_status": "HEALTHY", "failed_outlier_check": true}});
        assert_eq!(judged(json!([healthy()])), Outcome::Passed);
        assert_eq!(judged(json!([healthy(), ejected()])), Outcome::Warning);
        assert_eq!(judged(json!([ejected()])), Outcome::Failed);
        assert_eq!(judged(json!([])), Outcome::Failed);
    }

    #[test]
    fn old_snapshot_and_a_feed_that_never_answered_fail() {
        let judged = |stats: &[(&str, u64)]| {
            let stats = stats.iter().map(|(name, value)| (format!("wasmcustom.{name}"), *value)).collect();
            let mut check = Check::new("feed", "");
            judge_snapshot(&mut check, &stats);
            check.outcome()
        };
        let pages = ("keyward_feed_pages", 1);
        assert_eq!(judged(&[pages, ("keyward_snapshot_age_ms", 900), ("keyward_feed_failures", 3)]), Outcome::Passed);
        assert_eq!(judged(&[pages, ("keyward_snapshot_age_ms", 90_000)]), Outcome::Failed);
        assert_eq!(judged(&[("keyward_snapshot_age_ms", 0), ("keyward_feed_failures", 3)]), Outcome::Failed);
        assert_eq!(judged(&[]), Outcome::NotChecked);
    }
}
