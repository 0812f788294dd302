//! Authentication of keys on the server, for self-service. [`keyward_core::authorize`] decides whether a key may be used, as
//! at an edge.
//!
//! An edge may stand in front and have let the request pass; nothing that it or a client says of that is looked at.

use crate::auth::hash_pool::{Busy, Verifier};
use crate::clock::Timestamp;
use crate::model::{Key, Owner, Secret, is_active, key_view};
use crate::store::{self, Store};
use hmac::{Hmac, Mac};
use keyward_core::authorize::{Denial, KeyView, Requirement, authorize};
use keyward_core::dialect::Dialect;
use keyward_core::dialect::credential::is_jwt;
use keyward_core::dialect::key_format::KeyFormat;
use keyward_core::key::digest::Digest;
use keyward_core::key::secret::Secret as Plaintext;
use keyward_core::refusal::Refusal;
use keyward_core::refusal::malformation::Malformation;
use sha2::{Digest as _, Sha256, Sha512};
use std::net::IpAddr;

/// A key that was shown and can be used.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The key.
    pub key: Key,
    /// The secret of it that was shown.
    pub secret: Secret,
    /// Its owner.
    pub owner: Option<Owner>,
}

/// Why a credential is not accepted.
#[derive(Debug, thiserror::Error)]
#[error("{}", refusal.name())]
pub struct Refused {
    /// What an edge would call it.
    pub refusal: Refusal,
    /// What is wrong with a malformed credential.
    pub malformation: Option<Malformation>,
    /// The key, where one was found.
    pub key: Option<Box<Key>>,
    /// Why nothing could be decided, where nothing could.
    pub source: Option<Undecided>,
}

/// Nothing can be decided.
#[derive(Debug, thiserror::Error)]
pub enum Undecided {
    /// The database cannot be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Too many password hashes are being computed.
    #[error(transparent)]
    Busy(#[from] Busy),
}

/// Finds the key of a credential, and checks what does not depend on the request. [`Verified::authorize`] checks the rest.
///
/// # Errors
/// The first check that fails.
pub async fn verify_key(
    store: &Store,
    verifier: &Verifier,
    dialect: &Dialect,
    hmac_pepper: Option<&Plaintext>,
    credential: &[u8],
    now: Timestamp,
) -> Result<Verified, Refused> {
    if is_jwt(credential) {
        return Err(Refusal::Jwt.into());
    }
    let Some(format) = dialect.format_of(credential) else {
        return Err(dialect.malformation_of(credential).into());
    };
    for (address, is_selector) in addresses(Some(format), hmac_pepper, credential) {
        // Not held while a password hash is computed.
        let turn = store.lookup_permit(credential).await.map_err(Refused::undecided)?;
        let found = store.key_by_digest(&turn, &address).await.map_err(Refused::undecided)?;
        drop(turn);
        let Some((key, secret, owner)) = found else { continue };
        // What is found by a public beginning alone is nothing yet, and what has a hash is found by nothing else.
        if is_selector != secret.hash.is_some() {
            continue;
        }
        if let Some(hash) = &secret.hash {
            // The selector is public and proves nothing: its sender must not learn whether the key is revoked or expired.
            let caller = key.owner.as_deref().unwrap_or(&key.id);
            let is_right = is_active(&key, &secret, now)
                && verifier.check(caller, credential, hash).await.map_err(Refused::busy)?;
            if !is_right {
                return Err(Refusal::Unknown.into());
            }
        }
        let usable = key_view(&key, &secret, owner.as_ref()).usable(dialect, now.as_ms()).map_err(Denial::refusal);
        return match usable {
            Ok(()) => Ok(Verified { key, secret, owner }),
            Err(refusal) => Err(Refused { key: Some(Box::new(key)), ..refusal.into() }),
        };
    }
    Err(Refusal::Unknown.into())
}

/// Where a secret with this plaintext can lie, and whether only its public beginning leads there: it was made here, or
/// imported as a digest (as HMAC-SHA-256 it is found with the pepper only) or as a password hash.
pub fn addresses(format: Option<&KeyFormat>, hmac_pepper: Option<&Plaintext>, key: &[u8]) -> Vec<(Digest, bool)> {
    let mut digests = vec![Digest::of_key(key), Digest::of_sha512(&Sha512::digest(key).into())];
    let hmac = hmac_pepper.and_then(|pepper| Hmac::<Sha256>::new_from_slice(pepper.expose().as_bytes()).ok());
    digests.extend(hmac.map(|hmac| Digest::of_hmac_sha256(&hmac.chain_update(key).finalize().into_bytes().into())));
    let selector =
        format.and_then(|format| format.selector_of(key)).map(|selector| (Digest::of_selector(selector), true));
    digests.into_iter().map(|digest| (digest, false)).chain(selector).collect()
}

/// Whether a refusal counts as failed authentication of the client. A credential that cannot be a key counts; a key whose
/// owner is disabled or that is paused does not, as its sender was issued one.
pub fn counts_as_failure(refusal: Refusal) -> bool {
    match refusal {
        Refusal::Jwt | Refusal::Malformed | Refusal::Unknown | Refusal::Revoked | Refusal::Expired => true,
        Refusal::Unavailable
        | Refusal::Missing
        | Refusal::Paused
        | Refusal::Unassociated
        | Refusal::WrongKind
        | Refusal::ForbiddenIp
        | Refusal::InsufficientScope
        | Refusal::RateLimited
        | Refusal::QuotaExhausted => false,
    }
}

impl Verified {
    /// Decides whether the client may use the key at that time for a request that requires these permissions.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn authorize<'r>(
        &self,
        dialect: &Dialect,
        now: Timestamp,
        scopes: &'r [String],
        client: impl FnOnce() -> Option<IpAddr>,
    ) -> Result<(), Denial<'r>> {
        authorize(&self.view(), dialect, now.as_ms(), &[Requirement { kinds: None, scopes }], client)
    }

    /// Whether the key and its owner have a permission.
    pub fn may(&self, scope: &str, dialect: &Dialect) -> bool {
        self.view().has_scope(scope, dialect)
    }

    fn view(&self) -> KeyView<'_> {
        key_view(&self.key, &self.secret, self.owner.as_ref())
    }
}

