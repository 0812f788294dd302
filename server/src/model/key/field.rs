//! The types of fields: how a request gives a field, what may be given, and how it can be changed.

use super::value::FieldValue;
use crate::clock::Timestamp;
use crate::model::reader::schema;
use crate::model::reader::{
    change_metadata, credits, expiry, id, metadata, name, network, nullable, optional, scope, time,
};
use ipnet::IpNet;
use keyward_core::dialect::key_format::KeyFormat;
use keyward_core::dialect::{Dialect, read_limits};
use keyward_core::document::{Fields, Node};
use keyward_core::key::environment::Environment;
use keyward_core::key::limit::Limits;
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
    /// When the key was made, from which the dialect bounds its expiry; `None` for one that comes from elsewhere with any.
    pub created_at: Option<Timestamp>,
    /// The format of the key, once it is chosen; inside that `None` if there is none.
    pub format: Option<Option<&'d KeyFormat>>,
}

/// The type of a field.
pub trait Field {
    /// Its value.
    type Value: FieldValue + Default + PartialEq;
    /// What can become of it.
    type Change: Change<Self::Value>;

    /// Reads a value that is given and not null.
    fn read(node: &Node<'_>) -> Option<Self::Value>;

    /// The schema of a value that is given and not null.
    fn schema(dialect: &Dialect) -> Value;

    /// What is said where it is missing, if it may not be.
    fn required(_: &Dialect) -> Option<String> {
        None
    }

    /// Reads the field of a new key; one that is absent or null is empty. `None` if it is wrong.
    fn read_new(given: &mut Fields<'_>, name: &'static str, context: &mut Context<'_>) -> Option<Self::Value> {
        let value = optional(given, name, Self::read)?;
        let message =
            Self::required(context.dialect).filter(|_| value.as_ref().is_none_or(|v| *v == Self::Value::default()));
        match message {
            None => Some(value.unwrap_or_default()),
            Some(message) => {
                given.problem(name, message);
                None
            }
        }
    }

    /// Reads the field of a merge patch: `None` if it is wrong, `Some(None)` if it is absent.
    fn read_change(given: &mut Fields<'_>, name: &'static str, context: &Context<'_>) -> Option<Option<Self::Change>> {
        Self::Change::read(given.optional(name), Self::read, Self::required(context.dialect))
    }

    /// The schema of a value in answers.
    fn answer_schema() -> Value {
        Self::Value::SHAPE.schema()
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
    /// Its schema, made of that of a value; `None` if nothing can become of it.
    fn schema(value: Value) -> Option<Value>;
    /// Reads it from a merge patch, with the reader of a value, and with what is said of null where that cannot be.
    fn read(
        node: Option<Node<'_>>,
        value: fn(&Node<'_>) -> Option<V>,
        required: Option<String>,
    ) -> Option<Option<Self>>;
    /// Changes the value.
    fn apply(self, value: &mut V);
}

/// The value is replaced; null empties it.
impl<V: Default> Change<V> for V {
    fn schema(value: Value) -> Option<Value> {
        Some(value)
    }

    fn read(node: Option<Node<'_>>, value: fn(&Node<'_>) -> Option<V>, required: Option<String>) -> Option<Option<V>> {
        match (node, required) {
            (None, _) => Some(None),
            (Some(node), Some(message)) if node.value().is_null() => {
                node.problem(message);
                None
            }
            (Some(node), _) if node.value().is_null() => Some(Some(V::default())),
            (Some(node), _) => value(&node).map(Some),
        }
    }

    fn apply(self, value: &mut V) {
        *value = self;
    }
}

/// The change of a value that cannot be changed: there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed<V>(Infallible, PhantomData<V>);

impl<V> Change<V> for Fixed<V> {
    fn schema(_: Value) -> Option<Value> {
        None
    }

    fn read(node: Option<Node<'_>>, _: fn(&Node<'_>) -> Option<V>, _: Option<String>) -> Option<Option<Self>> {
        if let Some(node) = node {
            node.problem("cannot be changed; make another key instead");
        }
        Some(None)
    }

    fn apply(self, _: &mut V) {
        match self.0 {}
    }
}

type Notes = BTreeMap<String, String>;

/// What is to become of a key's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataChange {
    /// All of it goes.
    Cleared,
    /// These entries are set, or removed where there is no value; the others stay.
    Merged(BTreeMap<String, Option<String>>),
}

impl Change<Notes> for MetadataChange {
    fn schema(_: Value) -> Option<Value> {
        Some(schema::metadata_change())
    }

    fn read(node: Option<Node<'_>>, _: fn(&Node<'_>) -> Option<Notes>, _: Option<String>) -> Option<Option<Self>> {
        match node {
            None => Some(None),
            Some(node) if node.value().is_null() => Some(Some(Self::Cleared)),
            Some(node) => change_metadata(&node).map(Self::Merged).map(Some),
        }
    }

    fn apply(self, value: &mut Notes) {
        let Self::Merged(entries) = self else { return value.clear() };
        for (name, entry) in entries {
            match entry {
                Some(entry) => drop(value.insert(name, entry)),
                None => drop(value.remove(&name)),
            }
        }
    }
}

