//! The shipped configuration with the answers put in.
//!
//! Each change names the text that it replaces. A text that is not there exactly as often as expected is an error, which the
//! tests would find: the shipped file has then changed without this module.

use super::answers::{Answers, Host, Preset, Server};
use crate::CliError;

const SHIPPED: &str = include_str!("../../../envoy/envoy.yaml");

const SHIPPED_NATIVE: &str = include_str!("../../../envoy/envoy-native.yaml");

/// The text, and the first change that found nothing.
struct Template {
    text: String,
    lost: Option<String>,
}

impl Template {
    /// Replaces a text that stands there so many times.
    fn replace(&mut self, times: usize, old: &str, new: &str) {
        if self.text.matches(old).count() != times {
            self.lost.get_or_insert_with(|| old.to_owned());
        }
        self.text = self.text.replace(old, new);
    }

    /// Removes the line that consists of a text, however far it is indented.
    fn remove_line(&mut self, line: &str) {
        let before = self.text.lines().count();
        let others: Vec<&str> = self.text.lines().filter(|other| other.trim_start() != line).collect();
        if others.len() + 1 != before {
            self.lost.get_or_insert_with(|| line.to_owned());
        }
        self.text = others.join("\n") + "\n";
    }

    /// Replaces everything from one text up to the next occurrence of another.
    fn replace_between(&mut self, from: &str, to: &str, new: &str) {
        let place = || {
            let start = self.text.find(from)?;
            let rest = self.text.get(start..)?;
            Some((start, start + rest.find(to)?))
        };
        match place() {
            Some((start, end)) => self.text.replace_range(start..end, new),
            None => drop(self.lost.get_or_insert_with(|| from.to_owned())),
        }
    }
}

/// The configuration.
pub(super) fn render(answers: &Answers) -> Result<String, CliError> {
    let shipped = match answers.host {
        Host::Wasm => SHIPPED,
        Host::Native => SHIPPED_NATIVE,
    };
    let mut template = Template { text: shipped.to_owned(), lost: None };
    head(&mut template);
    listener(&mut template, answers);
    filter(&mut template, answers);
    public_route(&mut template, answers);
    clusters(&mut template, answers);
    match template.lost {
        None => Ok(template.text),
        Some(lost) => {
            Err(CliError::Mistakes(format!("the template of the configuration has changed: expected {lost:?} in it")))
        }
    }
}

fn head(template: &mut Template) {
    template.replace_between(
        "# One gateway",
        "admin:\n",
        concat!(
            "# One gateway with Keyward, written by `keyward init` ",
            env!("CARGO_PKG_VERSION"),
            ".\n#\n# Envoy needs the edge token in its environment:\n#   KEYWARD_EDGE_TOKEN=... envoy -c envoy.yaml\n# `keyward check-config envoy.yaml` checks \
             a change, and `keyward prove` the installation.\n\n"
        ),
    );
}

fn listener(template: &mut Template, answers: &Answers) {
    let address = |address: std::net::SocketAddr| {
        format!("{{ address: {}, port_value: {} }}", quoted(&address.ip().to_string()), address.port())
    };
    template.replace(1, "{ address: 127.0.0.1, port_value: 9901 }", &address(answers.admin));
    template.replace(1, "{ address: 127.0.0.1, port_value: 8080 }", &address(answers.listen));
    let Some((certificate, key)) = &answers.tls else { return };
    template.replace_between(
        "      # An idle connection is closed after this time. If Envoy",
        "      filter_chains:\n",
        "      # A connection without a client hello is closed after this time.\n\
         \x20     listener_filters_timeout: 5s\n\
         \x20     listener_filters:\n\
         \x20       - name: envoy.filters.listener.tls_inspector\n\
         \x20         typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector }\n",
    );
    let tls = format!(
        "      filter_chains:
        - transport_socket_connect_timeout: 10s
          transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              common_tls_context:
                tls_params: {{ tls_minimum_protocol_version: TLSv1_2 }}
                alpn_protocols: [h2, http/1.1]
                tls_certificates:
                  - certificate_chain: {{ filename: {} }}
                    private_key: {{ filename: {} }}
          filters:
",
        quoted(&certificate.display().to_string()),
        quoted(&key.display().to_string())
    );
    template.replace(1, "      filter_chains:\n        - filters:\n", &tls);
}

