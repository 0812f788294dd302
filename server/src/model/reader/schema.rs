//! What the readers of single values take, in the words of JSON Schema. Each schema uses the bounds of its reader.

use super::expiry::MAX_LIFETIME_S;
use super::{
    MAX_CREDITS, MAX_ID_LENGTH, MAX_METADATA, MAX_METADATA_NAME_LENGTH, MAX_METADATA_VALUE_LENGTH, MAX_NAME_LENGTH,
    MAX_SCOPE_LENGTH,
};
use keyward_core::dialect::Dialect;
use keyward_core::key::environment::Environment;
use keyward_core::key::id::{KEY_ID_PREFIX, MAX_KEY_ID_LENGTH};
use keyward_core::key::limit::{Limit, Limits};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

pub(in crate::model) fn name() -> Value {
    word(NOT_CONTROL, MAX_NAME_LENGTH)
}

const NOT_CONTROL: &str = "[^\\u0000-\\u001f\\u007f-\\u009f]";

/// A text without control characters, which may be empty.
pub(in crate::model) fn line(max_length: usize) -> Value {
    let mut schema = text(&format!("{NOT_CONTROL}*"));
    insert(&mut schema, "maxLength", max_length.into());
    schema
}

/// The same, which is not empty.
pub fn nonempty_line(max_length: usize) -> Value {
    word(NOT_CONTROL, max_length)
}

/// The schema of the id of an owner, a member or a plan.
pub fn id() -> Value {
    word("[!-~]", MAX_ID_LENGTH)
}

/// The schema of the name of an environment.
pub fn environment() -> Value {
    one_of([Environment::Live, Environment::Test].map(Environment::name))
}

/// The schema of the id of a key, which may be another system's.
pub fn key_id() -> Value {
    let mut schema = text(&format!("{KEY_ID_PREFIX}[0-9A-Za-z_-]+"));
    insert(&mut schema, "maxLength", MAX_KEY_ID_LENGTH.into());
    schema
}

pub(in crate::model) fn scope() -> Value {
    word("[A-Za-z0-9._:/*-]", MAX_SCOPE_LENGTH)
}

pub(in crate::model) fn credits() -> Value {
    number(0, MAX_CREDITS)
}

pub(in crate::model) fn lifetime() -> Value {
    number(1, MAX_LIFETIME_S)
}

pub(in crate::model) fn metadata() -> Value {
    let mut schema = metadata_entries(metadata_value());
    insert(&mut schema, "maxProperties", MAX_METADATA.into());
    schema
}

/// Notes to set, or with null to remove.
pub(in crate::model) fn metadata_change() -> Value {
    metadata_entries(or_null(metadata_value()))
}

/// The schema of the name of a kind of the dialect.
pub(in crate::model) fn kind(dialect: &Dialect) -> Value {
    one_of(dialect.formats.iter().map(|format| format.kind.as_str()).collect::<BTreeSet<_>>())
}

/// The schema of the name of an environment of the dialect.
pub(in crate::model) fn environment_of(dialect: &Dialect) -> Value {
    let environments = dialect.formats.iter().filter_map(|format| format.environment).map(Environment::name);
    one_of(environments.collect::<BTreeSet<_>>())
}

/// Not by `patternProperties`: generators of clients make a map of `additionalProperties` alone.
fn metadata_entries(value: Value) -> Value {
    json!({"type": "object", "propertyNames": {"pattern": names_of_metadata()}, "additionalProperties": value})
}

fn names_of_metadata() -> String {
    format!("^[A-Za-z0-9._-]{{1,{MAX_METADATA_NAME_LENGTH}}}$")
}

fn metadata_value() -> Value {
    line(MAX_METADATA_VALUE_LENGTH)
}

/// An address, or a network in CIDR notation. What IPv6 looks like is from RFC 3986, section 3.2.2.
pub(in crate::model) fn network() -> Value {
    let octet = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    let v4 = format!("({octet}\\.){{3}}{octet}");
    let group = "[0-9A-Fa-f]{1,4}";
    let last_two = format!("({group}:{group}|{v4})");
    // How many groups may stand before `::`, and what stands behind it; none before the first, which has no `::`.
    let forms = [
        format!("({group}:){{6}}{last_two}"),
        format!("::({group}:){{5}}{last_two}"),
        format!("({group})?::({group}:){{4}}{last_two}"),
        format!("(({group}:){{0,1}}{group})?::({group}:){{3}}{last_two}"),
        format!("(({group}:){{0,2}}{group})?::({group}:){{2}}{last_two}"),
        format!("(({group}:){{0,3}}{group})?::{group}:{last_two}"),
        format!("(({group}:){{0,4}}{group})?::{last_two}"),
        format!("(({group}:){{0,5}}{group})?::{group}"),
        format!("(({group}:){{0,6}}{group})?::"),
    ];
    text(&format!("({v4}(/{})?|({})(/{})?)", up_to(32), forms.join("|"), up_to(128)))
}