/// `type: value, change, reader, schema { what else is as for no other field }` for each type of field.
macro_rules! field_types {
    ($($(#[$doc:meta])+ $type:ident: $value:ty, $change:ty, $read:expr, $schema:expr, {$($more:tt)*})+) => {$(
        $(#[$doc])+
        pub struct $type;

        impl Field for $type {
            type Value = $value;
            type Change = $change;

            fn read(node: &Node<'_>) -> Option<$value> {
                ($read)(node)
            }

            fn schema(dialect: &Dialect) -> Value {
                ($schema)(dialect)
            }

            $($more)*
        }
    )+};
}

field_types! {
    /// The name of a key, which it must have.
    Name: String, String, name, |_| schema::name(), {
        fn required(_: &Dialect) -> Option<String> {
            Some("is required".to_owned())
        }
    }

    /// The id of the owner, without which the dialect may have every edge refuse the key.
    OwnerId: Option<String>, Fixed<Option<String>>, |node| id(node).map(Some), |_| schema::id(), {
        fn required(dialect: &Dialect) -> Option<String> {
            let name = &dialect.name;
            let why = || format!("is required: by the dialect {name} every gateway refuses a key without an owner");
            dialect.owner_required.then(why)
        }
    }

    /// The id of a member or a plan.
    Id: Option<String>, Option<String>, |node| id(node).map(Some), |_| schema::id(), {}

    /// The kind, which follows from the format of the key.
    Kind: String, Fixed<String>, |node: &Node<'_>| node.string().map(str::to_owned), schema::kind, {
        fn read_new(given: &mut Fields<'_>, _: &'static str, context: &mut Context<'_>) -> Option<String> {
            context.choose_format(given).map(|format| format.kind.clone())
        }
    }

    /// The environment, which follows from the format of the key.
    EnvironmentName: Option<Environment>, Fixed<Option<Environment>>, |node| read_environment(node).map(Some),
    schema::environment_of, {
        fn read_new(given: &mut Fields<'_>, _: &'static str, context: &mut Context<'_>) -> Option<Option<Environment>> {
            context.choose_format(given).map(|format| format.environment)
        }

        fn answer_schema() -> Value {
            // Not by `enum`: generators of clients take null in one for a value of its own.
            json!({"type": "string", "pattern": "^(live|test)$"})
        }
    }

    /// Permissions.
    Scopes: Vec<String>, Vec<String>, |node: &Node<'_>| node.each(scope), |_| schema::list(schema::scope()), {
        fn read_new(given: &mut Fields<'_>, name: &'static str, context: &mut Context<'_>) -> Option<Vec<String>> {
            let scopes = optional(given, name, Self::read)?.unwrap_or_default();
            let is_new = context.created_at.is_some();
            if is_new && scopes.is_empty() && context.dialect.scopes_required {
                let format = context.choose_format(given)?;
                if !format.has_owners_scopes {
                    let name_of_dialect = &context.dialect.name;
                    let message = format!(
                        "is required: in the dialect {name_of_dialect} gateways refuse a key without permissions"
                    );
                    given.problem(name, message);
                    return None;
                }
            }
            Some(scopes)
        }
    }

    /// Client networks.
    Networks: Vec<IpNet>, Vec<IpNet>, |node: &Node<'_>| node.each(network), |_| schema::list(schema::network()), {}

    /// Rate limits.
    RateLimits: Option<Limits>, Option<Limits>, |node| read_limits(node).map(Some), |_| schema::limits(), {}

    /// An amount of credits.
    CreditLimit: Option<u64>, Option<u64>, |node| credits(node).map(Some), |_| schema::credits(), {}

    /// Notes. They can be anything, so the audit log has their names alone.
    Metadata: Notes, MetadataChange, metadata, |_| schema::metadata(), {
        fn audited(value: &Notes) -> Value {
            value.keys().map(String::as_str).collect()
        }

        fn difference(old: &Notes, new: &Notes) -> Option<Value> {
            let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
            let changed: Vec<_> = names.into_iter().filter(|name| old.get(*name) != new.get(*name)).collect();
            (!changed.is_empty()).then(|| json!(changed))
        }
    }

    /// The expiry, which requests may give as a time or as a number of seconds from now.
    Expiry: Option<Timestamp>, Option<Timestamp>, |node| time(node).map(Some), |_| schema::time(), {
        fn read_new(given: &mut Fields<'_>, name: &'static str, context: &mut Context<'_>) -> Option<Self::Value> {
            Self::read_change(given, name, context).map(Option::flatten)
        }

        fn read_change(given: &mut Fields<'_>, name: &'static str, context: &Context<'_>) -> Option<Option<Self::Value>> {
            match context.created_at {
                None => nullable(given, name, time),
                Some(created_at) => expiry(given, context.dialect, created_at, context.now),
            }
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
    if kind.is_none() && dialect.kind_required {
        let known: Vec<_> = kinds(dialect).into_iter().map(|(kind, _)| format!("{kind:?}")).collect();
        fields.problem("kind", format!("is required in the dialect {}: one of {}", dialect.name, known.join(", ")));
        return None;
    }
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
