//! Parts of requests that several commands need.

use super::CliError;
use keyward_core::key::id::is_key_id;
use serde_json::{Map, Value};

/// The fields that have a value.
pub(super) fn document<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let given = fields.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?)));
    Value::Object(Map::from_iter(given))
}

/// Refuses what is not the id of a key: a key pasted by mistake must reach neither a URL nor a message.
pub(super) fn check_key_id(id: &str) -> Result<(), CliError> {
    if is_key_id(id) {
        return Ok(());
    }
    Err(CliError::Usage("expected the id of a key, key_ and letters, digits, _ and -: `keyward keys list` shows it"))
}
