//! A key and its secrets. The plaintext is not among what is known of them.

use crate::clock::Timestamp;
use ipnet::IpNet;
use keyward_contract::digest::Digest;
use keyward_contract::entry::{Environment, KeyRecord};
use keyward_contract::limit::Limits;

/// A key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its public id.
    pub id: String,
    /// What its users call it.
    pub name: String,
    /// The id of its owner.
    pub owner: Option<String>,
    /// What sort of key it is, in the dialect's words.
    pub kind: String,
    /// Whether its requests are real.
    pub environment: Option<Environment>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Where it may be used from; empty means anywhere.
    pub allow_ip: Vec<IpNet>,
    /// What it may use; `None` for the dialect's default.
    pub limits: Option<Limits>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was ended.
    pub revoked_at: Option<Timestamp>,
    /// What it is known by on the wire, oldest first.
    pub secrets: Vec<Secret>,
}

/// One secret of a key; a key in rotation has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its public id.
    pub id: String,
    /// What it is found by.
    pub digest: Digest,
    /// What it may be recognised by in a list.
    pub hint: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends though the key goes on.
    pub not_after: Option<Timestamp>,
    /// Whether the edges were told to forget it.
    pub forgotten: bool,
}

/// Whether a key can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It can.
    Active,
    /// Somebody ended it.
    Revoked,
    /// It ended by itself.
    Expired,
}

impl State {
    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Active, Self::Revoked, Self::Expired].into_iter().find(|state| state.name() == name)
    }
}

impl Key {
    /// Whether it can be used at that time.
    pub fn state(&self, now: Timestamp) -> State {
        if self.revoked_at.is_some() {
            State::Revoked
        } else if self.expires_at.is_some_and(|expires_at| expires_at <= now) {
            State::Expired
        } else {
            State::Active
        }
    }

    /// What an edge is told at that time about one of its secrets. One that has ended is revoked, whatever the clock of
    /// the edge says.
    pub fn record(&self, secret: &Secret, now: Timestamp) -> KeyRecord {
        let ended = secret.not_after.filter(|end| *end <= now);
        KeyRecord {
            key_id: self.id.clone(),
            secret_id: secret.id.clone(),
            kind: self.kind.clone(),
            environment: self.environment,
            revoked_at_ms: self.revoked_at.or(ended).map(Timestamp::as_ms),
            expires_at_ms: self.expires_at.map(Timestamp::as_ms),
            secret_not_after_ms: secret.not_after.map(Timestamp::as_ms),
            owner: self.owner.clone(),
            scopes: self.scopes.clone(),
            allowlist: self.allow_ip.clone(),
            limits: self.limits.clone(),
            credits_exhausted: false,
            plan: None,
            needs_verification: false,
        }
    }
}

impl Secret {
    /// Whether it can still be used at that time, as far as its key can.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.not_after.is_none_or(|not_after| now < not_after)
    }

    /// Ends it at that time, unless it ends sooner anyway.
    pub fn end_at(&mut self, time: Timestamp) {
        self.not_after = Some(self.not_after.map_or(time, |not_after| not_after.min(time)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key {
            id: "key_1".into(),
            name: "n".into(),
            owner: None,
            kind: "key".into(),
            environment: None,
            scopes: vec![],
            allow_ip: vec![],
            limits: None,
            created_at: Timestamp::from_ms(0),
            expires_at: Some(Timestamp::from_ms(10)),
            revoked_at: None,
            secrets: vec![],
        }
    }

    #[test]
    fn a_key_expires_on_the_millisecond_and_stays_revoked_once_it_was() {
        assert_eq!(key().state(Timestamp::from_ms(9)), State::Active);
        assert_eq!(key().state(Timestamp::from_ms(10)), State::Expired);
        let revoked = Key { revoked_at: Some(Timestamp::from_ms(1)), ..key() };
        assert_eq!(revoked.state(Timestamp::from_ms(11)), State::Revoked);
    }

    #[test]
    fn the_end_of_a_secret_only_moves_forward() {
        let at = Timestamp::from_ms;
        let digest = Digest([0; 32]);
        let (id, hint) = (String::new(), String::new());
        let mut secret = Secret { id, digest, hint, created_at: at(0), not_after: None, forgotten: false };
        assert!(secret.is_valid(at(99)));
        secret.end_at(at(10));
        secret.end_at(at(20));
        assert_eq!(secret.not_after, Some(at(10)));
        assert!(secret.is_valid(at(9)) && !secret.is_valid(at(10)));
    }
}
