//! Finds the keys that somebody has found in public, whatever is kept of them: the plaintext is at hand, so every digest
//! can be made of it.

use crate::github::GithubKeys;
use crate::model::OnLeak;
use crate::store::{FoundSecret, Leak, Store};
use crate::verifier::{Busy, Verifier};
use crate::verify::{Undecided, addresses};
use keyward_contract::dialect::Dialect;
use keyward_contract::secret::Secret as Plaintext;
use std::collections::HashMap;

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

async fn is_it(verifier: &Verifier, found: &FoundSecret, is_selector: bool, key: &Plaintext) -> Result<bool, Busy> {
    match (&found.hash, is_selector) {
        (None, false) => Ok(true),
        (Some(hash), true) => verifier.check(key.expose().as_bytes(), hash).await,
        _ => Ok(false),
    }
}
