//! A key as the API tells of it.

use super::KeyId;
use crate::clock::Timestamp;
use crate::model::{Key, Secret, State as KeyState};
use keyward_core::key::environment::Environment;
use keyward_core::key::secret::Secret as Plaintext;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A key.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub(crate) struct KeyResource<'a> {
    #[schema(value_type = KeyId)]
    id: &'a str,
    /// The plaintext, in the answer to the request that made it and nowhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key: Option<&'a str>,
    /// What its users call it.
    name: &'a str,
    /// The id of its owner.
    #[schema(required)]
    owner: Option<&'a str>,
    /// Who it is for, among those who belong to the owner.
    #[schema(required)]
    member: Option<&'a str>,
    /// What sort of key it is, in the dialect's words.
    kind: &'a str,
    /// Whether its requests are real: `live` or `test`.
    #[schema(required, pattern = "^(live|test)$")]
    environment: Option<&'static str>,
    /// What it may do.
    scopes: &'a [String],
    /// The networks that it may be used from; none means anywhere.
    allow_ip: Vec<String>,
    /// What it may use; null stands for the limits of its plan, or else the dialect's.
    #[schema(required)]
    limits: Option<Vec<String>>,
    /// The id of its plan.
    #[schema(required)]
    plan: Option<&'a str>,
    /// How much it may spend altogether; null does not bound it.
    #[schema(required)]
    credits: Option<u64>,
    /// How much it has spent, as far as the edges have told.
    spent: u64,
    /// What its users note about it.
    metadata: &'a BTreeMap<String, String>,
    #[schema(value_type = KeyState)]
    state: &'static str,
    created_at: Timestamp,
    #[schema(required)]
    expires_at: Option<Timestamp>,
    #[schema(required)]
    revoked_at: Option<Timestamp>,
    /// When it was last used, as far as the edges have told.
    #[schema(required)]
    last_used_at: Option<Timestamp>,
    /// What it is known by, oldest first.
    secrets: Vec<SecretResource<'a>>,
}

/// One secret of a key; a key in rotation has several.
#[derive(Serialize, ToSchema)]
#[schema(as = Secret)]
struct SecretResource<'a> {
    id: &'a str,
    /// What it may be recognised by.
    hint: &'a str,
    /// Whether it can be used as far as its key can: `valid` or `ended`.
    #[schema(pattern = "^(valid|ended)$")]
    state: &'static str,
    created_at: Timestamp,
    /// When it ends though the key goes on.
    #[schema(required)]
    not_after: Option<Timestamp>,
    #[schema(required)]
    last_used_at: Option<Timestamp>,
    /// When it was reported as found in public.
    #[schema(required)]
    leaked_at: Option<Timestamp>,
}

/// Some keys, the newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = Keys)]
pub(super) struct ListResource<'a> {
    pub(super) keys: Vec<KeyResource<'a>>,
    /// What to ask for with `after`, where there are more.
    #[schema(required)]
    pub(super) next: Option<&'a str>,
}

/// The key at that time, with the plaintext of its new secret if it has one.
pub(crate) fn resource<'a>(key: &'a Key, plaintext: Option<&'a Plaintext>, now: Timestamp) -> KeyResource<'a> {
    KeyResource {
        id: &key.id,
        key: plaintext.map(Plaintext::expose),
        name: &key.name,
        owner: key.owner.as_deref(),
        member: key.member.as_deref(),
        kind: &key.kind,
        environment: key.environment.map(Environment::name),
        scopes: &key.scopes,
        allow_ip: key.allow_ip.iter().map(ToString::to_string).collect(),
        limits: key.limits.as_ref().map(|limits| limits.iter().map(ToString::to_string).collect()),
        plan: key.plan.as_deref(),
        credits: key.credits,
        spent: key.spent,
        metadata: &key.metadata,
        state: key.state(now).name(),
        created_at: key.created_at,
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
        last_used_at: key.last_used_at,
        secrets: key.secrets.iter().map(|secret| secret_resource(secret, now)).collect(),
    }
}

fn secret_resource(secret: &Secret, now: Timestamp) -> SecretResource<'_> {
    SecretResource {
        id: &secret.id,
        hint: &secret.hint,
        state: if secret.is_valid(now) { "valid" } else { "ended" },
        created_at: secret.created_at,
        not_after: secret.not_after,
        last_used_at: secret.last_used_at,
        leaked_at: secret.leaked_at,
    }
}
