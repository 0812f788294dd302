//! Keys of another system, stored many at a time: a batch is one transaction with one entry of the audit log for its
//! import, one for the series of ids that its keys were given, and one for each key that keeps an id that it had.

use super::audit;
use super::authorization::Access;
use super::database::Engine;
use super::mutation::Mutation;
use super::query_builder::{ROWS_OF_A_STATEMENT, Sql};
use super::rows::{amount, digest};
use super::{Authorization, Error, READ_PATIENCE, RETENTION, Store, keys, owners, within};
use crate::clock::Timestamp;
use crate::model::{ImportedKey, Key, series_of};
use keyward_core::key::digest::Digest;
use keyward_core::wire::entry::Body;
use serde_json::json;
use sqlx::AnyConnection;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Some keys of an import.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The id of the import, for the audit log.
    pub import: String,
    /// The keys, each with the line that it stands at.
    pub keys: Vec<(u64, ImportedKey)>,
    /// Whether keys that are known already are passed over.
    pub skip_known: bool,
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// How many keys were stored, or would be.
    pub imported: u64,
    /// How many were known already and passed over.
    pub skipped: u64,
    /// The lines of those that cannot be stored, each with the field that is in the way.
    pub refused: Vec<(u64, &'static str, Conflict)>,
}

/// Why a key that is well-formed cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A key that is known, or one before it in the file, has this secret.
    #[error("a key with this secret is there already")]
    Known,
    /// A key that is known, or one before it in the file, has this id.
    #[error("another key has this id")]
    IdTaken,
    /// There is no such plan.
    #[error("there is no plan of that id")]
    NoPlan,
}

/// The keys of a batch that can be stored.
#[derive(Default)]
struct Chosen {
    keys: Vec<Key>,
    /// The ids that keys had before.
    own_ids: HashSet<String>,
}

/// What the database knows of what a batch names.
struct Known {
    digests: HashSet<Digest>,
    ids: HashSet<String>,
    /// What the keys of each plan begin with.
    plans: HashMap<String, Option<u64>>,
}

impl Store {
    /// Stores the keys of a batch that can be stored, and their owners where nobody has named them before.
    ///
    /// # Errors
    /// If they cannot be stored; none of the batch is then.
    pub async fn import_keys(
        &self,
        by: impl Into<Authorization>,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Imported, Error> {
        self.mutate_bulk(by, now, move |mutation| Box::pin(import(mutation, batch))).await
    }

    /// What would become of the batch, as far as the authorization holds. What earlier batches of the same file would have brought is not known.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn try_import(&self, by: &Authorization, batch: Batch, now: Timestamp) -> Result<Imported, Error> {
        within(READ_PATIENCE, async {
            let mut transaction = self.database.begin_read(&self.database.bulk_readers).await?;
            by.check(&mut transaction, Access::Write).await?;
            Ok(choose(self.database.engine, &mut transaction, batch.keys, batch.skip_known, now).await?.1)
        })
        .await
    }
}

async fn import(mutation: &mut Mutation, batch: Batch) -> Result<Imported, Error> {
    let lines = batch.keys.first().map(|(line, _)| *line).zip(batch.keys.last().map(|(line, _)| *line));
    let now = mutation.now();
    let chosen = choose(mutation.engine(), mutation.connection(), batch.keys, batch.skip_known, now).await?;
    let (Chosen { keys: mut chosen, own_ids }, outcome) = chosen;
    let Some((first, last)) = lines.filter(|_| !chosen.is_empty()) else { return Ok(outcome) };
    let ended_until = mutation.now().minus(RETENTION);
    for key in &mut chosen {
        // Edges would be told to forget it at once.
        let ended = [key.revoked_at, key.expires_at].into_iter().flatten().min().is_some_and(|end| end < ended_until);
        key.secrets.iter_mut().for_each(|secret| secret.forgotten = ended);
    }
    // In the order of the indexes, neighbours are found on one page.
    chosen.sort_by_key(|key| key.secrets.first().map(|secret| secret.digest));
    let named: BTreeSet<_> = chosen.iter().filter_map(|key| key.owner.as_deref()).collect();
    owners::ensure_all(mutation, named.into_iter().collect()).await?;
    keys::insert(mutation, &chosen.iter().collect::<Vec<_>>()).await?;
    let details = [
        ("imported", json!(outcome.imported)),
        ("skipped", json!(outcome.skipped)),
        ("first_line", json!(first)),
        ("last_line", json!(last)),
    ];
    let series: BTreeSet<_> =
        chosen.iter().filter(|key| !own_ids.contains(&key.id)).filter_map(|key| series_of(&key.id)).collect();
    let own_ids: Vec<_> = chosen.iter().map(|key| key.id.as_str()).filter(|id| own_ids.contains(*id)).collect();
    let of_import = || audit::details([("import", json!(batch.import))]);
    mutation.audit_all("key.imported", &own_ids, of_import()).await?;
    mutation.audit_all("keys.imported", &series.iter().map(String::as_str).collect::<Vec<_>>(), of_import()).await?;
    mutation.audit("keys.imported", &batch.import, audit::details(details)).await?;
    let told = chosen.iter().flat_map(|key| {
        let secrets = key.secrets.iter().filter(|secret| !secret.forgotten);
        secrets.map(|secret| (secret.digest, Body::Key(key.record(secret, now))))
    });
    mutation.append_all(told.collect()).await?;
    Ok(outcome)
}

