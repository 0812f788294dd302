//! Retention: secrets that were revoked, expired or rotated out long ago are purged from the edges.

use super::mutation::Mutation;
use super::query_builder::Sql;
use super::rows::digest;
use super::{Authorization, Error, Store, idempotency, keys, summary};
use crate::clock::Timestamp;
use keyward_core::wire::entry::Body;
use std::time::Duration;

/// The default time after which they are purged.
pub const RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// The maximum that one transaction purges, so that other writes do not wait long.
const BATCH: usize = 500;
/// The maximum that one query returns.
const FOUND_AT_ONCE: u32 = 10_000;

/// The end of a query for secrets at the edges that can be purged.
const PURGEABLE: &str = "FROM secrets JOIN keys ON keys.id = secrets.key_id
     WHERE NOT secrets.forgotten AND (keys.revoked_at < $1 OR keys.expires_at < $1 OR secrets.not_after < $1)";

/// The end of a query for purged secrets that should be at the edges.
const PURGED_TOO_SOON: &str = "FROM secrets JOIN keys ON keys.id = secrets.key_id
     WHERE secrets.forgotten AND COALESCE(keys.revoked_at, $1) >= $1 AND COALESCE(keys.expires_at, $1) >= $1
     AND COALESCE(secrets.not_after, $1) >= $1";

/// How many secrets were changed at the edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Purged {
    /// The number of purged secrets.
    pub purged: usize,
    /// The number of secrets that had been purged too soon and were sent again.
    pub restored: usize,
}

impl Store {
    /// Purges secrets that were revoked, expired or rotated out before the retention, and sends again those that were purged while the
    /// clock was wrong. The keys stay in the database. Idempotent requests are forgotten after 24 hours.
    pub async fn purge_expired(&self, now: Timestamp, retention: Duration) -> Result<Purged, Error> {
        summary::establish(&self.database).await?;
        self.mutate(Authorization::server(), now, |mutation| Box::pin(idempotency::forget_old(mutation))).await?;
        let ended_until = now.minus(retention);
        let mut purged = Purged::default();
        loop {
            let found = self.candidates(PURGED_TOO_SOON, ended_until).await?;
            for some in found.chunks(BATCH) {
                let some = some.to_vec();
                let restored =
                    self.mutate(Authorization::server(), now, move |m| Box::pin(restore(m, some, ended_until)));
                purged.restored += restored.await?;
            }
            if found.len() < usize::try_from(FOUND_AT_ONCE).unwrap_or(usize::MAX) {
                break;
            }
        }
        loop {
            let found = self.candidates(PURGEABLE, ended_until).await?;
            for some in found.chunks(BATCH) {
                let some = some.to_vec();
                let purged_now =
                    self.mutate(Authorization::server(), now, move |m| Box::pin(purge(m, some, ended_until)));
                purged.purged += purged_now.await?;
            }
            if found.len() < usize::try_from(FOUND_AT_ONCE).unwrap_or(usize::MAX) {
                return Ok(purged);
            }
        }
    }

    /// The ids of candidates. The query scans all secrets, so it runs outside of a write transaction; each candidate is checked again
    /// within one.
    async fn candidates(&self, which: &'static str, ended_until: Timestamp) -> Result<Vec<String>, Error> {
        let mut query = Sql::with_value("SELECT secrets.id ", which, ended_until.as_stored());
        query.push(" LIMIT ").bind(i64::from(FOUND_AT_ONCE));
        let found: Vec<(String,)> =
            query.build_as()?.fetch_all(&mut *self.database.bulk_readers.acquire().await?).await?;
        Ok(found.into_iter().map(|(id,)| id).collect())
    }
}

async fn restore(mutation: &mut Mutation, ids: Vec<String>, ended_until: Timestamp) -> Result<usize, Error> {
    let mut query = Sql::with_value("SELECT secrets.id, secrets.key_id ", PURGED_TOO_SOON, ended_until.as_stored());
    query.push(" AND secrets.id IN (").bind_all(ids).push(")");
    let too_soon: Vec<(String, String)> = query.build_as()?.fetch_all(mutation.connection()).await?;
    for (id, key_id) in &too_soon {
        set_forgotten(mutation, id, false).await?;
        let Some(key) = keys::find(mutation.connection(), key_id).await? else { continue };
        keys::tell(mutation, &key, |secret| secret.id == *id).await?;
    }
    Ok(too_soon.len())
}

