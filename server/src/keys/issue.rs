//! Issues secrets of keys: the plaintext, which is shown once, and what is stored of it.

use crate::auth::hash_pool::{HashingError, Verifier};
use crate::clock::Timestamp;
use crate::model::Secret;
use crate::random::{self, RngError};
use crate::store::{self, Store};
use keyward_core::dialect::key_format::{AtRest, KeyFormat};
use keyward_core::key::digest::Digest;
use keyward_core::key::secret::Secret as Plaintext;

/// No secret can be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// No randomness.
    #[error(transparent)]
    Random(#[from] RngError),
    /// The password hash cannot be computed.
    #[error(transparent)]
    Hashing(#[from] HashingError),
    /// The database cannot be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Every selector that was drawn is taken: the randomness is faulty, or the dialect has changed.
    #[error("every selector that was drawn is taken")]
    NoFreeSelector,
}

/// The maximum of draws of a selector. Of the shortest ones there are 2^32, so even with a hundred million keys nine draws of
/// ten are free.
const DRAWS: usize = 32;

/// A new plaintext of the format, and the secret to store. If only a password hash is stored, the SHA-256 of the plaintext is not
/// computed.
pub async fn issue<E>(
    store: &Store,
    verifier: &Verifier,
    format: &KeyFormat,
    now: Timestamp,
    mut random: impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<(Plaintext, Secret), IssueError>
where
    IssueError: From<E>,
{
    let id = random::id("sec_")?;
    for _ in 0..DRAWS {
        let plaintext = format.issue(&mut random)?;
        let Some(digest) = address(format, &plaintext) else { break };
        let hash = match format.at_rest() {
            AtRest::Sha256 => None,
            AtRest::Argon2id if store.is_taken(&digest).await? => continue,
            AtRest::Argon2id => Some(verifier.hash(&plaintext).await?),
        };
        let secret = Secret::new(id, digest, format.display_hint(&plaintext), now);
        return Ok((plaintext, Secret { hash, ..secret }));
    }
    Err(IssueError::NoFreeSelector)
}

/// The digest by which a key of the format is found.
pub fn address(format: &KeyFormat, plaintext: &Plaintext) -> Option<Digest> {
    let plaintext = plaintext.expose().as_bytes();
    match format.at_rest() {
        AtRest::Sha256 => Some(Digest::of_key(plaintext)),
        AtRest::Argon2id => format.selector_of(plaintext).map(Digest::of_selector),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Actor, Key};
    use crate::store::Location;
    use keyward_core::dialect::Dialect;
    use std::num::NonZeroUsize;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    #[tokio::test]
    async fn a_selector_that_is_taken_is_drawn_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let verifier = Verifier::new(NonZeroUsize::MIN);
        let dialect = Dialect::built_in("auxot").unwrap().unwrap();
        let format = &dialect.formats[0];
        let mut byte = 0_u8;
        // Two draws alike, then others.
        let mut draws = 0;
        let mut random = |bytes: &mut [u8]| {
            draws += 1;
            byte = if draws <= 2 { 1 } else { byte + 1 };
            bytes.fill(byte);
            Ok::<(), RngError>(())
        };
        let (first, secret) = issue(&store, &verifier, format, NOW, &mut random).await.unwrap();
        let mut key = Key::new("key_1".into(), "n".into(), "user".into(), NOW);
        key.secrets = vec![secret];
        store.create_key(Actor::server(), key).await.unwrap();
        let (second, secret) = issue(&store, &verifier, format, NOW, &mut random).await.unwrap();
        assert!(first.expose()[..21] != second.expose()[..21]);
        assert_eq!(secret.digest, Digest::of_selector(&second.expose().as_bytes()[..21]));
        let stuck = |bytes: &mut [u8]| {
            bytes.fill(1);
            Ok::<(), RngError>(())
        };
        let refused = issue(&store, &verifier, format, NOW, stuck).await;
        assert!(matches!(refused, Err(IssueError::NoFreeSelector)));
    }
}
