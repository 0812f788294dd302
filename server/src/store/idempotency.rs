//! Idempotent requests: a request that is repeated because its response was lost is carried out once.
//!
//! No response is stored, only which key and secret were issued, and the salt from which the Idempotency-Key derives the plaintext
//! again. Transactions that write follow each other, so of two simultaneous requests the second finds the result of the first.

use super::authorization::Access;
use super::keys::{Excluded, MAX_KNOWN_SECRETS};
use super::mutation::Mutation;
use super::rows::row;
use super::{Authorization, Error, KeyError, READ_PATIENCE, Store, keys, within};
use crate::clock::Timestamp;
use crate::model::{Key, Secret, Target};
use sqlx::AnyConnection;
use std::time::Duration;

/// What is stored of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Once {
    /// The digest of actor and Idempotency-Key.
    pub digest: [u8; 32],
    /// The digest of the request.
    pub fingerprint: [u8; 32],
    /// The salt from which, with Idempotency-Key and pepper, the plaintext is derived.
    pub salt: [u8; 32],
}

/// The result of the first request.
#[derive(Clone)]
pub struct Before {
    /// The current key.
    pub key: Key,
    /// The id of the issued secret.
    pub secret_id: String,
    /// The salt of its plaintext.
    pub salt: [u8; 32],
}

/// The outcome of a request that can be repeated.
#[derive(Clone)]
pub enum Made<T> {
    /// The first request, carried out now.
    Now(T),
    /// A repeated request, not carried out again.
    Before(Box<Before>),
}

/// How long a repeated request returns the same plaintext.
pub const REPEATABLE_FOR: Duration = Duration::from_secs(86_400);

impl Store {
    /// The same for a request that may come again, which then makes nothing.
    ///
    /// # Errors
    /// If it cannot be stored, there is no such plan, or the Idempotency-Key came with another request.
    pub async fn create_key_once(
        &self,
        by: impl Into<Authorization>,
        key: Key,
        once: Once,
    ) -> Result<Made<Key>, Error> {
        self.mutate(by, key.created_at, move |mutation| Box::pin(create_once(mutation, key, once))).await
    }

    /// The same for a request that may come again, which then makes nothing, whatever version is expected.
    ///
    /// # Errors
    /// If it cannot be stored, has another version than was expected, or the Idempotency-Key came with another request.
    pub async fn rotate_key_once(
        &self,
        by: impl Into<Authorization>,
        target: Target,
        secret: Secret,
        grace: Duration,
        once: Once,
        now: Timestamp,
    ) -> Result<Made<Key>, KeyError> {
        self.mutate_keys(by, now, move |mutation| Box::pin(rotate_once(mutation, target, secret, grace, once))).await
    }

    /// The result of the first request, if this is a repeated one. The authorization must still hold, as the result leads to the
    /// plaintext.
    ///
    /// # Errors
    /// If the database cannot be read, or the Idempotency-Key came with another request.
    pub async fn made_before(&self, by: &Authorization, once: &Once, now: Timestamp) -> Result<Option<Before>, Error> {
        within(READ_PATIENCE, async {
            let mut transaction = self.database.begin_read(&self.database.readers).await?;
            by.check(&mut transaction, Access::Write).await?;
            find(&mut transaction, once, now).await
        })
        .await
    }
}

async fn create_once(mutation: &mut Mutation, key: Key, once: Once) -> Result<Made<Key>, Error> {
    if let Some(before) = before(mutation, &once).await? {
        return Ok(Made::Before(Box::new(before)));
    }
    let key = keys::create(mutation, key).await?;
    for secret in &key.secrets {
        remember(mutation, &once, &key.id, &secret.id).await?;
    }
    Ok(Made::Now(key))
}

async fn rotate_once(
    mutation: &mut Mutation,
    target: Target,
    secret: Secret,
    grace: Duration,
    once: Once,
) -> Result<Made<Key>, KeyError> {
    if let Some(before) = before(mutation, &once).await? {
        return Ok(Made::Before(Box::new(before)));
    }
    let secret_id = secret.id.clone();
    let key = keys::rotate(mutation, target, secret, grace, MAX_KNOWN_SECRETS).await?;
    remember(mutation, &once, &key.id, &secret_id).await?;
    Ok(Made::Now(key))
}

async fn before(mutation: &mut Mutation, once: &Once) -> Result<Option<Before>, Error> {
    let now = mutation.now();
    find(mutation.connection(), once, now).await
}

