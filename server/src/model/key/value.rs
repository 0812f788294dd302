//! How the value of a field is written outside of Rust: in JSON, in a column of the database and in a cell of CSV.

use crate::clock::Timestamp;
use crate::model::reader::MAX_CREDITS;
use crate::model::reader::schema::{number, strings, time};
use keyward_core::key::environment::Environment;
use keyward_core::key::limit::Limits;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

/// What sort of value a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A string.
    Text,
    /// A date and time, a string in JSON.
    Time,
    /// A whole number.
    Number,
    /// A list of strings.
    List,
    /// An object.
    Object,
}

/// A value as it stands in a column. Times are milliseconds since the Unix epoch; lists and objects are JSON texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A column of texts.
    Text(Option<String>),
    /// A column of whole numbers.
    Number(Option<i64>),
}

/// The value of a field.
pub trait FieldValue: Sized {
    /// What sort of value it is.
    const SHAPE: Shape;
    /// Whether it can be null.
    const IS_NULLABLE: bool = false;

    /// The value in JSON.
    fn to_json(&self) -> Value;
    /// Reads what [`to_json`](Self::to_json) made; `None` if it is something else.
    fn from_json(value: &Value) -> Option<Self>;
}

impl Shape {
    /// Whether its column holds numbers.
    pub fn is_number(self) -> bool {
        matches!(self, Self::Time | Self::Number)
    }

    /// The JSON value in a column; `None` if it is something else.
    pub(super) fn store(self, value: &Value) -> Stored {
        let time = || value.as_str().and_then(Timestamp::parse_rfc3339).map(Timestamp::as_stored);
        match self {
            Self::Text => Stored::Text(value.as_str().map(str::to_owned)),
            Self::Time => Stored::Number(time()),
            Self::Number => Stored::Number(value.as_u64().map(|number| i64::try_from(number).unwrap_or(i64::MAX))),
            Self::List | Self::Object => Stored::Text((!value.is_null()).then(|| value.to_string())),
        }
    }

    /// Reads what [`store`](Self::store) made; `None` if it is something else.
    pub(super) fn load(self, stored: Stored) -> Option<Value> {
        Some(match (self, stored) {
            (_, Stored::Text(None) | Stored::Number(None)) => Value::Null,
            (Self::Text, Stored::Text(Some(text))) => text.into(),
            (Self::Time, Stored::Number(Some(ms))) => json!(Timestamp::from_stored(ms)),
            (Self::Number, Stored::Number(Some(number))) => number.into(),
            (Self::List | Self::Object, Stored::Text(Some(text))) => serde_json::from_str(&text).ok()?,
            _ => return None,
        })
    }

    /// The JSON value of a cell that is not empty. `[]` is a list of nothing.
    ///
    /// # Errors
    /// What was expected.
    pub fn read_cell(self, cell: &str) -> Result<Value, &'static str> {
        match self {
            Self::Text | Self::Time => Ok(cell.into()),
            Self::Number => cell.parse::<u64>().map(Value::from).map_err(|_| "a whole number"),
            Self::List if cell == "[]" => Ok(json!([])),
            Self::List => Ok(cell.split_ascii_whitespace().collect()),
            Self::Object => serde_json::from_str(cell).ok().filter(Value::is_object).ok_or("a JSON object"),
        }
    }

    /// The schema in answers.
    pub(super) fn schema(self) -> Value {
        match self {
            Self::Text => json!({"type": "string"}),
            Self::Time => time(),
            Self::Number => number(0, MAX_CREDITS),
            Self::List => strings(),
            Self::Object => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        }
    }
}

/// The cell that [`Shape::read_cell`] reads. An empty list differs from null where a field can have both.
pub fn write_cell(value: &Value, is_nullable: bool) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(elements) if elements.is_empty() => if is_nullable { "[]" } else { "" }.to_owned(),
        Value::Object(entries) if entries.is_empty() => String::new(),
        Value::Array(elements) if elements.iter().all(Value::is_string) => {
            elements.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

impl<T: FieldValue> FieldValue for Option<T> {
    const SHAPE: Shape = T::SHAPE;
    const IS_NULLABLE: bool = true;

    fn to_json(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_json)
    }

    fn from_json(value: &Value) -> Option<Self> {
        if value.is_null() { Some(None) } else { T::from_json(value).map(Some) }
    }
}

impl<T: Display + FromStr> FieldValue for Vec<T> {
    const SHAPE: Shape = Shape::List;

    fn to_json(&self) -> Value {
        self.iter().map(ToString::to_string).collect()
    }

    fn from_json(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(|element| element.as_str()?.parse().ok()).collect()
    }
}

macro_rules! values {
    ($($type:ty: $shape:ident, $to:expr, $from:expr;)+) => {$(
        impl FieldValue for $type {
            const SHAPE: Shape = Shape::$shape;

            fn to_json(&self) -> Value {
                ($to)(self)
            }

            fn from_json(value: &Value) -> Option<Self> {
                ($from)(value)
            }
        }
    )+};
}

values! {
    String: Text, |text| json!(text), |value: &Value| value.as_str().map(str::to_owned);
    Environment: Text, |environment: &Self| environment.name().into(), |value: &Value| Self::from_name(value.as_str()?);
    Timestamp: Time, |time| json!(time), |value: &Value| Self::parse_rfc3339(value.as_str()?);
    u64: Number, |number| json!(number), Value::as_u64;
    Limits: List, |limits: &Self| limits.iter().map(ToString::to_string).collect(),
        |value| Self::new(Vec::from_json(value)?).ok();
    BTreeMap<String, String>: Object, |entries| json!(entries), |value: &Value| value.as_object()?.iter()
        .map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
}
