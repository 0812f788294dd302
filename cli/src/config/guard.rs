//! The guard, an RBAC filter behind Keyward's: which verdicts it passes at which paths.

use serde_json::Value;

/// What the guard's policies pass.
pub(super) struct Guard {
    policies: Vec<Policy>,
}

pub(super) struct Policy {
    pub(super) name: String,
    verdicts: Vec<String>,
    permissions: Vec<Value>,
}

/// The key of the filter state that holds the verdict.
const VERDICT: &str = "wasm.keyward.verdict";

impl Guard {
    /// The guard among HTTP filters: the first RBAC filter that allows by the verdict.
    pub(super) fn among(filters: &[Value]) -> Option<Self> {
        filters.iter().find_map(Self::of)
    }

    /// The guard anywhere in a document, for configurations without a list of filters.
    pub(super) fn in_document(document: &Value) -> Option<Self> {
        Self::of(document).or_else(|| children(document).into_iter().find_map(Self::in_document))
    }

    fn of(filter: &Value) -> Option<Self> {
        let rules = filter.pointer("/typed_config/rules")?;
        // ALLOW is the default of RBAC.
        let is_allow = rules.get("action").is_none_or(|action| action == "ALLOW");
        let policies = rules.get("policies")?.as_object()?.iter().map(|(name, policy)| Policy {
            name: name.clone(),
            verdicts: policy.get("principals").map(verdicts).unwrap_or_default(),
            permissions: policy.get("permissions").and_then(Value::as_array).cloned().unwrap_or_default(),
        });
        let policies: Vec<_> = policies.filter(|policy| !policy.verdicts.is_empty()).collect();
        (is_allow && !policies.is_empty()).then_some(Self { policies })
    }

    /// The policy that passes a verdict at a path. `Err(true)` if one may, by conditions that are not evaluated here, and
    /// `Err(false)` if none does.
    pub(super) fn passes(&self, verdict: &str, path: &str) -> Result<&str, bool> {
        let mut is_open = false;
        for policy in self.of_verdict(verdict) {
            match any(&policy.permissions, path) {
                Some(true) => return Ok(&policy.name),
                None => is_open = true,
                Some(false) => {}
            }
        }
        Err(is_open)
    }

    pub(super) fn of_verdict(&self, verdict: &str) -> impl Iterator<Item = &Policy> {
        self.policies.iter().filter(move |policy| policy.verdicts.iter().any(|passed| passed == verdict))
    }
}

impl Policy {
    /// The paths that its permissions name, each with whether it is a prefix.
    pub(super) fn paths(&self) -> Vec<(String, bool)> {
        let mut paths = Vec::new();
        self.permissions.iter().for_each(|permission| collect_paths(permission, &mut paths));
        paths
    }
}

fn collect_paths(permission: &Value, paths: &mut Vec<(String, bool)>) {
    let matcher = permission.pointer("/url_path/path");
    for (kind, is_prefix) in [("exact", false), ("prefix", true)] {
        if let Some(path) = matcher.and_then(|matcher| matcher.get(kind)).and_then(Value::as_str) {
            paths.push((path.to_owned(), is_prefix));
        }
    }
    for several in ["/and_rules/rules", "/or_rules/rules"] {
        let rules = permission.pointer(several).and_then(Value::as_array);
        rules.into_iter().flatten().for_each(|permission| collect_paths(permission, paths));
    }
}

/// The verdicts that principals ask for, wherever among others.
fn verdicts(principals: &Value) -> Vec<String> {
    match principals.get("filter_state") {
        Some(state) if state.get("key").is_some_and(|key| key == VERDICT) => {
            let exact = state.pointer("/string_match/exact").and_then(Value::as_str);
            exact.map(str::to_owned).into_iter().collect()
        }
        _ => children(principals).into_iter().flat_map(verdicts).collect(),
    }
}

