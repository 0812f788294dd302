//! Changes that a key's user makes to the keys of its owner.
//!
//! The key that asks was verified before its turn to write came. So each change begins with a look at whether that key and
//! its owner are still what they were: one that was revoked meanwhile makes nothing.

use super::keys::{self, Rotated};
use super::mutation::Mutation;
use super::{Error, Store, owners};
use crate::clock::Timestamp;
use crate::model::{Actor, Key, Secret};
use crate::verify::Verified;
use keyward_contract::dialect::Dialect;
use keyward_contract::entry::Environment;
use std::time::Duration;

/// A key that asks for a change, as it was when it was verified.
#[derive(Clone, Debug)]
pub struct Asking {
    key: String,
    key_version: u64,
    environment: Option<Environment>,
    kinds: Vec<String>,
    owner: String,
    owner_version: u64,
}

/// What became of a key that was to be made.
#[derive(Clone, Debug)]
pub enum CreatedBy {
    /// It is there.
    Done(Box<Key>),
    /// Whatever was made would have credits once more.
    HasCredits,
    /// The owner has as many keys as it can make by itself.
    TooManyKeys,
}

/// The most keys that can be used of an owner who goes on making them by self-service.
pub const MAX_KEYS_BY_SELF_SERVICE: i64 = 100;

impl Asking {
    /// The key that was shown; `None` if it belongs to nobody.
    pub fn new(verified: &Verified, dialect: &Dialect) -> Option<Self> {
        let owner = verified.owner.as_ref()?;
        Some(Self {
            key: verified.key.id.clone(),
            key_version: verified.key.version,
            environment: verified.key.environment,
            kinds: dialect.managed_by(&verified.key.kind).map(str::to_owned).collect(),
            owner: owner.id.clone(),
            owner_version: owner.version,
        })
    }

    /// The owner's id.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The only environment whose keys it has to do with, if it is one.
    pub fn environment(&self) -> Option<Environment> {
        self.environment.filter(|environment| *environment == Environment::Test)
    }

    /// The kinds whose keys it has to do with, its own among them.
    pub fn kinds(&self) -> &[String] {
        &self.kinds
    }

    /// Whether it may know of the key: one of the same owner and of a kind that it has to do with, and no live one if it is
    /// for tests itself.
    pub fn may_see(&self, key: &Key) -> bool {
        key.owner.as_deref() == Some(&self.owner)
            && self.kinds.contains(&key.kind)
            && self.environment().is_none_or(|environment| key.environment == Some(environment))
    }

    fn actor(&self) -> Actor {
        Actor::key(&self.key)
    }
}

impl Store {
    /// Stores a new key that the other one has asked for.
    ///
    /// # Errors
    /// If it cannot be stored, or the one that asks was changed meanwhile.
    pub async fn create_key_by(&self, asking: Asking, key: Key) -> Result<CreatedBy, Error> {
        self.mutate(asking.actor(), key.created_at, |mutation| Box::pin(create(mutation, asking, key))).await
    }

    /// Ends a key that the other one may know of, unless it was ended before; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be stored, or the one that asks was changed meanwhile.
    pub async fn revoke_key_by(&self, asking: Asking, id: String, now: Timestamp) -> Result<Option<Key>, Error> {
        self.mutate(asking.actor(), now, |mutation| Box::pin(revoke(mutation, asking, id))).await
    }

    /// Gives a key, as it was when this was decided, a further secret, and ends those it has after the grace.
    ///
    /// # Errors
    /// If it cannot be stored, or one of the keys was changed meanwhile.
    pub async fn rotate_key_by(
        &self,
        asking: Asking,
        key: Key,
        secret: Secret,
        grace: Duration,
        now: Timestamp,
    ) -> Result<Rotated, Error> {
        self.mutate(asking.actor(), now, move |mutation| Box::pin(rotate(mutation, asking, key, secret, grace))).await
    }
}

async fn create(mutation: &mut Mutation, asking: Asking, key: Key) -> Result<CreatedBy, Error> {
    let asks = still(mutation, &asking).await?;
    let of_plan: Option<i64> = match &asks.plan {
        Some(plan) => {
            sqlx::query_scalar("SELECT credits FROM plans WHERE id = $1 AND credits IS NOT NULL")
                .bind(plan)
                .fetch_optional(mutation.connection())
                .await?
        }
        None => None,
    };
    if asks.credits.is_some() || of_plan.is_some() {
        return Ok(CreatedBy::HasCredits);
    }
    let now = mutation.now();
    let usable: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM keys WHERE owner = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)",
    )
    .bind(&asking.owner)
    .bind(now.as_stored())
    .fetch_one(mutation.connection())
    .await?;
    if usable >= MAX_KEYS_BY_SELF_SERVICE {
        return Ok(CreatedBy::TooManyKeys);
    }
    keys::create(mutation, key).await.map(|key| CreatedBy::Done(Box::new(key)))
}

async fn revoke(mutation: &mut Mutation, asking: Asking, id: String) -> Result<Option<Key>, Error> {
    still(mutation, &asking).await?;
    match keys::find(mutation.connection(), &id).await? {
        Some(key) if asking.may_see(&key) => keys::revoke(mutation, id.into()).await,
        _ => Ok(None),
    }
}

