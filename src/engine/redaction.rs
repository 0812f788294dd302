//! Redacts credentials in the paths of the access log: clients put keys there by mistake, and a log is kept longer and
//! read by more people than may use them.
//!
//! The match is looser than that of the other secret checks, since redacting one segment too many costs little: a
//! mistyped key, half of a key, and a key with a suffix are redacted as well.

use keyward_core::dialect::Dialect;
use std::borrow::Cow;

/// The replacement of a segment.
pub const REDACTED: &[u8] = b"[redacted]";

/// A shorter segment holds no credential. The shipped access log shows no longer segment of a request that the filter
/// has not seen.
pub const SHORTEST: usize = 16;

/// Keys of the built-in dialects and tokens of operators and edges: the prefix, and how many characters follow. Listed
/// here, since loading the dialects for this purpose would fragment the worker's memory.
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

/// A shorter prefix identifies a key only at the beginning of a word.
const DISTINCTIVE_PREFIX: usize = 4;

/// How often a segment can have been percent-encoded; a segment that is still encoded then is redacted.
const MAX_ENCODINGS: usize = 3;

/// Recognizes credentials of the built-in dialects and of the dialect in use, and tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redaction {
    /// Like [`KNOWN`], for the dialect in use.
    own: Vec<(String, usize)>,
    /// Whether the dialect in use has keys without a prefix.
    has_opaque_keys: bool,
}

impl Redaction {
    /// The redaction for this dialect.
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

    /// The path without its query and with credentials redacted; `None` if no segment looks like a credential.
    pub fn redact(&self, path: &[u8]) -> Option<Vec<u8>> {
        // The common case.
        if path.len() > SHORTEST && has_long_segment(path) { self.redacted(path) } else { None }
    }

    // Out of line, to keep the common case short.
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

/// Whether the text holds the prefix followed by at least half of a whole key.
fn is_in(prefix: &str, length: usize, text: &[u8]) -> bool {
    let enough = (length / 2).max(SHORTEST.saturating_sub(prefix.len()));
    let mut before = None;
    for (at, &c) in text.iter().enumerate() {
        let begins_word = before.is_none_or(|c: u8| !c.is_ascii_alphanumeric());
        before = Some(c);
        let behind = text.get(at..).and_then(|rest| rest.strip_prefix(prefix.as_bytes()));
        if let Some(behind) = behind
            && (begins_word || prefix.len() > DISTINCTIVE_PREFIX)
            && behind.iter().take(enough).filter(|c| is_of_keys(**c)).count() == enough
        {
            return true;
        }
    }
    false
}

/// Whether the path has a run of [`SHORTEST`] bytes without a slash. The query counts as well, to keep the loop short.
fn has_long_segment(path: &[u8]) -> bool {
    let mut length = 0;
    path.iter().any(|&c| {
        length = if c == b'/' { 0 } else { length + 1 };
        length >= SHORTEST
    })
}

/// Without a prefix, only the mixture of characters distinguishes a key from a name or an id.
fn is_mixed(text: &[u8]) -> bool {
    let has = |of: fn(&u8) -> bool| text.iter().any(of);
    let has_letters = has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase);
    text.len() >= SHORTEST && has(u8::is_ascii_digit) && (has_letters || text.iter().all(u8::is_ascii_hexdigit))
}

fn is_of_keys(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'-' || c == b'_'
}

/// The percent-decoded text (RFC 3986, section 2.1); `None` if nothing is encoded.
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
    fn keys_of_any_dialect_and_tokens_are_redacted() {
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
    fn keys_without_prefix_are_redacted_if_dialect_has_it() {
        let path = format!("/api/{RANDOM}");
        assert_eq!(shown("graph8", &path), "/api/[redacted]");
        assert_eq!(shown("keyward", &path), path);
        for path in ["/api/123e4567-e89b-12d3-a456-426614174000", "/api/a-long-name-without-digits", "/api/v1/contacts"]
        {
            assert_eq!(shown("graph8", path), path);
        }
    }

    #[test]
    fn other_paths_are_unchanged() {
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
    fn repeatedly_encoded_segment_is_redacted() {
        let nested = (0..6).fold("kw".to_owned(), |text, _| text.replace('%', "%25").replace('k', "%6b"));
        assert_eq!(shown("keyward", &format!("/{nested}aaaaaaaaaaaaaaa")), "/[redacted]");
    }

    #[test]
    fn keys_of_a_custom_dialect_are_redacted() {
        let mut own = Dialect::built_in("ai-api").unwrap().unwrap();
        own.formats[0].prefix = "acme-".to_owned();
        let path = format!("/a/acme-{}", &RANDOM[..40]);
        assert_eq!(Redaction::new(&own).redact(path.as_bytes()).unwrap(), b"/a/[redacted]");
        assert_eq!(shown("keyward", &path), path);
    }
}
