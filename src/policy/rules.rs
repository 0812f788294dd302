//! Reads the rules: which requests they match, and what they require. A rule without effect is a mistake.

mod notation;

use crate::engine::rules::{
    Access, HostMatch, PathMatch, ProtectedResource, Requirement, Route, Rule, Rules, ScopesByMethod, Strip,
    canonical_path,
};
use keyward_core::dialect::Dialect;
use keyward_core::dialect::error_shape::ErrorShape;
use keyward_core::document::{Fields, Node};
use notation::{PathKind, host_mistake, method_mistake, path_mistake};
use std::num::NonZeroU32;
use std::rc::Rc;

/// The parts of the configuration that rules have to agree with.
pub(super) struct Surroundings<'a> {
    /// The dialect, if it can be read.
    pub(super) dialect: Option<&'a Dialect>,
    /// The path that the filter answers itself.
    pub(super) readiness_path: Option<&'a str>,
    /// Whether paths are compared without case.
    pub(super) ignore_case: bool,
}

/// The rules in order. A protected resource's metadata is found by a rule of its own, before all others.
pub(super) fn read(node: &Node<'_>, surroundings: &Surroundings<'_>) -> Option<Rules> {
    let nodes = node.list()?;
    let read: Vec<_> = nodes.iter().map(|n| read_rule(n, surroundings)).collect();
    let rules: Vec<Rule> = read.into_iter().collect::<Option<_>>()?;
    let metadata = rules.iter().filter_map(metadata_rule).collect::<Vec<_>>();
    let generated = metadata.len();
    let rules = Rules { rules: metadata.into_iter().chain(rules).collect(), ignore_case: surroundings.ignore_case };
    let mut can_all_decide = true;
    for (number, rule) in nodes.iter().enumerate() {
        let Some(hiding) = rules.hidden_by(generated + number) else { continue };
        let named: Vec<_> = hiding.iter().map(|number| name_of(*number, generated, &rules)).collect();
        let match_ = if named.len() == 1 { "matches" } else { "together match" };
        let first = hiding.first().and_then(|first| first.checked_sub(generated));
        let remedy = first.map_or_else(
            || "remove this rule, as the filter answers these requests itself".to_owned(),
            |first| format!("move this rule before rules[{first}], or remove it"),
        );
        rule.problem(format!(
            "unreachable: {} {match_} every request that this rule matches; {remedy}",
            named.join(" and ")
        ));
        can_all_decide = false;
    }
    can_all_decide.then_some(rules)
}

/// The name of a rule in messages.
fn name_of(number: usize, generated: usize, rules: &Rules) -> String {
    match (number.checked_sub(generated), rules.rules.get(number)) {
        (Some(number), Some(rule)) => format!("rules[{number}] ({})", rule.path),
        _ => "the metadata of a protected_resource".to_owned(),
    }
}

fn read_rule(node: &Node<'_>, surroundings: &Surroundings<'_>) -> Option<Rule> {
    let mut fields = node.fields()?;
    let path_node = fields.required("path");
    let path = path_node.as_ref().and_then(read_path_match);
    let methods = fields.optional("methods").map_or(Some(Vec::new()), |n| n.each(read_method));
    let hosts = fields.optional("hosts").map_or(Some(Vec::new()), |n| n.each(read_host));
    let ambiguous = fields.optional("ambiguous_paths");
    let ambiguous_paths = ambiguous.as_ref().map_or(Some(false), Node::boolean);
    let access = read_access(&mut fields, surroundings.dialect, methods.as_deref());
    let errors = fields.maybe("errors", read_errors);
    let cost_node = fields.optional("cost");
    let cost = cost_node
        .as_ref()
        .map_or(Some(NonZeroU32::MIN), |n| NonZeroU32::new(u32::try_from(n.number(1..=u64::from(u32::MAX))?).ok()?));
    fields.finish();
    if let (Some(PathMatch::Exact(_)), Some(true), Some(n)) = (&path, ambiguous_paths, &ambiguous) {
        n.problem("an exact path can be read in only one way: remove this field, or use a prefix or a template");
        return None;
    }
    if let (Some(PathMatch::Exact(path)), Some(n)) = (&path, &path_node)
        && surroundings.readiness_path == Some(path)
    {
        n.problem("the filter answers readiness_path itself, before any rule: remove this rule");
        return None;
    }
    let access = access?;
    if let (Access::Public | Access::Delegated(_), Some(n)) = (&access, &cost_node) {
        n.problem(
            "expected only with the access \"key\" or \"optional\": other requests count against no limits of a key",
        );
        return None;
    }
    let route = Route { access, errors: errors?, cost: cost? };
    Some(Rule { path: path?, methods: methods?, hosts: hosts?, ambiguous_paths: ambiguous_paths?, route })
}

