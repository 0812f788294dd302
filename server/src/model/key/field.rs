//! The types of fields: how a request gives a field, what may be given, and how it can be changed.

use super::value::FieldValue;
use crate::clock::Timestamp;
use crate::model::request::{
    change_metadata, credits, expiry, id, metadata, name, network, nullable, optional, scope, time,
};
use crate::model::schema;
use ipnet::IpNet;
use keyward_core::dialect::key_format::KeyFormat;
use keyward_core::dialect::{Dialect, read_limits};
use keyward_core::document::{Fields, Node};
use keyward_core::key::limit::Limits;
use keyward_core::wire::entry::Environment;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::marker::PhantomData;

/// What else decides what a request may give.
#[derive(Clone, Copy, Debug)]
pub struct Context<'d> {
    /// The dialect of the server.
    pub dialect: &'d Dialect,
    /// The current time.
    pub now: Timestamp,
    /// Which expiry a key may have.
    pub expiry: ExpiryRule,
    /// The format of the key, once it is chosen; inside that `None` if there is none.
    pub format: Option<Option<&'d KeyFormat>>,
}

/// Which expiry a key may have.
#[derive(Clone, Copy, Debug)]
pub enum ExpiryRule {
    /// Any: the key was made elsewhere.
    Any,
    /// One in the future, and within the bounds of the dialect for a key that was made at that time.
    Within {
        /// When the key was made.
        created_at: Timestamp,
    },
}

/// The type of a field.
pub trait Field {
    /// Its value.
    type Value: FieldValue + Default + PartialEq;
    /// What can become of it.
    type Change: Change<Self::Value>;

