//! A change of a key that is asked for: a JSON merge patch (RFC 7396) of what can be changed of it.

use crate::clock::Timestamp;
use crate::model::Key;
use crate::model::key::{Context, FieldChanges};
use crate::model::reader::credits;
use keyward_core::dialect::Dialect;
use keyward_core::document::{Problems, read_value};
use serde_json::Value;

/// What is to become of a key; `None` leaves things as they are.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KeyChange {
    /// What is to become of its settable fields.
    pub fields: FieldChanges,
    /// How many credits it has spent so far, to correct what edges reported.
    pub spent: Option<u64>,
}

impl KeyChange {
    /// Reads the request for a change of a key that was made at that time.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(document: &Value, dialect: &Dialect, created_at: Timestamp, now: Timestamp) -> Result<Self, Problems> {
        read_value(document, |node| {
            let mut given = node.fields()?;
            let context = Context { dialect, now, created_at: Some(created_at), format: None };
            let fields = FieldChanges::read(&mut given, &context);
            let spent = given.maybe("spent", credits);
            given.finish();
            Some(Self { fields: fields?, spent: spent? })
        })
    }

    /// Changes what is to be changed.
    pub fn apply(self, key: &mut Key) {
        self.fields.apply(&mut key.fields);
        key.spent = self.spent.unwrap_or(key.spent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::reader::told;
    use keyward_core::key::limit::Limits;
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
        assert_eq!(read("keyward", json!({"expires_in_s": null})).unwrap().fields.expires_at, Some(None));
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
        assert_eq!(fields, ["owner", "kind", "environment", "metadata.a b", "metadata.n", "expires_in_s", "state"]);
        assert!(problems[..3].iter().all(|(_, message)| message.contains("cannot be changed")));
    }

    #[test]
    fn an_expiry_is_measured_from_the_making_of_the_key() {
        let day = 86_400;
        assert!(read("graph8", json!({"expires_in_s": 364 * day})).is_ok(), "a day of the 365 has passed");
        assert_eq!(read("graph8", json!({"expires_in_s": 364 * day + 1})).unwrap_err()[0].0, "expires_in_s");
        assert!(read("graph8", json!({"expires_in_s": 1})).is_ok(), "the first day has passed");
        assert_eq!(read("graph8", json!({"expires_at": null})).unwrap().fields.expires_at, Some(None));
    }
}
