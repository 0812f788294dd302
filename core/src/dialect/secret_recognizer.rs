//! Recognises keys and tokens in text that is not meant to hold any, by what they look like: every format that comes with
//! Keyward, those of the operator's own dialect, and our tokens.
//!
//! Formats without a prefix of three characters and without a checksum cannot be told from other text, and tokens that an
//! operator has made up for a file cannot either.

use crate::dialect::Dialect;
use crate::dialect::key_format::KeyFormat;
use crate::document::Problem;
use serde_json::Value;
use std::borrow::Cow;

/// Knows what secrets look like.
#[derive(Clone, Debug)]
pub struct SecretRecognizer {
    formats: Vec<KeyFormat>,
}

/// What tokens of operators and edges look like: a prefix, and so many letters and digits.
pub const TOKENS: [(&str, usize); 2] = [("kwa_", 43), ("kwe_", 43)];

/// What is said of a secret in the wrong place, which is not repeated.
pub const LOOKS_LIKE_A_SECRET: &str =
    "looks like a secret, an API key or a token, and none belongs here; if others could see it, revoke it";

/// How often text can have been percent-encoded.
const MAX_ENCODINGS: usize = 3;

impl SecretRecognizer {
    /// One that knows what comes with Keyward.
    pub fn built_in() -> Self {
        let tokens = TOKENS.map(|(prefix, length)| KeyFormat::of_tokens(prefix, length));
        let dialects = Dialect::built_in_names().filter_map(Dialect::built_in).filter_map(Result::ok);
        dialects.fold(Self { formats: tokens.into() }, |recognizer, dialect| recognizer.with(&dialect))
    }

    /// The same, which also knows the keys of that dialect.
    #[must_use]
    pub fn with(mut self, dialect: &Dialect) -> Self {
        for format in dialect.formats.iter().filter(|format| format.is_recognizable()) {
            if !self.formats.contains(format) {
                self.formats.push(format.clone());
            }
        }
        self
    }

    /// Whether there is a secret in the text, percent-encoded or not.
    pub fn is_in(&self, text: &[u8]) -> bool {
        let mut text = Cow::Borrowed(text);
        for _ in 0..=MAX_ENCODINGS {
            if self.formats.iter().any(|format| format.find_in(&text, 0).is_some()) {
                return true;
            }
            match percent_decoded(&text) {
                None => return false,
                Some(decoded) => text = Cow::Owned(decoded),
            }
        }
        false
    }

    /// Every secret in the text, as it stands there.
    pub fn find_all<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut found = Vec::new();
        for format in &self.formats {
            let mut from = 0;
            while let Some(range) = format.find_in(text.as_bytes(), from) {
                from = range.end;
                found.extend(text.get(range));
            }
        }
        found
    }

    /// Where in a document there are secrets: in texts, in names of fields, at any depth. Fields of the whole that are named
    /// in `except` are meant to hold secrets and are passed over.
    pub fn problems(&self, document: &Value, except: &[&str]) -> Vec<Problem> {
        let mut problems = Vec::new();
        match document {
            Value::Object(fields) => {
                let fields = fields.iter().filter(|(name, _)| !except.contains(&name.as_str()));
                fields.for_each(|(name, value)| self.look_at_field(name, value, "", &mut problems));
            }
            other => self.look_at(other, "", &mut problems),
        }
        problems
    }

    fn look_at_field(&self, name: &str, value: &Value, path: &str, problems: &mut Vec<Problem>) {
        if self.is_in(name.as_bytes()) {
            // Nothing in it is named either, as its path would repeat the name.
            return problems.push(Problem { path: path.to_owned(), message: format!("a name {LOOKS_LIKE_A_SECRET}") });
        }
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        self.look_at(value, &path, problems);
    }

    fn look_at(&self, value: &Value, path: &str, problems: &mut Vec<Problem>) {
        match value {
            Value::String(text) if self.is_in(text.as_bytes()) => {
                problems.push(Problem { path: path.to_owned(), message: LOOKS_LIKE_A_SECRET.to_owned() });
            }
            Value::Array(elements) => {
                let elements = elements.iter().enumerate();
                elements.for_each(|(n, value)| self.look_at(value, &format!("{path}[{n}]"), problems));
            }
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| self.look_at_field(name, value, path, problems));
            }
            _ => {}
        }
    }
}

