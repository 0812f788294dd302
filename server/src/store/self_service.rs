//! Changes that users make by self-service to the keys of their owner.
//!
//! The calling key was verified before the transaction. So its authorization (`store/authorization.rs`) holds only while that key and
//! its owner are unchanged: a key that was revoked meanwhile changes nothing.

use super::authorization::{Access, StoredCredential};
use super::keys;
use super::mutation::Mutation;
use super::{Authorization, Error, KeyError, QueuePermit, READ_PATIENCE, Step, Store, owners, pause, within};
use crate::clock::{Clock, Timestamp};
use crate::model::{Actor, Key, Owner, PausedBy, Secret, is_active};
use keyward_core::dialect::Dialect;
use keyward_core::key::environment::Environment;
use sqlx::AnyConnection;
use std::time::Duration;

/// The calling key, as it was verified.
#[derive(Clone, Debug)]
pub struct Asking {
    key: String,
    key_version: u64,
    environment: Option<Environment>,
    kinds: Vec<String>,
    owner: String,
    owner_version: u64,
    secret: String,
    /// When the key or the secret that was shown ends by itself.
    expires_at: Option<Timestamp>,
}

/// The maximum of active keys of an owner, for creating another one by self-service.
pub const MAX_KEYS_BY_SELF_SERVICE: i64 = 100;

/// The maximum of secrets of a key at the edges, for rotating it by self-service. Operators can still rotate it.
pub const MAX_KNOWN_SECRETS_BY_SELF_SERVICE: usize = 100;

/// The issuance quota: how many secrets of new keys and rotations an owner can issue by self-service at once. One is available again
/// after each [`ISSUANCE_INTERVAL`]. All edges keep each secret for the retention.
pub const ISSUANCE_QUOTA: u32 = 1000;

/// The interval in which one secret becomes available: [`ISSUANCE_QUOTA`] in thirty days.
const ISSUANCE_INTERVAL: Duration = Duration::from_secs(30 * 86_400 / ISSUANCE_QUOTA as u64);