#[derive(Clone, Copy, PartialEq)]
enum Word {
    Key,
    Optional,
    Public,
    Delegated,
}

const ACCESS: [(&str, Word); 4] =
    [("key", Word::Key), ("optional", Word::Optional), ("public", Word::Public), ("delegated", Word::Delegated)];

const CREDENTIAL: [(&str, Strip); 2] = [("strip", Strip::IdentityAndCredentials), ("keep", Strip::IdentityAndUnread)];

fn read_access(fields: &mut Fields<'_>, dialect: Option<&Dialect>, methods: Option<&[String]>) -> Option<Access> {
    let word = fields.required("access").and_then(|n| n.one_of(&ACCESS));
    let kinds = fields.optional("kinds");
    let scopes = fields.optional("scopes");
    let credential = fields.optional("credential");
    let resource = fields.optional("protected_resource");
    let asks = kinds.is_some() || scopes.is_some();
    let requirement = {
        let kinds = match &kinds {
            Some(n) => n.each(|n| read_kind(n, dialect)).map(Some),
            None => Some(None),
        };
        let scopes = scopes.as_ref().map_or(Some(ScopesByMethod::default()), |n| read_scopes(n, methods));
        let strip = credential.as_ref().map_or(Some(Strip::default()), |n| n.one_of(&CREDENTIAL));
        kinds.zip(scopes).zip(strip).map(|((kinds, scopes), strip)| Requirement { kinds, scopes, strip })
    };
    let word = word?;
    if asks && !matches!(word, Word::Key | Word::Optional) {
        fields.node().problem("expected \"kinds\" and \"scopes\" only with the access \"key\" or \"optional\"");
        return None;
    }
    if let Some(credential) = &credential
        && !matches!(word, Word::Key | Word::Optional)
    {
        credential.problem(
            "expected only with the access \"key\" or \"optional\": a public route removes the credential, and a delegated one \
             keeps it",
        );
        return None;
    }
    if let Some(resource) = &resource
        && word != Word::Delegated
    {
        resource.problem("expected only with the access \"delegated\"");
        return None;
    }
    Some(match word {
        Word::Key => Access::Key(requirement?),
        Word::Optional => Access::Optional(requirement?),
        Word::Public => Access::Public,
        Word::Delegated => Access::Delegated(match resource {
            Some(n) => Some(Rc::new(read_resource(&n)?)),
            None => None,
        }),
    })
}

fn read_path_match(node: &Node<'_>) -> Option<PathMatch> {
    let mut fields = node.fields()?;
    let exact = fields.optional("exact");
    let prefix = fields.optional("prefix");
    let template = fields.optional("template");
    fields.finish();
    match (exact, prefix, template) {
        (Some(n), None, None) => read_canonical(&n, PathKind::Exact).map(|path| PathMatch::exact(&path)),
        (None, Some(n), None) => read_canonical(&n, PathKind::Prefix).map(|path| PathMatch::prefix(&path)),
        (None, None, Some(n)) => read_template(&n),
        _ => {
            node.problem("expected exactly one of \"exact\", \"prefix\" and \"template\"");
            None
        }
    }
}

/// The path of the filter's own answer, which is compared literally.
pub(super) fn read_path<'a>(node: &Node<'a>) -> Option<&'a str> {
    read_written(node, PathKind::Exact)
}

fn read_written<'a>(node: &Node<'a>, kind: PathKind) -> Option<&'a str> {
    let path = node.string()?;
    if let Some(mistake) = path_mistake(kind, path) {
        node.problem(mistake);
        return None;
    }
    Some(path)
}

/// A path in the form that requests' paths are compared in.
fn read_canonical(node: &Node<'_>, kind: PathKind) -> Option<String> {
    String::from_utf8(canonical_path(read_written(node, kind)?.as_bytes())?).ok()
}

fn read_template(node: &Node<'_>) -> Option<PathMatch> {
    PathMatch::template(read_written(node, PathKind::Template)?)
}

fn read_method(node: &Node<'_>) -> Option<String> {
    let method = node.string()?;
    if let Some(mistake) = method_mistake(method) {
        node.problem(mistake);
        return None;
    }
    Some(method.to_owned())
}

fn read_host(node: &Node<'_>) -> Option<HostMatch> {
    let written = node.nonempty()?;
    let host = HostMatch::new(written);
    if host.is_none() {
        node.problem(host_mistake(written));
    }
    host
}

/// A kind of key that the dialect has.
fn read_kind(node: &Node<'_>, dialect: Option<&Dialect>) -> Option<String> {
    let kind = node.nonempty()?;
    if let Some(dialect) = dialect
        && !dialect.formats.iter().any(|format| format.kind == kind)
    {
        let mut known: Vec<&str> = dialect.formats.iter().map(|format| format.kind.as_str()).collect();
        known.dedup();
        let name = &dialect.name;
        node.problem(format!(
            "unknown kind {kind:?}: the dialect {name:?} has {}; for all kinds leave \"kinds\" out, for none write []",
            known.join(", ")
        ));
        return None;
    }
    Some(kind.to_owned())
}

