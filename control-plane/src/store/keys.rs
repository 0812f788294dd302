//! Keys: made, listed, ended, rotated.

use super::mutation::Mutation;
use super::rows::{KEY_COLUMNS, KeyRow, SECRET_COLUMNS, SecretRow, stored_amount, to_json};
use super::sql::{ROWS_OF_A_STATEMENT, Sql, keep};
use super::{Error, Store, owners};
use crate::clock::Timestamp;
use crate::model::{Actor, Key, PasswordHash, Secret, State};
use keyward_contract::entry::{Body, Environment};
use serde_json::{Map, Value, json};
use sqlx::AnyConnection;
use std::collections::HashMap;
use std::time::Duration;

/// Which keys are wanted.
#[derive(Clone, Debug)]
pub struct KeyQuery {
    /// The most of them.
    pub limit: u32,
    /// The id of the key after which to go on.
    pub after: Option<String>,
    /// Only those of this owner.
    pub owner: Option<String>,
    /// Only those in this state.
    pub state: Option<State>,
}

/// Some keys, the newest first.
#[derive(Clone, Debug)]
pub struct KeyPage {
    /// The keys.
    pub keys: Vec<Key>,
    /// The id to go on after, where there are more.
    pub next: Option<String>,
}

/// What became of a rotation.
#[derive(Clone, Debug)]
pub enum Rotated {
    /// The key has the new secret.
    Done(Box<Key>),
    /// The key cannot be used any more, so neither could a new secret.
    NotActive(State),
    /// The key has as many secrets that are still valid as it can have.
    TooManySecrets,
    /// There is no such key.
    NotFound,
}

/// The most secrets of a key that are valid at a time.
pub const MAX_VALID_SECRETS: usize = 5;

impl Store {
    /// Stores a new key with its secrets, and its owner where nobody has named it before.
    ///
    /// # Errors
    /// If it cannot be stored.
    pub async fn create_key(&self, actor: Actor, key: Key) -> Result<Key, Error> {
        self.mutate(actor, key.created_at, |mutation| Box::pin(create(mutation, key))).await
    }

    /// The key of that id.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn key(&self, id: &str) -> Result<Option<Key>, Error> {
        find(&mut *self.database.readers.acquire().await?, id).await
    }

    /// The keys that are asked for; `None` if there is no key to go on after.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn keys(&self, query: &KeyQuery, now: Timestamp) -> Result<Option<KeyPage>, Error> {
        let mut transaction = self.database.begin_read(&self.database.readers).await?;
        list(&mut transaction, query, now).await
    }

    /// Ends the key, unless it was ended before; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be stored.
    pub async fn revoke_key(&self, actor: Actor, id: String, now: Timestamp) -> Result<Option<Key>, Error> {
        self.mutate(actor, now, move |mutation| Box::pin(revoke(mutation, id))).await
    }

    /// Gives the key a further secret, and ends those it has after the grace.
    ///
    /// # Errors
    /// If it cannot be stored.
    pub async fn rotate_key(
        &self,
        actor: Actor,
        id: String,
        secret: Secret,
        grace: Duration,
        now: Timestamp,
    ) -> Result<Rotated, Error> {
        self.mutate(actor, now, move |mutation| Box::pin(rotate(mutation, id, secret, grace))).await
    }
}

async fn create(mutation: &mut Mutation, key: Key) -> Result<Key, Error> {
    if let Some(owner) = &key.owner {
        // An edge refuses a key whose owner it does not know, so the owner goes first.
        owners::ensure(mutation, owner).await?;
    }
    insert(mutation, &[&key]).await?;
    let details = Map::from_iter([("name".to_owned(), json!(key.name)), ("owner".to_owned(), json!(key.owner))]);
    mutation.audit("key.created", &key.id, details).await?;
    tell(mutation, &key, |_| true).await?;
    Ok(key)
}