impl Asking {
    /// The key of that owner, by the secret that was shown.
    pub fn new(key: &Key, secret: &Secret, owner: &Owner, dialect: &Dialect) -> Self {
        Self {
            key: key.id.clone(),
            key_version: key.version,
            environment: key.environment,
            kinds: dialect.managed_by(&key.kind).map(str::to_owned).collect(),
            owner: owner.id.clone(),
            owner_version: owner.version,
            secret: secret.id.clone(),
            expires_at: [key.expires_at, secret.not_after].into_iter().flatten().min(),
        }
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

impl Authorization {
    /// By a verified key.
    pub fn of_key(asking: Asking, clock: &Clock) -> Self {
        Self::of_stored(asking.actor(), asking, None, clock)
    }
}

impl StoredCredential for Asking {
    fn is_operators(&self) -> bool {
        false
    }

    fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    fn check<'a>(&'a self, connection: &'a mut AnyConnection, _: Access, now: Timestamp) -> Step<'a, ()> {
        Box::pin(async move { still(connection, self, now).await.map(drop) })
    }
}

impl Store {
    /// Checks the issuance quota of the owner of the calling key, before a secret is drawn and hashed. The transaction that stores
    /// the secret checks again.
    pub async fn check_issuance_quota(
        &self,
        _permit: &QueuePermit,
        asking: &Asking,
        now: Timestamp,
    ) -> Result<(), KeyError> {
        let tat = within(READ_PATIENCE, async {
            owner_tat(&mut *self.database.user_readers.acquire().await?, &asking.owner).await
        });
        tat_after(tat.await?, now).map(|_| ())
    }

    /// Stores a new key that the other one has asked for.
    ///
    /// # Errors
    /// If it cannot be stored, or the calling key was changed since it was authenticated.
    pub async fn create_key_by(&self, asking: Asking, key: Key, clock: &Clock) -> Result<Key, KeyError> {
        let (by, begun) = (Authorization::of_key(asking.clone(), clock), key.created_at);
        self.mutate_keys(by, begun, |mutation| Box::pin(create(mutation, asking, key))).await
    }

    /// Revokes a key that the calling key may see; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be stored, or the calling key was changed since it was authenticated.
    pub async fn revoke_key_by(&self, asking: Asking, id: String, clock: &Clock) -> Result<Option<Key>, Error> {
        let by = Authorization::of_key(asking.clone(), clock);
        self.mutate(by, clock(), |mutation| Box::pin(revoke(mutation, asking, id))).await
    }

    /// Pauses a key that the calling key may see.
    ///
    /// # Errors
    /// If it cannot be stored, or the calling key was changed since it was authenticated; if there is no such key, or it has ended.
    pub async fn pause_key_by(&self, asking: Asking, id: String, clock: &Clock) -> Result<Key, KeyError> {
        let by = Authorization::of_key(asking.clone(), clock);
        self.mutate_keys(by, clock(), |mutation| Box::pin(pause(mutation, asking, id))).await
    }

    /// Resumes a key, as it was when this was decided.
    ///
    /// # Errors
    /// If it cannot be stored, or one of the keys was changed since; if it has ended, or an operator paused it.
    pub async fn resume_key_by(&self, asking: Asking, key: Key, clock: &Clock) -> Result<Key, KeyError> {
        let by = Authorization::of_key(asking, clock);
        self.mutate_keys(by, clock(), |mutation| Box::pin(resume(mutation, key))).await
    }

    /// Gives a key, as it was when this was decided, a further secret, and ends those it has after the grace.
    ///
    /// # Errors
    /// If it cannot be stored, or one of the keys was changed since.
    pub async fn rotate_key_by(
        &self,
        asking: Asking,
        key: Key,
        secret: Secret,
        grace: Duration,
        clock: &Clock,
    ) -> Result<Key, KeyError> {
        let by = Authorization::of_key(asking.clone(), clock);
        self.mutate_keys(by, clock(), move |mutation| Box::pin(rotate(mutation, asking, key, secret, grace))).await
    }
}

async fn create(mutation: &mut Mutation, asking: Asking, key: Key) -> Result<Key, KeyError> {
    let now = mutation.now();
    let asks = still(mutation.connection(), &asking, now).await?;
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
        return Err(KeyError::HasCredits);
    }
    let tat = next_tat(mutation, &asking.owner).await?;
    let usable: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM (SELECT id FROM keys
         WHERE owner = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2) LIMIT $3) AS usable",
    )
    .bind(&asking.owner)
    .bind(now.as_stored())
    .bind(MAX_KEYS_BY_SELF_SERVICE)
    .fetch_one(mutation.connection())
    .await?;
    if usable >= MAX_KEYS_BY_SELF_SERVICE {
        return Err(KeyError::TooManyKeys);
    }
    set_owner_tat(mutation, &asking.owner, tat).await?;
    Ok(keys::create(mutation, key).await?)
}

async fn revoke(mutation: &mut Mutation, asking: Asking, id: String) -> Result<Option<Key>, Error> {
    match keys::find(mutation.connection(), &id).await? {
        Some(key) if asking.may_see(&key) => keys::revoke(mutation, id.into()).await,
        _ => Ok(None),
    }
}

async fn pause(mutation: &mut Mutation, asking: Asking, id: String) -> Result<Key, KeyError> {
    match keys::find(mutation.connection(), &id).await? {
        Some(key) if asking.may_see(&key) => pause::pause(mutation, id.into(), PausedBy::SelfService).await,
        _ => Err(KeyError::NotFound),
    }
}

async fn resume(mutation: &mut Mutation, key: Key) -> Result<Key, KeyError> {
    match keys::find(mutation.connection(), &key.id).await? {
        Some(current) if current.version == key.version => {
            pause::resume(mutation, key.id.into(), PausedBy::SelfService).await
        }
        _ => Err(Error::Changed.into()),
    }
}

