//! Finds the filter's configuration in a file: alone, or within a configuration of Envoy.

use super::report::problem;
use crate::CliError;
use keyward_core::document::Problem;
use keyward_filter::policy::Config;
use serde_json::Value;
use std::path::Path;

/// One configuration of the filter, and what is around it.
#[derive(Debug)]
pub(crate) struct FilterConfig {
    /// Its path in the file; empty if it is the whole file.
    pub(crate) at: String,
    /// The configuration as JSON, or the mistake in its text.
    pub(crate) configuration: Result<Value, Problem>,
    /// Whether it is a Struct, which does not keep the order of fields.
    pub(crate) is_struct: bool,
    /// What Envoy runs the filter as; absent if the configuration is alone.
    pub(crate) plugin: Option<Plugin>,
    /// The HTTP filters behind it, if it is in a list of them.
    pub(crate) behind: Option<Vec<Value>>,
    /// The document around it.
    pub(crate) document: Value,
}

/// What Envoy runs the filter as.
#[derive(Clone, Debug)]
pub(crate) enum Plugin {
    /// A Wasm plugin: its `config`, which has `vm_config`.
    Wasm(Value),
    /// A dynamic module.
    DynamicModule,
}

impl FilterConfig {
    /// The configuration as the filter reads it.
    pub(crate) fn parse(&self) -> Result<Config, Vec<Problem>> {
        let value = self.configuration.as_ref().map_err(|problem| vec![problem.clone()])?;
        Config::parse(value.to_string().as_bytes()).map_err(|problems| problems.0)
    }
}

/// Every configuration of the filter in a file; at least one.
pub(crate) fn read(file: &Path) -> Result<Vec<FilterConfig>, CliError> {
    let text = std::fs::read_to_string(file).map_err(|source| CliError::File { path: file.to_owned(), source })?;
    find(&text).map_err(|error| CliError::Mistakes(format!("{}: {error}", file.display())))
}

/// The same in the text of a file.
pub(crate) fn find(text: &str) -> Result<Vec<FilterConfig>, String> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| format!("expected YAML or JSON: {error}"))?;
    let mut found = Vec::new();
    for document in &documents {
        if is_bare(document) {
            found.push(FilterConfig {
                at: String::new(),
                configuration: Ok(document.clone()),
                is_struct: false,
                plugin: None,
                behind: None,
                document: Value::Null,
            });
        } else {
            walk(document, "", None, document, &mut found);
        }
    }
    if found.is_empty() {
        return Err(
            "expected a configuration of Envoy with a Wasm filter or dynamic module whose configuration has `dialect` and \
             `control_plane`, or that configuration alone; found neither"
                .to_owned(),
        );
    }
    Ok(found)
}

fn is_bare(document: &Value) -> bool {
    let has = |field| document.get(field).is_some();
    (has("dialect") || has("control_plane") || has("rules")) && !has("static_resources")
}

/// Finds Envoy's plugins that are the filter, in their order.
fn walk(value: &Value, at: &str, behind: Option<&[Value]>, document: &Value, found: &mut Vec<FilterConfig>) {
    match value {
        Value::Object(fields) => {
            if let Some((configuration, is_struct, path, plugin)) = configuration_of(value) {
                found.push(FilterConfig {
                    at: format!("{at}{path}"),
                    configuration,
                    is_struct,
                    plugin: Some(plugin),
                    behind: behind.map(<[Value]>::to_vec),
                    document: document.clone(),
                });
                return;
            }
            for (name, field) in fields {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                if name == "http_filters"
                    && let Value::Array(filters) = field
                {
                    for (n, filter) in filters.iter().enumerate() {
                        walk(filter, &format!("{at}[{n}]"), filters.get(n + 1..), document, found);
                    }
                } else {
                    walk(field, &at, behind, document, found);
                }
            }
        }
        Value::Array(elements) => {
            for (n, element) in elements.iter().enumerate() {
                walk(element, &format!("{at}[{n}]"), behind, document, found);
            }
        }
        _ => {}
    }
}

