//! Keys: made, listed, ended, rotated.

use super::audit::details;
use super::folding::folded;
use super::key_query::KeyQuery;
use super::mutation::Mutation;
use super::query_builder::{Page, ROWS_OF_A_STATEMENT, Sql, keep};
use super::rows::{KeyRow, SECRET_COLUMNS, SecretRow, select_keys, stored_amount};
use super::{Authorization, Error, KeyError, QueuePermit, READ_PATIENCE, Store, owners, plans, secrets, within};
use crate::clock::Timestamp;
use crate::model::{Key, KeyFields, Owner, PasswordHash, Secret, Target};
use keyward_core::key::digest::Digest;
use keyward_core::wire::entry::Body;
use serde_json::{Map, json};
use sqlx::AnyConnection;
use std::collections::HashMap;
use std::time::Duration;

/// The most secrets of a key that are valid at a time.
pub const MAX_VALID_SECRETS: usize = 5;

/// The most secrets of a key that are told to edges, those among them that have ended since the retention began. All are
/// read and told of whenever something becomes of the key.
pub const MAX_KNOWN_SECRETS: usize = 1000;

impl Store {
    /// Stores a new key with its secrets, and its owner where nobody has named it before. A key that names no credits
    /// begins with those of its plan.
    ///
    /// # Errors
    /// If it cannot be stored, or there is no such plan.
    pub async fn create_key(&self, by: impl Into<Authorization>, key: Key) -> Result<Key, Error> {
        self.mutate(by, key.created_at, |mutation| Box::pin(create(mutation, key))).await
    }

    /// The key of that id.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn key(&self, id: &str) -> Result<Option<Key>, Error> {
        within(READ_PATIENCE, async { find(&mut *self.database.readers.acquire().await?, id).await }).await
    }

    /// The secret with that digest or address, with its key.
    pub async fn secret_at(&self, _permit: &QueuePermit, address: &Digest) -> Result<Option<(Key, Secret)>, Error> {
        within(READ_PATIENCE, async {
            let mut connection = self.database.guard_readers.acquire().await?;
            let Some((key_id, _)) = secrets::at(&mut connection, address).await? else { return Ok(None) };
            let Some(key) = find(&mut connection, &key_id).await? else { return Ok(None) };
            let secret = key.secrets.iter().find(|secret| secret.digest == *address).cloned();
            Ok(secret.map(|secret| (key, secret)))
        })
        .await
    }

    /// The key with a secret of that digest, that secret, and the key's owner, all as of one moment; for whoever has the turn
    /// to look one up.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn key_by_digest(
        &self,
        _turn: &QueuePermit,
        digest: &Digest,
    ) -> Result<Option<(Key, Secret, Option<Owner>)>, Error> {
        within(READ_PATIENCE, async {
            let mut transaction = self.database.begin_read(&self.database.guard_readers).await?;
            let Some((id, secret)) = secrets::at(&mut transaction, digest).await? else { return Ok(None) };
            let Some(key) = find_with(&mut transaction, &id, Excluded::Secret(&secret)).await? else {
                return Ok(None);
            };
            let Some(secret) = key.secrets.iter().find(|secret| secret.digest == *digest).cloned() else {
                return Ok(None);
            };
            let owner = match &key.owner {
                Some(owner) => owners::find(&mut transaction, owner).await?,
                None => None,
            };
            Ok(Some((key, secret, owner)))
        })
        .await
    }

    /// The keys that are asked for; `None` if there is no key to go on after.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn keys(&self, query: &KeyQuery, now: Timestamp) -> Result<Option<Page<Key>>, Error> {
        within(READ_PATIENCE, async {
            let mut transaction = self.database.begin_read(&self.database.readers).await?;
            list(&mut transaction, query, now).await
        })
        .await
    }

    /// As [`Self::key`], of a user who has the turn to read.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn key_for_user(&self, _turn: &QueuePermit, id: &str) -> Result<Option<Key>, Error> {
        within(READ_PATIENCE, async { find(&mut *self.database.user_readers.acquire().await?, id).await }).await
    }

    /// As [`Self::keys`], of a user who has the turn to read.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn keys_for_user(
        &self,
        _turn: &QueuePermit,
        query: &KeyQuery,
        now: Timestamp,
    ) -> Result<Option<Page<Key>>, Error> {
        within(READ_PATIENCE, async {
            let mut transaction = self.database.begin_read(&self.database.user_readers).await?;
            list(&mut transaction, query, now).await
        })
        .await
    }

    /// Ends the key, unless it was ended before; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be stored, or has another version than was expected.
    pub async fn revoke_key(
        &self,
        by: impl Into<Authorization>,
        target: impl Into<Target>,
        now: Timestamp,
    ) -> Result<Option<Key>, Error> {
        let target = target.into();
        self.mutate(by, now, move |mutation| Box::pin(revoke(mutation, target))).await
    }

    /// Gives the key a further secret, and ends those it has after the grace.
    ///
    /// # Errors
    /// If it cannot be stored, or has another version than was expected; if it has ended, or has too many secrets.
    pub async fn rotate_key(
        &self,
        by: impl Into<Authorization>,
        target: impl Into<Target>,
        secret: Secret,
        grace: Duration,
        now: Timestamp,
    ) -> Result<Key, KeyError> {
        let target = target.into();
        self.mutate_keys(by, now, move |mutation| Box::pin(rotate(mutation, target, secret, grace, MAX_KNOWN_SECRETS)))
            .await
    }
}