fn filter(template: &mut Template, answers: &Answers) {
    let module = match answers.host {
        Host::Wasm => "filename: target/wasm32-wasip1/release/keyward_filter.wasm".to_owned(),
        Host::Native => format!("filename: target/native/{}", answers.host.file_name()),
    };
    template.replace(1, &module, &format!("filename: {}", quoted(&answers.module.display().to_string())));
    template.replace(1, "dialect: keyward\n", &format!("dialect: {}\n", answers.dialect));
    if answers.control_plane.ca_file.is_some() {
        let authority = format!("authority: {} }}", quoted(&answers.control_plane.host));
        template.replace(1, "authority: keyward }", &authority);
    }
    if answers.rules == Preset::ReadWrite {
        template.replace(
            1,
            "- { path: { prefix: / }, access: key }\n",
            "- { path: { prefix: / }, access: key, scopes: { GET: [read], \"*\": [write] } }\n",
        );
    }
}

/// The health check: its rule, its route, its place in the guard, and its connections to the upstream.
fn public_route(template: &mut Template, answers: &Answers) {
    if answers.rules != Preset::AllKeys {
        template.replace(1, "- match: { path: /health }", &format!("- match: {{ path: {} }}", answers.health_path));
        template.replace(
            1,
            "{ path: { exact: /health }, access: public }",
            &format!("{{ path: {{ exact: {} }}, access: public }}", answers.health_path),
        );
        template.replace(
            1,
            "{ path: { exact: /health } }",
            &format!("{{ path: {{ exact: {} }} }}", answers.health_path),
        );
        return;
    }
    template.replace_between(
        "                        # Public requests have separate",
        "                        - match: { prefix: / }",
        "",
    );
    template.remove_line("- { path: { exact: /health }, access: public }");
    template.replace_between(
        "                          # Only routes that the rules make `public`",
        "                          # A route that is delegated",
        "",
    );
    template.replace_between(
        "                  # Enabled on public routes only",
        "                  - name: envoy.filters.http.router",
        "",
    );
    template.replace_between("    # The same upstream for public routes", "    - name: keyward_control_plane", "");
}

fn clusters(template: &mut Template, answers: &Answers) {
    let names: &[&str] =
        if answers.rules == Preset::AllKeys { &["upstream"] } else { &["upstream", "upstream_public"] };
    let endpoint = |port: u16| format!("socket_address: {{ address: 127.0.0.1, port_value: {port} }}");
    template.replace(names.len(), &endpoint(8090), &socket_address(&answers.upstream));
    template.replace(1, &endpoint(8081), &socket_address(&answers.control_plane));
    for name in names {
        server(template, name, &answers.upstream, "[http/1.1]");
    }
    server(template, "keyward_control_plane", &answers.control_plane, "[h2]");
}

/// How a cluster finds and trusts its server.
fn server(template: &mut Template, cluster: &str, server: &Server, alpn: &str) {
    let old = format!("    - name: {cluster}\n      type: STATIC\n");
    let mut new = format!("    - name: {cluster}\n");
    new.push_str(if server.ip().is_some() {
        "      type: STATIC\n"
    } else {
        "      type: STRICT_DNS\n      dns_lookup_family: V4_PREFERRED\n"
    });
    if let Some(ca_file) = &server.ca_file {
        let (sni, san) = match server.ip() {
            // An address is no server name (RFC 6066, section 3).
            Some(_) => (String::new(), "IP_ADDRESS"),
            None => (format!("          sni: {}\n", quoted(&server.host)), "DNS"),
        };
        new.push_str(&format!(
            "      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
{sni}          common_tls_context:
            tls_params: {{ tls_minimum_protocol_version: TLSv1_2 }}
            alpn_protocols: {alpn}
            # Without it Envoy accepts any certificate.
            validation_context:
              trusted_ca: {{ filename: {} }}
              match_typed_subject_alt_names: [{{ san_type: {san}, matcher: {{ exact: {} }} }}]
",
            quoted(&ca_file.display().to_string()),
            quoted(&server.host)
        ));
    }
    template.replace(1, &old, &new);
}

fn socket_address(server: &Server) -> String {
    format!("socket_address: {{ address: {}, port_value: {} }}", quoted(&server.host), server.port)
}