pub(in crate::model) fn limits() -> Value {
    let max_s = Limit::MAX_WINDOW_MS / 1000;
    let windows = [("s", 1), ("min", 60), ("h", 3600), ("d", 86_400)]
        .map(|(unit, unit_s)| format!("({})?{unit}", padded(&from_one_to(max_s / unit_s))));
    let limit = text(&format!("{}/({})", padded(&up_to(u32::MAX.into())), windows.join("|")));
    json!({"type": "array", "items": limit, "maxItems": Limits::MAX})
}

pub(in crate::model) fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

/// The schema of a whole number in a range.
pub fn number(first: u64, last: u64) -> Value {
    json!({"type": "integer", "minimum": first, "maximum": last})
}

pub(in crate::model) fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> Value {
    json!({"type": "string", "enum": words.into_iter().collect::<Vec<_>>()})
}

pub(in crate::model) fn list(element: Value) -> Value {
    json!({"type": "array", "items": element})
}

/// The schema of a list of texts.
pub(in crate::model) fn strings() -> Value {
    list(json!({"type": "string"}))
}

/// One character or more of that class. The bound is no part of the expression, so that it can be tried by itself.
fn word(class: &str, max_length: usize) -> Value {
    let mut schema = text(&format!("{class}+"));
    insert(&mut schema, "minLength", 1.into());
    insert(&mut schema, "maxLength", max_length.into());
    schema
}

/// The schema of a string of which all is as the expression says.
pub fn text(pattern: &str) -> Value {
    json!({"type": "string", "pattern": format!("^{pattern}$")})
}

/// The same, or null.
pub(in crate::model) fn or_null(mut schema: Value) -> Value {
    if let Some(Value::Array(words)) = schema.get_mut("enum") {
        words.push(Value::Null);
    }
    let kind = schema.get("type").cloned();
    insert(&mut schema, "type", json!([kind, "null"]));
    schema
}

pub(in crate::model) fn described(words: &str, mut schema: Value) -> Value {
    insert(&mut schema, "description", words.into());
    schema
}

pub(in crate::model) fn object<'a>(
    words: &str,
    fields: impl IntoIterator<Item = (&'a str, Value)>,
    required: &[&str],
) -> Value {
    let properties: Map<String, Value> = fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        insert(&mut schema, "required", required.into());
    }
    described(words, schema)
}

pub(in crate::model) fn insert(schema: &mut Value, name: &str, value: Value) {
    if let Value::Object(schema) = schema {
        schema.insert(name.to_owned(), value);
    }
}

/// The numbers from 0 to that one, without zeros before them, as an expression.
pub(in crate::model) fn up_to(last: u64) -> String {
    format!("(0|{})", from_one_to(last))
}

/// The same from 1 on: the last itself, those that first fall below it in one place, and those of fewer digits.
fn from_one_to(last: u64) -> String {
    let digits = last.to_string();
    let mut forms = vec![digits.clone()];
    for (place, digit) in digits.char_indices() {
        let lowest = if place == 0 { '1' } else { '0' };
        if digit > lowest {
            let (before, behind) = (digits.get(..place).unwrap_or_default(), digits.len() - place - 1);
            let below = char::from_u32(u32::from(digit) - 1).unwrap_or(lowest);
            forms.push(format!("{before}[{lowest}-{below}]{}", "[0-9]".repeat(behind)));
        }
    }
    if let Some(fewer) = digits.len().checked_sub(2) {
        forms.push(format!("[1-9][0-9]{{0,{fewer}}}"));
    }
    format!("({})", forms.join("|"))
}

/// The same with any number of zeros before it.
fn padded(number: &str) -> String {
    format!("0*{number}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::Regex;

    #[test]
    fn an_expression_for_numbers_takes_those_up_to_the_last_and_no_others() {
        for last in [1, 9, 10, 31, 32, 128, 744, 1000, 2999] {
            let expression = Regex::new(&format!("^{}$", up_to(last))).unwrap();
            for number in 0..4000_u64 {
                assert_eq!(expression.is_match(&number.to_string()), number <= last, "{number} of {last}");
            }
            assert!(!expression.is_match("00") && !expression.is_match("01"), "{last}");
        }
    }
}
