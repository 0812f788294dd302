//! What a run asks for: the dialect, the rules, the request that needs a key, and what its keys have.

use super::ProveArguments;
use super::shape;
use crate::CliError;
use crate::config::{FilterConfig, mistakes, read_filters, samples};
use crate::envoy_admin::EnvoyAdmin;
use crate::gateway::{Answer, Sent};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_core::dialect::error_shape::ErrorShape;
use keyward_core::dialect::key_format::KeyFormat;
use keyward_core::dialect::{BasicPart, Dialect, Source};
use keyward_core::key::environment::Environment;
use keyward_core::refusal::Refusal;
use keyward_filter::engine::rules::{Access, Requirement, Rules, Strip, Target};
use keyward_filter::policy::Config;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// What is known of the installation, and what is asked of it.
pub(super) struct Plan {
    pub(super) dialect: Dialect,
    /// The filter's configuration, if a file or Envoy's admin interface has it.
    pub(super) config: Option<Config>,
    /// The same with what is around it in Envoy's configuration, and where each is from.
    pub(super) filters: Vec<(String, FilterConfig)>,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) host: String,
    /// The kind of the keys.
    pub(super) format: KeyFormat,
    pub(super) scopes: Vec<String>,
    /// How much of a limit one request uses.
    pub(super) cost: u32,
    errors: ErrorShape,
    /// Whether the path's rule passes the credential on.
    pub(super) keeps_credential: bool,
    owner: Option<String>,
}

/// What a request leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// The upstream has answered.
    Upstream,
    /// The gateway has refused the request.
    Refused,
    /// It cannot be known who has answered.
    Unknown,
}

/// A path that needs more than the run's key has.
pub(super) struct Protected {
    pub(super) path: String,
    /// Its requirement, in words.
    pub(super) needs: String,
    /// The permissions of a key that may not use it.
    pub(super) scopes: Vec<String>,
}

/// The lifetime of keys, so that they end even if the run is killed; where a dialect bounds it, at least a day.
const LIFETIME: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The header field that carries a text for an upstream to echo.
pub(super) const MARK: &str = "keyward-prove";

impl Plan {
    pub(super) fn new(arguments: &ProveArguments, admin: Option<&EnvoyAdmin>, host: &str) -> Result<Self, CliError> {
        let filters = filters(arguments, admin)?;
        let config = filters.first().map(|(from, filter)| filter.parse().map_err(|found| mistakes(from, &found)));
        let config = config.transpose()?;
        let dialect = match (&config, &arguments.dialect) {
            (Some(config), None) => config.policy.dialect.clone(),
            (_, name) => keyward_server::serve::dialect(name.as_deref().unwrap_or("keyward"))?,
        };
        let rules = config.as_ref().map(|config| &config.policy.rules);
        let method = arguments.method.clone();
        let path = match (&arguments.path, rules) {
            (Some(path), _) => path.clone(),
            (None, Some(rules)) => path_with_key(rules, &method, host).ok_or_else(|| {
                CliError::Mistakes(format!(
                    "no rule of the configuration requires a key for {method} requests: name a path with --path"
                ))
            })?,
            (None, None) => "/".to_owned(),
        };
        let found = rules.map(|rules| {
            rules.find(&Target { method: method.as_bytes(), host: host.as_bytes(), path: path.as_bytes() })
        });
        let (mut scopes, mut kinds, mut cost, mut errors, mut keeps) = (arguments.scope.clone(), None, 1, None, false);
        if let Some(found) = found {
            let (route, also) = found.ok_or_else(|| needs_key(&method, &path, "no rule accepts a key there"))?;
            let Access::Key(requirement) = &route.access else {
                return Err(needs_key(&method, &path, "its rule does not require a key"));
            };
            for requirement in [Some(requirement), also].into_iter().flatten() {
                scopes.extend(requirement.scopes.of(method.as_bytes()).iter().cloned());
                kinds = kinds.or_else(|| requirement.kinds.clone());
            }
            (cost, errors) = (route.cost.get(), route.errors.as_deref().cloned());
            keeps = requirement.strip == Strip::IdentityAndUnread;
        }
        scopes.sort();
        scopes.dedup();
        let format = format(&dialect, arguments, kinds.as_deref())?.clone();
        let owner = arguments.owner.clone().or_else(|| dialect.owner_required.then(|| "keyward-prove".to_owned()));
        let errors = errors.unwrap_or_else(|| dialect.errors.clone());
        let host = host.to_owned();
        Ok(Self {
            dialect,
            config,
            filters,
            method,
            path,
            host,
            format,
            scopes,
            cost,
            errors,
            keeps_credential: keeps,
            owner,
        })
    }

