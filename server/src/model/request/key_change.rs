//! A change of a key that is asked for: a JSON merge patch (RFC 7396) of what can be changed of it.

use super::expiry::expiry;
use super::fields::{credits, id, metadata_name, metadata_value, name, network, nullable, scope};
use crate::clock::Timestamp;
use crate::model::Key;
use ipnet::IpNet;
use keyward_core::dialect::{Dialect, read_limits};
use keyward_core::document::{Node, Problems, read_value};
use keyward_core::key::limit::Limits;
use serde_json::Value;
use std::collections::BTreeMap;

/// What is to become of a key; an outer `None` leaves things as they are.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KeyChange {
    /// What its users call it.
    pub name: Option<String>,
    /// Who it is for.
    pub member: Option<Option<String>>,
    /// What it may do.
    pub scopes: Option<Vec<String>>,
    /// Where it may be used from; empty means anywhere.
    pub allow_ip: Option<Vec<IpNet>>,
    /// What it may use; the inner `None` for what its plan says, or else the dialect.
    pub limits: Option<Option<Limits>>,
    /// The id of its plan.
    pub plan: Option<Option<String>>,
    /// How much it may spend altogether; the inner `None` does not bound it.
    pub credits: Option<Option<u64>>,
    /// How much it has spent so far, where what edges reported is not so.
    pub spent: Option<u64>,
    /// What is to become of the notes about it.
    pub metadata: Option<MetadataChange>,
    /// When it ends by itself; the inner `None` for never.
    pub expires_at: Option<Option<Timestamp>>,
}

/// What is to become of a key's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataChange {
    /// All of it goes.
    Cleared,
    /// These entries are set, or removed where there is no value; the others stay.
    Merged(BTreeMap<String, Option<String>>),
}

impl KeyChange {
    /// Reads the request for a change of a key that was made at that time.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(document: &Value, dialect: &Dialect, created_at: Timestamp, now: Timestamp) -> Result<Self, Problems> {
        read_value(document, |node| {
            let mut fields = node.fields()?;
            let name = fields.maybe("name", name);
            let member = nullable(&mut fields, "member", id);
            let scopes = nullable(&mut fields, "scopes", |n| n.each(scope));
            let allow_ip = nullable(&mut fields, "allow_ip", |n| n.each(network));
            let limits = nullable(&mut fields, "limits", read_limits);
            let plan = nullable(&mut fields, "plan", id);
            let spent = fields.maybe("spent", credits);
            let credits = nullable(&mut fields, "credits", credits);
            let metadata = nullable(&mut fields, "metadata", metadata);
            let expires_at = expiry(&mut fields, dialect, created_at, now);
            for fixed in ["kind", "owner", "environment"] {
                if let Some(n) = fields.optional(fixed) {
                    n.problem("cannot be changed; make another key instead");
                }
            }
            fields.finish();
            Some(Self {
                name: name?,
                member: member?,
                scopes: scopes?.map(Option::unwrap_or_default),
                allow_ip: allow_ip?.map(Option::unwrap_or_default),
                limits: limits?,
                plan: plan?,
                credits: credits?,
                spent: spent?,
                metadata: metadata?.map(|entries| entries.map_or(MetadataChange::Cleared, MetadataChange::Merged)),
                expires_at: expires_at?,
            })
        })
    }

    /// Changes what is to be changed.
    pub fn apply(self, key: &mut Key) {
        set(&mut key.name, self.name);
        set(&mut key.member, self.member);
        set(&mut key.scopes, self.scopes);
        set(&mut key.allow_ip, self.allow_ip);
        set(&mut key.limits, self.limits);
        set(&mut key.plan, self.plan);
        set(&mut key.credits, self.credits);
        set(&mut key.spent, self.spent);
        set(&mut key.expires_at, self.expires_at);
        match self.metadata {
            None => {}
            Some(MetadataChange::Cleared) => key.metadata.clear(),
            Some(MetadataChange::Merged(entries)) => {
                for (name, value) in entries {
                    match value {
                        Some(value) => drop(key.metadata.insert(name, value)),
                        None => drop(key.metadata.remove(&name)),
                    }
                }
            }
        }
    }
}

