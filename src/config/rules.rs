//! Reading the rules: which path asks for what.

use crate::engine::rules::{Access, PathMatch, Requirement, Rule, Rules};
use keyward_contract::document::Node;

pub(super) fn read(node: &Node<'_>) -> Option<Rules> {
    let rules: Vec<_> = node.list()?.iter().map(read_rule).collect();
    Some(Rules(rules.into_iter().collect::<Option<_>>()?))
}

fn read_rule(node: &Node<'_>) -> Option<Rule> {
    let mut fields = node.fields()?;
    let path = fields.required("path").and_then(|n| read_path_match(&n));
    let access = fields
        .required("access")
        .and_then(|n| n.one_of(&[("key", Word::Key), ("public", Word::Public), ("delegated", Word::Delegated)]));
    let kinds = fields.optional("kinds");
    let scopes = fields.optional("scopes");
    fields.finish();
    let asks = kinds.is_some() || scopes.is_some();
    let kinds = match kinds {
        Some(n) => n.strings().map(|kinds| Some(kinds.into_iter().map(str::to_owned).collect())),
        None => Some(None),
    };
    let scopes = match scopes {
        Some(n) => read_scopes(&n),
        None => Some(Vec::new()),
    };
    let access = access?;
    if asks && access != Word::Key {
        node.problem("\"kinds\" and \"scopes\" are asked of keys only");
        return None;
    }
    let access = match access {
        Word::Key => Access::Key(Requirement { kinds: kinds?, scopes: scopes? }),
        Word::Public => Access::Public,
        Word::Delegated => Access::Delegated,
    };
    Some(Rule { path: path?, access })
}

#[derive(Clone, Copy, PartialEq)]
enum Word {
    Key,
    Public,
    Delegated,
}

fn read_path_match(node: &Node<'_>) -> Option<PathMatch> {
    let mut fields = node.fields()?;
    let exact = fields.optional("exact");
    let prefix = fields.optional("prefix");
    fields.finish();
    match (exact, prefix) {
        (Some(n), None) => read_path(&n).map(|path| PathMatch::Exact(path.to_owned())),
        (None, Some(n)) => read_path(&n).map(PathMatch::prefix),
        _ => {
            node.problem("expected exactly one of \"exact\" and \"prefix\"");
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

/// Scope tokens (RFC 6749, section 3.3), so that they can stand in a challenge.
fn read_scopes(node: &Node<'_>) -> Option<Vec<String>> {
    let read = |n: &Node<'_>| {
        let scope = n.nonempty()?;
        if !scope.bytes().all(|c| c.is_ascii_graphic() && c != b'"' && c != b'\\') {
            n.problem("expected a scope: visible ASCII without quotes, backslashes and spaces");
            return None;
        }
        Some(scope.to_owned())
    };
    let scopes: Vec<_> = node.list()?.iter().map(read).collect();
    scopes.into_iter().collect()
}