    /// Reads a value that is given, and is not null unless the field is required.
    fn read(node: &Node<'_>) -> Option<Self::Value>;

    /// The schema of a value that is given.
    fn value_schema(dialect: &Dialect) -> Value;

    /// Whether a new key must have it.
    fn is_required(_: &Dialect) -> bool {
        false
    }

    /// The schema in the request for a new key.
    fn schema(dialect: &Dialect) -> Value {
        let schema = Self::value_schema(dialect);
        if Self::is_required(dialect) { schema } else { schema::or_null(schema) }
    }

    /// The schema in a merge patch, if it can be changed.
    fn patch_schema(dialect: &Dialect) -> Option<Value> {
        Self::Change::schema(schema::or_null(Self::value_schema(dialect)))
    }

    /// Reads the field of a new key; one that is absent or null is empty. `None` if it is wrong.
    fn read_new(fields: &mut Fields<'_>, name: &'static str, _: &mut Context<'_>) -> Option<Self::Value> {
        optional(fields, name, Self::read).map(Option::unwrap_or_default)
    }

    /// Reads the field of a merge patch: `None` if it is wrong, `Some(None)` if it is absent.
    fn read_change(fields: &mut Fields<'_>, name: &'static str, _: &Context<'_>) -> Option<Option<Self::Change>> {
        Self::Change::read(fields, name, Self::read)
    }

    /// What the audit log says of a value.
    fn audited(value: &Self::Value) -> Value {
        value.to_json()
    }

    /// What the audit log says of a change, if it is one.
    fn difference(old: &Self::Value, new: &Self::Value) -> Option<Value> {
        (old != new).then(|| json!({"old": old.to_json(), "new": new.to_json()}))
    }
}

/// What can become of a value.
pub trait Change<V>: Sized {
    /// Reads it from a merge patch; `value` reads a value that is given.
    fn read(fields: &mut Fields<'_>, name: &'static str, value: fn(&Node<'_>) -> Option<V>) -> Option<Option<Self>>;
    /// Its schema, made of that of a value or null; `None` if there is none.
    fn schema(value: Value) -> Option<Value>;
    /// Changes the value.
    fn apply(self, value: &mut V);
}

/// The value is replaced; null empties it.
impl<V: Default> Change<V> for V {
    fn read(fields: &mut Fields<'_>, name: &'static str, value: fn(&Node<'_>) -> Option<V>) -> Option<Option<V>> {
        nullable(fields, name, value).map(|change| change.map(Option::unwrap_or_default))
    }

    fn schema(value: Value) -> Option<Value> {
        Some(value)
    }

    fn apply(self, value: &mut V) {
        *value = self;
    }
}

/// The change of a value that cannot be changed: there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed<V>(Infallible, PhantomData<V>);

impl<V> Change<V> for Fixed<V> {
    fn read(fields: &mut Fields<'_>, name: &'static str, _: fn(&Node<'_>) -> Option<V>) -> Option<Option<Self>> {
        if let Some(node) = fields.optional(name) {
            node.problem("cannot be changed; make another key instead");
        }
        Some(None)
    }

    fn schema(_: Value) -> Option<Value> {
        None
    }

    fn apply(self, _: &mut V) {
        match self.0 {}
    }
}

/// What is to become of a key's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataChange {
    /// All of it goes.
    Cleared,
    /// These entries are set, or removed where there is no value; the others stay.
    Merged(BTreeMap<String, Option<String>>),
}

impl Change<BTreeMap<String, String>> for MetadataChange {
    fn read(
        fields: &mut Fields<'_>,
        name: &'static str,
        _: fn(&Node<'_>) -> Option<BTreeMap<String, String>>,
    ) -> Option<Option<Self>> {
        let change = nullable(fields, name, change_metadata)?;
        Some(change.map(|entries| entries.map_or(Self::Cleared, Self::Merged)))
    }

    fn schema(_: Value) -> Option<Value> {
        Some(schema::or_null(schema::metadata_change()))
    }

    fn apply(self, value: &mut BTreeMap<String, String>) {
        match self {
            Self::Cleared => value.clear(),
            Self::Merged(entries) => {
                for (name, entry) in entries {
                    match entry {
                        Some(entry) => drop(value.insert(name, entry)),
                        None => drop(value.remove(&name)),
                    }
                }
            }
        }
    }
}

/// The types that read a value and do nothing else: the value, its reader, its schema.
macro_rules! plain_fields {
    ($($(#[$doc:meta])+ $type:ident: $value:ty, $read:expr, $schema:expr;)+) => {$(
        $(#[$doc])+
        pub struct $type;

        impl Field for $type {
            type Value = $value;
            type Change = $value;

            fn read(node: &Node<'_>) -> Option<Self::Value> {
                $read(node)
            }

            fn value_schema(_: &Dialect) -> Value {
                $schema
            }
        }
    )+};
}

plain_fields! {
    /// The id of a member or a plan.
    Id: Option<String>, |node| id(node).map(Some), schema::id();
    /// Permissions.
    Scopes: Vec<String>, |node: &Node<'_>| node.each(scope), schema::list(schema::scope());
    /// Client networks.
    Networks: Vec<IpNet>, |node: &Node<'_>| node.each(network), schema::list(schema::network());
    /// Rate limits.
    RateLimits: Option<Limits>, |node| read_limits(node).map(Some), schema::limits();
    /// An amount of credits.
    CreditLimit: Option<u64>, |node| credits(node).map(Some), schema::credits();
}

/// The name of a key, which it must have.
pub struct Name;

impl Field for Name {
    type Value = String;
    type Change = String;

    fn read(node: &Node<'_>) -> Option<String> {
        name(node)
    }

    fn value_schema(_: &Dialect) -> Value {
        schema::name()
    }

    fn is_required(_: &Dialect) -> bool {
        true
    }

    fn patch_schema(_: &Dialect) -> Option<Value> {
        Some(schema::name())
    }

    fn read_new(fields: &mut Fields<'_>, name: &'static str, _: &mut Context<'_>) -> Option<String> {
        let node = fields.optional(name);
        if node.is_none() {
            fields.problem(name, "is required");
        }
        Self::read(&node?)
    }

    fn read_change(fields: &mut Fields<'_>, name: &'static str, _: &Context<'_>) -> Option<Option<String>> {
        fields.maybe(name, Self::read)
    }
}

/// The id of the owner, without which the dialect may have every edge refuse the key.
pub struct OwnerId;

impl Field for OwnerId {
    type Value = Option<String>;
    type Change = Fixed<Self::Value>;

    fn read(node: &Node<'_>) -> Option<Self::Value> {
        id(node).map(Some)
    }

    fn value_schema(_: &Dialect) -> Value {
        schema::id()
    }

    fn is_required(dialect: &Dialect) -> bool {
        dialect.owner_required
    }

    fn read_new(fields: &mut Fields<'_>, name: &'static str, context: &mut Context<'_>) -> Option<Self::Value> {
        let owner = optional(fields, name, Self::read)?.flatten();
        if owner.is_none() && Self::is_required(context.dialect) {
            let dialect = &context.dialect.name;
            let message = format!("is required: by the dialect {dialect} every gateway refuses a key without an owner");
            fields.problem(name, message);
            return None;
        }
        Some(owner)
    }
}

/// The kind, which follows from the format of the key.
pub struct Kind;

impl Field for Kind {
    type Value = String;
    type Change = Fixed<String>;

    fn read(node: &Node<'_>) -> Option<String> {
        node.string().map(str::to_owned)
    }

    fn value_schema(dialect: &Dialect) -> Value {
        let kinds: BTreeSet<_> = dialect.formats.iter().map(|format| format.kind.as_str()).collect();
        schema::one_of(kinds)
    }

    fn read_new(fields: &mut Fields<'_>, _: &'static str, context: &mut Context<'_>) -> Option<String> {
        context.choose_format(fields).map(|format| format.kind.clone())
    }
}

/// The environment, which follows from the format of the key.
pub struct EnvironmentName;

impl Field for EnvironmentName {
    type Value = Option<Environment>;
    type Change = Fixed<Self::Value>;

    fn read(node: &Node<'_>) -> Option<Self::Value> {
        read_environment(node).map(Some)
    }

    fn value_schema(dialect: &Dialect) -> Value {
        let environments: BTreeSet<_> =
            dialect.formats.iter().filter_map(|format| format.environment).map(Environment::name).collect();
        schema::one_of(environments)
    }

    fn read_new(fields: &mut Fields<'_>, _: &'static str, context: &mut Context<'_>) -> Option<Self::Value> {
        context.choose_format(fields).map(|format| format.environment)
    }
}

/// Notes.
pub struct Metadata;

impl Field for Metadata {
    type Value = BTreeMap<String, String>;
    type Change = MetadataChange;

    fn read(node: &Node<'_>) -> Option<Self::Value> {
        metadata(node)
    }

    fn value_schema(_: &Dialect) -> Value {
        schema::metadata()
    }

    /// Notes can be anything, so only their names are logged.
    fn audited(value: &Self::Value) -> Value {
        value.keys().map(String::as_str).collect()
    }

    fn difference(old: &Self::Value, new: &Self::Value) -> Option<Value> {
        let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        let changed: Vec<_> = names.into_iter().filter(|name| old.get(*name) != new.get(*name)).collect();
        (!changed.is_empty()).then(|| json!(changed))
    }
}

/// The expiry, which requests may give as a time or as a number of seconds from now.
pub struct Expiry;

impl Field for Expiry {
    type Value = Option<Timestamp>;
    type Change = Option<Timestamp>;

    fn read(node: &Node<'_>) -> Option<Self::Value> {
        time(node).map(Some)
    }

    fn value_schema(_: &Dialect) -> Value {
        schema::time()
    }

    fn read_new(fields: &mut Fields<'_>, name: &'static str, context: &mut Context<'_>) -> Option<Self::Value> {
        match context.expiry {
            ExpiryRule::Any => optional(fields, name, time),
            ExpiryRule::Within { .. } => Self::read_change(fields, name, context).map(Option::flatten),
        }
    }

    fn read_change(fields: &mut Fields<'_>, name: &'static str, context: &Context<'_>) -> Option<Option<Self::Change>> {
        match context.expiry {
            ExpiryRule::Any => nullable(fields, name, time),
            ExpiryRule::Within { created_at } => expiry(fields, context.dialect, created_at, context.now),
        }
    }
}

impl<'d> Context<'d> {
    /// The format of the key, unless it is known: that of the kind and environment that the request names.
    fn choose_format(&mut self, fields: &mut Fields<'_>) -> Option<&'d KeyFormat> {
        *self.format.get_or_insert_with(|| choose_format(fields, self.dialect))
    }
}

/// The kinds of keys, each once: there can be several formats of one.
pub(in crate::model) fn kinds(dialect: &Dialect) -> Vec<(&str, &str)> {
    let mut kinds: Vec<(&str, &str)> = Vec::new();
    for format in &dialect.formats {
        let kind = (format.kind.as_str(), format.kind.as_str());
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

pub(in crate::model) fn read_environment(node: &Node<'_>) -> Option<Environment> {
    node.one_of(&[("live", Environment::Live), ("test", Environment::Test)])
}

fn choose_format<'d>(fields: &mut Fields<'_>, dialect: &'d Dialect) -> Option<&'d KeyFormat> {
    let kind = optional(fields, "kind", |node| node.one_of(&kinds(dialect)));
    let environment = optional(fields, "environment", |node| Some((read_environment(node)?, node.clone())));
    let (kind, environment) = (kind?, environment?);
    let kind = kind.or_else(|| dialect.formats.first().map(|format| format.kind.as_str()))?;
    let of_kind = || dialect.formats.iter().filter(|format| format.kind == kind);
    let of_environment = |environment| of_kind().find(|format| format.environment == Some(environment));
    match environment {
        Some((environment, node)) => {
            let format = of_environment(environment);
            if format.is_none() {
                node.problem(format!("keys of kind {kind:?} have no environment {:?} here", environment.name()));
            }
            format
        }
        None => of_environment(Environment::Live).or_else(|| of_kind().next()),
    }
}
