//! Finds the keys that somebody has found in public, whatever is kept of them: the plaintext is at hand, so every digest
//! can be made of it.

use crate::auth::hash_pool::{Busy, Verifier};
use crate::auth::key_auth::{Undecided, addresses};
use crate::keys::github::GithubKeys;
use crate::keys::text::is_invisible;
use crate::model::{MAX_KEY_BYTES, OnLeak};
use crate::store::{FoundSecret, Leak, Store};
use keyward_core::dialect::Dialect;
use keyward_core::dialect::secret_recognizer::SecretRecognizer;
use keyward_core::key::secret::Secret as Plaintext;
use std::collections::HashMap;
use std::sync::LazyLock;

/// What is done about leaks, and how they are found.
#[derive(Debug, Default)]
pub struct Leaks {
    /// What becomes of a key that was found in public.
    pub on_leak: OnLeak,
    /// GitHub's public keys, where its alerts are taken.
    pub github_keys: Option<GithubKeys>,
    /// The pepper of keys that were imported as HMAC-SHA-256; without it none of those is found.
    pub hmac_pepper: Option<Plaintext>,
}

impl Leaks {
    /// Whether alerts are taken that are signed by the key of that identifier.
    pub fn is_signer(&self, key_id: &[u8]) -> bool {
        self.github_keys.as_ref().is_some_and(|keys| keys.has(key_id))
    }

    /// Which secrets these are; `None` for what is none. A known beginning with another end is none.
    ///
    /// # Errors
    /// If the database cannot be read, or too many password hashes are being computed.
    pub async fn identify(
        &self,
        store: &Store,
        verifier: &Verifier,
        dialect: &Dialect,
        keys: &[Plaintext],
    ) -> Result<Vec<Option<Leak>>, Undecided> {
        let candidates: Vec<_> = keys
            .iter()
            .map(|key| {
                let key = key.expose().as_bytes();
                addresses(dialect.format_of(key), self.hmac_pepper.as_ref(), key)
            })
            .collect();
        let digests: Vec<_> = candidates.iter().flatten().map(|(digest, _)| *digest).collect();
        let found = store.secrets_with(&digests).await?;
        let found: HashMap<_, _> = found.into_iter().map(|found| (found.digest, found)).collect();
        let mut leaks = Vec::with_capacity(keys.len());
        for (key, candidates) in keys.iter().zip(candidates) {
            let mut leak = None;
            for (digest, is_selector) in candidates {
                if let Some(found) = found.get(&digest)
                    && is_it(verifier, found, is_selector, key).await?
                {
                    leak = Some(found.leak.clone());
                }
            }
            leaks.push(leak);
        }
        Ok(leaks)
    }
}

/// What could be keys in a line of text, of whatever format: the line itself, what has a known format, and the parts between
/// quotes, spaces and other punctuation, each once. Which of them is one only the server can say.
pub fn candidates(line: &str) -> Vec<&str> {
    let ends = |c: char| c.is_whitespace() || is_invisible(c);
    let line = line.trim_matches(ends);
    // No key has a space. A line that is one word may be a key of any length, and of any characters.
    let whole = std::iter::once(line).filter(|line| !line.contains(ends));
    let known = BUILT_IN.find_all(line);
    // The punctuation that stands around keys first, then what may also be in one.
    let parts = [AROUND_KEYS, IN_FEW_KEYS].into_iter().flat_map(|separators| {
        let separates = move |c: char| c.is_whitespace() || !c.is_ascii() || separators.contains(c);
        line.split(separates).map(|part| part.trim_end_matches('.')).filter(|part| part.len() >= MIN_LENGTH)
    });
    let mut found: Vec<&str> = Vec::new();
    for part in whole.chain(known).chain(parts) {
        if !part.is_empty() && part.len() <= MAX_KEY_BYTES && found.len() < MAX_CANDIDATES && !found.contains(&part) {
            found.push(part);
        }
    }
    found
}

/// What stands between keys and the text around them.
const AROUND_KEYS: &str = "\"'`,;<>()[]{}|\\=:&?#@";
/// The same, and what can be in a URL or a path.
const IN_FEW_KEYS: &str = "\"'`,;<>()[]{}|\\=:&?#@/%+~!$*^";
/// The shortest key that is looked for inside other text, as other words are not to be taken for keys.
const MIN_LENGTH: usize = 16;
/// The most of a line that are asked about.
const MAX_CANDIDATES: usize = 64;

/// The formats that come with Keyward.
static BUILT_IN: LazyLock<SecretRecognizer> = LazyLock::new(SecretRecognizer::built_in);

/// In whose turn password hashes are checked for reports of leaks.
const LEAKS: &str = "leaks";

async fn is_it(verifier: &Verifier, found: &FoundSecret, is_selector: bool, key: &Plaintext) -> Result<bool, Busy> {
    match (&found.hash, is_selector) {
        (None, false) => Ok(true),
        (Some(hash), true) => verifier.check(LEAKS, key.expose().as_bytes(), hash).await,
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_whatever_stands_around_it() {
        let dialect = Dialect::built_in("keyward").unwrap().unwrap();
        let known = dialect.formats[0].issue(crate::random::fill).unwrap();
        // One of a format that is not known here.
        for key in [known.expose(), "9f86d081884c7d659a2feaa0c55ad015"] {
            for line in [
                key.to_owned(),
                format!("  {key}\t\r\n"),
                format!("\u{feff}{key}"),
                format!("\"{key}\","),
                format!("'{key}';"),
                format!("export API_KEY={key}"),
                format!("API_KEY=\"{key}\" # until tomorrow"),
                format!("{{\"key\": \"{key}\", \"name\": \"a\"}},"),
                format!("a,b,{key},c"),
                format!("curl -H 'authorization: Bearer {key}' https://example.com"),
                format!("https://example.com/a/{key}?b"),
                format!("https://example.com/?key={key}&b=c"),
                format!("the key is {key}."),
                format!("«{key}»"),
                format!("`{key}`"),
            ] {
                assert!(candidates(&line).contains(&key), "{line:?}: {:?}", candidates(&line));
            }
        }
        assert!(candidates(&format!("xx{}yy", known.expose())).contains(&known.expose()));
    }

    #[test]
    fn words_are_no_keys_unless_they_stand_alone() {
        assert_eq!(candidates("short"), ["short"]);
        assert_eq!(candidates("a comment with short words"), [""; 0]);
        assert_eq!(candidates(&"x".repeat(9000)), [""; 0]);
    }
}