/// Tells the keys that can be stored from the others.
async fn choose(
    engine: Engine,
    connection: &mut AnyConnection,
    keys: Vec<(u64, ImportedKey)>,
    skip_known: bool,
    now: Timestamp,
) -> Result<(Chosen, Imported), Error> {
    let Known { mut digests, mut ids, plans } = Known::of(engine, connection, &keys).await?;
    let mut outcome = Imported::default();
    let mut chosen = Chosen { keys: Vec::with_capacity(keys.len()), ..Chosen::default() };
    for (line, ImportedKey { mut key, has_own_id, has_own_created_at, secret_field }) in keys {
        if !has_own_created_at {
            key.created_at = now;
            key.secrets.iter_mut().for_each(|secret| secret.created_at = now);
        }
        let plan_credits = key.plan.as_ref().map(|plan| plans.get(plan));
        if key.secrets.iter().any(|secret| digests.contains(&secret.digest)) {
            if skip_known {
                outcome.skipped += 1;
            } else {
                outcome.refused.push((line, secret_field, Conflict::Known));
            }
        } else if has_own_id && ids.contains(&key.id) {
            outcome.refused.push((line, "id", Conflict::IdTaken));
        } else if plan_credits == Some(None) {
            outcome.refused.push((line, "plan", Conflict::NoPlan));
        } else {
            key.credits = key.credits.or_else(|| plan_credits.flatten().copied().flatten());
            digests.extend(key.secrets.iter().map(|secret| secret.digest));
            if has_own_id {
                ids.insert(key.id.clone());
                chosen.own_ids.insert(key.id.clone());
            }
            outcome.imported += 1;
            chosen.keys.push(key);
        }
    }
    Ok((chosen, outcome))
}

