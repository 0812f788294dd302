//! Keys that were found in public: what a report says, and what becomes of them.

use crate::text::is_invisible;
use keyward_core::dialect::secret_recognizer::SecretRecognizer;
use keyward_core::document::{Node, Problems, read_value};
use keyward_core::key::secret::Secret as Plaintext;
use serde_json::Value;

/// What becomes of a key that was found in public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnLeak {
    /// It is revoked.
    #[default]
    Revoke,
    /// It is marked, and goes on.
    Flag,
}

/// What was done about a key that was found in public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeakAction {
    /// The key was revoked.
    Revoked,
    /// The secret was marked, and the key goes on.
    Flagged,
    /// The key had been revoked before; the secret was marked.
    AlreadyRevoked,
}

/// A report of keys that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeakReport {
    /// What was found.
    pub keys: Vec<Plaintext>,
    /// Who found it, or in what.
    pub source: Option<String>,
    /// Where.
    pub url: Option<String>,
}

/// The most keys of a report.
pub const MAX_REPORTED_KEYS: usize = 100;
/// The longest key of a report, in bytes.
pub const MAX_KEY_BYTES: usize = 8192;
pub(super) const MAX_SOURCE_LENGTH: usize = 200;
pub(super) const MAX_URL_LENGTH: usize = 2000;

impl OnLeak {
    /// The setting of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "revoke" => Some(Self::Revoke),
            "flag" => Some(Self::Flag),
            _ => None,
        }
    }
}

impl LeakAction {
    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Flagged => "flagged",
            Self::AlreadyRevoked => "already_revoked",
        }
    }
}

impl LeakReport {
    /// Reads the request. No message repeats what was found.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(document: &Value) -> Result<Self, Problems> {
        read_value(document, |node| {
            let mut fields = node.fields()?;
            let keys = fields.required("keys").and_then(|n| keys(&n));
            let source = fields.maybe("source", |n| note(n, MAX_SOURCE_LENGTH));
            let url = fields.maybe("url", |n| note(n, MAX_URL_LENGTH));
            fields.finish();
            Some(Self { keys: keys?, source: source?.flatten(), url: url?.flatten() })
        })
    }

    /// Where it was found, as it is noted: without what could be a secret in it, be it a user, a query or the key itself.
    pub fn noted_url(&self, recognizer: &SecretRecognizer) -> Option<String> {
        self.url.as_deref().map(|url| self.noted(&without_secrets(url), recognizer))
    }

    /// Who found it, as it is noted.
    pub fn noted_source(&self, recognizer: &SecretRecognizer) -> Option<String> {
        self.source.as_deref().map(|source| self.noted(source, recognizer))
    }

    fn noted(&self, text: &str, recognizer: &SecretRecognizer) -> String {
        let holds = |key: &Plaintext| !key.expose().is_empty() && text.contains(key.expose());
        if self.keys.iter().any(holds) || recognizer.is_in(text.as_bytes()) {
            "(redacted)".to_owned()
        } else {
            text.to_owned()
        }
    }
}

/// The URL without user, query and fragment (RFC 3986, section 3).
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        None => url.to_owned(),
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
    }
}

fn keys(node: &Node<'_>) -> Option<Vec<Plaintext>> {
    let keys = node.each(|n| {
        // As it is pasted; no key begins or ends so.
        let key = n.string()?.trim_matches(|c: char| c.is_whitespace() || is_invisible(c));
        if key.is_empty() {
            n.problem("expected a string that is not empty");
            return None;
        }
        if key.len() > MAX_KEY_BYTES {
            n.problem(format!("expected at most {MAX_KEY_BYTES} bytes"));
            return None;
        }
        Some(Plaintext::new(key.to_owned()))
    })?;
    if !(1..=MAX_REPORTED_KEYS).contains(&keys.len()) {
        node.problem(format!("expected 1 to {MAX_REPORTED_KEYS} keys"));
        return None;
    }
    Some(keys)
}

fn note(node: &Node<'_>, max_length: usize) -> Option<Option<String>> {
    if node.value().is_null() {
        return Some(None);
    }
    let text = node.string()?;
    if text.chars().count() > max_length || text.chars().any(char::is_control) {
        node.problem(format!("expected at most {max_length} characters, none of them a control character"));
        return None;
    }
    Some(Some(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(keys: &[&str], source: &str, url: &str) -> LeakReport {
        LeakReport::read(&json!({"keys": keys, "source": source, "url": url})).unwrap()
    }

    #[test]
    fn what_is_noted_of_a_url_is_neither_its_user_nor_its_query() {
        for (url, noted) in [
            ("https://user:password@host:8443/a/b?token=c#d", "https://host:8443/a/b"),
            ("https://host?token=c", "https://host"),
            ("a path?x", "a path"),
            ("https://host/a@b", "https://host/a@b"),
        ] {
            assert_eq!(report(&["zzz"], "s", url).noted_url(&SecretRecognizer::built_in()).unwrap(), noted, "{url}");
        }
    }

    #[test]
    fn nothing_is_noted_that_holds_a_key_that_was_found() {
        let found = report(&["other", "kw_live_x"], "pasted kw_live_x", "https://host/kw_live_x/");
        assert_eq!(found.noted_source(&SecretRecognizer::built_in()).unwrap(), "(redacted)");
        assert_eq!(found.noted_url(&SecretRecognizer::built_in()).unwrap(), "(redacted)");
    }

    #[test]
    fn what_is_pasted_around_a_key_is_no_part_of_it() {
        let found = report(&["\u{feff} kw_live_x\r\n"], "s", "u");
        assert_eq!(found.keys[0].expose(), "kw_live_x");
        assert!(LeakReport::read(&json!({"keys": [" \n"]})).is_err());
    }

    #[test]
    fn all_mistakes_of_a_report_are_told_and_none_repeats_a_key() {
        let document = json!({"keys": ["kw_live_x", "", 5, "k".repeat(8193)], "source": "\u{7}", "url": 1, "more": 2});
        let problems = LeakReport::read(&document).unwrap_err();
        let paths: Vec<_> = problems.0.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["keys[1]", "keys[2]", "keys[3]", "source", "url", "more"]);
        assert!(!problems.to_string().contains("kw_live_x"));
        assert!(LeakReport::read(&json!({"keys": []})).is_err());
        assert!(LeakReport::read(&json!({"keys": vec!["k"; 101]})).is_err());
    }
}
