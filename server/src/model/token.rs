//! A token that was made over the API: who may call it in the name of what. The plaintext is not among what is known.

use super::reader::{lifetime, name};
use crate::clock::Timestamp;
use keyward_core::document::{Problems, read_value};
use serde_json::Value;
use utoipa::ToSchema;

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its public id.
    pub id: String,
    /// What its users call it.
    pub name: String,
    /// What it opens.
    pub scope: TokenScope,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was ended.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}

/// What a token opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum TokenScope {
    /// To look at everything that operators can look at.
    Read,
    /// Everything that operators can do, tokens among it.
    Write,
    /// What an edge asks for, and nothing of what operators do.
    Edge,
}

/// A token that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// What its users call it.
    pub name: String,
    /// What it opens.
    pub scope: TokenScope,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

impl TokenScope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Edge];

    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Edge => "edge",
        }
    }

    /// The scope of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }

    /// What such a token begins with, as those of the files do.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Read | Self::Write => "kwa_",
            Self::Edge => "kwe_",
        }
    }
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
            for required in ["name", "scope"] {
                fields.entry(required).or_insert(Value::Null);
            }
        }
        read_value(&document, |node| {
            let mut fields = node.fields()?;
            let name = fields.required("name").and_then(|n| name(&n));
            let scopes = TokenScope::ALL.map(|scope| (scope.name(), scope));
            let scope = fields.required("scope").and_then(|n| n.one_of(&scopes));
            let expires_at = fields.maybe("expires_in_s", |n| {
                if n.value().is_null() { Some(None) } else { lifetime(n).map(|lifetime| Some(now.plus(lifetime))) }
            });
            fields.finish();
            Some(Self { name: name?, scope: scope?, expires_at: expires_at?.flatten() })
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
    fn a_name_and_a_scope_are_enough_and_no_end_is_none() {
        for document in
            [json!({"name": "ci", "scope": "read"}), json!({"name": "ci", "scope": "read", "expires_in_s": null})]
        {
            let token = read(document).unwrap();
            assert_eq!((token.name.as_str(), token.scope, token.expires_at), ("ci", TokenScope::Read, None));
        }
        let ending = read(json!({"name": "ci", "scope": "edge", "expires_in_s": 60})).unwrap();
        assert_eq!(ending.expires_at, Some(NOW.plus(Duration::from_secs(60))));
    }

    #[test]
    fn all_mistakes_are_told_at_once_each_at_its_field() {
        assert_eq!(read(json!({})).unwrap_err(), ["name", "scope"]);
        let wrong = json!({"name": "", "scope": "admin", "expires_in_s": 0, "scopes": []});
        assert_eq!(read(wrong).unwrap_err(), ["name", "scope", "expires_in_s", "scopes"]);
    }

    #[test]
    fn a_token_expires_on_the_millisecond_and_stays_revoked_once_it_was() {
        let token = Token {
            id: "tok_1".into(),
            name: "ci".into(),
            scope: TokenScope::Write,
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
