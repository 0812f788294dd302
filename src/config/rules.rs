//! Reading the rules: which requests they are for, and what they ask.

use crate::engine::identity::Strip;
use crate::engine::rules::{
    Access, HostMatch, PathMatch, ProtectedResource, Requirement, Route, Rule, ScopesByMethod, canonical_path,
};
use keyward_contract::dialect::Dialect;
use keyward_contract::document::{Fields, Node};
use keyward_contract::error_shape::ErrorShape;
use std::num::NonZeroU32;
use std::rc::Rc;

/// The rules in order. A protected resource's metadata is found by a rule of its own, before all others.
pub(super) fn read(node: &Node<'_>) -> Option<Vec<Rule>> {
    let rules = node.each(read_rule)?;
    let metadata = rules.iter().filter_map(metadata_rule).collect::<Vec<_>>();
    Some(metadata.into_iter().chain(rules).collect())
}

fn read_rule(node: &Node<'_>) -> Option<Rule> {
    let mut fields = node.fields()?;
    let path = fields.required("path").and_then(|n| read_path_match(&n));
    let methods = fields.optional("methods").map_or(Some(Vec::new()), |n| n.each(read_method));
    let hosts = fields.optional("hosts").map_or(Some(Vec::new()), |n| n.each(read_host));
    let ambiguous_paths = fields.optional("ambiguous_paths").map_or(Some(false), |n| n.boolean());
    let access = read_access(&mut fields);
    let errors = fields.maybe("errors", read_errors);
    let cost = fields
        .optional("cost")
        .map_or(Some(NonZeroU32::MIN), |n| NonZeroU32::new(u32::try_from(n.number(1..=u64::from(u32::MAX))?).ok()?));
    fields.finish();
    let route = Route { access: access?, errors: errors?, cost: cost? };
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

fn read_access(fields: &mut Fields<'_>) -> Option<Access> {
    let word = fields.required("access").and_then(|n| n.one_of(&ACCESS));
    let kinds = fields.optional("kinds");
    let scopes = fields.optional("scopes");
    let credential = fields.optional("credential");
    let resource = fields.optional("protected_resource");
    let asks = kinds.is_some() || scopes.is_some();
    let requirement = {
        let kinds = match &kinds {
            Some(n) => n.strings().map(|kinds| Some(kinds.into_iter().map(str::to_owned).collect())),
            None => Some(None),
        };
        let scopes = scopes.as_ref().map_or(Some(ScopesByMethod::default()), read_scopes);
        let strip = credential.as_ref().map_or(Some(Strip::default()), |n| n.one_of(&CREDENTIAL));
        kinds.zip(scopes).zip(strip).map(|((kinds, scopes), strip)| Requirement { kinds, scopes, strip })
    };
    let word = word?;
    if asks && !matches!(word, Word::Key | Word::Optional) {
        fields.node().problem("\"kinds\" and \"scopes\" are asked of keys only");
        return None;
    }
    if let Some(credential) = &credential
        && !matches!(word, Word::Key | Word::Optional)
    {
        credential.problem("it is removed on a public route and stays on a delegated one; to be said of keys only");
        return None;
    }
    if let Some(resource) = &resource
        && word != Word::Delegated
    {
        resource.problem("only a delegated route is a protected resource");
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
        (Some(n), None, None) => read_canonical(&n).map(|path| PathMatch::exact(&path)),
        (None, Some(n), None) => read_canonical(&n).map(|path| PathMatch::prefix(&path)),
        (None, None, Some(n)) => read_template(&n),
        _ => {
            node.problem("expected exactly one of \"exact\", \"prefix\" and \"template\"");
            None
        }
    }
}

pub(super) fn read_path<'a>(node: &Node<'a>) -> Option<&'a str> {
    let path = node.string()?;
    if !path.starts_with('/') || path.contains(['?', '#']) || !path.bytes().all(|c| c.is_ascii_graphic()) {
        node.problem("expected a path that begins with / and has no query, in visible ASCII");
        return None;
    }
    Some(path)
}

/// A path in the form that requests' paths are compared in.
fn read_canonical(node: &Node<'_>) -> Option<String> {
    let canonical = canonical_path(read_path(node)?.as_bytes()).and_then(|path| String::from_utf8(path).ok());
    if canonical.is_none() {
        node.problem("this path can be read in two ways, so no request matches it");
    }
    canonical
}

fn read_template(node: &Node<'_>) -> Option<PathMatch> {
    let template = PathMatch::template(&read_canonical(node)?);
    if template.is_none() {
        node.problem("expected segments that are all in braces, such as {id}, or have none");
    }
    template
}

fn read_method(node: &Node<'_>) -> Option<String> {
    let method = node.nonempty()?;
    if !is_method(method) {
        node.problem("expected a method in capital letters");
        return None;
    }
    Some(method.to_owned())
}

fn is_method(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|c| c.is_ascii_uppercase() || c == b'-')
}

fn read_host(node: &Node<'_>) -> Option<HostMatch> {
    let host = HostMatch::new(node.nonempty()?);
    if host.is_none() {
        node.problem("expected a host without its port, or *. and a domain");
    }
    host
}

/// A list for all methods, or an object of lists by method in which `*` stands for all others.
fn read_scopes(node: &Node<'_>) -> Option<ScopesByMethod> {
    if node.value().is_array() {
        return Some(ScopesByMethod { by_method: Vec::new(), otherwise: node.each(read_scope)? });
    }
    let mut scopes = ScopesByMethod::default();
    let mut otherwise = None;
    let mut complete = true;
    for (method, list_of) in node.fields()?.all() {
        match list_of.each(read_scope) {
            Some(list) if method == "*" => otherwise = Some(list),
            Some(list) if is_method(method) => scopes.by_method.push((method.to_owned(), list)),
            Some(_) => {
                list_of.problem("expected a method in capital letters, or *");
                complete = false;
            }
            None => complete = false,
        }
    }
    let Some(otherwise) = otherwise else {
        node.problem("\"*\" is missing: the scopes that all other methods need");
        return None;
    };
    scopes.otherwise = otherwise;
    complete.then_some(scopes)
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
            node.problem(format!("no such error shape; known: {}; or write one in place", known.join(", ")));
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