/// Records the secret that was issued for the request.
async fn remember(mutation: &mut Mutation, once: &Once, key_id: &str, secret_id: &str) -> Result<(), Error> {
    let now = mutation.now();
    sqlx::query(
        "INSERT INTO idempotency (digest, fingerprint, key_id, secret_id, salt, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (digest) DO UPDATE
         SET fingerprint = excluded.fingerprint, key_id = excluded.key_id, secret_id = excluded.secret_id,
             salt = excluded.salt, created_at = excluded.created_at",
    )
    .bind(once.digest.as_slice())
    .bind(once.fingerprint.as_slice())
    .bind(key_id)
    .bind(secret_id)
    .bind(once.salt.as_slice())
    .bind(now.as_stored())
    .execute(mutation.connection())
    .await?;
    Ok(())
}

/// Purges requests that can no longer be repeated.
pub(super) async fn forget_old(mutation: &mut Mutation) -> Result<(), Error> {
    let until = mutation.now().minus(REPEATABLE_FOR);
    sqlx::query("DELETE FROM idempotency WHERE created_at <= $1")
        .bind(until.as_stored())
        .execute(mutation.connection())
        .await?;
    Ok(())
}

row! {
    struct Row {
        fingerprint: Vec<u8>,
        key_id: String,
        secret_id: String,
        salt: Vec<u8>,
    }
}

async fn find(connection: &mut AnyConnection, once: &Once, now: Timestamp) -> Result<Option<Before>, Error> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT fingerprint, key_id, secret_id, salt FROM idempotency WHERE digest = $1 AND created_at > $2",
    )
    .bind(once.digest.as_slice())
    .bind(now.minus(REPEATABLE_FOR).as_stored())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(Row { fingerprint, key_id, secret_id, salt }) = row else { return Ok(None) };
    if fingerprint != once.fingerprint {
        return Err(Error::OtherRequest);
    }
    let corrupt = || Error::Corrupt("repeatable request");
    let key = keys::find_with(connection, &key_id, Excluded::Secret(&secret_id)).await?.ok_or_else(corrupt)?;
    let salt = salt.try_into().map_err(|_| corrupt())?;
    Ok(Some(Before { key, secret_id, salt }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Actor;
    use crate::store::Location;
    use keyward_core::key::digest::Digest;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    #[tokio::test]
    async fn a_request_is_remembered_for_a_day_and_then_forgotten_with_the_retention() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let mut key = Key::new("key_1".into(), "n".into(), "key".into(), NOW);
        key.secrets = vec![Secret::new("sec_1".into(), Digest([1; 32]), String::new(), NOW)];
        let once = Once { digest: [1; 32], fingerprint: [2; 32], salt: [3; 32] };
        store.create_key_once(Actor::server(), key, once).await.unwrap();
        let before =
            store.made_before(&Authorization::server(), &Once { salt: [4; 32], ..once }, NOW).await.unwrap().unwrap();
        assert_eq!((before.key.id.as_str(), before.secret_id.as_str(), before.salt), ("key_1", "sec_1", [3; 32]));
        let last = NOW.plus(REPEATABLE_FOR).minus(Duration::from_millis(1));
        for (now, remembered) in [(last, 1), (NOW.plus(REPEATABLE_FOR), 0)] {
            store.purge_expired(now, crate::store::RETENTION).await.unwrap();
            let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM idempotency")
                .fetch_one(&mut *store.database.readers.acquire().await.unwrap())
                .await
                .unwrap();
            assert_eq!(rows, remembered);
            assert_eq!(
                store.made_before(&Authorization::server(), &once, now).await.unwrap().is_some(),
                remembered == 1
            );
        }
    }

    #[tokio::test]
    async fn another_request_under_the_same_digest_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let mut key = Key::new("key_1".into(), "n".into(), "key".into(), NOW);
        key.secrets = vec![Secret::new("sec_1".into(), Digest([1; 32]), String::new(), NOW)];
        let once = Once { digest: [1; 32], fingerprint: [2; 32], salt: [3; 32] };
        store.create_key_once(Actor::server(), key, once).await.unwrap();
        let other = Once { fingerprint: [9; 32], ..once };
        assert!(matches!(store.made_before(&Authorization::server(), &other, NOW).await, Err(Error::OtherRequest)));
    }
}