/// A list for all methods, or an object of lists by method in which `*` is for all others.
fn read_scopes(node: &Node<'_>, methods: Option<&[String]>) -> Option<ScopesByMethod> {
    if node.value().is_array() {
        return Some(ScopesByMethod { by_method: Vec::new(), otherwise: node.each(read_scope)? });
    }
    let mut scopes = ScopesByMethod::default();
    let mut otherwise = None;
    let mut complete = true;
    for (method, list_of) in node.fields()?.all() {
        match list_of.each(read_scope) {
            Some(list) if method == "*" => otherwise = Some(list),
            Some(list) => match scopes_mistake(method, methods) {
                None => scopes.by_method.push((method.to_owned(), list)),
                Some(mistake) => {
                    list_of.problem(mistake);
                    complete = false;
                }
            },
            None => complete = false,
        }
    }
    let Some(otherwise) = otherwise else {
        node.problem("\"*\" is missing: the scopes for all other methods");
        return None;
    };
    scopes.otherwise = otherwise;
    complete.then_some(scopes)
}

/// The mistake in a method that has scopes.
fn scopes_mistake(method: &str, methods: Option<&[String]>) -> Option<String> {
    if let Some(mistake) = method_mistake(method) {
        return Some(format!("{mistake} (or \"*\" for all other methods)"));
    }
    let methods = methods.unwrap_or_default();
    let is_matched =
        methods.is_empty() || methods.iter().any(|matched| matched == method || (matched == "GET" && method == "HEAD"));
    (!is_matched).then(|| {
        format!(
            "the rule matches only {}, so these scopes have no effect: add {method:?} to \"methods\", or remove it here",
            methods.join(", ")
        )
    })
}

/// A scope token (RFC 6749, section 3.3), so that it can stand in a challenge.
fn read_scope(node: &Node<'_>) -> Option<String> {
    let scope = node.nonempty()?;
    if !scope.bytes().all(|c| c.is_ascii_graphic() && c != b'"' && c != b'\\') {
        node.problem("expected a scope: visible ASCII without quotes, backslashes and spaces");
        return None;
    }
    Some(scope.to_owned())
}

/// The name of a shape or of a dialect whose shape it is, or a shape in place.
fn read_errors(node: &Node<'_>) -> Option<Rc<ErrorShape>> {
    let Some(name) = node.value().as_str() else { return ErrorShape::read(node).map(Rc::new) };
    let of_dialect = || Dialect::built_in(name).map(|dialect| dialect.map(|dialect| dialect.errors));
    match ErrorShape::built_in(name).or_else(of_dialect) {
        Some(Ok(shape)) => Some(Rc::new(shape)),
        Some(Err(problems)) => {
            node.problem(problems.to_string());
            None
        }
        None => {
            let known: Vec<_> = ErrorShape::built_in_names().chain(Dialect::built_in_names()).collect();
            node.problem(format!(
                "unknown error shape {name:?}: expected one of {}, or an error shape as an object",
                known.join(", ")
            ));
            None
        }
    }
}

/// Protected-resource metadata (RFC 9728, section 2), of which only `resource` is looked at: an `https` or, for trying,
/// `http` URL. Its metadata is found with the well-known part between host and path (section 3.1).
fn read_resource(node: &Node<'_>) -> Option<ProtectedResource> {
    let mut fields = node.fields()?;
    let resource = fields.required("resource")?;
    let url = resource.nonempty()?;
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    let (host, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let quotable = url.bytes().all(|c| c.is_ascii_graphic() && !b"\"\\?#".contains(&c));
    if host.is_empty() || !quotable {
        resource.problem("expected a URL with https:// or http://, a host, and no query");
        return None;
    }
    let origin = url.get(..url.len() - path.len()).unwrap_or_default();
    let path = path.strip_suffix('/').unwrap_or(path);
    Some(ProtectedResource { metadata_url: format!("{origin}{WELL_KNOWN}{path}"), metadata: node.value().to_string() })
}

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

fn metadata_rule(rule: &Rule) -> Option<Rule> {
    let Access::Delegated(Some(resource)) = &rule.route.access else { return None };
    let path = resource.metadata_url.find(WELL_KNOWN).and_then(|at| resource.metadata_url.get(at..))?;
    Some(Rule {
        path: PathMatch::exact(path),
        methods: Vec::new(),
        hosts: rule.hosts.clone(),
        ambiguous_paths: false,
        route: Route { access: Access::Metadata(Rc::clone(resource)), errors: None, cost: NonZeroU32::MIN },
    })
}