/// The text with its percent-encoded bytes as they are (RFC 3986, section 2.1); `None` if there is none.
fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    let mut has_any = false;
    while let [first, behind @ ..] = rest {
        let byte = (*first == b'%').then(|| behind.split_first_chunk::<2>()).flatten().and_then(|(digits, behind)| {
            let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
            Some((u8::try_from(high? * 16 + low?).ok()?, behind))
        });
        match byte {
            Some((byte, behind)) => {
                has_any = true;
                out.push(byte);
                rest = behind;
            }
            None => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    has_any.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn key(format: &KeyFormat) -> String {
        let mut next = 7_u8;
        let fill = |bytes: &mut [u8]| {
            for byte in bytes {
                next = next.wrapping_mul(31).wrapping_add(17);
                *byte = next;
            }
            Ok::<(), ()>(())
        };
        format.issue(fill).unwrap().expose().to_owned()
    }

    /// A key of every format that can be recognised, and a token of every sort.
    fn secrets() -> Vec<String> {
        let dialects = Dialect::built_in_names().map(|name| Dialect::built_in(name).unwrap().unwrap());
        let formats: Vec<_> = dialects.flat_map(|dialect| dialect.formats).filter(|f| f.is_recognizable()).collect();
        assert!(formats.len() >= 8);
        let tokens = TOKENS.map(|(prefix, length)| format!("{prefix}{}", "aB3".repeat(20).get(..length).unwrap()));
        formats.iter().map(key).chain(tokens).collect()
    }

    fn encoded(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02x}")).collect()
    }

    #[test]
    fn a_secret_is_found_wherever_it_stands() {
        let recognizer = SecretRecognizer::built_in();
        for secret in secrets() {
            for text in [
                secret.clone(),
                format!(" {secret}\n"),
                format!("found {secret}, in a chat"),
                format!("a={secret}&b=c"),
                format!("https://{secret}@host/{secret}"),
                format!("_{secret}_"),
                format!("{secret}{secret}"),
                format!("{secret}x"),
                encoded(&secret),
                format!("a%20{}", encoded(&secret)),
                encoded(&encoded(&secret)),
                secret.replace('_', "%5F").replace('.', "%2e"),
            ] {
                assert!(recognizer.is_in(text.as_bytes()), "{text}");
            }
            assert!(recognizer.find_all(&format!("a {secret}, b")).contains(&secret.as_str()));
        }
    }

    #[test]
    fn what_only_resembles_a_secret_is_none() {
        let recognizer = SecretRecognizer::built_in();
        let keyward = Dialect::built_in("keyward").unwrap().unwrap();
        let key = key(&keyward.formats[0]);
        let changed = format!("{}{}", &key[..43], if key.ends_with('0') { '1' } else { '0' });
        for text in [
            "",
            "kw_live_",
            &key[..43],
            &key[1..],
            &changed,
            "kw_live_…",
            "task_3b5d5c3712955042212316173ccf37be0123abcd",
            "kwa_short",
            "user.name@example.com",
            "sk_a-hyphen-is-in-no-such-key-and-never-was",
            "key_0123456789abcdefghij",
            "100%",
            "%zz%4",
        ] {
            assert!(!recognizer.is_in(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn the_keys_of_an_own_dialect_are_known_if_they_can_be_told_from_other_text() {
        let format = |text: &str| crate::document::parse(text.as_bytes(), |node| KeyFormat::read(&node)).unwrap();
        let prefixed = format(r#"{"kind": "k", "prefix": "acme-", "alphabet": "base64url", "length": 40}"#);
        let checked =
            format(r#"{"kind": "k", "prefix": "", "alphabet": "hex", "length": 64, "checksum": "crc32-base62"}"#);
        let opaque = format(r#"{"kind": "k", "prefix": "x", "alphabet": "base62", "length": 40}"#);
        let of = |format: &KeyFormat| {
            let dialect = Dialect::built_in("keyward").unwrap().unwrap();
            SecretRecognizer::built_in().with(&Dialect { formats: vec![format.clone()], ..dialect })
        };
        for format in [&prefixed, &checked] {
            let text = format!("a {} b", key(format));
            assert!(of(format).is_in(text.as_bytes()) && !SecretRecognizer::built_in().is_in(text.as_bytes()));
        }
        assert!(!of(&opaque).is_in(key(&opaque).as_bytes()), "it cannot be told from other text");
    }

    #[test]
    fn a_document_is_looked_at_whole_and_no_path_repeats_a_secret() {
        let secret = &secrets()[0];
        let document = json!({
            "name": secret, "keys": [secret], "scopes": ["a", secret], "metadata": {"a": {"b": secret}, (secret): {"c": secret}},
            (format!("x{secret}")): 1, "limit": 5, "member": null,
        });
        let problems = SecretRecognizer::built_in().problems(&document, &["keys"]);
        let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["name", "scopes[1]", "metadata.a.b", "metadata", ""]);
        assert!(problems.iter().all(|problem| problem.message.contains("looks like a secret")));
        assert_eq!(SecretRecognizer::built_in().problems(&json!(secret), &[]).len(), 1);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_is_found_is_found_in_more_text(text in ".{0,60}", before in "[ -/]{0,3}") {
            let recognizer = SecretRecognizer::built_in();
            if recognizer.is_in(text.as_bytes()) {
                let more = format!("{before} {text}");
                prop_assert!(recognizer.is_in(more.as_bytes()));
            }
        }
    }
}
