//! What the access log says of a path in which a credential stands: clients put keys there by mistake, and a log is kept and
//! read by more people than may use them.
//!
//! Looser than what is refused elsewhere as a secret, since a segment too many that is hidden costs little: a key with a
//! typing error, half of one, and one with something behind it are hidden as well.

use keyward_core::dialect::Dialect;
use std::borrow::Cow;

/// What stands in the place of a segment.
pub const REDACTED: &[u8] = b"[redacted]";

/// A segment shorter than this holds no credential. The shipped access log lets no longer one stand in the path of a request
/// that the filter has not seen.
pub const SHORTEST: usize = 16;

/// Keys of the dialects that come with Keyward, and tokens of operators and edges: a prefix, and how many characters follow.
/// Written down, since dialects read for this alone would leave the worker's memory in pieces.
const KNOWN: [(&str, usize); 11] = [
    ("kw_live_", 36),
    ("kw_test_", 36),
    ("exo_key_live_", 32),
    ("exo_live_", 36),
    ("exo_test_", 36),
    ("wk_", 40),
    ("sk_", 40),
    ("user.", 48),
    ("team.", 48),
    ("kwa_", 43),
    ("kwe_", 43),
];

/// A shorter prefix tells a key from other words only where a word begins with it.
const TELLING_PREFIX: usize = 4;

/// How often a segment can have been percent-encoded; what is still encoded then is hidden.
const MAX_ENCODINGS: usize = 3;

/// Knows what credentials look like: those of the dialects that come with Keyward, of the dialect in use, and tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redaction {
    /// Like [`KNOWN`], of the dialect in use.
    own: Vec<(String, usize)>,
    /// Whether the dialect in use has keys without a prefix.
    has_opaque_keys: bool,
}

impl Redaction {
    /// What is needed where this dialect is in use.
    pub fn new(dialect: &Dialect) -> Self {
        let mut own = Vec::new();
        let mut has_opaque_keys = false;
        for format in &dialect.formats {
            let prefix = format.prefix.as_str();
            if prefix.is_empty() {
                has_opaque_keys = true;
            } else if !KNOWN.iter().any(|(known, _)| *known == prefix) {
                own.push((prefix.to_owned(), format.issued_key_length() - prefix.len()));
            }
        }
        Self { own, has_opaque_keys }
    }

    /// The path without its query and without segments that look like a credential; `None` if no segment does.
    pub fn redact(&self, path: &[u8]) -> Option<Vec<u8>> {
        // Nearly every path ends here.
        if path.len() > SHORTEST && has_long_segment(path) { self.redacted(path) } else { None }
    }

    // Apart from the way of nearly all requests, which it would make longer.
    #[cold]
    #[inline(never)]
    fn redacted(&self, path: &[u8]) -> Option<Vec<u8>> {
        let path = path.split(|&c| c == b'?').next().unwrap_or_default();
        let mut shown = Vec::new();
        let mut has_hidden = false;
        for (n, segment) in path.split(|&c| c == b'/').enumerate() {
            if n > 0 {
                shown.extend_from_slice(b"/");
            }
            let is_hidden = segment.len() >= SHORTEST && self.is_credential(segment);
            has_hidden |= is_hidden;
            shown.extend_from_slice(if is_hidden { REDACTED } else { segment });
        }
        has_hidden.then_some(shown)
    }

    fn is_credential(&self, segment: &[u8]) -> bool {
        let mut segment = Cow::Borrowed(segment);
        for _ in 0..MAX_ENCODINGS {
            if self.looks_like_one(&segment) {
                return true;
            }
            match percent_decoded(&segment) {
                Some(decoded) => segment = Cow::Owned(decoded),
                None => return false,
            }
        }
        self.looks_like_one(&segment) || percent_decoded(&segment).is_some()
    }

    fn looks_like_one(&self, text: &[u8]) -> bool {
        let own = self.own.iter().map(|(prefix, length)| (prefix.as_str(), *length));
        KNOWN.into_iter().chain(own).any(|(prefix, length)| is_in(prefix, length, text))
            || self.has_opaque_keys && is_mixed(text)
    }
}

/// Whether the text holds the prefix, and behind it half of what follows in a whole key or more.
fn is_in(prefix: &str, length: usize, text: &[u8]) -> bool {
    let enough = (length / 2).max(SHORTEST.saturating_sub(prefix.len()));
    let mut before = None;
    for (at, &c) in text.iter().enumerate() {
        let begins_word = before.is_none_or(|c: u8| !c.is_ascii_alphanumeric());
        before = Some(c);
        let behind = text.get(at..).and_then(|rest| rest.strip_prefix(prefix.as_bytes()));
        if let Some(behind) = behind
            && (begins_word || prefix.len() > TELLING_PREFIX)
            && behind.iter().take(enough).filter(|c| is_of_keys(**c)).count() == enough
        {
            return true;
        }
    }
    false
}

/// Whether it holds so many bytes without a slash. Those of the query count as well, for the sake of a short loop.
fn has_long_segment(path: &[u8]) -> bool {
    let mut length = 0;
    path.iter().any(|&c| {
        length = if c == b'/' { 0 } else { length + 1 };
        length >= SHORTEST
    })
}

