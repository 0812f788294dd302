//! A rotation that is asked for.

use crate::model::reader::optional;
use keyward_core::document::{Problems, read_value};
use serde_json::Value;
use std::time::Duration;

/// How a key is to be rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// How long the secrets so far stay valid.
    pub grace: Duration,
}

/// A year.
pub(super) const MAX_GRACE_S: u64 = 365 * 86_400;
const DEFAULT_GRACE_S: u64 = 86_400;

impl Rotation {
    /// Reads the request.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(document: &Value) -> Result<Self, Problems> {
        read_value(document, |node| {
            let mut fields = node.fields()?;
            let grace_s = optional(&mut fields, "grace_s", |n| n.number(0..=MAX_GRACE_S));
            fields.finish();
            Some(Self { grace: Duration::from_secs(grace_s?.unwrap_or(DEFAULT_GRACE_S)) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::reader::told;
    use crate::model::request::document;
    use serde_json::json;

    #[test]
    fn a_rotation_without_words_gives_a_day_of_grace_and_none_can_be_asked_for() {
        let grace = |document| told(Rotation::read(&document)).map(|rotation| rotation.grace.as_secs());
        assert_eq!(grace(json!({})), Ok(86_400));
        assert_eq!(grace(json!({"grace_s": 0})), Ok(0));
        assert_eq!(grace(json!({"grace_s": -1, "x": 1})).unwrap_err().len(), 2);
        assert!(document(b" ").unwrap().is_object());
    }
}
