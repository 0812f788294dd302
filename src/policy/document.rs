//! The bytes that Envoy hands over as the configuration, as one JSON value.
//!
//! A `StringValue` comes as its text. A `Struct`, which reads better in YAML, comes in protobuf's binary form (seen with
//! Envoy 1.40: it is not turned into JSON), so both are understood.

use keyward_core::document::{Problems, from_json};
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Value as ProtoValue};
use serde_json::{Map, Value};

/// The configuration as JSON.
///
/// # Errors
/// If it is neither JSON nor a `Struct`; the message says why it is not JSON.
pub(super) fn read(bytes: &[u8]) -> Result<Value, Problems> {
    from_json(bytes).or_else(|not_json| match Struct::decode(bytes) {
        Ok(fields) if !fields.fields.is_empty() => Ok(object(fields)),
        _ => Err(not_json),
    })
}

fn object(fields: Struct) -> Value {
    Value::Object(fields.fields.into_iter().map(|(name, field)| (name, value(field))).collect::<Map<_, _>>())
}

fn value(field: ProtoValue) -> Value {
    match field.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(number)) => number.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::BoolValue(truth)) => truth.into(),
        Some(Kind::StructValue(fields)) => object(fields),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(value).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::ListValue;
    use serde_json::json;

    fn proto(value: &Value) -> ProtoValue {
        let kind = match value {
            Value::Null => Kind::NullValue(0),
            Value::Bool(truth) => Kind::BoolValue(*truth),
            Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
            Value::String(text) => Kind::StringValue(text.clone()),
            Value::Array(list) => Kind::ListValue(ListValue { values: list.iter().map(proto).collect() }),
            Value::Object(_) => Kind::StructValue(as_struct(value)),
        };
        ProtoValue { kind: Some(kind) }
    }

    fn as_struct(value: &Value) -> Struct {
        let fields = value.as_object().unwrap().iter();
        Struct { fields: fields.map(|(name, field)| (name.clone(), proto(field))).collect() }
    }

    #[test]
    fn struct_equals_its_json() {
        let document = json!({"a": {"b": [1.0, "x", true, null, {"c": []}]}, "d": 2.5});
        assert_eq!(read(&as_struct(&document).encode_to_vec()), Ok(document.clone()));
        assert_eq!(read(document.to_string().as_bytes()), Ok(document));
    }

    #[test]
    fn neither_json_nor_struct_is_reported_as_bad_json() {
        for bytes in [&b""[..], b"{\"a\": }", b"\n\n{", b"dialect: keyward"] {
            assert!(read(bytes).unwrap_err().to_string().contains("not JSON"), "{bytes:?}");
        }
    }
}