async fn rotate(
    mutation: &mut Mutation,
    asking: Asking,
    key: Key,
    secret: Secret,
    grace: Duration,
) -> Result<Rotated, Error> {
    still(mutation, &asking).await?;
    match keys::find(mutation.connection(), &key.id).await? {
        Some(current) if current.version == key.version => keys::rotate(mutation, key.id.into(), secret, grace).await,
        _ => Err(Error::Changed),
    }
}

/// The key that asks, if it and its owner are what they were.
async fn still(mutation: &mut Mutation, asking: &Asking) -> Result<Key, Error> {
    let key = keys::find(mutation.connection(), &asking.key).await?;
    let owner = owners::find(mutation.connection(), &asking.owner).await?;
    match (key, owner) {
        (Some(key), Some(owner))
            if (key.version, owner.version) == (asking.key_version, asking.owner_version)
                && key.owner.as_ref() == Some(&owner.id) =>
        {
            Ok(key)
        }
        _ => Err(Error::Changed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OwnerChange;
    use crate::store::Location;
    use keyward_contract::digest::Digest;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    fn key(n: u8) -> Key {
        let mut key = Key::new(format!("key_{n}"), "n".into(), "key".into(), NOW);
        key.owner = Some("acme".into());
        key.secrets = vec![Secret::new(format!("sec_{n}"), Digest([n; 32]), String::new(), NOW)];
        key
    }

    async fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        for n in 1..=2 {
            store.create_key(Actor::server(), key(n)).await.unwrap();
        }
        (dir, store)
    }

    async fn asking(store: &Store, n: u8) -> Asking {
        let (key, secret, owner) = store.key_by_digest(&Digest([n; 32])).await.unwrap().unwrap();
        let dialect = Dialect::built_in("keyward").unwrap().unwrap();
        Asking::new(&Verified { key, secret, owner }, &dialect).unwrap()
    }

    #[tokio::test]
    async fn a_key_that_was_revoked_or_whose_owner_was_disabled_meanwhile_changes_nothing() {
        for disable in [false, true] {
            let (_dir, store) = store().await;
            let (asking, other) = (asking(&store, 1).await, store.key("key_2").await.unwrap().unwrap());
            if disable {
                let change = OwnerChange { disabled: Some(true), ..OwnerChange::default() };
                store.change_owner(Actor::server(), "acme".to_owned(), change, NOW).await.unwrap();
            } else {
                store.revoke_key(Actor::server(), "key_1".to_owned(), NOW).await.unwrap();
            }
            let secret = Secret::new("sec_9".into(), Digest([9; 32]), String::new(), NOW);
            assert!(matches!(store.create_key_by(asking.clone(), key(3)).await, Err(Error::Changed)));
            assert!(matches!(store.revoke_key_by(asking.clone(), "key_2".into(), NOW).await, Err(Error::Changed)));
            let rotated = store.rotate_key_by(asking, other.clone(), secret, Duration::ZERO, NOW).await;
            assert!(matches!(rotated, Err(Error::Changed)));
            assert_eq!(store.key("key_2").await.unwrap(), Some(other));
            assert_eq!(store.key("key_3").await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_key_that_was_changed_since_it_was_looked_at_is_not_rotated() {
        let (_dir, store) = store().await;
        let (asking, other) = (asking(&store, 1).await, store.key("key_2").await.unwrap().unwrap());
        let secret = |n: u8| Secret::new(format!("sec_{n}"), Digest([n; 32]), String::new(), NOW);
        store.rotate_key(Actor::server(), "key_2".to_owned(), secret(8), Duration::ZERO, NOW).await.unwrap();
        let rotated = store.rotate_key_by(asking, other, secret(9), Duration::ZERO, NOW).await;
        assert!(matches!(rotated, Err(Error::Changed)));
    }

    #[tokio::test]
    async fn a_plan_with_credits_gives_none_to_a_key_that_a_key_makes() {
        let (_dir, store) = store().await;
        let asking = asking(&store, 1).await;
        for (plan, credits) in [("free", "NULL"), ("paid", "5")] {
            let insert =
                format!("INSERT INTO plans (id, credits, created_at, version) VALUES ('{plan}', {credits}, 0, 1)");
            sqlx::query(sqlx::AssertSqlSafe(insert)).execute(&store.database.writer).await.unwrap();
            let assign = format!("UPDATE keys SET plan = '{plan}' WHERE id = 'key_1'");
            sqlx::query(sqlx::AssertSqlSafe(assign)).execute(&store.database.writer).await.unwrap();
            let made = store.create_key_by(asking.clone(), key(if plan == "free" { 3 } else { 4 })).await.unwrap();
            assert_eq!(matches!(made, CreatedBy::HasCredits), plan == "paid", "{plan}");
        }
    }

    #[tokio::test]
    async fn an_owner_makes_a_hundred_keys_by_itself_and_no_more_until_one_has_ended() {
        let (_dir, store) = store().await;
        let asking = asking(&store, 1).await;
        for n in 3..=100 {
            assert!(matches!(store.create_key_by(asking.clone(), key(n)).await, Ok(CreatedBy::Done(_))), "{n}");
        }
        assert!(matches!(store.create_key_by(asking.clone(), key(101)).await, Ok(CreatedBy::TooManyKeys)));
        store.revoke_key_by(asking.clone(), "key_50".into(), NOW).await.unwrap().unwrap();
        assert!(matches!(store.create_key_by(asking, key(101)).await, Ok(CreatedBy::Done(_))));
    }
}