async fn rotate(
    mutation: &mut Mutation,
    asking: Asking,
    key: Key,
    secret: Secret,
    grace: Duration,
) -> Result<Key, KeyError> {
    match keys::find(mutation.connection(), &key.id).await? {
        Some(current) if current.version == key.version => {}
        _ => return Err(Error::Changed.into()),
    }
    let tat = next_tat(mutation, &asking.owner).await?;
    let rotated = keys::rotate(mutation, key.id.into(), secret, grace, MAX_KNOWN_SECRETS_BY_SELF_SERVICE).await?;
    set_owner_tat(mutation, &asking.owner, tat).await?;
    Ok(rotated)
}

/// The TAT of the owner after another secret, unless the quota is used up at the time of the transaction.
async fn next_tat(mutation: &mut Mutation, owner: &str) -> Result<Timestamp, KeyError> {
    let now = mutation.now();
    let tat = owner_tat(mutation.connection(), owner).await?;
    let latest = now.plus(ISSUANCE_INTERVAL * ISSUANCE_QUOTA);
    if tat > Some(latest) {
        // The clock was set back: the owner does not wait until it has caught up.
        set_owner_tat(mutation, owner, latest).await?;
    }
    tat_after(tat, now)
}

/// The issuance quota of an owner is a token bucket, kept as the theoretical arrival time (TAT) of the generic cell rate
/// algorithm (GCRA, ITU-T I.371).
fn tat_after(tat: Option<Timestamp>, now: Timestamp) -> Result<Timestamp, KeyError> {
    let latest = now.plus(ISSUANCE_INTERVAL * ISSUANCE_QUOTA);
    let next_tat = tat.unwrap_or(now).max(now).min(latest).plus(ISSUANCE_INTERVAL);
    match next_tat.as_ms().saturating_sub(latest.as_ms()) {
        0 => Ok(next_tat),
        over_ms => Err(KeyError::TooSoon { retry_after: Duration::from_millis(over_ms) }),
    }
}

/// The theoretical arrival time (TAT) of the GCRA for the owner: when its whole quota is available again.
async fn owner_tat(connection: &mut AnyConnection, owner: &str) -> Result<Option<Timestamp>, Error> {
    let stored: Option<Option<i64>> = sqlx::query_scalar("SELECT share_full_at FROM owners WHERE id = $1")
        .bind(owner)
        .fetch_optional(connection)
        .await?;
    Ok(stored.flatten().map(Timestamp::from_stored))
}

/// Stores the TAT of the owner.
async fn set_owner_tat(mutation: &mut Mutation, owner: &str, tat: Timestamp) -> Result<(), Error> {
    sqlx::query("UPDATE owners SET share_full_at = $1 WHERE id = $2")
        .bind(tat.as_stored())
        .bind(owner)
        .execute(mutation.connection())
        .await?;
    Ok(())
}