impl Refused {
    fn undecided(error: store::Error) -> Self {
        Self { source: Some(error.into()), ..Refusal::Unavailable.into() }
    }

    fn busy(error: Busy) -> Self {
        Self { source: Some(error.into()), ..Refusal::Unavailable.into() }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, malformation: None, key: None, source: None }
    }
}

impl From<Malformation> for Refused {
    fn from(malformation: Malformation) -> Self {
        Self { malformation: Some(malformation), ..Refusal::Malformed.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::issue::issue;
    use crate::model::{Actor, OwnerChange};
    use crate::random;
    use crate::store::Location;
    use std::num::NonZeroUsize;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    async fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        (dir, store)
    }

    fn dialect(name: &str) -> Dialect {
        Dialect::built_in(name).unwrap().unwrap()
    }

    fn plaintext(n: usize) -> String {
        format!("exo_key_live_{n:032}")
    }

    async fn create(store: &Store, n: usize, change: impl FnOnce(&mut Key)) {
        let mut key = Key::new(format!("key_{n}"), "n".into(), "key".into(), NOW);
        let digest = Digest::of_key(plaintext(n).as_bytes());
        key.secrets = vec![Secret::new(format!("sec_{n}"), digest, String::new(), NOW)];
        change(&mut key);
        store.create_key(Actor::server(), key).await.unwrap();
    }

    fn verifier() -> Verifier {
        Verifier::new(NonZeroUsize::MIN)
    }

    async fn refusal(store: &Store, credential: &str, now: Timestamp) -> Option<Refusal> {
        let verified = verify_key(store, &verifier(), &dialect("exograph"), None, credential.as_bytes(), now).await;
        verified.err().map(|refused| refused.refusal)
    }

    #[tokio::test]
    async fn a_key_is_refused_for_whatever_an_edge_refuses_it_for() {
        let (_dir, store) = store().await;
        let at = |ms| NOW.plus(Duration::from_millis(ms));
        create(&store, 1, |_| {}).await;
        create(&store, 2, |key| key.revoked_at = Some(NOW)).await;
        create(&store, 3, |key| key.expires_at = Some(at(10))).await;
        create(&store, 4, |key| key.secrets[0].not_after = Some(at(10))).await;
        create(&store, 5, |key| key.owner = Some("acme".into())).await;
        create(&store, 6, |key| key.owner = Some("off".into())).await;
        create(&store, 8, |key| key.owner = Some("off".into())).await;
        store.pause_key(Actor::server(), "key_8".to_owned(), NOW).await.unwrap();
        let disabled = OwnerChange { disabled: Some(true), ..OwnerChange::default() };
        store.change_owner(Actor::server(), "off".to_owned(), disabled, NOW).await.unwrap();
        for (n, now, expected) in [
            (1, 0, None),
            (2, 0, Some(Refusal::Revoked)),
            (3, 9, None),
            (3, 10, Some(Refusal::Expired)),
            (4, 9, None),
            (4, 10, Some(Refusal::Revoked)),
            (5, 0, None),
            (6, 0, Some(Refusal::Unassociated)),
            (7, 0, Some(Refusal::Unknown)),
            (8, 0, Some(Refusal::Paused)),
        ] {
            assert_eq!(refusal(&store, &plaintext(n), at(now)).await, expected, "{n} at {now}");
        }
        let jwt = "eyJhbGciOiJub25lIn0.e30.";
        for (credential, expected) in [(jwt, Refusal::Jwt), ("exo_key_live_short", Refusal::Malformed)] {
            assert_eq!(refusal(&store, credential, NOW).await, Some(expected), "{credential}");
        }
        store.close().await;
        assert_eq!(refusal(&store, &plaintext(1), NOW).await, Some(Refusal::Unavailable));
        assert_eq!(refusal(&store, jwt, NOW).await, Some(Refusal::Jwt), "what cannot be a key costs no look-up");
    }

    #[tokio::test]
    async fn a_dialect_that_asks_for_an_owner_refuses_a_key_without_one() {
        let (_dir, store) = store().await;
        create(&store, 1, |_| {}).await;
        let dialect = Dialect { owner_required: true, ..dialect("exograph") };
        let verified = verify_key(&store, &verifier(), &dialect, None, plaintext(1).as_bytes(), NOW).await;
        assert_eq!(verified.unwrap_err().refusal, Refusal::Unassociated);
    }

    #[tokio::test]
    async fn of_a_key_that_only_a_password_hash_is_kept_of_the_selector_opens_nothing_and_the_whole_does() {
        let (_dir, store) = store().await;
        let (verifier, dialect) = (verifier(), dialect("auxot"));
        let format = &dialect.formats[1];
        let (plaintext, secret) = issue(&store, &verifier, format, NOW, random::fill).await.unwrap();
        let mut key = Key::new("key_1".into(), "n".into(), "team".into(), NOW);
        key.owner = Some("acme".into());
        key.secrets = vec![secret];
        store.create_key(Actor::server(), key).await.unwrap();
        let whole = plaintext.expose();
        let last = if whole.ends_with('a') { "b" } else { "a" };
        let verified = verify_key(&store, &verifier, &dialect, None, whole.as_bytes(), NOW).await.unwrap();
        assert_eq!(verified.key.id, "key_1");
        let wrong = format!("{}{last}", &whole[..whole.len() - 1]);
        let refused = verify_key(&store, &verifier, &dialect, None, wrong.as_bytes(), NOW).await.unwrap_err();
        assert_eq!(refused.refusal, Refusal::Unknown);
        let computed = verifier.computed();
        store.revoke_key(Actor::server(), "key_1".to_owned(), NOW).await.unwrap();
        let refused = verify_key(&store, &verifier, &dialect, None, whole.as_bytes(), NOW).await.unwrap_err();
        assert_eq!((refused.refusal, verifier.computed()), (Refusal::Unknown, computed), "nothing is computed for it");
    }

    /// As at an edge.
    #[tokio::test]
    async fn a_disabled_owner_is_revealed_to_the_holder_only() {
        let (_dir, store) = store().await;
        let (verifier, dialect) = (verifier(), dialect("auxot"));
        let (plaintext, secret) = issue(&store, &verifier, &dialect.formats[1], NOW, random::fill).await.unwrap();
        let mut key = Key::new("key_1".into(), "n".into(), "team".into(), NOW);
        key.owner = Some("acme".into());
        key.secrets = vec![secret];
        store.create_key(Actor::server(), key).await.unwrap();
        let disabled = OwnerChange { disabled: Some(true), ..OwnerChange::default() };
        store.change_owner(Actor::server(), "acme".to_owned(), disabled, NOW).await.unwrap();
        let whole = plaintext.expose();
        let last = if whole.ends_with('a') { "b" } else { "a" };
        let wrong = format!("{}{last}", &whole[..whole.len() - 1]);
        for (credential, expected) in [(whole, Refusal::Unassociated), (&wrong, Refusal::Unknown)] {
            let refused = verify_key(&store, &verifier, &dialect, None, credential.as_bytes(), NOW).await.unwrap_err();
            assert_eq!(refused.refusal, expected);
        }
    }

    #[tokio::test]
    async fn a_key_that_was_imported_as_sha_512_is_found_by_it() {
        let (_dir, store) = store().await;
        let imported = Digest::of_sha512(&Sha512::digest(plaintext(1)).into());
        create(&store, 1, |key| key.secrets[0].digest = imported).await;
        assert_eq!(refusal(&store, &plaintext(1), NOW).await, None);
    }

    #[test]
    fn a_permission_is_the_keys_and_its_owners_or_its_owners_alone() {
        let list = |scopes: &[&str]| scopes.iter().map(|scope| (*scope).to_owned()).collect::<Vec<_>>();
        let verified = |kind: &str, scopes: &[&str], permissions: Option<&[&str]>| {
            let mut key = Key::new("key_1".into(), "n".into(), kind.into(), NOW);
            key.scopes = list(scopes);
            Verified {
                key,
                secret: Secret::new("sec_1".into(), Digest([0; 32]), String::new(), NOW),
                owner: Some(Owner { permissions: permissions.map(list), ..Owner::new("acme".into(), NOW) }),
            }
        };
        let auxot = dialect("auxot");
        assert!(auxot.has_owners_scopes("user") && !auxot.has_owners_scopes("team"));
        for (kind, scopes, permissions, expected) in [
            ("team", &["a"][..], None, true),
            ("team", &["a"], Some(&["a", "b"][..]), true),
            ("team", &["a"], Some(&["b"]), false),
            ("team", &["b"], Some(&["a"]), false),
            ("user", &[], Some(&["a"]), true),
            ("user", &["a"], Some(&["b"]), false),
            ("user", &["a"], None, false),
        ] {
            let may = verified(kind, scopes, permissions).may("a", &auxot);
            assert_eq!(may, expected, "{kind} {scopes:?} {permissions:?}");
        }
    }
}
