//! The guard, in the configuration: a client cannot switch the filter off to see it at work.

use super::Run;
use crate::config::{FilterConfig, guard_of};
use crate::findings::Check;
use serde_json::Value;

const ADD: &str =
    "add the RBAC filter keyward_guard of envoy/envoy.yaml behind the filter: Envoy skips a filter that cannot start";

impl Run<'_> {
    pub(super) fn guard(&self, check: &mut Check) {
        if self.plan.filters.is_empty() {
            let file = self.arguments.config.is_some() || self.admin.is_some();
            if file {
                check.fail(
                    "the configuration that Envoy runs does not have the filter",
                    "see that the URL of --admin is that of the gateway",
                );
            } else {
                check.cannot(
                    "Envoy's configuration is not known, and a client cannot switch the filter off",
                    "name Envoy's configuration with --config, or its admin interface with --admin",
                );
            }
            return;
        }
        for (from, filter) in &self.plan.filters {
            judge(check, from, filter);
        }
    }
}

fn judge(check: &mut Check, from: &str, filter: &FilterConfig) {
    if filter.plugin.is_none() {
        check.cannot(
            format!("{from} has the filter's configuration alone"),
            "name the configuration of Envoy with --config, or its admin interface with --admin",
        );
        return;
    }
    let Some(guard) = guard_of(filter) else {
        check.fail(format!("no guard stands behind the filter in {from}"), ADD);
        return;
    };
    let open = guard.open_policies();
    if !open.is_empty() {
        check.fail(
            format!("policies of the guard in {from} pass requests without the filter's verdict: {}", open.join(", ")),
            "let every policy of the guard require `filter_state: { key: wasm.keyward.verdict }`",
        );
        return;
    }
    if is_overridden(&filter.document) {
        check.cannot(
            format!("a route in {from} overrides an RBAC filter (typed_per_filter_config)"),
            "see that no route disables the guard",
        );
        return;
    }
    check.pass(format!("in {from}, every policy of the guard requires the filter's verdict"));
}

/// Whether a route changes an RBAC filter, or switches the guard off.
fn is_overridden(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, field)| {
            let overrides = name == "typed_per_filter_config" && field.to_string().contains("RBACPerRoute");
            let is_guard =
                field.as_object().is_some_and(|filter| filter.get("name").is_some_and(|name| name == "keyward_guard"));
            let is_off = is_guard && field.get("disabled").is_some_and(|disabled| disabled == true);
            overrides || is_off || is_overridden(field)
        }),
        Value::Array(elements) => elements.iter().any(is_overridden),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::find_filters;
    use crate::findings::Outcome;

    fn judged(change: impl FnOnce(String) -> String) -> Outcome {
        let text = change(include_str!("../../../../envoy/envoy.yaml").to_owned());
        let mut check = Check::new("guard", "");
        for filter in find_filters(&text).unwrap() {
            judge(&mut check, "f", &filter);
        }
        check.outcome()
    }

    #[test]
    fn guard_is_judged_by_its_policies_and_place() {
        assert_eq!(judged(|text| text), Outcome::Passed);
        assert_eq!(judged(|text| text.replace("key: wasm.keyward.verdict", "key: other")), Outcome::Failed);
        let any = "- filter_state: { key: wasm.keyward.verdict, string_match: { exact: allow } }";
        assert_eq!(judged(|text| text.replacen(any, "- any: true", 1)), Outcome::Failed);
        let per_route = "envoy.filters.http.buffer:\n                              \"@type\": \
                         type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute";
        let rbac = "keyward_guard:\n                              \"@type\": \
                    type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
        assert_eq!(judged(|text| text.replacen(per_route, rbac, 1)), Outcome::NotChecked);
    }
}