/// The filter's configuration in a Wasm plugin's `config` or in a dynamic module's `typed_config`, whether it is a Struct,
/// its path, and the plugin.
fn configuration_of(plugin: &Value) -> Option<(Result<Value, Problem>, bool, &'static str, Plugin)> {
    if let Some(module) = plugin.get("dynamic_module_config") {
        let (read, is_struct) = read_any(plugin.get("filter_config")?)?;
        let texts = [plugin.get("filter_name"), module.get("name"), module.pointer("/module/local/filename")];
        let names = texts.into_iter().flatten().filter_map(Value::as_str).any(|name| name.contains("keyward"));
        let is_it = names || read.as_ref().is_ok_and(|value| value.get("control_plane").is_some());
        return is_it.then_some((read, is_struct, ".filter_config.value", Plugin::DynamicModule));
    }
    plugin.get("vm_config").or_else(|| plugin.get("root_id"))?;
    let (read, is_struct) = read_any(plugin.get("configuration")?)?;
    let names = |field| plugin.get(field).and_then(Value::as_str).is_some_and(|name| name.contains("keyward"));
    let module = plugin.pointer("/vm_config/code/local/filename").and_then(Value::as_str).unwrap_or_default();
    let looks_like_it = read.as_ref().is_ok_and(|value| value.get("control_plane").is_some());
    let is_it = names("name") || names("root_id") || module.contains("keyward_filter") || looks_like_it;
    is_it.then_some((read, is_struct, ".configuration.value", Plugin::Wasm(plugin.clone())))
}

/// Reads a `google.protobuf.Any` with a Struct, or with JSON in a StringValue, and whether it is a Struct.
fn read_any(configuration: &Value) -> Option<(Result<Value, Problem>, bool)> {
    let type_url = configuration.get("@type").and_then(Value::as_str).unwrap_or_default();
    Some(match configuration.get("value")? {
        Value::String(text) => {
            let not_json = |error: serde_json::Error| problem("", format!("expected JSON in the StringValue: {error}"));
            (serde_json::from_str::<Value>(text).map_err(not_json), false)
        }
        value => (Ok(value.clone()), type_url.ends_with("google.protobuf.Struct")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(name: &str) -> Vec<FilterConfig> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy").join(name);
        read(&file).unwrap()
    }

    #[test]
    fn filter_is_found_in_every_file_that_has_it() {
        for (name, with_filters_behind) in
            [("envoy.yaml", true), ("envoy-native.yaml", true), ("fleet.yaml", true), ("mesh/istio.yaml", false)]
        {
            let found = shipped(name);
            assert_eq!(found.len(), 1, "{name}");
            assert_eq!(found[0].configuration.as_ref().unwrap()["dialect"], "keyward");
            assert!(found[0].is_struct && found[0].plugin.is_some());
            assert_eq!(found[0].behind.is_some(), with_filters_behind, "{name}");
        }
        assert!(shipped("envoy.yaml")[0].at.ends_with("http_filters[0].typed_config.config.configuration.value"));
    }

    #[test]
    fn configuration_alone_or_in_a_string_is_found() {
        for text in [
            "dialect: keyward\ncontrol_plane: { cluster: c }",
            r#"{"dialect": "keyward", "control_plane": {"cluster": "c"}}"#,
            "a: 1\n---\nrules: []\n",
        ] {
            assert_eq!(find(text).unwrap()[0].at, "", "{text}");
        }
        let string =
            r#"{"x": [{"config": {"root_id": "r", "configuration": {"@type": "…StringValue", "value": "TEXT"}}}]}"#;
        let found = find(&string.replace("TEXT", r#"{\"control_plane\": {}}"#)).unwrap();
        assert_eq!(found[0].at, "x[0].config.configuration.value");
        assert!(!found[0].is_struct && found[0].configuration.is_ok());
        let found = find(&string.replace("TEXT", "{").replace("\"r\"", "\"keyward\"")).unwrap();
        assert!(found[0].configuration.as_ref().unwrap_err().message.contains("expected JSON"));
    }

    #[test]
    fn file_without_the_filter_is_an_error() {
        for text in ["", "a: 1", "[]", "a: [", "static_resources: {}"] {
            assert!(find(text).is_err(), "{text}");
        }
    }
}
