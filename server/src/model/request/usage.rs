//! Reported usage that is to be undone.

use crate::clock::Timestamp;
use crate::model::reader::MAX_ID_LENGTH;
use keyward_core::document::{Node, Problems, read_value};
use serde_json::Value;

/// Which reports of usage are to be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageToUndo {
    /// The id of the token with which they came, or `token-file`.
    pub token: String,
    /// From when on.
    pub since: Timestamp,
}

impl UsageToUndo {
    /// Reads the request.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(document: &Value) -> Result<Self, Problems> {
        read_value(document, |node| {
            let mut fields = node.fields()?;
            let token = fields.required("token").and_then(|n| token(&n));
            let since = fields.required("since").and_then(|n| time(&n));
            fields.finish();
            Some(Self { token: token?, since: since? })
        })
    }
}

/// A token itself that was pasted for its id is not taken for one.
fn token(node: &Node<'_>) -> Option<String> {
    let text = node.string()?;
    let is_id = text.strip_prefix("tok_").is_some_and(|rest| rest.bytes().all(|c| c.is_ascii_alphanumeric()));
    if text.len() > MAX_ID_LENGTH || !(is_id || text == "token-file") {
        node.problem("expected the id of a token (tok_…), or token-file");
        return None;
    }
    Some(text.to_owned())
}

fn time(node: &Node<'_>) -> Option<Timestamp> {
    let time = Timestamp::parse_rfc3339(node.string()?);
    if time.is_none() {
        node.problem("expected a time such as 2030-01-31T08:00:00Z");
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::reader::told;
    use serde_json::json;

    #[test]
    fn both_fields_are_needed_and_a_token_is_named_by_its_id() {
        let read = |document| told(UsageToUndo::read(&document));
        for token in ["tok_1", "token-file"] {
            let undo = read(json!({"token": token, "since": "2030-01-31T08:00:00Z"})).unwrap();
            assert_eq!(undo.token, token);
        }
        let fields = |document| read(document).unwrap_err().into_iter().map(|(field, _)| field).collect::<Vec<_>>();
        assert_eq!(fields(json!({})).len(), 2, "both are needed");
        assert_eq!(
            fields(json!({"token": "kwe_secret", "since": "yesterday", "until": 1})),
            ["token", "since", "until"]
        );
    }
}