/// A text in YAML: as it is if it has no character with a meaning there.
fn quoted(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._/".contains(c));
    if is_plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{find_filters, problems};
    use crate::init::InitArguments;
    use keyward_core::dialect::Dialect;
    use serde_json::Value;

    fn rendered(change: impl FnOnce(&mut InitArguments)) -> (String, Value) {
        let mut arguments =
            InitArguments { upstream: Some("http://127.0.0.1:8090".to_owned()), ..InitArguments::default() };
        change(&mut arguments);
        let text = render(&Answers::read(&arguments).unwrap()).unwrap();
        let found = find_filters(&text).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(problems(&found[0]), (Vec::new(), Vec::new()), "{text}");
        (text.clone(), found[0].document.clone())
    }

    const HCM: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

    #[test]
    fn defaults_give_the_shipped_configuration() {
        let (text, mut document) = rendered(|_| {});
        let mut shipped = find_filters(SHIPPED).unwrap().remove(0).document;
        let module = format!("{HCM}/http_filters/0/typed_config/config/vm_config/code/local/filename");
        assert_eq!(document.pointer(&module).unwrap(), "/etc/keyward/keyward_filter.wasm");
        for document in [&mut document, &mut shipped] {
            *document.pointer_mut(&module).unwrap() = Value::Null;
        }
        assert_eq!(document, shipped);
        assert!(!text.contains("make run") && text.matches('#').count() > 50, "the comments stay");
    }

    #[test]
    fn native_host_gives_the_shipped_configuration() {
        let (text, document) = rendered(|arguments| arguments.host = Some("native".to_owned()));
        let filter = document.pointer(&format!("{HCM}/http_filters/0/typed_config")).unwrap();
        assert_eq!(filter["dynamic_module_config"]["module"]["local"]["filename"], Host::Native.default_module());
        assert!(!text.contains("vm_config") && !text.contains("make run"), "{text}");
    }

    #[test]
    fn every_combination_can_be_rendered() {
        for dialect in Dialect::built_in_names() {
            for rules in ["health-public", "all-keys", "read-write"] {
                for host in Host::ALL.map(|(name, _)| name) {
                    rendered(|arguments| {
                        arguments.dialect = Some(dialect.to_owned());
                        arguments.rules = Some(rules.to_owned());
                        arguments.host = Some(host.to_owned());
                    });
                }
                for upstream in
                    ["http://127.0.0.1:8090", "https://api.example", "http://[::1]:80", "https://10.0.0.1:8443"]
                {
                    let (_, document) = rendered(|arguments| {
                        arguments.dialect = Some(dialect.to_owned());
                        arguments.rules = Some(rules.to_owned());
                        arguments.upstream = Some(upstream.to_owned());
                        arguments.control_plane = Some(upstream.to_owned());
                        arguments.tls_certificate = Some("/etc/keyward/tls/a b.crt".into());
                        arguments.tls_private_key = Some("/etc/keyward/tls/gateway.key".into());
                    });
                    let clusters = document.pointer("/static_resources/clusters").unwrap().as_array().unwrap();
                    assert_eq!(clusters.len(), if rules == "all-keys" { 2 } else { 3 });
                    let is_tls = upstream.starts_with("https");
                    assert!(clusters.iter().all(|cluster| cluster.get("transport_socket").is_some() == is_tls));
                    let chain = document.pointer("/static_resources/listeners/0/filter_chains/0").unwrap();
                    let chain_of = "/transport_socket/typed_config/common_tls_context/tls_certificates/0/certificate_chain/filename";
                    assert_eq!(chain.pointer(chain_of).unwrap(), "/etc/keyward/tls/a b.crt");
                }
            }
        }
    }

    #[test]
    fn all_keys_leaves_no_public_path() {
        let (text, document) = rendered(|arguments| arguments.rules = Some("all-keys".to_owned()));
        assert!(
            !text.contains("/health") && !text.contains("upstream_public") && !text.contains("public_routes"),
            "{text}"
        );
        let routes = document.pointer(&format!("{HCM}/route_config/virtual_hosts/0/routes")).unwrap();
        assert_eq!(routes.as_array().unwrap().len(), 1);
    }

    #[test]
    fn health_path_is_the_same_in_rule_route_and_guard() {
        let (text, _) = rendered(|arguments| arguments.health_path = Some("/livez".to_owned()));
        assert!(text.matches("/livez").count() == 3 && !text.contains("/health"), "{text}");
    }

    #[test]
    fn name_is_resolved_and_verified() {
        let (_, document) =
            rendered(|arguments| arguments.control_plane = Some("https://keyward.example:8443".to_owned()));
        let cluster = &document["static_resources"]["clusters"][2];
        let tls = &cluster["transport_socket"]["typed_config"];
        assert_eq!((&cluster["type"], &tls["sni"]), (&Value::from("STRICT_DNS"), &Value::from("keyward.example")));
        assert_eq!(
            tls["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"][0]["matcher"]["exact"],
            "keyward.example"
        );
        let authority = format!("{HCM}/http_filters/0/typed_config/config/configuration/value/control_plane/authority");
        assert_eq!(document.pointer(&authority).unwrap(), "keyward.example");
    }

    #[test]
    fn text_that_yaml_would_read_otherwise_is_quoted() {
        assert_eq!(quoted("/etc/a.crt"), "/etc/a.crt");
        for text in ["::1", "a b", "a: b", "{x}", "-x", "\"", "#"] {
            assert!(quoted(text).starts_with('"'), "{text}");
        }
    }
}
