//! The representation of a key in the API.

use crate::clock::Timestamp;
use crate::http::parameters::KeyId;
use crate::model::{Key, PausedBy, Secret, State as KeyState};
use crate::store::KeyCounts;
use keyward_core::key::secret::Secret as Plaintext;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A key. `openapi.rs` adds its settable fields to the schema.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub(crate) struct KeyResource<'a> {
    #[schema(value_type = KeyId)]
    id: &'a str,
    /// The plaintext, only in the response to the request that issued it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key: Option<&'a str>,
    #[serde(flatten)]
    #[schema(ignore)]
    fields: Map<String, Value>,
    /// The cost spent, as far as edges have reported.
    spent: u64,
    #[schema(value_type = KeyState)]
    state: &'static str,
    created_at: Timestamp,
    #[schema(required)]
    revoked_at: Option<Timestamp>,
    /// Since when the key is paused.
    #[schema(required)]
    paused_at: Option<Timestamp>,
    /// Who paused the key; only an operator can resume what an operator paused.
    #[schema(required, value_type = Option<PausedBy>)]
    paused_by: Option<&'static str>,
    /// The last use, as far as edges have reported.
    #[schema(required)]
    last_used_at: Option<Timestamp>,
    /// The secrets, oldest first.
    secrets: Vec<SecretResource<'a>>,
}

/// One secret of a key; a key in rotation has several.
#[derive(Serialize, ToSchema)]
#[schema(as = Secret)]
struct SecretResource<'a> {
    id: &'a str,
    /// The part of the plaintext that is shown in lists.
    hint: &'a str,
    /// `valid`, or `rotated_out` once the secret was invalidated by a rotation or a call.
    #[schema(pattern = "^(valid|rotated_out)$")]
    state: &'static str,
    created_at: Timestamp,
    /// The end of the grace period; null for a current secret.
    #[schema(required)]
    not_after: Option<Timestamp>,
    #[schema(required)]
    last_used_at: Option<Timestamp>,
    /// When the secret was reported as leaked.
    #[schema(required)]
    leaked_at: Option<Timestamp>,
}

/// A page of keys.
#[derive(Serialize, ToSchema)]
#[schema(as = Keys)]
pub(super) struct ListResource<'a> {
    pub(super) keys: Vec<KeyResource<'a>>,
    /// The `after` of the next page; null on the last page.
    #[schema(required)]
    pub(super) next: Option<&'a str>,
}

/// The numbers of keys by state, and of those that need attention.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyCounts)]
pub(super) struct CountsResource {
    total: u64,
    active: u64,
    paused: u64,
    revoked: u64,
    expired: u64,
    /// Active keys that expire soon.
    expiring: u64,
    /// Active keys that have not been used for a while, or never since they were created.
    unused: u64,
    /// Active keys that were never used.
    never_used: u64,
    /// Active keys that have spent at least nine tenths of their credits.
    low_credits: u64,
    /// Active keys with a secret in its grace period.
    in_rotation: u64,
    /// Keys in any state with a leaked secret.
    leaked: u64,
    counted_at: Timestamp,
}

impl From<KeyCounts> for CountsResource {
    fn from(counts: KeyCounts) -> Self {
        let KeyCounts {
            total,
            active,
            paused,
            revoked,
            expired,
            expiring,
            unused,
            never_used,
            low_credits,
            in_rotation,
            leaked,
            counted_at,
        } = counts;
        Self {
            total,
            active,
            paused,
            revoked,
            expired,
            expiring,
            unused,
            never_used,
            low_credits,
            in_rotation,
            leaked,
            counted_at,
        }
    }
}

/// The key as of `now`, with the plaintext of its new secret if one was issued.
pub(crate) fn resource<'a>(key: &'a Key, plaintext: Option<&'a Plaintext>, now: Timestamp) -> KeyResource<'a> {
    KeyResource {
        id: &key.id,
        key: plaintext.map(Plaintext::expose),
        fields: key.shown(|_| true),
        spent: key.spent,
        state: key.state(now).name(),
        created_at: key.created_at,
        revoked_at: key.revoked_at,
        paused_at: key.pause.map(|pause| pause.at),
        paused_by: key.pause.map(|pause| pause.by.name()),
        last_used_at: key.last_used_at,
        secrets: key.secrets.iter().map(|secret| secret_resource(secret, now)).collect(),
    }
}

fn secret_resource(secret: &Secret, now: Timestamp) -> SecretResource<'_> {
    SecretResource {
        id: &secret.id,
        hint: &secret.hint,
        state: if secret.is_valid(now) { "valid" } else { "rotated_out" },
        created_at: secret.created_at,
        not_after: secret.not_after,
        last_used_at: secret.last_used_at,
        leaked_at: secret.leaked_at,
    }
}