pub(super) async fn create(mutation: &mut Mutation, mut key: Key) -> Result<Key, Error> {
    key.created_at = mutation.now();
    key.secrets.iter_mut().for_each(|secret| secret.created_at = key.created_at);
    if let Some(plan) = &key.plan {
        let plan = plans::find(mutation.connection(), plan).await?.ok_or(Error::NoSuchPlan)?;
        key.credits = key.credits.or(plan.credits);
    }
    if let Some(owner) = &key.owner {
        // An edge refuses a key whose owner it does not know, so the owner goes first.
        owners::ensure(mutation, owner).await?;
    }
    insert(mutation, &[&key]).await?;
    mutation.audit("key.created", &key.id, key.audited()).await?;
    tell(mutation, &key, |_| true).await?;
    Ok(key)
}

pub(super) async fn revoke(mutation: &mut Mutation, target: Target) -> Result<Option<Key>, Error> {
    let Some(mut key) = find_expected(mutation, &target).await? else { return Ok(None) };
    if key.revoked_at.is_none() {
        let now = mutation.now();
        key.revoked_at = Some(now);
        key.version += 1;
        sqlx::query("UPDATE keys SET revoked_at = $1, version = version + 1 WHERE id = $2")
            .bind(now.as_stored())
            .bind(&key.id)
            .execute(mutation.connection())
            .await?;
        mutation.audit("key.revoked", &key.id, Map::new()).await?;
        tell(mutation, &key, |_| true).await?;
    }
    Ok(Some(key))
}

