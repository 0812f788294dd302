//! A key as the API shows it.

use super::KeyId;
use crate::clock::Timestamp;
use crate::http::openapi::typed;
use crate::model::{FieldSpec, Key, KeyFields, Secret, State as KeyState};
use keyward_core::key::secret::Secret as Plaintext;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use utoipa::openapi::schema::{Object, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// A key: its settable fields, and what has become of it.
#[derive(Serialize)]
pub(crate) struct KeyResource<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(flatten)]
    fields: Map<String, Value>,
    #[serde(flatten)]
    state: StateResource<'a>,
}

/// What has become of a key.
#[derive(Serialize, ToSchema)]
struct StateResource<'a> {
    /// How many credits the key has spent, as far as edges have reported.
    spent: u64,
    #[schema(value_type = KeyState)]
    state: &'static str,
    created_at: Timestamp,
    #[schema(required)]
    revoked_at: Option<Timestamp>,
    /// When the key was last used, as far as edges have reported.
    #[schema(required)]
    last_used_at: Option<Timestamp>,
    /// The secrets of the key, oldest first.
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

impl ToSchema for KeyResource<'_> {
    fn name() -> Cow<'static, str> {
        "Key".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        StateResource::schemas(schemas);
    }
}

impl PartialSchema for KeyResource<'_> {
    fn schema() -> RefOr<Schema> {
        key_schema("A key.", |_| true, StateResource::schema())
    }
}

/// The schema of a key with some of its settable fields, and with the properties of another schema.
pub(crate) fn key_schema(
    description: &str,
    is_shown: impl Fn(&FieldSpec) -> bool,
    others: RefOr<Schema>,
) -> RefOr<Schema> {
    const PLAINTEXT: &str = "The plaintext, only in the answer to the request that made it.";
    let plaintext = typed(PLAINTEXT, json!({"type": "string"}));
    let mut key = Object::builder()
        .description(Some(description))
        .property("id", Ref::from_schema_name(KeyId::name()))
        .required("id");
    key = key.property("key", plaintext);
    for spec in KeyFields::SPECS.iter().filter(|spec| is_shown(spec)) {
        key = key.property(spec.name, typed(spec.description.trim(), spec.answer_schema())).required(spec.name);
    }
    let mut key = key.build();
    if let RefOr::T(Schema::Object(others)) = others {
        key.properties.extend(others.properties);
        key.required.extend(others.required);
    }
    key.into()
}

/// The fields that are shown, with their values.
pub(crate) fn shown(key: &Key, is_shown: impl Fn(&FieldSpec) -> bool) -> Map<String, Value> {
    key.to_json().filter(|(spec, _)| is_shown(spec)).map(|(spec, value)| (spec.name.to_owned(), value)).collect()
}

/// The key at that time, with the plaintext of its new secret if it has one.
pub(crate) fn resource<'a>(key: &'a Key, plaintext: Option<&'a Plaintext>, now: Timestamp) -> KeyResource<'a> {
    KeyResource {
        id: &key.id,
        key: plaintext.map(Plaintext::expose),
        fields: shown(key, |_| true),
        state: StateResource {
            spent: key.spent,
            state: key.state(now).name(),
            created_at: key.created_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
            secrets: key.secrets.iter().map(|secret| secret_resource(secret, now)).collect(),
        },
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