    /// The fields of every key of the run.
    pub(super) fn key_fields(&self) -> Map<String, Value> {
        let lifetime = if self.dialect.expiry_days.is_some() { DAY } else { LIFETIME };
        let mut fields = Map::from_iter([
            ("kind".to_owned(), self.format.kind.clone().into()),
            // Unlimited, whatever the dialect says.
            ("limits".to_owned(), json!([])),
            ("expires_in_s".to_owned(), lifetime.as_secs().into()),
        ]);
        if !self.has_owners_scopes() {
            fields.insert("scopes".to_owned(), self.scopes.clone().into());
        }
        if let Some(environment) = self.format.environment {
            fields.insert("environment".to_owned(), environment.name().into());
        }
        if let Some(owner) = &self.owner {
            fields.insert("owner".to_owned(), owner.clone().into());
        }
        fields
    }

    /// Whether keys have the permissions of their owner.
    pub(super) fn has_owners_scopes(&self) -> bool {
        self.dialect.has_owners_scopes(&self.format.kind)
    }

    /// A request to the path that needs a key, without one.
    pub(super) fn request(&self) -> Sent {
        self.request_to(&self.path)
    }

    pub(super) fn request_to(&self, path: &str) -> Sent {
        Sent::new(&self.method, path)
    }

    /// The request with a credential in the dialect's first place for it.
    pub(super) fn with_key(&self, request: Sent, key: &str) -> Sent {
        match self.dialect.sources.first() {
            Some(source) => placed(request, source, key),
            None => request,
        }
    }

    /// What the response to a request leads to. `mark` is the text that the request carried for an upstream that echoes.
    pub(super) fn reached(&self, answer: &Answer, mark: Option<&str>) -> Reached {
        if mark.is_some_and(|mark| answer.body.contains(mark)) {
            return Reached::Upstream;
        }
        if self.refusal_of(answer).is_some() || is_refused_by_envoy(answer) {
            return Reached::Refused;
        }
        if answer.status < 300 { Reached::Upstream } else { Reached::Unknown }
    }

    /// The refusal of the filter that a response is.
    pub(super) fn refusal_of(&self, answer: &Answer) -> Option<Refusal> {
        self.shapes().into_iter().find_map(|shape| shape::refusal_of(shape, answer))
    }

    /// The refusals at the path that needs a key.
    pub(super) fn errors(&self) -> &ErrorShape {
        &self.errors
    }

    /// Every shape that refusals have here.
    fn shapes(&self) -> Vec<&ErrorShape> {
        let rules = self.config.as_ref().map_or(&[][..], |config| &config.policy.rules.rules);
        let of_rules = rules.iter().filter_map(|rule| rule.route.errors.as_deref());
        [&self.errors, &self.dialect.errors].into_iter().chain(of_rules).collect()
    }

    /// The refusals that a request without a key, and one with a bad key, may get; a throttle may answer in their place.
    pub(super) fn is_unauthenticated(&self, answer: &Answer) -> bool {
        use keyward_core::refusal::Class::{Limited, Unauthenticated};
        self.refusal_of(answer).is_some_and(|refusal| matches!(refusal.class(), Unauthenticated | Limited))
    }

    /// Paths of public rules, and of rules that need less, from which other paths could be reached.
    pub(super) fn open_paths(&self) -> Vec<String> {
        let Some(rules) = self.rules() else { return Vec::new() };
        let open = rules.rules.iter().filter(|rule| matches!(rule.route.access, Access::Public | Access::Optional(_)));
        let mut paths: Vec<_> = open.filter_map(|rule| samples(&rule.path).into_iter().next()).collect();
        paths.dedup();
        paths
    }

    pub(super) fn rules(&self) -> Option<&Rules> {
        self.config.as_ref().map(|config| &config.policy.rules)
    }

    /// Whether a rule accepts paths that can be read in two ways.
    pub(super) fn accepts_ambiguous_paths(&self) -> bool {
        self.rules().is_some_and(|rules| rules.rules.iter().any(|rule| rule.ambiguous_paths))
    }

    /// Paths that need a key: that of the run, and an example for each rule.
    pub(super) fn keyed_paths(&self) -> Vec<String> {
        let mut paths = vec![self.path.clone()];
        match self.rules() {
            Some(rules) => paths.extend(rules.rules.iter().filter_map(|rule| {
                let path = samples(&rule.path).pop()?;
                let target =
                    Target { method: self.method.as_bytes(), host: self.host.as_bytes(), path: path.as_bytes() };
                let needs_key = matches!(rules.route(&target)?.access, Access::Key(_));
                needs_key.then_some(path)
            })),
            // One with several segments.
            None => paths.push(format!("{}/keyward/prove", self.path.trim_end_matches('/'))),
        }
        let mut seen = Vec::new();
        paths.retain(|path| {
            !seen.contains(path) && {
                seen.push(path.clone());
                true
            }
        });
        paths
    }

