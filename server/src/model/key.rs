//! A key and its secrets. The plaintext is not among what is known of them.

use super::pause::Pause;
use crate::clock::Timestamp;
use crate::random::ID_LENGTH;
use keyward_core::key::digest::Digest;
use keyward_core::key::id::MAX_KEY_ID_LENGTH;
use keyward_core::wire::entry::{Body, Entry, EntryTooLarge, KeyRecord};
use std::fmt;
use std::ops::{Deref, DerefMut};
use utoipa::ToSchema;

mod field;
mod fields;
mod table;
mod value;

pub use field::MetadataChange;
pub use fields::{FieldChanges, FieldSpec, KeyFields, SelfService};
pub use value::{Shape, Stored, write_cell};

pub(super) use field::{Context, kinds, read_environment};
pub(super) use value::FieldValue;

/// A key: its settable fields, and what has become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its public id.
    pub id: String,
    /// Its settable fields, which are also read and written as fields of the key itself.
    pub fields: KeyFields,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Since when it is paused, and by whom.
    pub pause: Option<Pause>,
    /// How many credits it has spent.
    pub spent: u64,
    /// When it was last used, as far as edges have reported.
    pub last_used_at: Option<Timestamp>,
    /// Counts the changes to it, for conditional requests.
    pub version: u64,
    /// Its secrets, oldest first.
    pub secrets: Vec<Secret>,
}

impl Deref for Key {
    type Target = KeyFields;

    fn deref(&self) -> &KeyFields {
        &self.fields
    }
}

impl DerefMut for Key {
    fn deref_mut(&mut self) -> &mut KeyFields {
        &mut self.fields
    }
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
    /// What the plaintext is checked against where only a password hash is kept; the digest is then the selector's.
    pub hash: Option<PasswordHash>,
    /// When it was last used, as far as the edges have told.
    pub last_used_at: Option<Timestamp>,
    /// When it was reported as found in public.
    pub leaked_at: Option<Timestamp>,
}

/// A password hash: a PHC string (Argon2id) or one of bcrypt. `Debug` redacts it.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

/// Whether a key can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(as = KeyState, rename_all = "lowercase")]
pub enum State {
    /// It can.
    Active,
    /// It can once it is resumed.
    Paused,
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
            Self::Paused => "paused",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Active, Self::Paused, Self::Revoked, Self::Expired].into_iter().find(|state| state.name() == name)
    }

    /// Whether the key is over for good. A paused one is not.
    pub fn has_ended(self) -> bool {
        match self {
            Self::Active | Self::Paused => false,
            Self::Revoked | Self::Expired => true,
        }
    }
}

impl Key {
    /// Whether it can be used at that time.
    pub fn state(&self, now: Timestamp) -> State {
        if self.revoked_at.is_some() {
            State::Revoked
        } else if self.expires_at.is_some_and(|expires_at| expires_at <= now) {
            State::Expired
        } else if self.pause.is_some() {
            State::Paused
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
            revoked_at_ms: self.revoked_at.or(ended).map(Timestamp::as_ms),
            secret_not_after_ms: secret.not_after.map(Timestamp::as_ms),
            paused: self.pause.is_some(),
            credits_exhausted: self.is_exhausted(),
            needs_verification: secret.hash.is_some(),
            ..self.fields.record()
        }
    }

    /// Whether its credits are used up.
    pub fn is_exhausted(&self) -> bool {
        self.credits.is_some_and(|credits| self.spent >= credits)
    }

    /// A key of that id that was just made, with nothing set but its name and kind.
    pub fn new(id: String, name: String, kind: String, created_at: Timestamp) -> Self {
        Self::with_fields(id, KeyFields { name, kind, ..KeyFields::default() }, created_at)
    }

    /// A key of that id that was just made.
    pub fn with_fields(id: String, fields: KeyFields, created_at: Timestamp) -> Self {
        Self {
            id,
            fields,
            created_at,
            revoked_at: None,
            pause: None,
            spent: 0,
            last_used_at: None,
            version: 1,
            secrets: Vec::new(),
        }
    }
}

impl KeyFields {
    /// Whether an entry of the feed has room for the key, now and whatever becomes of it: a key that only fits while it
    /// is valid could never be revoked.
    ///
    /// # Errors
    /// If it has not.
    pub fn check_size(&self) -> Result<(), EntryTooLarge> {
        let longest = KeyRecord {
            key_id: "-".repeat(MAX_KEY_ID_LENGTH),
            secret_id: "-".repeat("sec_".len() + ID_LENGTH),
            revoked_at_ms: Some(0),
            expires_at_ms: Some(0),
            secret_not_after_ms: Some(0),
            paused: true,
            credits_exhausted: true,
            needs_verification: true,
            ..self.record()
        };
        let subject = Digest([0; Digest::LENGTH]);
        Entry { subject, version: 0, body: Body::Key(longest) }.encode(&mut Vec::new())
    }
}

impl PasswordHash {
    /// Wraps a hash.
    pub fn new(hash: String) -> Self {
        Self(hash)
    }

    /// The hash, for the database and for the verifier.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(redacted)")
    }
}

impl Secret {
    /// A secret that was just made and has no end.
    pub fn new(id: String, digest: Digest, hint: String, created_at: Timestamp) -> Self {
        Self {
            id,
            digest,
            hint,
            created_at,
            not_after: None,
            forgotten: false,
            hash: None,
            last_used_at: None,
            leaked_at: None,
        }
    }

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
    use crate::model::PausedBy;

    fn key() -> Key {
        let mut key = Key::new("key_1".into(), "n".into(), "key".into(), Timestamp::from_ms(0));
        key.expires_at = Some(Timestamp::from_ms(10));
        key
    }

    #[test]
    fn a_key_expires_on_the_millisecond_and_stays_revoked_once_it_was() {
        assert_eq!(key().state(Timestamp::from_ms(9)), State::Active);
        assert_eq!(key().state(Timestamp::from_ms(10)), State::Expired);
        let revoked = Key { revoked_at: Some(Timestamp::from_ms(1)), ..key() };
        assert_eq!(revoked.state(Timestamp::from_ms(11)), State::Revoked);
    }

    #[test]
    fn a_pause_hides_neither_revocation_nor_expiry() {
        let at = Timestamp::from_ms;
        let paused = Key { pause: Some(Pause { at: at(1), by: PausedBy::Operator }), ..key() };
        assert_eq!((paused.state(at(9)), paused.state(at(10))), (State::Paused, State::Expired));
        let revoked = Key { revoked_at: Some(at(2)), ..paused };
        assert_eq!(revoked.state(at(9)), State::Revoked);
        let secret = Secret::new(String::new(), Digest([0; 32]), String::new(), at(0));
        let record = revoked.record(&secret, at(9));
        assert_eq!((record.revoked_at_ms, record.paused), (Some(2), true));
    }

    #[test]
    fn the_end_of_a_secret_only_moves_forward() {
        let at = Timestamp::from_ms;
        let mut secret = Secret::new(String::new(), Digest([0; 32]), String::new(), at(0));
        assert!(secret.is_valid(at(99)));
        secret.end_at(at(10));
        secret.end_at(at(20));
        assert_eq!(secret.not_after, Some(at(10)));
        assert!(secret.is_valid(at(9)) && !secret.is_valid(at(10)));
    }
}
