//! Finds the keys that somebody has found in public, whatever is kept of them: the plaintext is at hand, so every digest
//! can be made of it.

use crate::github::GithubKeys;
use crate::model::{OnLeak, PasswordHash};
use crate::store::{self, FoundSecret, Leak, Store};
use argon2::password_hash::{PasswordVerifier, phc};
use hmac::{Hmac, Mac};
use keyward_contract::digest::Digest;
use keyward_contract::secret::Secret as Plaintext;
use sha2::{Digest as _, Sha256, Sha512};
use std::collections::HashMap;
use tokio::task::spawn_blocking;

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

/// How long a public beginning may be of keys that are kept as password hashes, in bytes.
const SELECTOR_LENGTHS: std::ops::RangeInclusive<usize> = 8..=64;

/// An address at which a key could be found.
struct Candidate {
    digest: Digest,
    /// Whether it is that of a public beginning, which proves nothing.
    is_selector: bool,
}

impl Leaks {
    /// Which secrets these are; `None` for what is none. A known beginning with another end is none.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn identify(&self, store: &Store, keys: &[Plaintext]) -> Result<Vec<Option<Leak>>, store::Error> {
        let candidates: Vec<_> = keys.iter().map(|key| self.candidates(key.expose().as_bytes())).collect();
        let digests: Vec<_> = candidates.iter().flatten().map(|candidate| candidate.digest).collect();
        let found = store.secrets_with(&digests).await?;
        let found: HashMap<_, _> = found.into_iter().map(|found| (found.digest, found)).collect();
        let mut leaks = Vec::with_capacity(keys.len());
        for (key, candidates) in keys.iter().zip(candidates) {
            let mut leak = None;
            for candidate in candidates {
                if let Some(found) = found.get(&candidate.digest)
                    && is_it(found, candidate.is_selector, key).await
                {
                    leak = Some(found.leak.clone());
                }
            }
            leaks.push(leak);
        }
        Ok(leaks)
    }

    fn candidates(&self, key: &[u8]) -> Vec<Candidate> {
        let mut digests = vec![Digest::of_key(key), Digest::of_sha512(&Sha512::digest(key).into())];
        let hmac = self
            .hmac_pepper
            .as_ref()
            .and_then(|pepper| Hmac::<Sha256>::new_from_slice(pepper.expose().as_bytes()).ok());
        if let Some(hmac) = hmac {
            digests.push(Digest::of_hmac_sha256(&hmac.chain_update(key).finalize().into_bytes().into()));
        }
        let whole = digests.into_iter().map(|digest| Candidate { digest, is_selector: false });
        let beginnings = SELECTOR_LENGTHS.filter(|length| *length < key.len()).filter_map(|length| {
            Some(Candidate { digest: Digest::of_selector(key.get(..length)?), is_selector: true })
        });
        whole.chain(beginnings).collect()
    }
}

async fn is_it(found: &FoundSecret, is_selector: bool, key: &Plaintext) -> bool {
    match (&found.hash, is_selector) {
        (None, false) => true,
        (Some(hash), true) => {
            let (hash, key) = (hash.clone(), key.clone());
            spawn_blocking(move || verifies(&hash, &key)).await.unwrap_or(false)
        }
        _ => false,
    }
}

/// Whether the key is what was hashed; takes as long as the hash asks for.
fn verifies(hash: &PasswordHash, key: &Plaintext) -> bool {
    let (hash, key) = (hash.expose(), key.expose().as_bytes());
    if hash.starts_with("$argon2") {
        phc::PasswordHash::new(hash).is_ok_and(|hash| argon2::Argon2::default().verify_password(key, &hash).is_ok())
    } else {
        bcrypt::verify(key, hash).unwrap_or(false)
    }
}
