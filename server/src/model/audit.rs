//! Who did what: an entry for each change, kept for good.

use crate::clock::Timestamp;
use serde_json::{Map, Value};
use std::fmt;

/// Who asks for a change, as the audit log names it. No part of it is a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(String);

/// One change that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its place in the log, from 1.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What, such as `key.revoked`.
    pub action: String,
    /// The id of what it was done to.
    pub subject: String,
    /// What else is worth knowing; no secret, no digest.
    pub details: Map<String, Value>,
}

impl Actor {
    /// The server itself, such as when it forgets what ended long ago.
    pub fn server() -> Self {
        Self("server".to_owned())
    }

    /// Whoever has a token of the data directory's file.
    pub fn token_file() -> Self {
        Self("token-file".to_owned())
    }

    /// Whoever has the token of that id.
    pub fn token(id: &str) -> Self {
        Self(format!("token:{id}"))
    }

    /// Whoever has the key of that id.
    pub fn key(id: &str) -> Self {
        Self(format!("key:{id}"))
    }

    /// The sender of a webhook of that name.
    pub fn webhook(name: &str) -> Self {
        Self(format!("webhook:{name}"))
    }

    /// An edge, with a token of the data directory's file.
    pub fn edge() -> Self {
        Self("edge".to_owned())
    }

    /// How the token is named of an edge that reports usage: its id, or `token-file`.
    pub fn token_name(&self) -> &str {
        self.0.strip_prefix("token:").unwrap_or("token-file")
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
