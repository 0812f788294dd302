//! What callers may ask for, read so that all mistakes are told at once and what was read cannot be wrong.

use crate::clock::Timestamp;
use crate::random::ID_LENGTH;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use keyward_contract::dialect::{Dialect, read_limits};
use keyward_contract::digest::Digest;
use keyward_contract::document::{Fields, Node, Problems, read_value};
use keyward_contract::entry::{Body, Entry, Environment, KeyRecord, OwnerRecord};
use keyward_contract::key_format::KeyFormat;
use keyward_contract::limit::Limits;
use serde_json::Value;
use std::net::IpAddr;
use std::time::Duration;

/// A key that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// What its users call it.
    pub name: String,
    /// The id of its owner.
    pub owner: Option<String>,
    /// What its secrets look like; says its kind and environment.
    pub format: KeyFormat,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Where it may be used from; empty means anywhere.
    pub allow_ip: Vec<IpNet>,
    /// What it may use; `None` for the dialect's default.
    pub limits: Option<Limits>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

/// How a key is to be rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// How long the secrets so far stay valid.
    pub grace: Duration,
}

/// What is to become of an owner; `None` leaves things as they are.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OwnerChange {
    /// Whether all its keys are refused.
    pub disabled: Option<bool>,
    /// The most its keys may do; the inner `None` does not bound them.
    pub permissions: Option<Option<Vec<String>>>,
}

const MAX_NAME_LENGTH: usize = 200;
const MAX_SCOPE_LENGTH: usize = 64;
const MAX_OWNER_LENGTH: usize = 128;
/// A hundred years.
const MAX_LIFETIME_S: u64 = 100 * 365 * 86_400;
/// A year.
const MAX_GRACE_S: u64 = 365 * 86_400;
const DEFAULT_GRACE_S: u64 = 86_400;

/// The document of a request: an empty body counts as an empty object.
///
/// # Errors
/// What keeps it from being JSON.
pub fn document(body: &[u8]) -> Result<Value, serde_json::Error> {
    if body.trim_ascii().is_empty() { Ok(Value::Object(serde_json::Map::new())) } else { serde_json::from_slice(body) }
}

impl NewKey {
    /// Reads the request for a key of that dialect.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(mut document: Value, dialect: &Dialect, now: Timestamp) -> Result<Self, Problems> {
        // A null in the place of what is missing gives the mistake a field to stand at.
        if let Value::Object(fields) = &mut document {
            fields.entry("name").or_insert(Value::Null);
        }
        read_value(&document, |node| Self::read_fields(&node, dialect, now))
    }

    fn read_fields(node: &Node<'_>, dialect: &Dialect, now: Timestamp) -> Option<Self> {
        let mut fields = node.fields()?;
        let name = fields.required("name").and_then(|n| name(&n));
        // A dialect may refuse keys without an owner, and has words for it, so there may be such keys.
        let owner = optional(&mut fields, "owner", owner);
        let format = format(&mut fields, dialect);
        let scopes = optional(&mut fields, "scopes", |n| n.each(scope));
        let allow_ip = optional(&mut fields, "allow_ip", |n| n.each(network));
        let limits = optional(&mut fields, "limits", read_limits);
        let expires_at = expiry(&mut fields, now);
        fields.finish();
        let made = Self {
            name: name?,
            owner: owner?,
            format: format?,
            scopes: scopes?.unwrap_or_default(),
            allow_ip: allow_ip?.unwrap_or_default(),
            limits: limits?,
            expires_at: expires_at?,
        };
        made.fits_an_entry(node).then_some(made)
    }

    /// Whether an edge can be told of it, now and whatever becomes of it: a key that only fits while it is valid could
    /// never be revoked.
    fn fits_an_entry(&self, node: &Node<'_>) -> bool {
        let longest = KeyRecord {
            key_id: "-".repeat("key_".len() + ID_LENGTH),
            secret_id: "-".repeat("sec_".len() + ID_LENGTH),
            kind: self.format.kind.clone(),
            environment: self.format.environment,
            revoked_at_ms: Some(0),
            expires_at_ms: Some(0),
            secret_not_after_ms: Some(0),
            owner: self.owner.clone(),
            scopes: self.scopes.clone(),
            allowlist: self.allow_ip.clone(),
            limits: self.limits.clone(),
            credits_exhausted: true,
            plan: None,
            needs_verification: false,
        };
        fits(node, Body::Key(longest))
    }
}