pub(super) async fn revoke(mutation: &mut Mutation, id: String) -> Result<Option<Key>, Error> {
    let Some(mut key) = find(mutation.connection(), &id).await? else { return Ok(None) };
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

async fn rotate(mutation: &mut Mutation, id: String, new: Secret, grace: Duration) -> Result<Rotated, Error> {
    let now = mutation.now();
    let Some(mut key) = find(mutation.connection(), &id).await? else { return Ok(Rotated::NotFound) };
    match key.state(now) {
        State::Active => {}
        state => return Ok(Rotated::NotActive(state)),
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
        return Ok(Rotated::TooManySecrets);
    }
    for secret in key.secrets.iter().filter(|secret| concerned.contains(&secret.id)) {
        sqlx::query("UPDATE secrets SET not_after = $1 WHERE id = $2")
            .bind(secret.not_after.map(Timestamp::as_stored))
            .bind(&secret.id)
            .execute(mutation.connection())
            .await?;
    }
    insert_secrets(mutation, &[(&key.id, &new)]).await?;
    sqlx::query("UPDATE keys SET version = version + 1 WHERE id = $1")
        .bind(&key.id)
        .execute(mutation.connection())
        .await?;
    key.version += 1;
    let details = [("secret", json!(new.id)), ("grace_s", json!(grace.as_secs()))];
    let details = details.map(|(name, value): (&str, Value)| (name.to_owned(), value));
    mutation.audit("key.rotated", &key.id, Map::from_iter(details)).await?;
    key.secrets.push(new);
    tell(mutation, &key, |secret| concerned.contains(&secret.id)).await?;
    Ok(Rotated::Done(Box::new(key)))
}

/// Tells the edges of those secrets, except what they were told to forget.
pub(super) async fn tell(mutation: &mut Mutation, key: &Key, concerned: impl Fn(&Secret) -> bool) -> Result<(), Error> {
    for secret in key.secrets.iter().filter(|secret| !secret.forgotten && concerned(secret)) {
        mutation.append(secret.digest, Body::Key(key.record(secret, mutation.now()))).await?;
    }
    Ok(())
}

/// Stores keys with their secrets.
pub(super) async fn insert(mutation: &mut Mutation, keys: &[&Key]) -> Result<(), Error> {
    for rows in keys.chunks(ROWS_OF_A_STATEMENT) {
        let mut insert = Sql::of_many_values(
            mutation.engine(),
            "INSERT INTO keys
             (id, name, owner, kind, environment, scopes, allow_ip, limits, created_at, expires_at, revoked_at,
              member, plan, metadata, credits, spent, version)
             VALUES ",
        );
        insert.bind_rows(rows, |columns, key| {
            columns
                .bind(key.id.as_str())
                .bind(key.name.as_str())
                .bind(key.owner.as_deref())
                .bind(key.kind.as_str())
                .bind(key.environment.map(Environment::name))
                .bind(to_json(&key.scopes))
                .bind(to_json(&key.allow_ip))
                .bind(key.limits.as_ref().map(|limits| to_json(limits)))
                .bind(key.created_at.as_stored())
                .bind(key.expires_at.map(Timestamp::as_stored))
                .bind(key.revoked_at.map(Timestamp::as_stored))
                .bind(key.member.as_deref())
                .bind(key.plan.as_deref())
                .bind(json!(key.metadata).to_string())
                .bind(key.credits.map(stored_amount))
                .bind(stored_amount(key.spent))
                .bind(stored_amount(key.version));
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

pub(super) async fn find(connection: &mut AnyConnection, id: &str) -> Result<Option<Key>, Error> {
    let mut query = Sql::new("SELECT ");
    query.push(KEY_COLUMNS).push(" FROM keys WHERE id = ").bind(id);
    let row = query.build_as()?.fetch_optional(&mut *connection).await?;
    Ok(with_secrets(connection, row.into_iter().collect()).await?.pop())
}

async fn list(connection: &mut AnyConnection, wanted: &KeyQuery, now: Timestamp) -> Result<Option<KeyPage>, Error> {
    let mut query = Sql::new("SELECT ");
    query.push(KEY_COLUMNS).push(" FROM keys WHERE 1 = 1");
    if let Some(after) = &wanted.after {
        let created_at: Option<i64> = sqlx::query_scalar("SELECT created_at FROM keys WHERE id = $1")
            .bind(after)
            .fetch_optional(&mut *connection)
            .await?;
        let Some(created_at) = created_at else { return Ok(None) };
        query.push(" AND (created_at, id) < (").bind(created_at).push(", ").bind(after.as_str()).push(")");
    }
    if let Some(owner) = &wanted.owner {
        query.push(" AND owner = ").bind(owner.as_str());
    }
    let now = now.as_stored();
    match wanted.state {
        None => {}
        Some(State::Revoked) => {
            query.push(" AND revoked_at IS NOT NULL");
        }
        Some(State::Expired) => {
            query.push(" AND revoked_at IS NULL AND expires_at <= ").bind(now);
        }
        Some(State::Active) => {
            query.push(" AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ").bind(now).push(")");
        }
    }
    // One more than wanted tells whether there are more.
    query.push(" ORDER BY created_at DESC, id DESC LIMIT ").bind(i64::from(wanted.limit) + 1);
    let mut rows: Vec<KeyRow> = query.build_as()?.fetch_all(&mut *connection).await?;
    let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.id().to_owned());
    Ok(Some(KeyPage { keys: with_secrets(connection, rows).await?, next }))
}

pub(super) async fn with_secrets(connection: &mut AnyConnection, rows: Vec<KeyRow>) -> Result<Vec<Key>, Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = Sql::new("SELECT ");
    query.push(SECRET_COLUMNS).push(" FROM secrets WHERE key_id IN (");
    query.bind_all(rows.iter().map(KeyRow::id)).push(") ORDER BY created_at, id");
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
