//! A token that was made over the API: who may call it with which role. The plaintext is not among what is known.

use super::reader::{lifetime, name};
use super::role::Role;
use crate::clock::Timestamp;
use keyward_core::document::{Problems, read_value};
use serde_json::Value;

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its public id.
    pub id: String,
    /// What its users call it.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was ended.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}

/// A token that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// What its users call it.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

impl Token {
    /// Whether it can be used at that time.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.state(now) == "active"
    }

    /// `active`, `revoked` or `expired` at that time.
    pub fn state(&self, now: Timestamp) -> &'static str {
        if self.revoked_at.is_some() {
            "revoked"
        } else if self.expires_at.is_some_and(|expires_at| expires_at <= now) {
            "expired"
        } else {
            "active"
        }
    }
}

impl NewToken {
    /// Reads the request.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(mut document: Value, now: Timestamp) -> Result<Self, Problems> {
        // A null in the place of what is missing gives the mistake a field to stand at.
        if let Value::Object(fields) = &mut document {
            for required in ["name", "role"] {
                fields.entry(required).or_insert(Value::Null);
            }
        }
        read_value(&document, |node| {
            let mut fields = node.fields()?;
            let name = fields.required("name").and_then(|n| name(&n));
            let roles = Role::ALL.map(|role| (role.name(), role));
            let role = fields.required("role").and_then(|n| n.one_of(&roles));
            let expires_at = fields.maybe("expires_in_s", |n| {
                if n.value().is_null() { Some(None) } else { lifetime(n).map(|lifetime| Some(now.plus(lifetime))) }
            });
            fields.finish();
            Some(Self { name: name?, role: role?, expires_at: expires_at?.flatten() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    fn read(document: Value) -> Result<NewToken, Vec<String>> {
        NewToken::read(document, NOW).map_err(|problems| problems.0.into_iter().map(|problem| problem.path).collect())
    }

    #[test]
    fn a_name_and_a_role_are_enough_and_no_end_is_none() {
        for document in
            [json!({"name": "ci", "role": "viewer"}), json!({"name": "ci", "role": "viewer", "expires_in_s": null})]
        {
            let token = read(document).unwrap();
            assert_eq!((token.name.as_str(), token.role, token.expires_at), ("ci", Role::Viewer, None));
        }
        let ending = read(json!({"name": "ci", "role": "edge", "expires_in_s": 60})).unwrap();
        assert_eq!(ending.expires_at, Some(NOW.plus(Duration::from_secs(60))));
    }

    #[test]
    fn all_mistakes_are_told_at_once_each_at_its_field() {
        assert_eq!(read(json!({})).unwrap_err(), ["name", "role"]);
        let wrong = json!({"name": "", "role": "write", "expires_in_s": 0, "scope": "write"});
        assert_eq!(read(wrong).unwrap_err(), ["name", "role", "expires_in_s", "scope"]);
    }

    #[test]
    fn a_token_expires_on_the_millisecond_and_stays_revoked_once_it_was() {
        let token = Token {
            id: "tok_1".into(),
            name: "ci".into(),
            role: Role::Admin,
            created_at: NOW,
            expires_at: Some(NOW.plus(Duration::from_millis(10))),
            revoked_at: None,
            last_used_at: None,
        };
        assert!(token.is_valid(NOW.plus(Duration::from_millis(9))));
        assert_eq!(token.state(NOW.plus(Duration::from_millis(10))), "expired");
        assert_eq!(Token { revoked_at: Some(NOW), ..token }.state(NOW.plus(Duration::from_secs(1))), "revoked");
    }
}
