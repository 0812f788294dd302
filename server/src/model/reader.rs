//! Readers of single values, which several documents have in common, with the bounds of each.

mod expiry;
pub mod schema;

pub(super) use expiry::{expiry, lifetime, time};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use keyward_core::document::{Fields, Node, Problems, read_value};
use keyward_core::key::digest::Digest;
use keyward_core::wire::entry::{Body, Entry};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

pub(super) const MAX_NAME_LENGTH: usize = 200;
pub(super) const MAX_SCOPE_LENGTH: usize = 64;
pub(super) const MAX_ID_LENGTH: usize = 128;
/// The most entries of a key's metadata.
pub const MAX_METADATA: usize = 20;
pub(super) const MAX_METADATA_NAME_LENGTH: usize = 64;
pub(super) const MAX_METADATA_VALUE_LENGTH: usize = 500;
/// The most credits that a key can have or can have spent: what every reader of JSON tells from its neighbours (RFC 8259,
/// section 6).
pub const MAX_CREDITS: u64 = (1 << 53) - 1;

/// Reads the document together with an id that stands in the path, so that the mistakes of both are told at once.
pub(super) fn read_with_id<T>(
    id: &str,
    document: &Value,
    read: impl FnOnce(Node<'_>) -> Option<T>,
) -> Result<T, Problems> {
    let in_path = read_value(&serde_json::json!({ "id": id }), |node| {
        let mut fields = node.fields()?;
        fields.required("id").and_then(|n| self::id(&n))
    });
    match (in_path, read_value(document, read)) {
        (Ok(_), read) => read,
        (Err(problems), Ok(_)) => Err(problems),
        (Err(Problems(mut problems)), Err(Problems(more))) => {
            problems.extend(more);
            Err(Problems(problems))
        }
    }
}

pub(crate) fn fits(node: &Node<'_>, body: Body) -> bool {
    let entry = Entry { subject: Digest([0; Digest::LENGTH]), version: 0, body };
    let fitting = entry.encode(&mut Vec::new());
    if let Err(error) = &fitting {
        node.problem(error.to_string());
    }
    fitting.is_ok()
}

/// The outer `None` means that the field is there and wrong; null counts as absent.
pub(crate) fn optional<'a, T>(
    fields: &mut Fields<'a>,
    name: &'static str,
    read: impl FnOnce(&Node<'a>) -> Option<T>,
) -> Option<Option<T>> {
    match fields.optional(name) {
        Some(node) if !node.value().is_null() => read(&node).map(Some),
        _ => Some(None),
    }
}

/// A field that may be absent, null or given: `None` if it is there and wrong, `Some(None)` if it is absent, and inside
/// that `None` for null.
pub(crate) fn nullable<'a, T>(
    fields: &mut Fields<'a>,
    name: &'static str,
    read: impl FnOnce(&Node<'a>) -> Option<T>,
) -> Option<Option<Option<T>>> {
    match fields.optional(name) {
        Some(node) if node.value().is_null() => Some(Some(None)),
        Some(node) => read(&node).map(|value| Some(Some(value))),
        None => Some(None),
    }
}

pub(crate) fn name(node: &Node<'_>) -> Option<String> {
    if node.value().is_null() {
        node.problem("is required");
        return None;
    }
    let name = node.string()?;
    // Control characters could rewrite the terminal of whoever lists the keys.
    if !(1..=MAX_NAME_LENGTH).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        node.problem(format!("expected 1 to {MAX_NAME_LENGTH} characters, none of them a control character"));
        return None;
    }
    Some(name.to_owned())
}

/// Whether the text can be the id of an owner, a member or a plan.
pub fn is_id(text: &str) -> bool {
    (1..=MAX_ID_LENGTH).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic())
}

/// The id of an owner, a member or a plan, in the words of whoever runs the service.
pub(crate) fn id(node: &Node<'_>) -> Option<String> {
    let id = node.string()?;
    if !is_id(id) {
        node.problem(format!("expected 1 to {MAX_ID_LENGTH} visible ASCII characters without spaces"));
        return None;
    }
    Some(id.to_owned())
}