impl Known {
    async fn of(engine: Engine, connection: &mut AnyConnection, keys: &[(u64, ImportedKey)]) -> Result<Self, Error> {
        let keys = || keys.iter().map(|(_, key)| key);
        let mut known = Self { digests: HashSet::new(), ids: HashSet::new(), plans: HashMap::new() };
        let digests: Vec<_> =
            keys().flat_map(|key| &key.key.secrets).map(|secret| secret.digest.0.as_slice()).collect();
        for some in digests.chunks(ROWS_OF_A_STATEMENT) {
            // An owner's or a plan's address is no key's digest, and nobody may make it one.
            for query in [
                "SELECT digest FROM secrets WHERE digest IN (",
                "SELECT subject FROM edge_entries WHERE NOT removed AND subject IN (",
            ] {
                let mut query = Sql::of_many_values(engine, query);
                query.bind_all(some.iter().copied()).push(")");
                let rows: Vec<(Vec<u8>,)> = query.build_as()?.fetch_all(&mut *connection).await?;
                for (found,) in rows {
                    known.digests.insert(digest(found)?);
                }
            }
        }
        let ids: Vec<_> = keys().filter(|key| key.has_own_id).map(|key| key.key.id.as_str()).collect();
        for some in ids.chunks(ROWS_OF_A_STATEMENT) {
            let mut query = Sql::of_many_values(engine, "SELECT id FROM keys WHERE id IN (");
            query.bind_all(some.iter().copied()).push(")");
            let rows: Vec<(String,)> = query.build_as()?.fetch_all(&mut *connection).await?;
            known.ids.extend(rows.into_iter().map(|(id,)| id));
        }
        let plans: BTreeSet<_> = keys().filter_map(|key| key.key.plan.as_deref()).collect();
        for some in plans.into_iter().collect::<Vec<_>>().chunks(ROWS_OF_A_STATEMENT) {
            let mut query = Sql::of_many_values(engine, "SELECT id, credits FROM plans WHERE id IN (");
            query.bind_all(some.iter().copied()).push(")");
            let rows: Vec<(String, Option<i64>)> = query.build_as()?.fetch_all(&mut *connection).await?;
            for (id, credits) in rows {
                known.plans.insert(id, credits.map(|credits| amount(credits, "plan's credits")).transpose()?);
            }
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Actor;
    use crate::model::{AuditEntry, Secret};
    use crate::store::Location;
    use crate::store::audit::AuditQuery;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    fn imported(n: u8, change: impl FnOnce(&mut Key)) -> (u64, ImportedKey) {
        let secret = Secret::new(format!("sec_{n}"), Digest([n; 32]), String::new(), NOW);
        let mut key = Key::new(format!("key_{n}"), "n".into(), "key".into(), NOW);
        key.secrets.push(secret);
        change(&mut key);
        (n.into(), ImportedKey { key, has_own_id: false, has_own_created_at: true, secret_field: "sha256" })
    }

    async fn import(store: &Store, keys: Vec<(u64, ImportedKey)>) -> Imported {
        let batch = Batch { import: "imp_1".into(), keys, skip_known: false };
        store.import_keys(Actor::token_file(), batch, NOW).await.unwrap()
    }

    async fn audit(store: &Store) -> Vec<AuditEntry> {
        store.audit(&AuditQuery { limit: 10, ..AuditQuery::default() }).await.unwrap().items
    }

    #[tokio::test]
    async fn a_batch_without_owners_is_an_entry_of_the_audit_log_for_its_import_and_one_with_nothing_new_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let batch = || (1..=9).map(|n| imported(n, |_| {})).collect();
        assert_eq!(import(&store, batch()).await.imported, 9);
        let head = store.hub().head();
        assert_eq!(import(&store, batch()).await.refused.len(), 9);
        assert_eq!(store.hub().head(), head);
        let entries = audit(&store).await;
        let [entry] = entries.as_slice() else { panic!("{entries:?}") };
        assert_eq!((entry.action.as_str(), entry.subject.as_str()), ("keys.imported", "imp_1"));
        assert_eq!(json!(entry.details), json!({"imported": 9, "skipped": 0, "first_line": 1, "last_line": 9}));
    }

    #[tokio::test]
    async fn no_edge_is_told_of_a_key_that_it_would_be_told_to_forget() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let ago = |days: u32| Some(NOW.minus(Duration::from_secs(86_400) * days));
        let keys = vec![
            imported(1, |key| key.revoked_at = ago(31)),
            imported(2, |key| key.expires_at = ago(31)),
            imported(3, |key| key.revoked_at = ago(29)),
            imported(4, |key| (key.revoked_at, key.expires_at) = (ago(1), ago(31))),
        ];
        assert_eq!(import(&store, keys).await.imported, 4);
        assert_eq!(store.hub().head().sequence, 1);
        assert_eq!(store.purge_expired(NOW, RETENTION).await.unwrap(), crate::store::Purged::default());
    }

    #[tokio::test]
    async fn a_plan_has_to_be_there_and_gives_its_credits_to_keys_that_name_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        sqlx::query("INSERT INTO plans (id, credits, created_at, version) VALUES ('pro', 7, 0, 1)")
            .execute(&mut *store.database.writer.acquire().await.unwrap())
            .await
            .unwrap();
        let on = |plan: &'static str, credits| {
            move |key: &mut Key| (key.plan, key.credits) = (Some(plan.to_owned()), credits)
        };
        let keys = vec![imported(1, on("pro", None)), imported(2, on("pro", Some(3))), imported(3, on("none", None))];
        let outcome = import(&store, keys).await;
        assert_eq!(outcome.refused, [(3, "plan", Conflict::NoPlan)]);
        for (id, credits) in [("key_1", 7), ("key_2", 3)] {
            assert_eq!(store.key(id).await.unwrap().unwrap().credits, Some(credits));
        }
    }
}