    /// The paths that need a permission or another kind of key.
    pub(super) fn protected(&self) -> Vec<Protected> {
        let Some(rules) = self.rules() else { return Vec::new() };
        let method = self.method.as_bytes();
        let every = every_scope(rules);
        let mut found: Vec<Protected> = Vec::new();
        for rule in &rules.rules {
            let Some(path) = samples(&rule.path).into_iter().last() else { continue };
            // Another rule may decide this path.
            let decided = rules.find(&Target { method, host: self.host.as_bytes(), path: path.as_bytes() });
            let Some((route, also)) = decided.filter(|(route, _)| **route == rule.route) else { continue };
            let Access::Key(requirement) = &route.access else { continue };
            let requirements: Vec<&Requirement> = [Some(requirement), also].into_iter().flatten().collect();
            let is_other_kind =
                requirements.iter().any(|of| of.kinds.as_ref().is_some_and(|kinds| !kinds.contains(&self.format.kind)));
            let scopes: Vec<_> = requirements.iter().flat_map(|of| of.scopes.of(method)).collect();
            if !is_other_kind && scopes.is_empty() {
                continue;
            }
            let needs = match requirement.kinds.as_deref() {
                Some(kinds) if is_other_kind => format!("a key of another kind ({})", kinds.join(", ")),
                _ => format!("the permission {}", scopes.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(" ")),
            };
            let superscope = self.dialect.superscope.as_ref();
            let without = every.iter().filter(|scope| !scopes.contains(scope) && superscope != Some(scope));
            let without: Vec<String> = if self.has_owners_scopes() { Vec::new() } else { without.cloned().collect() };
            if !found.iter().any(|known| known.path == path) {
                found.push(Protected { path, needs, scopes: without });
            }
        }
        found
    }
}

/// The configurations of the file, else those that Envoy runs.
fn filters(arguments: &ProveArguments, admin: Option<&EnvoyAdmin>) -> Result<Vec<(String, FilterConfig)>, CliError> {
    let mut filters = Vec::new();
    if let Some(file) = &arguments.config {
        let from = file.display().to_string();
        filters.extend(read_filters(file)?.into_iter().map(|filter| (from.clone(), filter)));
    }
    if let Some(admin) = admin {
        let running = admin.filters().map_err(CliError::Mistakes)?.into_iter();
        filters.extend(running.map(|filter| ("the configuration that Envoy runs".to_owned(), filter)));
    }
    Ok(filters)
}

fn needs_key(method: &str, path: &str, why: &str) -> CliError {
    CliError::Mistakes(format!("{method} {path}: {why}. Name a path that requires a key with --path"))
}

/// A path that requires a key by its rule; the one of the last rule, which is for most paths.
fn path_with_key(rules: &Rules, method: &str, host: &str) -> Option<String> {
    let paths = rules.rules.iter().rev().flat_map(|rule| samples(&rule.path));
    paths.into_iter().find(|path| {
        let found = rules.route(&Target { method: method.as_bytes(), host: host.as_bytes(), path: path.as_bytes() });
        let accepts = |requirement: &Requirement| requirement.kinds.as_ref().is_none_or(|kinds| !kinds.is_empty());
        found.is_some_and(|route| matches!(&route.access, Access::Key(requirement) if accepts(requirement)))
    })
}

fn format<'a>(
    dialect: &'a Dialect,
    arguments: &ProveArguments,
    kinds: Option<&[String]>,
) -> Result<&'a KeyFormat, CliError> {
    let environment = match arguments.env.as_deref() {
        Some(name) => Some(Environment::from_name(name).ok_or(CliError::Usage("expected --env live or test"))?),
        None => None,
    };
    let mut formats = dialect.formats.iter().filter(|format| {
        arguments.kind.as_ref().is_none_or(|kind| *kind == format.kind)
            && kinds.is_none_or(|kinds| kinds.contains(&format.kind))
            && (environment.is_none() || format.environment == environment)
    });
    formats.next().ok_or_else(|| {
        CliError::Mistakes(format!(
            "the dialect {} has no keys of that kind and environment that the path accepts: change --kind, \
             --env or --path",
            dialect.name
        ))
    })
}