/// What an object or a list holds.
fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(elements) => elements.iter().collect(),
        _ => Vec::new(),
    }
}

/// Whether one of the permissions is given at a path; `None` if that depends on conditions that are not evaluated here.
fn any(permissions: &[Value], path: &str) -> Option<bool> {
    let given: Vec<_> = permissions.iter().map(|permission| is_given(permission, path)).collect();
    if given.contains(&Some(true)) {
        Some(true)
    } else {
        given.into_iter().all(|given| given.is_some()).then_some(false)
    }
}

fn is_given(permission: &Value, path: &str) -> Option<bool> {
    if permission.get("any").is_some_and(|any| any == true) {
        return Some(true);
    }
    if let Some(matcher) = permission.pointer("/url_path/path") {
        let ignores_case = matcher.get("ignore_case").is_some_and(|ignores| ignores == true);
        let folded = |text: &str| if ignores_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let value = |kind| matcher.get(kind).and_then(Value::as_str).map(folded);
        let path = folded(path);
        return value("exact")
            .map(|exact| path == exact)
            .or_else(|| value("prefix").map(|prefix| path.starts_with(&prefix)))
            .or_else(|| value("suffix").map(|suffix| path.ends_with(&suffix)))
            .or_else(|| value("contains").map(|part| path.contains(&part)));
    }
    let rules = |pointer| permission.pointer(pointer).and_then(Value::as_array);
    if let Some(rules) = rules("/or_rules/rules") {
        return any(rules, path);
    }
    if let Some(rules) = rules("/and_rules/rules") {
        let given: Vec<_> = rules.iter().map(|permission| is_given(permission, path)).collect();
        let is_refused = given.contains(&Some(false));
        return if is_refused { Some(false) } else { given.into_iter().all(|given| given.is_some()).then_some(true) };
    }
    permission.get("not_rule").and_then(|rule| is_given(rule, path)).map(|given| !given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn guard(policies: Value) -> Option<Guard> {
        Guard::among(&[
            json!({"name": "x"}),
            json!({"typed_config": {"rules": {"action": "ALLOW", "policies": policies}}}),
        ])
    }

    #[test]
    fn guard_passes_a_verdict_if_one_policy_does() {
        let verdict = |verdict: &str| json!({"filter_state": {"key": VERDICT, "string_match": {"exact": verdict}}});
        let at = |matcher: Value| json!({"url_path": {"path": matcher}});
        let guard = guard(json!({
            "key": {"permissions": [{"any": true}], "principals": [{"and_ids": {"ids": [verdict("allow"), {"any": true}]}}]},
            "public": {
                "permissions": [
                    at(json!({"exact": "/health"})),
                    {"and_rules": {"rules": [at(json!({"prefix": "/docs"})), {"not_rule": at(json!({"suffix": ".key"}))}]}},
                    {"and_rules": {"rules": [at(json!({"contains": "open"})), {"header": {"name": ":method"}}]}},
                ],
                "principals": [verdict("public")],
            },
        }))
        .unwrap();
        assert_eq!(guard.passes("allow", "/x"), Ok("key"));
        for (path, expected) in [
            ("/health", Ok("public")),
            ("/docs/a", Ok("public")),
            ("/docs/a.key", Err(false)),
            ("/open", Err(true)),
            ("/x", Err(false)),
        ] {
            assert_eq!(guard.passes("public", path), expected, "{path}");
        }
        assert_eq!(guard.passes("delegated", "/x"), Err(false));
        let paths: Vec<_> = guard.of_verdict("public").flat_map(Policy::paths).collect();
        assert_eq!(paths, [("/health".to_owned(), false), ("/docs".to_owned(), true)]);
    }

    #[test]
    fn rbac_filter_without_the_verdict_is_not_the_guard() {
        assert!(guard(json!({"all": {"permissions": [{"any": true}], "principals": [{"any": true}]}})).is_none());
        assert!(guard(json!({})).is_none());
    }
}
