//! A key as the API tells of it.

use crate::clock::Timestamp;
use crate::model::{Key, Secret};
use keyward_contract::entry::Environment;
use keyward_contract::secret::Secret as Plaintext;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
pub(crate) struct KeyResource<'a> {
    id: &'a str,
    /// The plaintext, in the answer to the request that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    name: &'a str,
    owner: Option<&'a str>,
    member: Option<&'a str>,
    kind: &'a str,
    environment: Option<&'static str>,
    scopes: &'a [String],
    allow_ip: Vec<String>,
    /// Absent limits are the plan's, or else the dialect's.
    limits: Option<Vec<String>>,
    plan: Option<&'a str>,
    credits: Option<u64>,
    spent: u64,
    metadata: &'a BTreeMap<String, String>,
    state: &'static str,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    secrets: Vec<SecretResource<'a>>,
}

#[derive(Serialize)]
struct SecretResource<'a> {
    id: &'a str,
    hint: &'a str,
    /// Whether it can be used as far as its key can: `valid` or `ended`.
    state: &'static str,
    created_at: Timestamp,
    not_after: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    /// When it was reported as found in public.
    leaked_at: Option<Timestamp>,
}

#[derive(Serialize)]
pub(super) struct ListResource<'a> {
    pub(super) keys: Vec<KeyResource<'a>>,
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