/// Without a prefix a key is told from a name or an id by its mixture of characters alone.
fn is_mixed(text: &[u8]) -> bool {
    let has = |of: fn(&u8) -> bool| text.iter().any(of);
    let has_letters = has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase);
    text.len() >= SHORTEST && has(u8::is_ascii_digit) && (has_letters || text.iter().all(u8::is_ascii_hexdigit))
}

fn is_of_keys(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'-' || c == b'_'
}

/// The text with its percent-encoded bytes as they are (RFC 3986, section 2.1); `None` if there is none.
fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = text.to_vec();
    let mut rest = text;
    let mut length = 0;
    for byte in &mut decoded {
        let Some((&first, behind)) = rest.split_first() else { break };
        length += 1;
        match behind.split_first_chunk::<2>().and_then(|(digits, behind)| Some((hex(first, *digits)?, behind))) {
            Some((encoded, behind)) => (*byte, rest) = (encoded, behind),
            None => (*byte, rest) = (first, behind),
        }
    }
    decoded.truncate(length);
    (length < text.len()).then_some(decoded)
}

fn hex(percent: u8, digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    (percent == b'%').then_some(())?;
    u8::try_from(high? * 16 + low?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::dialect::key_format::KeyFormat;

    const RANDOM: &str = "Ab3dEf6hIj9lMn2pQr5tUv8xYz1BcD4FgH7JkL0NoPqRsTuV";

    fn redaction(dialect: &str) -> Redaction {
        Redaction::new(&Dialect::built_in(dialect).unwrap().unwrap())
    }

    fn shown(dialect: &str, path: &str) -> String {
        let redacted = redaction(dialect).redact(path.as_bytes());
        redacted.map_or_else(|| path.to_owned(), |redacted| String::from_utf8(redacted).unwrap())
    }

    fn key(format: &KeyFormat) -> String {
        format!("{}{}", format.prefix, &RANDOM[..(format.issued_key_length() - format.prefix.len()).min(RANDOM.len())])
    }

    fn encoded(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02X}")).collect()
    }

    #[test]
    fn a_key_of_any_dialect_and_a_token_are_hidden() {
        let dialects = Dialect::built_in_names().map(|name| Dialect::built_in(name).unwrap().unwrap());
        let formats = dialects.flat_map(|dialect| dialect.formats).filter(|format| !format.prefix.is_empty());
        let formats: Vec<_> = formats.collect();
        for format in &formats {
            let length = format.issued_key_length() - format.prefix.len();
            assert!(KNOWN.contains(&(format.prefix.as_str(), length)), "{} is not known", format.prefix);
        }
        let tokens = KNOWN.iter().filter(|(prefix, _)| prefix.starts_with("kwa_") || prefix.starts_with("kwe_"));
        let tokens = tokens.map(|(prefix, length)| format!("{prefix}{}", &RANDOM[..*length]));
        let secrets = formats.iter().map(key).chain(tokens);
        for secret in secrets {
            for segment in [
                secret.clone(),
                format!("{secret}x"),
                format!("key={secret}"),
                format!("a,{secret};v=1"),
                secret[..secret.len() - 8].to_owned(),
                encoded(&secret),
                encoded(&encoded(&secret)),
                secret.replace('_', "%5f").replace('.', "%2E"),
                format!("%20{secret}"),
            ] {
                assert_eq!(
                    shown("keyward", &format!("/v1/keys/{segment}/use?q=1")),
                    "/v1/keys/[redacted]/use",
                    "{segment}"
                );
            }
        }
    }

    #[test]
    fn keys_without_a_prefix_are_hidden_where_the_dialect_has_them() {
        let path = format!("/api/{RANDOM}");
        assert_eq!(shown("graph8", &path), "/api/[redacted]");
        assert_eq!(shown("keyward", &path), path);
        for path in ["/api/123e4567-e89b-12d3-a456-426614174000", "/api/a-long-name-without-digits", "/api/v1/contacts"]
        {
            assert_eq!(shown("graph8", path), path);
        }
    }

    #[test]
    fn other_paths_stay_as_they_are() {
        for path in [
            "/",
            "/v1/chat/completions?stream=true",
            "/kw_live_short/abcdefgh",
            "/articles/risk_assessment-of-the-year-2026-final",
            "/users/user.name@example.com-and-more-of-it",
            "/objects/123e4567-e89b-12d3-a456-426614174000",
            "/caf%C3%A9-with-a-long-name",
            "*",
        ] {
            assert_eq!(shown("keyward", path), path);
        }
    }

    #[test]
    fn what_was_encoded_again_and_again_is_hidden() {
        let nested = (0..6).fold("kw".to_owned(), |text, _| text.replace('%', "%25").replace('k', "%6b"));
        assert_eq!(shown("keyward", &format!("/{nested}aaaaaaaaaaaaaaa")), "/[redacted]");
    }

    #[test]
    fn keys_of_a_dialect_of_ones_own_are_hidden() {
        let mut own = Dialect::built_in("ai-api").unwrap().unwrap();
        own.formats[0].prefix = "acme-".to_owned();
        let path = format!("/a/acme-{}", &RANDOM[..40]);
        assert_eq!(Redaction::new(&own).redact(path.as_bytes()).unwrap(), b"/a/[redacted]");
        assert_eq!(shown("keyward", &path), path);
    }
}