async fn purge(mutation: &mut Mutation, ids: Vec<String>, ended_until: Timestamp) -> Result<usize, Error> {
    let mut query = Sql::with_value("SELECT secrets.id, secrets.digest ", PURGEABLE, ended_until.as_stored());
    query.push(" AND secrets.id IN (").bind_all(ids).push(")");
    let ended: Vec<(String, Vec<u8>)> = query.build_as()?.fetch_all(mutation.connection()).await?;
    for (id, subject) in &ended {
        set_forgotten(mutation, id, true).await?;
        mutation.append(digest(subject.clone())?, Body::Removed).await?;
    }
    Ok(ended.len())
}

async fn set_forgotten(mutation: &mut Mutation, secret: &str, forgotten: bool) -> Result<(), Error> {
    sqlx::query("UPDATE secrets SET forgotten = $1 WHERE id = $2")
        .bind(forgotten)
        .bind(secret)
        .execute(mutation.connection())
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Actor;
    use crate::model::{Key, Secret};
    use crate::store::Location;
    use keyward_core::key::digest::Digest;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: Timestamp = Timestamp::EXAMPLE;

    fn key(n: u8, change: impl FnOnce(&mut Key)) -> Key {
        let mut key = Key::new(format!("key_{n}"), "n".into(), "key".into(), NOW);
        key.secrets = vec![Secret::new(format!("sec_{n}"), Digest([n; 32]), String::new(), NOW)];
        change(&mut key);
        key
    }

    #[tokio::test]
    async fn a_secret_is_forgotten_once_thirty_days_after_it_ended_in_whatever_way() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        for key in [
            key(1, |_| {}),
            key(2, |key| key.revoked_at = Some(NOW)),
            key(3, |key| key.expires_at = Some(NOW)),
            key(4, |key| key.secrets[0].not_after = Some(NOW)),
        ] {
            store.create_key(Actor::server(), key).await.unwrap();
        }
        assert_eq!(store.purge_expired(NOW.plus(30 * DAY), RETENTION).await.unwrap(), Purged::default());
        let later = NOW.plus(31 * DAY);
        assert_eq!(store.purge_expired(later, RETENTION).await.unwrap(), Purged { purged: 3, restored: 0 });
        assert_eq!(store.purge_expired(later, RETENTION).await.unwrap(), Purged::default());
        let left: Vec<Vec<u8>> = sqlx::query_scalar("SELECT subject FROM edge_entries WHERE NOT removed")
            .fetch_all(&mut *store.database.readers.acquire().await.unwrap())
            .await
            .unwrap();
        assert_eq!(left, [[1; 32]]);
    }

    #[tokio::test]
    async fn a_longer_retention_tells_again_what_a_shorter_one_has_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        store.create_key(Actor::server(), key(1, |key| key.revoked_at = Some(NOW))).await.unwrap();
        let later = NOW.plus(2 * DAY);
        assert_eq!(store.purge_expired(later, DAY).await.unwrap(), Purged { purged: 1, restored: 0 });
        assert_eq!(store.purge_expired(later, RETENTION).await.unwrap(), Purged { purged: 0, restored: 1 });
    }

    #[tokio::test]
    async fn nobody_who_writes_waits_while_all_secrets_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        store.create_key(Actor::server(), key(1, |key| key.revoked_at = Some(NOW))).await.unwrap();
        let _another_write = store.commit_order.lock().await;
        assert_eq!(store.candidates(PURGEABLE, NOW.plus(DAY)).await.unwrap(), ["sec_1"]);
        assert!(store.candidates(PURGED_TOO_SOON, NOW.plus(DAY)).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_was_forgotten_does_not_come_back_when_its_key_is_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        store.create_key(Actor::server(), key(1, |key| key.expires_at = Some(NOW))).await.unwrap();
        let later = NOW.plus(31 * DAY);
        assert_eq!(store.purge_expired(later, RETENTION).await.unwrap().purged, 1);
        let bell = store.hub().subscribe();
        let key = store.revoke_key(Actor::server(), "key_1".to_owned(), later).await.unwrap().unwrap();
        assert_eq!(key.revoked_at, Some(later));
        assert!(!bell.has_changed().unwrap());
    }

    #[tokio::test]
    async fn what_was_forgotten_while_the_clock_was_wrong_is_restored() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let in_a_year = NOW.plus(365 * DAY);
        for key in [
            key(1, |key| key.expires_at = Some(in_a_year)),
            key(2, |key| key.secrets[0].not_after = Some(in_a_year)),
            key(3, |key| key.revoked_at = Some(NOW)),
        ] {
            store.create_key(Actor::server(), key).await.unwrap();
        }
        assert_eq!(store.purge_expired(NOW.plus(1000 * DAY), RETENTION).await.unwrap().purged, 3);
        let later = NOW.plus(31 * DAY);
        assert_eq!(store.purge_expired(later, RETENTION).await.unwrap(), Purged { purged: 0, restored: 2 });
        assert_eq!(store.purge_expired(later, RETENTION).await.unwrap(), Purged::default());
        let known: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT subject FROM edge_entries WHERE NOT removed ORDER BY subject")
                .fetch_all(&mut *store.database.readers.acquire().await.unwrap())
                .await
                .unwrap();
        assert_eq!(known, [[1; 32], [2; 32]]);
    }

    #[tokio::test]
    async fn what_was_forgotten_is_read_no_more_with_its_key_but_found_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let secret = |n: u8| Secret::new(format!("sec_{n}"), Digest([n; 32]), String::new(), NOW);
        let rotate = |n: u8, grace, now| store.rotate_key(Actor::server(), "key_1".to_owned(), secret(n), grace, now);
        store.create_key(Actor::server(), key(1, |_| {})).await.unwrap();
        rotate(2, Duration::ZERO, NOW).await.unwrap();
        let later = NOW.plus(31 * DAY);
        assert_eq!(store.purge_expired(later, RETENTION).await.unwrap().purged, 1);
        let ids = |key: &Key| key.secrets.iter().map(|secret| secret.id.clone()).collect::<Vec<_>>();
        let read = store.key("key_1").await.unwrap().unwrap();
        assert_eq!(ids(&read), ["sec_2"]);
        assert!(store.is_taken(&Digest([1; 32])).await.unwrap() && !store.is_taken(&Digest([9; 32])).await.unwrap());
        let turn = store.lookup_permit(b"key").await.unwrap();
        let (_, found, _) = store.key_by_digest(&turn, &Digest([1; 32])).await.unwrap().unwrap();
        assert_eq!((found.id.as_str(), found.is_valid(later)), ("sec_1", false), "it is known to have been one");
        // What has ended with its key is shown for good.
        store.revoke_key(Actor::server(), "key_1".to_owned(), later).await.unwrap();
        assert_eq!(store.purge_expired(later.plus(31 * DAY), RETENTION).await.unwrap().purged, 1);
        assert_eq!(ids(&store.key("key_1").await.unwrap().unwrap()), ["sec_2"]);
    }

    #[tokio::test]
    async fn a_rotation_ends_what_was_forgotten_while_the_clock_was_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        store.create_key(Actor::server(), key(1, |key| key.secrets[0].not_after = Some(NOW.plus(DAY)))).await.unwrap();
        assert_eq!(store.purge_expired(NOW.plus(365 * DAY), RETENTION).await.unwrap().purged, 1);
        let new = Secret::new("sec_2".into(), Digest([2; 32]), String::new(), NOW);
        store.rotate_key(Actor::server(), "key_1".to_owned(), new, Duration::ZERO, NOW).await.unwrap();
        assert_eq!(store.purge_expired(NOW, RETENTION).await.unwrap().restored, 1);
        let key = store.key("key_1").await.unwrap().unwrap();
        assert_eq!(key.secrets.iter().map(|secret| secret.is_valid(NOW)).collect::<Vec<_>>(), [false, true]);
    }
}
