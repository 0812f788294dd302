//! What callers may ask for, read so that all mistakes are told at once and what was read cannot be wrong.

pub mod documents;
mod key_change;
mod new_key;
mod owner;
mod plan;
mod rotation;
mod usage;

pub use key_change::KeyChange;
pub use new_key::NewKey;
pub use owner::{KeysToRevoke, OwnerChange, OwnerSettings};
pub use plan::PlanSettings;
pub use rotation::Rotation;
pub use usage::UsageToUndo;

use serde_json::Value;

/// The document of a request: an empty body counts as an empty object.
///
/// # Errors
/// What keeps it from being JSON.
pub fn document(body: &[u8]) -> Result<Value, serde_json::Error> {
    if body.trim_ascii().is_empty() { Ok(Value::Object(serde_json::Map::new())) } else { serde_json::from_slice(body) }
}
