//! Identifies leaked keys by their plaintexts, whichever digest or hash is stored of them.

use crate::auth::hash_pool::{Busy, Verifier};
use crate::auth::key_auth::{Undecided, addresses};
use crate::keys::github::GithubKeys;
use crate::model::{MAX_KEY_BYTES, OnLeak};
use crate::store::{FoundSecret, Leak, Store};
use crate::text::is_invisible;
use keyward_core::dialect::Dialect;
use keyward_core::dialect::secret_recognizer::SecretRecognizer;
use keyward_core::key::secret::Secret as Plaintext;
use std::collections::HashMap;
use std::sync::LazyLock;

/// The handling of leaks.
#[derive(Debug, Default)]
pub struct Leaks {
    /// What to do with a leaked key.
    pub on_leak: OnLeak,
    /// GitHub's public keys; `None` turns its alerts off.
    pub github_keys: Option<GithubKeys>,
    /// The pepper of keys that were imported as HMAC-SHA-256; without it they are not identified.
    pub hmac_pepper: Option<Plaintext>,
}

impl Leaks {
    /// Whether alerts signed by the key of that identifier are accepted.
    pub fn is_signer(&self, key_id: &[u8]) -> bool {
        self.github_keys.as_ref().is_some_and(|keys| keys.has(key_id))
    }

    /// The stored secrets of these plaintexts; `None` for unknown ones.
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
                    && matches_secret(verifier, found, is_selector, key).await?
                {
                    leak = Some(found.leak.clone());
                }
            }
            leaks.push(leak);
        }
        Ok(leaks)
    }
}

/// Candidates for keys in a line of text: the line itself, parts of a known format, and the parts between quotes, spaces and other
/// punctuation, each once. Only the server can tell which are keys.
pub fn candidates(line: &str) -> Vec<&str> {
    let ends = |c: char| c.is_whitespace() || is_invisible(c);
    let line = line.trim_matches(ends);
    // Keys contain no space. A line of one word may be a key of any length and characters.
    let whole = std::iter::once(line).filter(|line| !line.contains(ends));
    let known = BUILT_IN.find_all(line);
    // First split at punctuation that keys do not contain, then at punctuation that few contain.
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

/// Punctuation around keys.
const AROUND_KEYS: &str = "\"'`,;<>()[]{}|\\=:&?#@";
/// The same, with punctuation of URLs and paths.
const IN_FEW_KEYS: &str = "\"'`,;<>()[]{}|\\=:&?#@/%+~!$*^";
/// The shortest candidate within other text.
const MIN_LENGTH: usize = 16;
/// The maximum of candidates in a line.
const MAX_CANDIDATES: usize = 64;

/// The formats of the built-in dialects.
static BUILT_IN: LazyLock<SecretRecognizer> = LazyLock::new(SecretRecognizer::built_in);

/// The caller in whose name verifications for leak reports are queued.
const LEAKS: &str = "leaks";

async fn matches_secret(
    verifier: &Verifier,
    found: &FoundSecret,
    is_selector: bool,
    key: &Plaintext,
) -> Result<bool, Busy> {
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
