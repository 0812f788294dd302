//! Keys that are changed: their settings, the end of one secret, and the end of all keys of an owner.

use super::audit::{details, differences};
use super::folding::folded;
use super::keys::{Excluded, find_expected, states, store_end, tell, with_secrets};
use super::mutation::Mutation;
use super::query_builder::Sql;
use super::rows::{KeyRow, select_keys, stored_amount};
use super::{Authorization, Error, KeyError, Store, owners, plans};
use crate::clock::Timestamp;
use crate::model::{Key, KeyChange, MAX_METADATA, Target};
use serde_json::json;

/// The most keys that are revoked in one transaction.
pub const REVOKED_AT_ONCE: u32 = 1000;

impl Store {
    /// Changes the key. What changes nothing writes nothing.
    ///
    /// # Errors
    /// If it cannot be stored or does not fit an entry, has another version than was expected, or there is no such plan; if its
    /// metadata would have too many entries, or its expiry is to change though it has ended.
    pub async fn change_key(
        &self,
        by: impl Into<Authorization>,
        target: impl Into<Target>,
        change: KeyChange,
        now: Timestamp,
    ) -> Result<Key, KeyError> {
        let target = target.into();
        self.mutate_keys(by, now, move |mutation| Box::pin(apply(mutation, target, change))).await
    }

    /// Ends one secret of the key at once.
    ///
    /// # Errors
    /// If it cannot be stored, or the key has another version than was expected; if it has ended, or no other secret is valid.
    pub async fn end_secret(
        &self,
        by: impl Into<Authorization>,
        target: impl Into<Target>,
        secret_id: String,
        now: Timestamp,
    ) -> Result<Key, KeyError> {
        let target = target.into();
        self.mutate_keys(by, now, move |mutation| Box::pin(end_secret(mutation, target, secret_id))).await
    }

    /// Revokes every active key of the owner, or of one member, and tells how many; `None` if there is no such owner.
    /// At most [`REVOKED_AT_ONCE`] of them at a time: if it fails, those before the failure are revoked. Once begun, it
    /// goes on though the request goes away.
    ///
    /// # Errors
    /// If it cannot be stored.
    pub async fn revoke_keys_of(
        &self,
        by: impl Into<Authorization>,
        owner: String,
        member: Option<String>,
        now: Timestamp,
    ) -> Result<Option<usize>, Error> {
        let (store, by) = (self.clone(), by.into());
        let revoke = async move { store.revoke_keys_in_batches(by, owner, member, now, REVOKED_AT_ONCE).await };
        tokio::spawn(revoke).await.map_err(|_| Error::Interrupted)?
    }

    async fn revoke_keys_in_batches(
        &self,
        by: impl Into<Authorization>,
        owner: String,
        member: Option<String>,
        now: Timestamp,
        size: u32,
    ) -> Result<Option<usize>, Error> {
        let by = by.into();
        let mut revoked = 0;
        loop {
            let (owner, member) = (owner.clone(), member.clone());
            let batch =
                self.mutate(by.clone(), now, move |mutation| Box::pin(revoke_some(mutation, owner, member, size)));
            let Some(batch) = batch.await? else { return Ok(None) };
            revoked += batch;
            if batch < usize::try_from(size).unwrap_or(usize::MAX) {
                return Ok(Some(revoked));
            }
        }
    }
}

async fn apply(mutation: &mut Mutation, target: Target, change: KeyChange) -> Result<Key, KeyError> {
    let now = mutation.now();
    let current = find_expected(mutation, &target).await?.ok_or(KeyError::NotFound)?;
    let mut key = current.clone();
    change.apply(&mut key);
    if key == current {
        return Ok(key);
    }
    if key.expires_at != current.expires_at && current.state(now).has_ended() {
        return Err(KeyError::NotActive { state: current.state(now), operation: "change its expiry" });
    }
    if key.metadata.len() > MAX_METADATA {
        return Err(KeyError::TooMuchMetadata);
    }
    if let Some(plan) = key.plan.as_ref().filter(|plan| current.plan.as_ref() != Some(plan)) {
        plans::find(mutation.connection(), plan).await?.ok_or(Error::NoSuchPlan)?;
    }
    key.check_size().map_err(Error::from)?;
    key.version += 1;
    let mut update = Sql::new("UPDATE keys SET ");
    for (spec, value) in key.to_stored() {
        update.push(spec.name).push(" = ").bind_stored(value).push(", ");
    }
    update.push("spent = ").bind(stored_amount(key.spent));
    update.push(", version = ").bind(stored_amount(key.version));
    update.push(", name_folded = ").bind(folded(&key.name));
    update.push(" WHERE id = ").bind(key.id.as_str());
    update.execute(mutation.connection(), true).await?;
    let mut changed = current.differences(&key);
    changed.extend(differences([("spent", json!(current.spent), json!(key.spent))]));
    mutation.audit("key.changed", &key.id, changed).await?;
    // A name or a note is nothing to the edges.
    tell(mutation, &key, |secret| key.record(secret, now) != current.record(secret, now)).await?;
    Ok(key)
}

