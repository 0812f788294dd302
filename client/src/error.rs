//! What can go wrong with a request.

use serde_json::Value;
use std::fmt;
use std::io;

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There was no response, or only a part of one.
    #[error("no response from {url}: {source}")]
    NoResponse {
        /// The server.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// The response is not one of the API.
    #[error(
        "expected a JSON response of the Keyward API from {url}, got status {status} with something else; check the URL"
    )]
    UnexpectedResponse {
        /// The server.
        url: String,
        /// The status.
        status: u16,
    },
    /// The server refused the request.
    #[error("{url} refused the request ({status}): {problem}")]
    Refused {
        /// The server.
        url: String,
        /// The status.
        status: u16,
        /// The problem document.
        problem: Problem,
    },
    /// There is no Idempotency-Key without randomness.
    #[error("the operating system gave no randomness: {0}")]
    Rng(#[from] getrandom::Error),
}

/// A download failed.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The server refused, or the response broke off.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The response cannot be written.
    #[error(transparent)]
    Write(io::Error),
}

/// A problem document (RFC 9457).
#[derive(Debug)]
pub struct Problem {
    type_uri: String,
    detail: String,
    errors: Vec<(String, String)>,
}

/// The prefix of the problem types of the API.
const TYPES: &str = "urn:keyward:problem:";

impl Problem {
    /// The problem's type without the prefix that all types of the API have.
    pub fn name(&self) -> &str {
        self.type_uri.strip_prefix(TYPES).unwrap_or(&self.type_uri)
    }

    pub(crate) fn is_outcome_unknown(&self) -> bool {
        self.type_uri.strip_prefix(TYPES) == Some("outcome_unknown")
    }

    pub(crate) fn read(document: &Value) -> Option<Self> {
        let text = |value: &Value, field| value.get(field).and_then(Value::as_str).map(one_line);
        let errors = document.get("errors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        Some(Self {
            type_uri: text(document, "type").unwrap_or_default(),
            detail: text(document, "detail").or_else(|| text(document, "title"))?,
            errors: errors.iter().filter_map(|error| Some((text(error, "field")?, text(error, "message")?))).collect(),
        })
    }
}

/// The text with control characters as escapes, so that a server can neither move the cursor of a terminal nor add lines.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_unicode()) } else { line.push(c) }
    }
    line
}

/// The detail, and a line for each field with an error.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        for (field, message) in &self.errors {
            let separator = if field.is_empty() { "" } else { ": " };
            write!(f, "\n  {field}{separator}{message}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
impl ClientError {
    /// A refusal with that problem.
    pub(crate) fn refused_for_test(status: u16, problem: &str) -> Self {
        let problem = Problem { type_uri: format!("{TYPES}{problem}"), detail: String::new(), errors: Vec::new() };
        Self::Refused { url: String::new(), status, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn problem_shows_every_field_with_an_error() {
        let document = json!({"title": "T", "detail": "some fields cannot be used", "errors": [
            {"field": "name", "message": "is required"}, {"field": "", "message": "too long"},
        ]});
        let problem = Problem::read(&document).unwrap();
        assert_eq!(problem.to_string(), "some fields cannot be used\n  name: is required\n  too long");
        assert!(Problem::read(&json!("nonsense")).is_none());
    }

    #[test]
    fn problem_has_no_control_characters() {
        let document = json!({"detail": "a\u{1b}[2J", "errors": [{"field": "\r", "message": "\u{7}"}]});
        assert_eq!(Problem::read(&document).unwrap().to_string(), "a\\u{1b}[2J\n  \\u{d}: \\u{7}");
    }

    #[test]
    fn problem_is_named_without_the_common_prefix() {
        let document = json!({"type": "urn:keyward:problem:outcome_unknown", "detail": "d"});
        let problem = Problem::read(&document).unwrap();
        assert!(problem.name() == "outcome_unknown" && problem.is_outcome_unknown());
    }
}