pub(super) async fn rotate(
    mutation: &mut Mutation,
    target: Target,
    mut new: Secret,
    grace: Duration,
    most_known: usize,
) -> Result<Key, KeyError> {
    let now = mutation.now();
    new.created_at = now;
    let mut key = find_expected(mutation, &target).await?.ok_or(KeyError::NotFound)?;
    if key.state(now).has_ended() {
        return Err(KeyError::NotActive { state: key.state(now), operation: "be rotated" });
    }
    let mut concerned = vec![new.id.clone()];
    let mut still_valid = 0;
    for secret in key.secrets.iter_mut().filter(|secret| secret.is_valid(now)) {
        let not_after = secret.not_after;
        secret.end_at(now.plus(grace));
        still_valid += usize::from(secret.is_valid(now));
        if secret.not_after != not_after {
            concerned.push(secret.id.clone());
        }
    }
    if still_valid >= MAX_VALID_SECRETS {
        return Err(KeyError::TooManySecrets);
    }
    if key.secrets.iter().filter(|secret| !secret.forgotten).count() >= most_known {
        return Err(KeyError::TooManyKnownSecrets { most: most_known });
    }
    for secret in key.secrets.iter().filter(|secret| concerned.contains(&secret.id)) {
        store_end(mutation.connection(), secret).await?;
    }
    insert_secrets(mutation, &[(&key.id, &new)]).await?;
    sqlx::query("UPDATE keys SET version = version + 1 WHERE id = $1")
        .bind(&key.id)
        .execute(mutation.connection())
        .await?;
    key.version += 1;
    let facts = details([("secret", json!(new.id)), ("grace_s", json!(grace.as_secs()))]);
    mutation.audit("key.rotated", &key.id, facts).await?;
    key.secrets.push(new);
    // As they are read again, so that whoever asks twice gets one answer.
    key.secrets.sort_by(|one, other| (one.created_at, &one.id).cmp(&(other.created_at, &other.id)));
    tell(mutation, &key, |secret| concerned.contains(&secret.id)).await?;
    Ok(key)
}

/// Tells the edges of those secrets, except what they were told to forget.
pub(super) async fn tell(mutation: &mut Mutation, key: &Key, concerned: impl Fn(&Secret) -> bool) -> Result<(), Error> {
    let states = states(key, mutation.now(), concerned).collect();
    mutation.append_all(states).await
}

/// What the edges are to know of those secrets.
pub(super) fn states(
    key: &Key,
    now: Timestamp,
    concerned: impl Fn(&Secret) -> bool,
) -> impl Iterator<Item = (Digest, Body)> {
    let told = key.secrets.iter().filter(move |secret| !secret.forgotten && concerned(secret));
    told.map(move |secret| (secret.digest, Body::Key(key.record(secret, now))))
}