/// The calling key, if it and its owner are unchanged.
async fn still(connection: &mut AnyConnection, asking: &Asking, now: Timestamp) -> Result<Key, Error> {
    let key = keys::find(&mut *connection, &asking.key).await?;
    let is_valid = key.as_ref().is_some_and(|key| {
        let secret = key.secrets.iter().find(|secret| secret.id == asking.secret);
        secret.is_some_and(|secret| is_active(key, secret, now))
    });
    if !is_valid {
        return Err(Error::NotAuthorized);
    }
    let owner = owners::find(connection, &asking.owner).await?;
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
    use keyward_core::key::digest::Digest;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    fn key(n: u8) -> Key {
        let mut key = Key::new(format!("key_{n}"), "n".into(), "key".into(), NOW);
        key.owner = Some("acme".into());
        key.secrets = vec![Secret::new(format!("sec_{n}"), Digest([n; 32]), String::new(), NOW)];
        key
    }

    fn at(now: Timestamp) -> Clock {
        std::sync::Arc::new(move || now)
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
        let turn = store.lookup_permit(&[n]).await.unwrap();
        let (key, secret, owner) = store.key_by_digest(&turn, &Digest([n; 32])).await.unwrap().unwrap();
        let dialect = Dialect::built_in("keyward").unwrap().unwrap();
        Asking::new(&key, &secret, &owner.unwrap(), &dialect)
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
            let is_refused = |error: KeyError| match error {
                KeyError::Store(Error::Changed) => disable,
                KeyError::Store(Error::NotAuthorized) => !disable,
                _ => false,
            };
            assert!(store.create_key_by(asking.clone(), key(3), &at(NOW)).await.is_err_and(is_refused));
            let revoked = store.revoke_key_by(asking.clone(), "key_2".into(), &at(NOW)).await;
            assert!(revoked.is_err_and(|error| is_refused(error.into())));
            let rotated = store.rotate_key_by(asking, other.clone(), secret, Duration::ZERO, &at(NOW)).await;
            assert!(rotated.is_err_and(is_refused));
            assert_eq!(store.key("key_2").await.unwrap(), Some(other));
            assert_eq!(store.key("key_3").await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_key_or_secret_that_has_expired_changes_nothing() {
        let (_dir, store) = store().await;
        let other = Secret::new("sec_9".into(), Digest([9; 32]), String::new(), NOW);
        store.rotate_key(Actor::server(), "key_1".to_owned(), other, Duration::from_secs(9), NOW).await.unwrap();
        let mut expiring = key(4);
        expiring.expires_at = Some(NOW.plus(Duration::from_secs(9)));
        store.create_key(Actor::server(), expiring).await.unwrap();
        for (n, made) in [(1, 5), (4, 6)] {
            let asking = asking(&store, n).await;
            let end = NOW.plus(Duration::from_secs(9));
            let late = store.create_key_by(asking.clone(), key(made), &at(end)).await;
            assert!(matches!(late, Err(KeyError::Store(Error::NotAuthorized))), "{late:?}");
            let in_time = end.minus(Duration::from_millis(1));
            assert!(store.create_key_by(asking, key(made), &at(in_time)).await.is_ok());
        }
    }

    #[tokio::test]
    async fn a_key_that_was_changed_since_it_was_looked_at_is_not_rotated() {
        let (_dir, store) = store().await;
        let (asking, other) = (asking(&store, 1).await, store.key("key_2").await.unwrap().unwrap());
        let secret = |n: u8| Secret::new(format!("sec_{n}"), Digest([n; 32]), String::new(), NOW);
        store.rotate_key(Actor::server(), "key_2".to_owned(), secret(8), Duration::ZERO, NOW).await.unwrap();
        let rotated = store.rotate_key_by(asking, other, secret(9), Duration::ZERO, &at(NOW)).await;
        assert!(matches!(rotated, Err(KeyError::Store(Error::Changed))));
    }

    #[tokio::test]
    async fn a_plan_with_credits_gives_none_to_a_key_that_a_key_makes() {
        let (_dir, store) = store().await;
        let asking = asking(&store, 1).await;
        for (plan, credits) in [("free", "NULL"), ("paid", "5")] {
            let insert =
                format!("INSERT INTO plans (id, credits, created_at, version) VALUES ('{plan}', {credits}, 0, 1)");
            sqlx::query(sqlx::AssertSqlSafe(insert))
                .execute(&mut *store.database.writer.acquire().await.unwrap())
                .await
                .unwrap();
            let assign = format!("UPDATE keys SET plan = '{plan}' WHERE id = 'key_1'");
            sqlx::query(sqlx::AssertSqlSafe(assign))
                .execute(&mut *store.database.writer.acquire().await.unwrap())
                .await
                .unwrap();
            let made = store.create_key_by(asking.clone(), key(if plan == "free" { 3 } else { 4 }), &at(NOW)).await;
            assert_eq!(made.is_ok(), plan == "free", "{plan}");
            assert_eq!(matches!(made, Err(KeyError::HasCredits)), plan == "paid", "{plan}");
        }
    }

    #[tokio::test]
    async fn an_owner_makes_a_hundred_keys_by_itself_and_no_more_until_one_has_ended() {
        let (_dir, store) = store().await;
        let asking = asking(&store, 1).await;
        for n in 3..=100 {
            assert!(store.create_key_by(asking.clone(), key(n), &at(NOW)).await.is_ok(), "{n}");
        }
        assert!(matches!(store.create_key_by(asking.clone(), key(101), &at(NOW)).await, Err(KeyError::TooManyKeys)));
        store.revoke_key_by(asking.clone(), "key_50".into(), &at(NOW)).await.unwrap().unwrap();
        assert!(store.create_key_by(asking, key(101), &at(NOW)).await.is_ok());
    }

    /// Sets the TAT of every owner.
    async fn set_tat(store: &Store, full_at: Timestamp) {
        let set = format!("UPDATE owners SET share_full_at = {}", full_at.as_stored());
        sqlx::query(sqlx::AssertSqlSafe(set))
            .execute(&mut *store.database.writer.acquire().await.unwrap())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn an_owner_makes_a_thousand_secrets_at_once_and_one_more_after_each_step() {
        let (_dir, store) = store().await;
        let asking = asking(&store, 1).await;
        let made = |n: u8, now| Key { created_at: now, ..key(n) };
        let secret = |n: u8| Secret::new(format!("sec_{n}"), Digest([n; 32]), String::new(), NOW);
        set_tat(&store, NOW.plus(ISSUANCE_INTERVAL * (ISSUANCE_QUOTA - 2))).await;
        // Whatever is ended has been made all the same.
        assert!(store.create_key_by(asking.clone(), key(3), &at(NOW)).await.is_ok());
        store.revoke_key_by(asking.clone(), "key_3".into(), &at(NOW)).await.unwrap().unwrap();
        let other = store.key("key_2").await.unwrap().unwrap();
        let rotate = async |key: Key, n, now| {
            store.rotate_key_by(asking.clone(), key, secret(n), Duration::ZERO, &at(now)).await
        };
        let other = rotate(other, 4, NOW).await.unwrap();
        let second = Duration::from_secs(1);
        let turn = store.user_read_permit(asking.owner()).await.unwrap();
        let used_up = store.check_issuance_quota(&turn, &asking, NOW).await;
        assert!(
            matches!(used_up, Err(KeyError::TooSoon { retry_after }) if retry_after == ISSUANCE_INTERVAL),
            "{used_up:?}"
        );
        store.check_issuance_quota(&turn, &asking, NOW.plus(ISSUANCE_INTERVAL)).await.unwrap();
        for (now, left) in [(NOW, ISSUANCE_INTERVAL), (NOW.plus(ISSUANCE_INTERVAL).minus(second), second)] {
            let made = store.create_key_by(asking.clone(), made(5, now), &at(now)).await;
            assert!(matches!(made, Err(KeyError::TooSoon { retry_after }) if retry_after == left), "{made:?}");
            let rotated = rotate(other.clone(), 5, now).await;
            assert!(matches!(rotated, Err(KeyError::TooSoon { retry_after }) if retry_after == left), "{rotated:?}");
        }
        let later = NOW.plus(ISSUANCE_INTERVAL);
        assert!(store.create_key_by(asking.clone(), made(5, later), &at(later)).await.is_ok());
        assert!(matches!(store.create_key_by(asking, made(6, later), &at(later)).await, Err(KeyError::TooSoon { .. })));
        store.create_key(Actor::server(), key(7)).await.unwrap();
    }

    #[tokio::test]
    async fn refused_rotation_uses_no_quota() {
        let (_dir, store) = store().await;
        let asking = asking(&store, 1).await;
        let revoked = store.revoke_key(Actor::server(), "key_2".to_owned(), NOW).await.unwrap().unwrap();
        let secret = Secret::new("sec_9".into(), Digest([9; 32]), String::new(), NOW);
        let rotated = store.rotate_key_by(asking, revoked, secret, Duration::ZERO, &at(NOW)).await;
        assert!(matches!(rotated, Err(KeyError::NotActive { .. })), "{rotated:?}");
        let shares: Option<i64> = sqlx::query_scalar("SELECT MAX(share_full_at) FROM owners")
            .fetch_one(&mut *store.database.readers.acquire().await.unwrap())
            .await
            .unwrap();
        assert_eq!(shares, None);
    }

    #[tokio::test]
    async fn a_clock_that_was_set_back_lets_an_owner_wait_for_no_longer_than_one_step() {
        let (_dir, store) = store().await;
        let asking = asking(&store, 1).await;
        set_tat(&store, NOW.plus(ISSUANCE_INTERVAL * ISSUANCE_QUOTA * 12)).await;
        let made = store.create_key_by(asking.clone(), key(3), &at(NOW)).await;
        assert!(matches!(made, Err(KeyError::TooSoon { retry_after }) if retry_after == ISSUANCE_INTERVAL), "{made:?}");
        let key = Key { created_at: NOW.plus(ISSUANCE_INTERVAL), ..key(3) };
        assert!(store.create_key_by(asking, key, &at(NOW.plus(ISSUANCE_INTERVAL))).await.is_ok());
    }

    #[tokio::test]
    async fn a_key_that_users_rotate_no_more_is_rotated_by_operators() {
        let (_dir, store) = store().await;
        let asking = asking(&store, 1).await;
        let secrets: Vec<_> = (0..MAX_KNOWN_SECRETS_BY_SELF_SERVICE)
            .map(|n| format!("('sec_{n}', 'key_3', {}, '', 0, 1, false)", digest_literal(n)))
            .collect();
        store.create_key(Actor::server(), Key { secrets: Vec::new(), ..key(3) }).await.unwrap();
        let insert = format!(
            "INSERT INTO secrets (id, key_id, digest, hint, created_at, not_after, forgotten) VALUES {}",
            secrets.join(", ").replace("sec_", "sec_of_3_")
        );
        sqlx::query(sqlx::AssertSqlSafe(insert))
            .execute(&mut *store.database.writer.acquire().await.unwrap())
            .await
            .unwrap();
        let secret = |n: u8| Secret::new(format!("sec_{n}"), Digest([n; 32]), String::new(), NOW);
        let rotate = async |n: u8| {
            let key = store.key("key_3").await.unwrap().unwrap();
            store.rotate_key_by(asking.clone(), key, secret(n), Duration::ZERO, &at(NOW)).await
        };
        let refused = rotate(8).await;
        let Err(KeyError::TooManyKnownSecrets { most }) = refused else { panic!("{refused:?}") };
        assert_eq!(most, MAX_KNOWN_SECRETS_BY_SELF_SERVICE);
        let rotated = store.rotate_key(Actor::server(), "key_3".to_owned(), secret(9), Duration::ZERO, NOW).await;
        rotated.unwrap();
        // Once the edges have forgotten them there is room again.
        let forget = "UPDATE secrets SET forgotten = true WHERE id LIKE 'sec_of_3_%'";
        sqlx::query(forget).execute(&mut *store.database.writer.acquire().await.unwrap()).await.unwrap();
        assert_eq!(store.key("key_3").await.unwrap().unwrap().secrets.len(), 1);
        rotate(10).await.unwrap();
    }

    /// A digest of its own, as SQL writes it.
    fn digest_literal(n: usize) -> String {
        format!("x'{:064x}'", n + 1_000_000)
    }
}
