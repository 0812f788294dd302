//! Leaked secrets: found by their digests, marked permanently, and their keys revoked if configured.

use super::keys::Excluded;
use super::mutation::Mutation;
use super::query_builder::{ROWS_OF_A_STATEMENT, Sql};
use super::rows::digest;
use super::{Authorization, Error, READ_PATIENCE, Store, keys, within};
use crate::clock::Timestamp;
use crate::model::{LeakAction, OnLeak, PasswordHash};
use keyward_core::key::digest::Digest;
use serde_json::{Map, Value};

/// A secret that has one of the digests.
#[derive(Clone, Debug)]
pub struct FoundSecret {
    /// Its digest.
    pub digest: Digest,
    /// The secret.
    pub leak: Leak,
    /// The password hash that a plaintext must match, if any.
    pub hash: Option<PasswordHash>,
}

/// A leaked secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// The id of its key.
    pub key_id: String,
    /// Its id.
    pub secret_id: String,
}

/// The outcome for a leaked secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeakOutcome {
    /// The id of its key.
    pub key_id: String,
    /// The action taken.
    pub action: LeakAction,
}

impl Store {
    /// The secrets that have one of these digests.
    pub async fn secrets_with(&self, digests: &[Digest]) -> Result<Vec<FoundSecret>, Error> {
        within(READ_PATIENCE, async {
            let mut found = Vec::new();
            for some in digests.chunks(ROWS_OF_A_STATEMENT) {
                let mut query = Sql::of_many_values(
                    self.database.engine,
                    "SELECT digest, key_id, id, hash FROM secrets WHERE digest IN (",
                );
                query.bind_all(some.iter().map(|digest| digest.0.as_slice())).push(")");
                let rows: Vec<(Vec<u8>, String, String, Option<String>)> =
                    query.build_as()?.fetch_all(&mut *self.database.readers.acquire().await?).await?;
                for (stored, key_id, secret_id, hash) in rows {
                    let leak = Leak { key_id, secret_id };
                    found.push(FoundSecret { digest: digest(stored)?, leak, hash: hash.map(PasswordHash::new) });
                }
            }
            Ok(found)
        })
        .await
    }

    /// Marks the secrets as leaked, and revokes the keys of valid ones if configured. Returns one outcome for each secret that exists.
    pub async fn report_leaks(
        &self,
        by: impl Into<Authorization>,
        leaks: Vec<Leak>,
        on_leak: OnLeak,
        details: Map<String, Value>,
        now: Timestamp,
    ) -> Result<Vec<Option<LeakOutcome>>, Error> {
        self.mutate(by, now, move |mutation| Box::pin(report(mutation, leaks, on_leak, details))).await
    }
}

async fn report(
    mutation: &mut Mutation,
    leaks: Vec<Leak>,
    on_leak: OnLeak,
    details: Map<String, Value>,
) -> Result<Vec<Option<LeakOutcome>>, Error> {
    let now = mutation.now();
    let mut outcomes = Vec::with_capacity(leaks.len());
    for leak in leaks {
        let key = keys::find_with(mutation.connection(), &leak.key_id, Excluded::Secret(&leak.secret_id)).await?;
        let secret = key.as_ref().and_then(|key| key.secrets.iter().find(|secret| secret.id == leak.secret_id));
        let (Some(key), Some(secret)) = (&key, secret) else {
            outcomes.push(None);
            continue;
        };
        let action = match on_leak {
            _ if key.revoked_at.is_some() => LeakAction::AlreadyRevoked,
            // The leak of a rotated-out secret does not revoke the key.
            OnLeak::Revoke if secret.is_valid(now) => LeakAction::Revoked,
            OnLeak::Revoke | OnLeak::Flag => LeakAction::Flagged,
        };
        if secret.leaked_at.is_none() {
            sqlx::query("UPDATE secrets SET leaked_at = $1 WHERE id = $2")
                .bind(now.as_stored())
                .bind(&leak.secret_id)
                .execute(mutation.connection())
                .await?;
            // The version changes, so that earlier decisions about the key are made again.
            sqlx::query("UPDATE keys SET version = version + 1 WHERE id = $1")
                .bind(&leak.key_id)
                .execute(mutation.connection())
                .await?;
        }
        let mut details = details.clone();
        details.insert("secret".to_owned(), leak.secret_id.into());
        details.insert("action".to_owned(), action.name().into());
        mutation.audit("key.leaked", &leak.key_id, details).await?;
        if action == LeakAction::Revoked {
            keys::revoke(mutation, leak.key_id.clone().into()).await?;
        }
        outcomes.push(Some(LeakOutcome { key_id: leak.key_id, action }));
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Actor;
    use crate::model::{Key, Secret};
    use crate::store::Location;
    use crate::store::audit::AuditQuery;
    use serde_json::json;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    #[tokio::test]
    async fn each_report_is_audited_and_the_secret_stays_marked_as_it_was_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let mut key = Key::new("key_1".into(), "n".into(), "key".into(), NOW);
        key.secrets.push(Secret::new("sec_1".into(), Digest([1; 32]), String::new(), NOW));
        store.create_key(Actor::server(), key).await.unwrap();
        let leak = || Leak { key_id: "key_1".into(), secret_id: "sec_1".into() };
        let details = Map::from_iter([("source".to_owned(), json!("a scan"))]);
        let report =
            |on_leak, now| store.report_leaks(Actor::webhook("w"), vec![leak()], on_leak, details.clone(), now);
        for (on_leak, seconds, action, version) in [
            (OnLeak::Flag, 1, LeakAction::Flagged, 2),
            (OnLeak::Revoke, 2, LeakAction::Revoked, 3),
            (OnLeak::Revoke, 3, LeakAction::AlreadyRevoked, 3),
        ] {
            let outcomes = report(on_leak, NOW.plus(Duration::from_secs(seconds))).await.unwrap();
            assert_eq!(outcomes, [Some(LeakOutcome { key_id: "key_1".into(), action })]);
            let key = store.key("key_1").await.unwrap().unwrap();
            assert_eq!(key.secrets[0].leaked_at, Some(NOW.plus(Duration::from_secs(1))));
            assert_eq!((key.revoked_at.is_some(), key.version), (seconds > 1, version));
        }
        let query = AuditQuery { limit: 10, subject: Some("key_1".into()), ..AuditQuery::default() };
        let entries = store.audit(&query).await.unwrap().items;
        let actions: Vec<_> = entries.iter().map(|entry| entry.action.as_str()).collect();
        assert_eq!(actions, ["key.leaked", "key.revoked", "key.leaked", "key.leaked", "key.created"]);
        assert_eq!(
            json!(entries[0].details),
            json!({"source": "a scan", "secret": "sec_1", "action": "already_revoked"})
        );
        assert_eq!(entries[0].actor, "webhook:w");
    }

    #[tokio::test]
    async fn what_is_no_secret_of_the_key_any_more_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let leak = Leak { key_id: "key_1".into(), secret_id: "sec_1".into() };
        let report = store.report_leaks(Actor::server(), vec![leak], OnLeak::Revoke, Map::new(), NOW);
        assert_eq!(report.await.unwrap(), [None]);
    }
}
