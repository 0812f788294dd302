//! Requests that must not be carried out twice, though they come again because an answer was lost.
//!
//! No answer is kept: what is kept is which key and secret were made, and the salt with which whoever still holds the
//! Idempotency-Key can have the plaintext drawn again. Whoever writes is alone, so of two at the same time the second
//! finds what the first has made.

use super::mutation::Mutation;
use super::{Error, Store, keys};
use crate::clock::Timestamp;
use crate::model::Key;
use sqlx::AnyConnection;
use std::time::Duration;

/// What is kept of a request that may come again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Once {
    /// Of the actor and the Idempotency-Key.
    pub digest: [u8; 32],
    /// Of what is asked for.
    pub fingerprint: [u8; 32],
    /// With the Idempotency-Key and the pepper, what the plaintext is drawn from.
    pub salt: [u8; 32],
}

/// What the request made when it first came.
#[derive(Clone)]
pub struct Before {
    /// The key, as it is now.
    pub key: Key,
    /// The id of the secret that was made.
    pub secret_id: String,
    /// What its plaintext was drawn from.
    pub salt: [u8; 32],
}

/// The outcome of a request that may have come before.
#[derive(Clone)]
pub enum Made<T> {
    /// It came for the first time.
    Now(T),
    /// It came before, and made nothing now.
    Before(Box<Before>),
}

/// For how long a request that comes again is answered as it was.
pub const REPEATABLE_FOR: Duration = Duration::from_secs(86_400);

impl Store {
    /// What the request made if it came before.
    ///
    /// # Errors
    /// If the database cannot be read, or the Idempotency-Key came with another request.
    pub async fn made_before(&self, once: &Once, now: Timestamp) -> Result<Option<Before>, Error> {
        let mut transaction = self.database.begin_read(&self.database.readers).await?;
        find(&mut transaction, once, now).await
    }
}

pub(super) async fn before(mutation: &mut Mutation, once: &Once) -> Result<Option<Before>, Error> {
    let now = mutation.now();
    find(mutation.connection(), once, now).await
}

/// Remembers that this secret of the key was made for this request.
pub(super) async fn remember(mutation: &mut Mutation, once: &Once, key_id: &str, secret_id: &str) -> Result<(), Error> {
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

/// Forgets the requests that are not answered again.
pub(super) async fn forget_old(mutation: &mut Mutation) -> Result<(), Error> {
    let until = mutation.now().minus(REPEATABLE_FOR);
    sqlx::query("DELETE FROM idempotency WHERE created_at <= $1")
        .bind(until.as_stored())
        .execute(mutation.connection())
        .await?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Row {
    fingerprint: Vec<u8>,
    key_id: String,
    secret_id: String,
    salt: Vec<u8>,
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
    let key = keys::find(connection, &key_id).await?.ok_or_else(corrupt)?;
    let salt = salt.try_into().map_err(|_| corrupt())?;
    Ok(Some(Before { key, secret_id, salt }))
}
