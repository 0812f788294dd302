//! The settable fields of a key, each in one line: requests, merge patches, imports, the API's description, the columns
//! of the database and of CSV, answers, exports and the audit log follow from the table.
//!
//! What a field means to others cannot follow from it. [`KeyFields::record`] says what edges are told, and `delegate.rs`
//! what one key may hand on to another; both name every field, so that a new one does not compile until that is decided.

use super::field::{
    Change, Context, CreditLimit, EnvironmentName, Expiry, Field, Id, Kind, Metadata, Name, Networks, OwnerId,
    RateLimits, Scopes,
};
use super::table::key_fields;
use super::value::{FieldValue, Shape, write_cell};
use crate::model::reader::schema::or_null;
use keyward_core::dialect::Dialect;
use keyward_core::wire::entry::KeyRecord;
use serde_json::{Map, Value};

key_fields! {
    /// The name of the key.
    name: Name, Chosen;
    /// The id of the owner of the key; an owner that is not known yet is created.
    owner: OwnerId, Hidden;
    /// The id of the member of the owner for whom the key is.
    member: Id, Hidden;
    /// The kind of the key, one of the dialect's; the dialect's first unless the request names one.
    kind: Kind, Chosen;
    /// The environment of the key, `live` or `test`, where its kind has environments.
    environment: EnvironmentName, Chosen;
    /// The permissions of the key.
    scopes: Scopes, Chosen;
    /// The client networks from which the key is accepted; an empty list means any.
    allow_ip: Networks, Chosen;
    /// The rate limits of the key, no two with the same window; null means those of its plan, or else of the dialect.
    limits: RateLimits, Shown;
    /// The id of the plan of the key, which must exist.
    plan: Id, Hidden;
    /// The credits that the key may spend in total; null means no bound. A new key without credits gets those of its plan.
    credits: CreditLimit, Hidden;
    /// Notes about the key, as names with values.
    metadata: Metadata, Hidden;
    /// When the key expires; null means never.
    expires_at: Expiry, Chosen;
}

/// What users of self-service may do with a field of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelfService {
    /// Choose it for a new key, and see it.
    Chosen,
    /// See it.
    Shown,
    /// Neither.
    Hidden,
}

/// One field of the table.
#[derive(Clone, Copy, Debug)]
pub struct FieldSpec {
    /// Its name in requests, answers, the database and CSV.
    pub name: &'static str,
    /// What it means, in a sentence.
    pub description: &'static str,
    /// What users of self-service may do with it.
    pub self_service: SelfService,
    /// What sort of value it has.
    pub shape: Shape,
    /// Whether it can be null.
    pub is_nullable: bool,
    required: fn(&Dialect) -> Option<String>,
    value_schema: fn(&Dialect) -> Value,
    change_schema: fn(Value) -> Option<Value>,
    shown_schema: fn() -> Value,
}

impl FieldSpec {
    pub(super) const fn of<F: Field>(name: &'static str, words: &'static str, self_service: SelfService) -> Self {
        Self {
            name,
            description: words,
            self_service,
            shape: F::Value::SHAPE,
            is_nullable: F::Value::IS_NULLABLE,
            required: F::required,
            value_schema: F::schema,
            change_schema: <F::Change as Change<F::Value>>::schema,
            shown_schema: F::answer_schema,
        }
    }

    /// Whether a new key must have it.
    pub fn is_required(&self, dialect: &Dialect) -> bool {
        (self.required)(dialect).is_some()
    }

    /// Its schema in the request for a new key.
    pub fn schema(&self, dialect: &Dialect) -> Value {
        self.nullable(dialect, (self.value_schema)(dialect))
    }

    /// Its schema in a merge patch, if it can be changed.
    pub fn patch_schema(&self, dialect: &Dialect) -> Option<Value> {
        (self.change_schema)((self.value_schema)(dialect)).map(|schema| self.nullable(dialect, schema))
    }

    /// Its schema in answers.
    pub fn answer_schema(&self) -> Value {
        let schema = (self.shown_schema)();
        if self.is_nullable { or_null(schema) } else { schema }
    }

    fn nullable(&self, dialect: &Dialect, schema: Value) -> Value {
        if self.is_required(dialect) { schema } else { or_null(schema) }
    }

    /// Whether users of self-service see it.
    pub fn is_shown_to_users(&self) -> bool {
        self.self_service != SelfService::Hidden
    }

    /// The value of the field in a cell of CSV.
    pub fn cell(&self, value: &Value) -> String {
        write_cell(value, self.is_nullable)
    }
}

impl KeyFields {
    /// The fields that are shown, with their values.
    pub fn shown(&self, is_shown: fn(&FieldSpec) -> bool) -> Map<String, Value> {
        self.to_json().filter(|(spec, _)| is_shown(spec)).map(|(spec, value)| (spec.name.to_owned(), value)).collect()
    }

    /// What edges are told about the fields.
    pub fn record(&self) -> KeyRecord {
        let Self {
            name: _,
            owner,
            member: _,
            kind,
            environment,
            scopes,
            allow_ip,
            limits,
            plan,
            credits: _,
            metadata: _,
            expires_at,
        } = self.clone();
        KeyRecord {
            kind,
            environment,
            owner,
            scopes,
            allowlist: allow_ip,
            limits,
            plan,
            expires_at_ms: expires_at.map(|time| time.as_ms()),
            ..KeyRecord::default()
        }
    }
}