impl Rotation {
    /// Reads the request.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(document: &Value) -> Result<Self, Problems> {
        read_value(document, |node| {
            let mut fields = node.fields()?;
            let grace_s = optional(&mut fields, "grace_s", |n| n.number(0..=MAX_GRACE_S));
            fields.finish();
            Some(Self { grace: Duration::from_secs(grace_s?.unwrap_or(DEFAULT_GRACE_S)) })
        })
    }
}

impl OwnerChange {
    /// Reads the request.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(document: &Value) -> Result<Self, Problems> {
        read_value(document, |node| {
            let mut fields = node.fields()?;
            let disabled = match fields.optional("disabled") {
                Some(n) => n.boolean().map(Some),
                None => Some(None),
            };
            let permissions = match fields.optional("permissions") {
                Some(n) if n.value().is_null() => Some(Some(None)),
                Some(n) => n.each(scope).map(|permissions| Some(Some(permissions))),
                None => Some(None),
            };
            fields.finish();
            let change = Self { disabled: disabled?, permissions: permissions? };
            let record = OwnerRecord { disabled: false, permissions: change.permissions.clone().flatten() };
            fits(&node, Body::Owner(record)).then_some(change)
        })
    }
}

pub(super) fn fits(node: &Node<'_>, body: Body) -> bool {
    let entry = Entry { subject: Digest([0; Digest::LENGTH]), version: 0, body };
    let fitting = entry.encode(&mut Vec::new());
    if let Err(error) = &fitting {
        node.problem(error.to_string());
    }
    fitting.is_ok()
}

/// The outer `None` means that the field is there and wrong; null counts as absent.
pub(super) fn optional<'a, T>(
    fields: &mut Fields<'a>,
    name: &'static str,
    read: impl FnOnce(&Node<'a>) -> Option<T>,
) -> Option<Option<T>> {
    match fields.optional(name) {
        Some(node) if !node.value().is_null() => read(&node).map(Some),
        _ => Some(None),
    }
}