fn set<T>(field: &mut T, change: Option<T>) {
    if let Some(value) = change {
        *field = value;
    }
}

fn metadata(node: &Node<'_>) -> Option<BTreeMap<String, Option<String>>> {
    let read = |(name, n): (&str, Node<'_>)| {
        let value = if n.value().is_null() { Some(None) } else { metadata_value(&n).map(Some) };
        metadata_name(name, &n).zip(value)
    };
    // Every one is read, so that every mistake is told.
    let read: Vec<_> = node.fields()?.all().into_iter().map(read).collect();
    read.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::request::fields::told;
    use serde_json::json;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    fn read(dialect: &str, document: Value) -> Result<KeyChange, Vec<(String, String)>> {
        let dialect = Dialect::built_in(dialect).unwrap().unwrap();
        told(KeyChange::read(&document, &dialect, NOW.minus(Duration::from_secs(86_400)), NOW))
    }

    #[test]
    fn nothing_said_changes_nothing_and_null_takes_back() {
        assert_eq!(read("keyward", json!({})).unwrap(), KeyChange::default());
        let all = json!({"member": null, "scopes": null, "allow_ip": null, "limits": null, "plan": null, "credits": null,
                         "metadata": null, "expires_at": null});
        let mut key = Key::new("key_1".into(), "n".into(), "key".into(), NOW);
        let bare = key.clone();
        key.member = Some("ann".into());
        key.scopes = vec!["read".into()];
        key.allow_ip = vec!["10.0.0.0/8".parse().unwrap()];
        key.limits = Some(Limits::default());
        key.plan = Some("pro".into());
        key.credits = Some(5);
        key.metadata = [("a".to_owned(), "b".to_owned())].into();
        key.expires_at = Some(NOW);
        read("keyward", all).unwrap().apply(&mut key);
        assert_eq!(key, bare);
        assert_eq!(read("keyward", json!({"expires_in_s": null})).unwrap().expires_at, Some(None));
        assert_eq!(read("keyward", json!({"name": null})).unwrap_err(), [("name".into(), "is required".into())]);
    }

    #[test]
    fn metadata_is_merged_entry_by_entry() {
        let mut key = Key::new("key_1".into(), "n".into(), "key".into(), NOW);
        key.metadata = [("keep", "1"), ("set", "1"), ("go", "1")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let change = json!({"metadata": {"set": "2", "go": null, "never-was": null, "new": ""}});
        read("keyward", change).unwrap().apply(&mut key);
        let expected = [("keep", "1"), ("set", "2"), ("new", "")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(key.metadata, expected.into());
    }

    #[test]
    fn what_cannot_be_changed_says_so_beside_all_other_mistakes() {
        let problems = read(
            "keyward",
            json!({"kind": "key", "owner": null, "environment": "test", "metadata": {"a b": "", "n": 1}, "state": "active",
                   "expires_in_s": 1, "expires_at": "9000-01-01T00:00:00Z"}),
        )
        .unwrap_err();
        let fields: Vec<_> = problems.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["metadata.a b", "metadata.n", "expires_in_s", "kind", "owner", "environment", "state"]);
        assert!(problems[3].1.contains("cannot be changed"));
    }

    #[test]
    fn an_expiry_is_measured_from_the_making_of_the_key() {
        let day = 86_400;
        assert!(read("graph8", json!({"expires_in_s": 364 * day})).is_ok(), "a day of the 365 has passed");
        assert_eq!(read("graph8", json!({"expires_in_s": 364 * day + 1})).unwrap_err()[0].0, "expires_in_s");
        assert!(read("graph8", json!({"expires_in_s": 1})).is_ok(), "the first day has passed");
        assert_eq!(read("graph8", json!({"expires_at": null})).unwrap().expires_at, Some(None));
    }
}
