//! How the value of a field is written outside of Rust: in JSON, in a column of the database and in a cell of CSV.

use crate::clock::Timestamp;
use crate::model::schema::{number, or_null, strings, time};
use keyward_core::key::limit::Limits;
use keyward_core::wire::entry::Environment;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

/// A value as it stands in a column. Times are milliseconds since the Unix epoch; lists and objects are JSON texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored<'a> {
    /// A column of texts.
    Text(Option<Cow<'a, str>>),
    /// A column of whole numbers.
    Number(Option<i64>),
}

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

/// The value of a field.
pub trait FieldValue: Sized {
    /// What sort of value it is.
    const SHAPE: Shape;
    /// Whether it can be null.
    const IS_NULLABLE: bool = false;

    /// Its schema in answers.
    fn schema() -> Value;
    /// The value in JSON.
    fn to_json(&self) -> Value;
    /// The value in the database.
    fn to_stored(&self) -> Stored<'_>;
    /// Reads what [`to_stored`](Self::to_stored) made; `None` if it is something else.
    fn from_stored(stored: Stored<'_>) -> Option<Self>;
}

impl Shape {
    /// Whether its column holds numbers.
    pub fn is_number(self) -> bool {
        matches!(self, Self::Time | Self::Number)
    }

    /// The JSON value of a cell that is not empty; or what was expected. `[]` is a list of nothing.
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

fn text(stored: Stored<'_>) -> Option<Cow<'_, str>> {
    if let Stored::Text(text) = stored { text } else { None }
}

fn whole_number(stored: Stored<'_>) -> Option<i64> {
    if let Stored::Number(number) = stored { number } else { None }
}

impl<T: FieldValue> FieldValue for Option<T> {
    const SHAPE: Shape = T::SHAPE;
    const IS_NULLABLE: bool = true;

    fn schema() -> Value {
        or_null(T::schema())
    }

    fn to_json(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_json)
    }

    fn to_stored(&self) -> Stored<'_> {
        match self {
            Some(value) => value.to_stored(),
            None if T::SHAPE.is_number() => Stored::Number(None),
            None => Stored::Text(None),
        }
    }

    fn from_stored(stored: Stored<'_>) -> Option<Self> {
        match stored {
            Stored::Text(None) | Stored::Number(None) => Some(None),
            stored => T::from_stored(stored).map(Some),
        }
    }
}

impl FieldValue for String {
    const SHAPE: Shape = Shape::Text;

    fn schema() -> Value {
        json!({"type": "string"})
    }

    fn to_json(&self) -> Value {
        self.as_str().into()
    }

    fn to_stored(&self) -> Stored<'_> {
        Stored::Text(Some(self.into()))
    }

    fn from_stored(stored: Stored<'_>) -> Option<Self> {
        text(stored).map(Cow::into_owned)
    }
}

impl FieldValue for Environment {
    const SHAPE: Shape = Shape::Text;

    fn schema() -> Value {
        // Not by `enum`: generators of clients take null in one for a value of its own.
        json!({"type": "string", "pattern": "^(live|test)$"})
    }

    fn to_json(&self) -> Value {
        self.name().into()
    }

    fn to_stored(&self) -> Stored<'_> {
        Stored::Text(Some(self.name().into()))
    }

    fn from_stored(stored: Stored<'_>) -> Option<Self> {
        Self::from_name(&text(stored)?)
    }
}

impl FieldValue for u64 {
    const SHAPE: Shape = Shape::Number;

    fn schema() -> Value {
        number(0, crate::model::MAX_CREDITS)
    }

    fn to_json(&self) -> Value {
        (*self).into()
    }

    fn to_stored(&self) -> Stored<'_> {
        Stored::Number(Some(i64::try_from(*self).unwrap_or(i64::MAX)))
    }

    fn from_stored(stored: Stored<'_>) -> Option<Self> {
        whole_number(stored)?.try_into().ok()
    }
}

impl FieldValue for Timestamp {
    const SHAPE: Shape = Shape::Time;

    fn schema() -> Value {
        time()
    }

    fn to_json(&self) -> Value {
        self.to_string().into()
    }

    fn to_stored(&self) -> Stored<'_> {
        Stored::Number(Some(self.as_stored()))
    }

    fn from_stored(stored: Stored<'_>) -> Option<Self> {
        whole_number(stored).map(Self::from_stored)
    }
}

impl<T: Display + FromStr> FieldValue for Vec<T> {
    const SHAPE: Shape = Shape::List;

    fn schema() -> Value {
        strings()
    }

    fn to_json(&self) -> Value {
        self.iter().map(ToString::to_string).collect()
    }

    fn to_stored(&self) -> Stored<'_> {
        Stored::Text(Some(self.to_json().to_string().into()))
    }

    fn from_stored(stored: Stored<'_>) -> Option<Self> {
        let texts: Vec<String> = serde_json::from_str(&text(stored)?).ok()?;
        texts.iter().map(|text| text.parse().ok()).collect()
    }
}

impl FieldValue for Limits {
    const SHAPE: Shape = Shape::List;

    fn schema() -> Value {
        strings()
    }

    fn to_json(&self) -> Value {
        self.iter().map(ToString::to_string).collect()
    }

    fn to_stored(&self) -> Stored<'_> {
        Stored::Text(Some(self.to_json().to_string().into()))
    }

    fn from_stored(stored: Stored<'_>) -> Option<Self> {
        Self::new(Vec::from_stored(stored)?).ok()
    }
}

impl FieldValue for BTreeMap<String, String> {
    const SHAPE: Shape = Shape::Object;

    fn schema() -> Value {
        json!({"type": "object", "additionalProperties": {"type": "string"}})
    }

    fn to_json(&self) -> Value {
        json!(self)
    }

    fn to_stored(&self) -> Stored<'_> {
        Stored::Text(Some(self.to_json().to_string().into()))
    }

    fn from_stored(stored: Stored<'_>) -> Option<Self> {
        serde_json::from_str(&text(stored)?).ok()
    }
}