pub(super) fn name(node: &Node<'_>) -> Option<String> {
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

pub(super) fn owner(node: &Node<'_>) -> Option<String> {
    let owner = node.string()?;
    if !(1..=MAX_OWNER_LENGTH).contains(&owner.len()) || !owner.bytes().all(|c| c.is_ascii_graphic()) {
        node.problem(format!("expected 1 to {MAX_OWNER_LENGTH} visible ASCII characters without spaces"));
        return None;
    }
    Some(owner.to_owned())
}

pub(super) fn scope(node: &Node<'_>) -> Option<String> {
    let scope = node.string()?;
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._:/*-".contains(&c);
    if !(1..=MAX_SCOPE_LENGTH).contains(&scope.len()) || !scope.bytes().all(allowed) {
        node.problem(format!("expected 1 to {MAX_SCOPE_LENGTH} letters, digits and ._:/*-"));
        return None;
    }
    Some(scope.to_owned())
}

pub(super) fn network(node: &Node<'_>) -> Option<IpNet> {
    let text = node.string()?;
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    if network.is_none() {
        node.problem("expected an IP address or a network in CIDR notation");
    }
    network.map(|network| canonical(network.trunc()))
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

fn format(fields: &mut Fields<'_>, dialect: &Dialect) -> Option<KeyFormat> {
    let kinds: Vec<_> = dialect.formats.iter().map(|format| (format.kind.as_str(), format.kind.as_str())).collect();
    let kind = optional(fields, "kind", |n| n.one_of(&kinds));
    let environment = optional(fields, "environment", |n| {
        let environment = n.one_of(&[("live", Environment::Live), ("test", Environment::Test)])?;
        Some((environment, n.clone()))
    });
    let (kind, environment) = (kind?, environment?);
    let kind = kind.or_else(|| dialect.formats.first().map(|format| format.kind.as_str()))?;
    let of_kind = || dialect.formats.iter().filter(|format| format.kind == kind);
    let of_environment = |environment| of_kind().find(|format| format.environment == Some(environment));
    let format = match environment {
        Some((environment, node)) => {
            let format = of_environment(environment);
            if format.is_none() {
                node.problem(format!("keys of kind {kind:?} have no environment {:?} here", environment.name()));
            }
            format
        }
        None => of_environment(Environment::Live).or_else(|| of_kind().next()),
    };
    format.cloned()
}

fn expiry(fields: &mut Fields<'_>, now: Timestamp) -> Option<Option<Timestamp>> {
    let after = optional(fields, "expires_in_s", |n| {
        Some((now.plus(Duration::from_secs(n.number(1..=MAX_LIFETIME_S)?)), n.clone()))
    });
    let at = optional(fields, "expires_at", |n| {
        let time = Timestamp::parse_rfc3339(n.string()?);
        match time {
            None => n.problem("expected a date and time as RFC 3339 writes them"),
            Some(time) if time <= now => n.problem("expected a time in the future"),
            Some(_) => return time,
        }
        None
    });
    match (after?, at?) {
        (Some((_, node)), Some(_)) => {
            node.problem("expected this or expires_at, not both");
            None
        }
        (after, at) => Some(at.or(after.map(|(time, _)| time))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    fn dialect(name: &str) -> Dialect {
        Dialect::built_in(name).unwrap().unwrap()
    }

    fn read(document: Value) -> Result<NewKey, Vec<(String, String)>> {
        told(NewKey::read(document, &dialect("keyward"), NOW))
    }

    fn told<T>(read: Result<T, Problems>) -> Result<T, Vec<(String, String)>> {
        read.map_err(|problems| problems.0.into_iter().map(|problem| (problem.path, problem.message)).collect())
    }

    #[test]
    fn a_name_is_enough_for_a_live_key_of_the_first_kind() {
        let key = read(json!({"name": "ci", "owner": null})).unwrap();
        assert_eq!((key.format.kind.as_str(), key.format.environment), ("key", Some(Environment::Live)));
        assert_eq!((key.owner, key.scopes, key.allow_ip, key.expires_at), (None, vec![], vec![], None));
    }

    #[test]
    fn every_field_is_taken_as_it_was_meant() {
        let key = read(json!({
            "name": "ci", "owner": "acme/ops", "kind": "key", "environment": "test", "scopes": ["read", "a.b:c/*"],
            "allow_ip": ["192.0.2.7", "10.1.2.3/8", "2001:db8::/32"], "expires_in_s": 60,
        }))
        .unwrap();
        assert_eq!(key.format.prefix, "kw_test_");
        let networks: Vec<_> = key.allow_ip.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["192.0.2.7/32", "10.0.0.0/8", "2001:db8::/32"]);
        assert_eq!(key.expires_at, Some(NOW.plus(Duration::from_secs(60))));
        let until = NOW.plus(Duration::from_secs(5)).to_string();
        assert_eq!(read(json!({"name": "ci", "expires_at": until})).unwrap().expires_at.unwrap().to_string(), until);
    }

    #[test]
    fn all_mistakes_are_told_at_once_each_at_its_field() {
        let problems = read(json!({
            "owner": "two words", "kind": "nonsense", "environment": "prod", "scopes": ["ok", "not ok", 3],
            "allow_ip": ["10.0.0.0/33"], "expires_at": "2001-01-01T00:00:00Z", "expires_in_s": 0, "colour": "red",
        }))
        .unwrap_err();
        let fields: Vec<_> = problems.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "name",
                "owner",
                "kind",
                "environment",
                "scopes[1]",
                "scopes[2]",
                "allow_ip[0]",
                "expires_in_s",
                "expires_at",
                "colour"
            ]
        );
        assert_eq!(problems[0].1, "is required");
    }

    #[test]
    fn names_have_at_least_one_and_at_most_200_characters_and_no_control_characters() {
        assert!(read(json!({"name": "é".repeat(200)})).is_ok());
        for bad in ["", &"e".repeat(201), "a\u{1b}[2J"] {
            assert_eq!(read(json!({"name": bad})).unwrap_err()[0].0, "name", "{bad:?}");
        }
    }

    #[test]
    fn a_key_without_an_owner_can_be_made_where_edges_refuse_it() {
        let dialect = dialect("graph8");
        assert!(dialect.owner_required);
        for without in [json!({"name": "a"}), json!({"name": "a", "owner": null})] {
            assert_eq!(told(NewKey::read(without, &dialect, NOW)).unwrap().owner, None);
        }
    }

    #[test]
    fn only_one_expiry_can_be_given() {
        let problems = read(json!({"name": "a", "expires_in_s": 5, "expires_at": "9000-01-01T00:00:00Z"})).unwrap_err();
        assert_eq!(problems[0].0, "expires_in_s");
    }

    #[test]
    fn an_environment_that_the_dialect_does_not_have_is_refused() {
        let wanted = json!({"name": "a", "environment": "test"});
        let problems = told(NewKey::read(wanted, &dialect("exograph"), NOW)).unwrap_err();
        assert_eq!(problems[0].0, "environment");
    }

    #[test]
    fn a_key_that_would_outgrow_its_entry_when_revoked_is_never_made() {
        let with_scopes = |scopes: usize| read(json!({"name": "a", "scopes": vec!["s"; scopes]}));
        let room = keyward_contract::entry::MAX_ENTRY_BYTES;
        let most = (1..room / 4).rev().find(|scopes| with_scopes(*scopes).is_ok()).unwrap();
        let key = with_scopes(most).unwrap();
        let revoked = KeyRecord {
            revoked_at_ms: Some(1),
            secret_not_after_ms: Some(1),
            scopes: key.scopes,
            ..KeyRecord::default()
        };
        let entry = Entry { subject: Digest([0; 32]), version: 1, body: Body::Key(revoked) };
        entry.encode(&mut Vec::new()).unwrap();
        let problem = &with_scopes(most + 1).unwrap_err()[0];
        assert_eq!(problem.0, "");
        assert!(problem.1.contains("scopes"), "{}", problem.1);
    }

    #[test]
    fn a_rotation_without_words_gives_a_day_of_grace_and_none_can_be_asked_for() {
        let grace = |document| told(Rotation::read(&document)).map(|rotation| rotation.grace.as_secs());
        assert_eq!(grace(json!({})), Ok(86_400));
        assert_eq!(grace(json!({"grace_s": 0})), Ok(0));
        assert_eq!(grace(json!({"grace_s": -1, "x": 1})).unwrap_err().len(), 2);
        assert!(document(b" ").unwrap().is_object());
    }

    #[test]
    fn null_permissions_unbound_an_owner_and_absent_ones_leave_it_as_it_is() {
        let read = |document| told(OwnerChange::read(&document));
        assert_eq!(read(json!({})).unwrap(), OwnerChange::default());
        assert_eq!(read(json!({"permissions": null})).unwrap().permissions, Some(None));
        assert_eq!(read(json!({"permissions": ["a"]})).unwrap().permissions, Some(Some(vec!["a".to_owned()])));
        assert_eq!(read(json!({"disabled": null, "permissions": "all"})).unwrap_err().len(), 2);
    }
}