pub(crate) fn scope(node: &Node<'_>) -> Option<String> {
    let scope = node.string()?;
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._:/*-".contains(&c);
    if !(1..=MAX_SCOPE_LENGTH).contains(&scope.len()) || !scope.bytes().all(allowed) {
        node.problem(format!("expected 1 to {MAX_SCOPE_LENGTH} letters, digits and ._:/*-"));
        return None;
    }
    Some(scope.to_owned())
}

pub(crate) fn network(node: &Node<'_>) -> Option<IpNet> {
    let text = node.string()?;
    let network = match text.split_once('/') {
        // `IpNet` reads octets with zeros before them, which others take for octal numbers (RFC 6943, section 3.1.1).
        Some((address, length)) => {
            address.parse().ok().and_then(|address| IpNet::new(address, prefix_length(length)?).ok())
        }
        None => text.parse::<IpAddr>().ok().map(IpNet::from),
    };
    if network.is_none() {
        node.problem("expected an IP address or a network in CIDR notation");
    }
    network.map(|network| canonical(network.trunc()))
}

fn prefix_length(text: &str) -> Option<u8> {
    let length = text.parse::<u8>().ok()?;
    (length.to_string() == text).then_some(length)
}

/// Edges compare IPv4 addresses as such, so a network of IPv4-mapped ones (RFC 4291, section 2.5.5.2) is one of IPv4.
fn canonical(network: IpNet) -> IpNet {
    let mapped = |network: Ipv6Net| {
        let address = network.network().to_ipv4_mapped()?;
        Ipv4Net::new(address, network.prefix_len().checked_sub(96)?).ok()
    };
    match network {
        IpNet::V6(v6) => mapped(v6).map_or(network, IpNet::V4),
        IpNet::V4(_) => network,
    }
}

pub(crate) fn credits(node: &Node<'_>) -> Option<u64> {
    node.number(0..=MAX_CREDITS)
}

/// Notes about a key.
pub(crate) fn metadata(node: &Node<'_>) -> Option<BTreeMap<String, String>> {
    let entries = node.fields()?.all();
    if entries.len() > MAX_METADATA {
        node.problem(format!("expected at most {MAX_METADATA} entries"));
        return None;
    }
    // Every one is read, so that every mistake is told.
    let read: Vec<_> = entries.iter().map(|(name, n)| metadata_name(name, n).zip(metadata_value(n))).collect();
    read.into_iter().collect()
}

/// Notes to set, or to remove where there is no value.
pub(crate) fn change_metadata(node: &Node<'_>) -> Option<BTreeMap<String, Option<String>>> {
    let read = |(name, n): (&str, Node<'_>)| {
        let value = if n.value().is_null() { Some(None) } else { metadata_value(&n).map(Some) };
        metadata_name(name, &n).zip(value)
    };
    // Every one is read, so that every mistake is told.
    let read: Vec<_> = node.fields()?.all().into_iter().map(read).collect();
    read.into_iter().collect()
}

/// The name of an entry of the metadata, which stands at the node.
fn metadata_name(name: &str, node: &Node<'_>) -> Option<String> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    if !(1..=MAX_METADATA_NAME_LENGTH).contains(&name.len()) || !name.bytes().all(allowed) {
        node.problem(format!("expected a name of 1 to {MAX_METADATA_NAME_LENGTH} letters, digits and ._-"));
        return None;
    }
    Some(name.to_owned())
}

fn metadata_value(node: &Node<'_>) -> Option<String> {
    let value = node.string()?;
    if value.chars().count() > MAX_METADATA_VALUE_LENGTH || value.chars().any(char::is_control) {
        node.problem(format!(
            "expected at most {MAX_METADATA_VALUE_LENGTH} characters, none of them a control character"
        ));
        return None;
    }
    Some(value.to_owned())
}

/// What a test compares: where the mistakes are, and what they say.
#[cfg(test)]
pub(super) fn told<T>(read: Result<T, Problems>) -> Result<T, Vec<(String, String)>> {
    read.map_err(|problems| problems.0.into_iter().map(|problem| (problem.path, problem.message)).collect())
}