/// Stores when the secret ends.
pub(super) async fn store_end(connection: &mut AnyConnection, secret: &Secret) -> Result<(), Error> {
    sqlx::query("UPDATE secrets SET not_after = $1 WHERE id = $2")
        .bind(secret.not_after.map(Timestamp::as_stored))
        .bind(&secret.id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Stores keys with their secrets.
pub(super) async fn insert(mutation: &mut Mutation, keys: &[&Key]) -> Result<(), Error> {
    for rows in keys.chunks(ROWS_OF_A_STATEMENT) {
        let mut insert = Sql::of_many_values(mutation.engine(), "INSERT INTO keys (");
        insert
            .push(KeyFields::COLUMNS)
            .push("id, created_at, revoked_at, paused_at, paused_by, spent, version, name_folded) VALUES ");
        insert.bind_rows(rows, |columns, key| {
            for (_, value) in key.to_stored() {
                columns.bind_stored(value);
            }
            columns
                .bind(key.id.as_str())
                .bind(key.created_at.as_stored())
                .bind(key.revoked_at.map(Timestamp::as_stored))
                .bind(key.pause.map(|pause| pause.at.as_stored()))
                .bind(key.pause.map(|pause| pause.by.name()))
                .bind(stored_amount(key.spent))
                .bind(stored_amount(key.version))
                .bind(folded(&key.name));
        });
        insert.execute(mutation.connection(), keep(rows.len())).await?;
    }
    let secrets: Vec<_> =
        keys.iter().flat_map(|key| key.secrets.iter().map(|secret| (key.id.as_str(), secret))).collect();
    insert_secrets(mutation, &secrets).await
}

/// Stores secrets, each with the id of its key.
async fn insert_secrets(mutation: &mut Mutation, secrets: &[(&str, &Secret)]) -> Result<(), Error> {
    for rows in secrets.chunks(ROWS_OF_A_STATEMENT) {
        let mut insert = Sql::of_many_values(
            mutation.engine(),
            "INSERT INTO secrets (id, key_id, digest, hint, created_at, not_after, forgotten, hash) VALUES ",
        );
        insert.bind_rows(rows, |columns, (key_id, secret)| {
            columns
                .bind(secret.id.as_str())
                .bind(*key_id)
                .bind(secret.digest.0.as_slice())
                .bind(secret.hint.as_str())
                .bind(secret.created_at.as_stored())
                .bind(secret.not_after.map(Timestamp::as_stored))
                .bind(secret.forgotten)
                .bind(secret.hash.as_ref().map(PasswordHash::expose));
        });
        insert.execute(mutation.connection(), keep(rows.len())).await?;
    }
    Ok(())
}

/// Which secrets of a key are read beside those that the edges know and those that ended with their key. What has ended by
/// itself and is forgotten is nothing to anybody, and a key may have any number of them.
#[derive(Clone, Copy)]
pub(super) enum Excluded<'a> {
    None,
    /// What was forgotten while the clock was wrong, and is valid.
    ValidAt(Timestamp),
    /// The one of that id.
    Secret(&'a str),
}

pub(super) async fn find(connection: &mut AnyConnection, id: &str) -> Result<Option<Key>, Error> {
    find_with(connection, id, Excluded::None).await
}

pub(super) async fn find_with(
    connection: &mut AnyConnection,
    id: &str,
    forgotten: Excluded<'_>,
) -> Result<Option<Key>, Error> {
    let mut query = select_keys();
    query.push(" WHERE id = ").bind(id);
    let row = query.build_as()?.fetch_optional(&mut *connection).await?;
    Ok(with_secrets(connection, row.into_iter().collect(), forgotten).await?.pop())
}

/// The key, if there is one, in a version that is expected.
pub(super) async fn find_expected(mutation: &mut Mutation, target: &Target) -> Result<Option<Key>, Error> {
    let now = mutation.now();
    let key = find_with(mutation.connection(), &target.id, Excluded::ValidAt(now)).await?;
    match &key {
        Some(key) if !target.expected.fits(Some(key.version)) => Err(Error::OtherVersion),
        _ => Ok(key),
    }
}

async fn list(connection: &mut AnyConnection, wanted: &KeyQuery, now: Timestamp) -> Result<Option<Page<Key>>, Error> {
    let mut query = select_keys();
    query.push(" WHERE 1 = 1");
    if let Some(after) = &wanted.after
        && !wanted.sort.go_on(&mut *connection, &mut query, after).await?
    {
        return Ok(None);
    }
    wanted.restrict(&mut *connection, &mut query, now).await?;
    let next = |row: &KeyRow| row.id().to_owned();
    let rows = query.fetch_page(&wanted.sort.order(), wanted.limit, &mut *connection, next).await?;
    Ok(Some(Page { items: with_secrets(connection, rows.items, Excluded::None).await?, next: rows.next }))
}

pub(super) async fn with_secrets(
    connection: &mut AnyConnection,
    rows: Vec<KeyRow>,
    forgotten: Excluded<'_>,
) -> Result<Vec<Key>, Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = Sql::new("SELECT ");
    query.push(SECRET_COLUMNS).push(" FROM secrets WHERE key_id IN (");
    query.bind_all(rows.iter().map(KeyRow::id)).push(") AND (NOT forgotten OR not_after IS NULL");
    match forgotten {
        Excluded::None => &mut query,
        Excluded::ValidAt(now) => query.push(" OR not_after > ").bind(now.as_stored()),
        Excluded::Secret(id) => query.push(" OR id = ").bind(id),
    };
    query.push(") ORDER BY created_at, id");
    let mut secrets: HashMap<String, Vec<Secret>> = HashMap::new();
    for row in query.build_as::<SecretRow>()?.fetch_all(connection).await? {
        secrets.entry(row.key_id.clone()).or_default().push(row.try_into()?);
    }
    rows.into_iter()
        .map(|row| {
            let secrets = secrets.remove(row.id()).unwrap_or_default();
            row.with_secrets(secrets)
        })
        .collect()
}