fn every_scope(rules: &Rules) -> Vec<String> {
    let mut scopes: Vec<String> = Vec::new();
    for rule in &rules.rules {
        if let Access::Key(requirement) | Access::Optional(requirement) = &rule.route.access {
            let by_method = requirement.scopes.by_method.iter().flat_map(|(_, scopes)| scopes);
            scopes.extend(requirement.scopes.otherwise.iter().chain(by_method).cloned());
        }
    }
    scopes.sort();
    scopes.dedup();
    scopes
}

/// The request with a credential in that place.
pub(super) fn placed(mut request: Sent, source: &Source, key: &str) -> Sent {
    match source {
        Source::Header { written, scheme, .. } => {
            let value = scheme.as_ref().map_or_else(|| key.to_owned(), |scheme| format!("{scheme} {key}"));
            request.header(written, &value)
        }
        Source::Basic(part) => {
            let pair = match part {
                BasicPart::Username => format!("{key}:"),
                BasicPart::Password => format!("keyward-prove:{key}"),
            };
            request.header("authorization", &format!("Basic {}", STANDARD.encode(pair)))
        }
        Source::Query(parameter) => {
            let separator = if request.path.contains('?') { '&' } else { '?' };
            request.path = format!("{}{separator}{parameter}={key}", request.path);
            request
        }
        Source::Cookie(cookie) => request.header("cookie", &format!("{cookie}={key}")),
    }
}

/// A response that Envoy gives itself: the guard's, or that to a request which it does not forward.
fn is_refused_by_envoy(answer: &Answer) -> bool {
    match answer.status {
        400 => answer.body.is_empty() || answer.body == "Bad Request",
        403 => answer.body == "RBAC: access denied",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(dialect: &str, rules: &str, path: Option<&str>) -> Result<Plan, CliError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("dialect: {dialect}\ncontrol_plane: {{ cluster: c }}\nrules: {rules}"))
            .unwrap();
        let mut arguments = ProveArguments::for_test();
        arguments.config = Some(file.path().to_owned());
        arguments.path = path.map(str::to_owned);
        Plan::new(&arguments, None, "h")
    }

    const RULES: &str = "[{ path: { exact: /health }, access: public }, { path: { prefix: /v1/admin }, access: key, scopes: [admin] }, \
                         { path: { prefix: /v1/hooks }, access: key, scopes: [hook] }, \
                         { path: { prefix: /v1 }, access: key, scopes: { GET: [read], '*': [write] } }]";

    #[test]
    fn path_and_permissions_follow_from_the_rules() {
        let plan = plan("ai-api", RULES, None).unwrap();
        assert_eq!((plan.path.as_str(), plan.scopes.as_slice()), ("/v1", &["read".to_owned()][..]));
        assert_eq!(plan.open_paths(), ["/health"]);
        assert_eq!(plan.keyed_paths(), ["/v1", "/v1/admin/x", "/v1/hooks/x", "/v1/x"]);
        let protected = plan.protected();
        let paths: Vec<_> = protected.iter().map(|of| (of.path.as_str(), of.scopes.join(" "))).collect();
        // The key without a permission has all others, but not the one that includes all.
        assert_eq!(
            paths,
            [
                ("/v1/admin/x", "hook read write".to_owned()),
                ("/v1/hooks/x", "read write".to_owned()),
                ("/v1/x", "hook write".to_owned())
            ]
        );
    }

    #[test]
    fn path_without_a_key_is_an_error() {
        for path in ["/health", "/elsewhere"] {
            let error = plan("ai-api", RULES, Some(path)).err().unwrap();
            assert!(error.to_string().contains("--path"), "{error}");
        }
    }

    #[test]
    fn kind_follows_from_the_rules() {
        let rules = "[{ path: { prefix: / }, access: key, kinds: [team] }]";
        assert_eq!(plan("auxot", rules, None).unwrap().format.kind, "team");
    }

    #[test]
    fn credential_is_placed_where_the_dialect_reads_it() {
        let place = |source: &Source| placed(Sent::new("GET", "/a?b"), source, "k");
        let header = Source::Header { name: "x-key".into(), written: "X-Key".into(), scheme: None };
        assert_eq!(place(&header).headers, [("X-Key".to_owned(), "k".to_owned())]);
        assert_eq!(place(&Source::Query("key".into())).path, "/a?b&key=k");
        assert_eq!(place(&Source::Basic(BasicPart::Username)).headers[0].1, "Basic azo=");
        assert_eq!(place(&Source::Cookie("c".into())).headers[0].1, "c=k");
    }
}