async fn end_secret(mutation: &mut Mutation, target: Target, secret_id: String) -> Result<Key, KeyError> {
    let now = mutation.now();
    let mut key = find_expected(mutation, &target).await?.ok_or(KeyError::NotFound)?;
    let another_is_valid = key.secrets.iter().any(|secret| secret.id != secret_id && secret.is_valid(now));
    let state = key.state(now);
    let secret = key.secrets.iter_mut().find(|secret| secret.id == secret_id).ok_or(KeyError::NoSuchSecret)?;
    if !secret.is_valid(now) {
        return Ok(key);
    }
    if state.has_ended() {
        return Err(KeyError::NotActive { state, operation: "have a secret invalidated" });
    }
    if !another_is_valid {
        return Err(KeyError::LastSecret);
    }
    secret.end_at(now);
    store_end(mutation.connection(), secret).await?;
    sqlx::query("UPDATE keys SET version = version + 1 WHERE id = $1")
        .bind(&key.id)
        .execute(mutation.connection())
        .await?;
    key.version += 1;
    mutation.audit("key.secret_ended", &key.id, details([("secret", json!(secret_id))])).await?;
    tell(mutation, &key, |secret| secret.id == secret_id).await?;
    Ok(key)
}

async fn revoke_some(
    mutation: &mut Mutation,
    owner: String,
    member: Option<String>,
    most: u32,
) -> Result<Option<usize>, Error> {
    let now = mutation.now();
    if owners::find(mutation.connection(), &owner).await?.is_none() {
        return Ok(None);
    }
    let mut query = select_keys();
    query.push(" WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ");
    query.bind(now.as_stored()).push(") AND owner = ").bind(owner.as_str());
    if let Some(member) = &member {
        query.push(" AND member = ").bind(member.as_str());
    }
    query.push(" ORDER BY created_at, id LIMIT ").bind(i64::from(most));
    let rows: Vec<KeyRow> = query.build_as()?.fetch_all(mutation.connection()).await?;
    if rows.is_empty() {
        return Ok(Some(0));
    }
    let mut keys = with_secrets(mutation.connection(), rows, Excluded::None).await?;
    let mut query = Sql::new("UPDATE keys SET version = version + 1, revoked_at = ");
    query.bind(now.as_stored()).push(" WHERE id IN (");
    query.bind_all(keys.iter().map(|key| key.id.as_str())).push(")");
    query.execute(mutation.connection(), false).await?;
    let mut told = Vec::new();
    for key in &mut keys {
        key.revoked_at = Some(now);
        mutation
            .audit("key.revoked", &key.id, details([("with_all_of", json!(owner)), ("member", json!(member))]))
            .await?;
        told.extend(states(key, now, |_| true));
    }
    mutation.append_all(told).await?;
    let facts = details([("member", json!(member)), ("revoked", json!(keys.len()))]);
    mutation.audit("owner.keys_revoked", &owner, facts).await?;
    Ok(Some(keys.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Actor;
    use crate::model::{Secret, State};
    use crate::store::{AuditQuery, KeyQuery, Location};
    use keyward_core::key::digest::Digest;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    #[tokio::test]
    async fn more_keys_than_one_batch_are_revoked_and_counted_once_each() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        for n in 0..7_u8 {
            let mut key = Key::new(format!("key_{n}"), "n".into(), "key".into(), NOW);
            key.owner = Some(if n == 6 { "globex" } else { "acme" }.to_owned());
            key.secrets = vec![Secret::new(format!("sec_{n}"), Digest([n; 32]), String::new(), NOW)];
            store.create_key(Actor::server(), key).await.unwrap();
        }
        for (size, expected) in [(2, 6), (2, 0)] {
            let revoked = store.revoke_keys_in_batches(Actor::server(), "acme".to_owned(), None, NOW, size).await;
            assert_eq!(revoked.unwrap(), Some(expected));
        }
        let active = KeyQuery { limit: 100, state: Some(State::Active), ..KeyQuery::default() };
        let left = store.keys(&active, NOW).await.unwrap().unwrap();
        assert_eq!(left.items.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["key_6"]);
        let of_the_owner = AuditQuery { limit: 100, subject: Some("acme".to_owned()), ..AuditQuery::default() };
        let batches = store.audit(&of_the_owner).await.unwrap().items;
        let batches: Vec<_> = batches.iter().filter_map(|entry| entry.details.get("revoked")?.as_u64()).collect();
        assert_eq!(batches, [2, 2, 2]);
    }
}
