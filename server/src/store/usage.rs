//! Usage of keys as edges report it: counted by hour and verdict, and subtracted from credits.
//!
//! A batch counts once, however often it is sent: its id is stored in the transaction that adds it up. Usage is not audited and does not
//! change the version of a key.
//!
//! The reports of each token are kept for [`REPORTS_KEPT`], so that an operator can undo those made with a stolen one.

use super::audit::details;
use super::mutation::Mutation;
use super::query_builder::Sql;
use super::rows::{amount, row, stored_amount};
use super::{Authorization, Error, READ_PATIENCE, Store, keys, within};
use crate::clock::Timestamp;
use crate::model::MAX_CREDITS;
use keyward_core::key::environment::Environment;
use keyward_core::wire::usage::{ALLOW, Batch, KeyUsage, counted_as};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

/// The outcome of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngestOutcome {
    /// The batch was added up.
    Now,
    /// The batch was added up before.
    Before,
}

/// Which requests to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsageFilter {
    /// Requests of the key of that id.
    Key(String),
    /// Requests of all keys.
    AllKeys,
    /// Requests without a known key.
    NoKey,
}

/// The requests of one hour and verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hourly {
    /// The number of the hour since the Unix epoch.
    pub hour: u64,
    /// The verdict's name.
    pub verdict: String,
    /// The number of requests.
    pub requests: u64,
}

/// The reports of one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// The id of the token, or `token-file` for those of the data directory's file.
    pub token: String,
    /// The number of keys.
    pub keys: u64,
    /// The number of requests.
    pub requests: u64,
    /// The credits added to the keys' spending.
    pub credits: u64,
    /// The number of the hour of the last report, since the Unix epoch.
    pub last_hour: u64,
}

/// The usage that was undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Undone {
    /// The number of rows; one for each hour, key and verdict.
    pub reports: u64,
    /// The number of requests.
    pub requests: u64,
    /// The number of credits.
    pub credits: u64,
}

/// The length of an hour, in milliseconds.
pub(crate) const HOUR_MS: u64 = 3_600_000;

/// The maximum age of a reported use; older ones count as that old.
const MAX_REPORT_AGE: Duration = Duration::from_secs(86_400);
/// How long the id of a batch is kept. Edges stop sending a batch much sooner.
const BATCHES_KEPT: Duration = Duration::from_secs(86_400);
const HOURS_KEPT: Duration = Duration::from_secs(400 * 86_400);
/// How long the reports of each token are kept, and can be undone.
pub const REPORTS_KEPT: Duration = Duration::from_secs(31 * 86_400);
/// The maximum of requests of one verdict in one hour. No key reaches it, and a sum over eight million such keys still fits the
/// database's integers.
const MAX_REQUESTS: u64 = 1 << 40;
/// The verdict of requests that an edge had no room to report in detail.
const DROPPED: &str = "dropped";
/// The key of requests without a known key.
const NO_KEY: &str = "";
/// The rows of a statement: with seven values each, well below the maximum of SQLite.
const ROWS: usize = 2000;
/// The rows that one transaction undoes, so that others do not wait long.
const UNDONE_AT_ONCE: i64 = 500;
/// The maximum of listed tokens.
const LISTED_TOKENS: i64 = 1000;
/// The rows that one transaction purges, so that others do not wait long.
const PURGED_AT_ONCE: u32 = 5000;

impl Store {
    /// Adds up a batch once, and appends the keys whose credits it uses up to the feed.
    pub async fn take_usage(
        &self,
        by: impl Into<Authorization>,
        batch: Batch,
        now: Timestamp,
    ) -> Result<IngestOutcome, Error> {
        let by = by.into();
        let token = by.actor().token_name().to_owned();
        let _permit = self.queues.edge_permit(by.actor()).await?;
        self.mutate(by, now, |mutation| Box::pin(take(mutation, token, batch))).await
    }

    /// The reports of each token in those hours, for one key or all; sorted by credits, descending.
    pub async fn reported_usage(&self, key: Option<&str>, hours: Range<u64>) -> Result<Vec<Reported>, Error> {
        within(READ_PATIENCE, async {
            // Sums of arbitrary reports may not fit an integer.
            let mut query = Sql::new(
                "SELECT token, COUNT(DISTINCT NULLIF(key_id, '')), SUM(CAST(requests AS DOUBLE PRECISION)),
                        SUM(CAST(credits AS DOUBLE PRECISION)) AS spent, MAX(received_hour)
                 FROM reported_usage WHERE received_hour >= ",
            );
            query.bind(stored_amount(hours.start)).push(" AND received_hour < ").bind(stored_amount(hours.end));
            if let Some(key) = key {
                query.push(" AND key_id = ").bind(key);
            }
            query.push(" GROUP BY token ORDER BY spent DESC, token LIMIT ").bind(LISTED_TOKENS);
            let rows: Vec<(String, i64, f64, f64, i64)> =
                query.build_as()?.fetch_all(&mut *self.database.readers.acquire().await?).await?;
            let reported = |(token, keys, requests, credits, last_hour)| {
                Ok(Reported {
                    token,
                    keys: amount(keys, "number of keys")?,
                    requests: whole(requests),
                    credits: whole(credits),
                    last_hour: amount(last_hour, "hour")?,
                })
            };
            rows.into_iter().map(reported).collect()
        })
        .await
    }

    /// Undoes the reports of a token since that hour: the requests no longer count, and the credits no longer count as spent. The last use
    /// of keys stays. If this fails in the middle, it can be repeated.
    pub async fn undo_usage(
        &self,
        by: impl Into<Authorization>,
        token: String,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Undone, Error> {
        let (by, mut undone) = (by.into(), Undone::default());
        loop {
            let (token, hour) = (token.clone(), since.as_ms() / HOUR_MS);
            let some = self.mutate_bulk(by.clone(), now, move |mutation| Box::pin(undo(mutation, token, hour))).await?;
            if some.reports == 0 {
                return Ok(undone);
            }
            undone.reports += some.reports;
            undone.requests = undone.requests.saturating_add(some.requests);
            undone.credits = undone.credits.saturating_add(some.credits);
        }
    }

    /// The requests of those hours, by hour and verdict.
    pub async fn usage(&self, whose: &UsageFilter, hours: Range<u64>) -> Result<Vec<Hourly>, Error> {
        within(READ_PATIENCE, async {
            let mut query =
                Sql::new("SELECT hour, verdict, CAST(SUM(requests) AS BIGINT) AS requests FROM usage WHERE hour >= ");
            query.bind(stored_amount(hours.start)).push(" AND hour < ").bind(stored_amount(hours.end));
            match whose {
                UsageFilter::Key(id) => query.push(" AND key_id = ").bind(id.as_str()),
                UsageFilter::AllKeys => query.push(" AND key_id <> ").bind(NO_KEY),
                UsageFilter::NoKey => query.push(" AND key_id = ").bind(NO_KEY),
            };
            // Undone usage may leave zero.
            query.push(" GROUP BY hour, verdict HAVING SUM(requests) > 0 ORDER BY hour, verdict");
            let rows: Vec<(i64, String, i64)> =
                query.build_as()?.fetch_all(&mut *self.database.readers.acquire().await?).await?;
            let hourly = |(hour, verdict, requests)| {
                Ok(Hourly { hour: amount(hour, "hour")?, verdict, requests: amount(requests, "number of requests")? })
            };
            rows.into_iter().map(hourly).collect()
        })
        .await
    }

    /// Removes usage older than 400 days, and the ids of batches that no edge sends again; returns the number of rows.
    pub async fn purge_usage(&self, now: Timestamp) -> Result<u64, Error> {
        let mut purged = 0;
        loop {
            let batch = self.mutate(Authorization::server(), now, |mutation| Box::pin(sweep(mutation))).await?;
            purged += batch;
            if batch == 0 {
                return Ok(purged);
            }
        }
    }
}

/// The data of a used key.
struct Used {
    spends: bool,
    credits: Option<u64>,
    spent: u64,
}

async fn take(mutation: &mut Mutation, token: String, batch: Batch) -> Result<IngestOutcome, Error> {
    let now = mutation.now();
    let first = sqlx::query("INSERT INTO usage_batches (id, received_at) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING")
        .bind(batch.id.0.as_slice())
        .bind(now.as_stored())
        .execute(mutation.connection())
        .await?;
    if first.rows_affected() == 0 {
        return Ok(IngestOutcome::Before);
    }
    let known = known_keys(mutation, batch.keys.iter().map(|usage| usage.key_id.as_str())).await?;
    let used: Vec<_> = batch.keys.iter().filter(|usage| known.contains_key(&usage.key_id)).collect();
    let spending = Spending::new(&used, &known);
    count(mutation, &token, &used, &spending, &batch).await?;
    note_use(mutation, &used).await?;
    set_spent(mutation, spending.spent, &known).await?;
    Ok(IngestOutcome::Now)
}

/// The spending of keys after a batch, and how much each use of one has added.
struct Spending<'a> {
    spent: BTreeMap<&'a str, u64>,
    added: Vec<u64>,
}

impl<'a> Spending<'a> {
    /// A key spends no more than can ever be set, so that an operator can always set more.
    fn new(used: &[&'a KeyUsage], known: &HashMap<String, Used>) -> Self {
        let mut spent = BTreeMap::new();
        let added = used.iter().map(|usage| {
            let Some(key) = known.get(&usage.key_id).filter(|key| key.spends && usage.credits > 0) else { return 0 };
            let sum = spent.entry(usage.key_id.as_str()).or_insert(key.spent);
            let added = usage.credits.min(MAX_CREDITS.saturating_sub(*sum));
            *sum += added;
            added
        });
        let added = added.collect();
        Self { spent, added }
    }
}

/// The keys that exist.
async fn known_keys<'a>(
    mutation: &mut Mutation,
    ids: impl ExactSizeIterator<Item = &'a str>,
) -> Result<HashMap<String, Used>, Error> {
    if ids.len() == 0 {
        return Ok(HashMap::new());
    }
    let mut query = Sql::new("SELECT id, environment, credits, spent FROM keys WHERE id IN (");
    query.bind_all(ids).push(")");
    let rows: Vec<(String, Option<String>, Option<i64>, i64)> =
        query.build_as()?.fetch_all(mutation.connection()).await?;
    rows.into_iter()
        .map(|(id, environment, credits, spent)| {
            let used = Used {
                spends: environment.as_deref() != Some(Environment::Test.name()),
                credits: credits.map(|credits| amount(credits, "key's credits")).transpose()?,
                spent: amount(spent, "key's spent credits")?,
            };
            Ok((id, used))
        })
        .collect()
}

/// The reported last use, limited to plausible times.
fn plausible(last_used_ms: u64, now: Timestamp) -> Timestamp {
    Timestamp::from_ms(last_used_ms).clamp(now.minus(MAX_REPORT_AGE), now)
}

/// Adds the requests to their hours: the hour of the key's last use, or else the current one, as for requests without a known key.
async fn count(
    mutation: &mut Mutation,
    token: &str,
    used: &[&KeyUsage],
    spending: &Spending<'_>,
    batch: &Batch,
) -> Result<(), Error> {
    let now = mutation.now();
    let mut counts: BTreeMap<(&str, u64, &str), (u64, u64)> = BTreeMap::new();
    let mut add = |key, time: Timestamp, verdict, requests: u64, credits: u64| {
        if requests > 0 {
            let count = counts.entry((key, time.as_ms() / HOUR_MS, verdict)).or_default();
            *count = (count.0.saturating_add(requests).min(MAX_REQUESTS), count.1.saturating_add(credits));
        }
    };
    for (usage, added) in used.iter().zip(&spending.added) {
        let time = usage.last_used_ms.map_or(now, |time| plausible(time, now));
        for (verdict, requests) in &usage.verdicts {
            let credits = if verdict == ALLOW { *added } else { 0 };
            add(usage.key_id.as_str(), time, counted_as(verdict), *requests, credits);
        }
    }
    batch.others.iter().for_each(|(verdict, requests)| add(NO_KEY, now, counted_as(verdict), *requests, 0));
    add(NO_KEY, now, DROPPED, batch.dropped, 0);
    let counts: Vec<_> = counts.into_iter().collect();
    for rows in counts.chunks(ROWS) {
        let mut query = Sql::new("INSERT INTO usage (key_id, hour, verdict, requests) VALUES ");
        for (n, ((key, hour, verdict), (requests, _))) in rows.iter().enumerate() {
            query.push(if n == 0 { "(" } else { ", (" }).bind(*key).push(", ").bind(stored_amount(*hour));
            query.push(", ").bind(*verdict).push(", ").bind(stored_amount(*requests)).push(")");
        }
        query
            .push(" ON CONFLICT (key_id, hour, verdict) DO UPDATE SET requests = CASE WHEN usage.requests + excluded.requests > ")
            .bind(stored_amount(MAX_REQUESTS))
            .push(" THEN ")
            .bind(stored_amount(MAX_REQUESTS))
            .push(" ELSE usage.requests + excluded.requests END");
        query.execute(mutation.connection(), false).await?;
        let received_hour = now.as_ms() / HOUR_MS;
        let mut query = Sql::new(
            "INSERT INTO reported_usage (token, received_hour, key_id, hour, verdict, requests, credits) VALUES ",
        );
        for (n, ((key, hour, verdict), (requests, credits))) in rows.iter().enumerate() {
            query.push(if n == 0 { "(" } else { ", (" }).bind(token).push(", ").bind(stored_amount(received_hour));
            query.push(", ").bind(*key).push(", ").bind(stored_amount(*hour)).push(", ").bind(*verdict);
            query.push(", ").bind(stored_amount(*requests)).push(", ").bind(stored_amount(*credits)).push(")");
        }
        // A key has at most MAX_CREDITS to spend until some are undone or set again, so both sums stay far below what is stored.
        query.push(
            " ON CONFLICT (token, received_hour, key_id, hour, verdict) DO UPDATE
             SET requests = reported_usage.requests + excluded.requests,
                 credits = reported_usage.credits + excluded.credits",
        );
        query.execute(mutation.connection(), false).await?;
    }
    Ok(())
}

/// Advances the last use of keys and secrets, never backwards.
async fn note_use(mutation: &mut Mutation, used: &[&KeyUsage]) -> Result<(), Error> {
    let now = mutation.now();
    let mut keys: BTreeMap<&str, Timestamp> = BTreeMap::new();
    let mut secrets: BTreeMap<(&str, &str), Timestamp> = BTreeMap::new();
    for usage in used {
        let Some(time) = usage.last_used_ms.map(|time| plausible(time, now)) else { continue };
        let key = keys.entry(&usage.key_id).or_insert(time);
        *key = time.max(*key);
        let secret = secrets.entry((&usage.secret_id, &usage.key_id)).or_insert(time);
        *secret = time.max(*secret);
    }
    if keys.is_empty() {
        return Ok(());
    }
    let mut query = Sql::new("WITH used (id, at) AS (VALUES ");
    for (n, (id, time)) in keys.iter().enumerate() {
        query.push(if n == 0 { "(" } else { ", (" }).bind(*id).push(", ").bind(time.as_stored()).push(")");
    }
    query.push(
        ") UPDATE keys SET last_used_at = used.at FROM used
         WHERE keys.id = used.id AND COALESCE(keys.last_used_at, 0) < used.at",
    );
    query.execute(mutation.connection(), false).await?;
    let mut query = Sql::new("WITH used (id, key_id, at) AS (VALUES ");
    for (n, ((id, key_id), time)) in secrets.iter().enumerate() {
        query.push(if n == 0 { "(" } else { ", (" }).bind(*id).push(", ").bind(*key_id);
        query.push(", ").bind(time.as_stored()).push(")");
    }
    query.push(
        ") UPDATE secrets SET last_used_at = used.at FROM used
         WHERE secrets.id = used.id AND secrets.key_id = used.key_id AND COALESCE(secrets.last_used_at, 0) < used.at",
    );
    query.execute(mutation.connection(), false).await?;
    Ok(())
}

/// Stores the spending of keys, and appends to the feed those whose credits are used up now, or available again.
async fn set_spent(
    mutation: &mut Mutation,
    spent: BTreeMap<&str, u64>,
    known: &HashMap<String, Used>,
) -> Result<(), Error> {
    if spent.is_empty() {
        return Ok(());
    }
    let mut query = Sql::new("WITH used (id, spent) AS (VALUES ");
    for (n, (id, spent)) in spent.iter().enumerate() {
        query.push(if n == 0 { "(" } else { ", (" }).bind(*id).push(", ").bind(stored_amount(*spent)).push(")");
    }
    query.push(") UPDATE keys SET spent = used.spent FROM used WHERE keys.id = used.id");
    query.execute(mutation.connection(), false).await?;
    for (id, spent) in spent {
        let changes = known.get(id).and_then(|key| Some((key.credits?, key.spent)));
        if changes.is_some_and(|(credits, before)| (before >= credits) != (spent >= credits))
            && let Some(key) = keys::find(mutation.connection(), id).await?
        {
            keys::tell(mutation, &key, |_| true).await?;
        }
    }
    Ok(())
}

row! {
    /// Some of what a token has reported in that hour and later.
    struct ReportRow {
        received_hour: i64,
        key_id: String,
        hour: i64,
        verdict: String,
        requests: i64,
        credits: i64,
    }
}

async fn undo(mutation: &mut Mutation, token: String, since_hour: u64) -> Result<Undone, Error> {
    let rows: Vec<ReportRow> = sqlx::query_as(
        "SELECT received_hour, key_id, hour, verdict, requests, credits FROM reported_usage
         WHERE token = $1 AND received_hour >= $2 ORDER BY received_hour, key_id, hour, verdict LIMIT $3",
    )
    .bind(&token)
    .bind(stored_amount(since_hour))
    .bind(UNDONE_AT_ONCE)
    .fetch_all(mutation.connection())
    .await?;
    let Some(last) = rows.last() else { return Ok(Undone::default()) };
    let mut undone = Undone { reports: rows.len() as u64, ..Undone::default() };
    let (mut requests, mut credits) = (BTreeMap::<_, u64>::new(), BTreeMap::<&str, u64>::new());
    for row in &rows {
        let (of_row, spent) = (amount(row.requests, "number of requests")?, amount(row.credits, "number of credits")?);
        undone.requests = undone.requests.saturating_add(of_row);
        undone.credits = undone.credits.saturating_add(spent);
        let sum = requests.entry((row.key_id.as_str(), row.hour, row.verdict.as_str())).or_default();
        *sum = sum.saturating_add(of_row);
        if spent > 0 {
            let sum = credits.entry(&row.key_id).or_default();
            *sum = sum.saturating_add(spent);
        }
    }
    let mut query = Sql::new("WITH undone (key_id, hour, verdict, requests) AS (VALUES ");
    for (n, ((key, hour, verdict), requests)) in requests.into_iter().enumerate() {
        query.push(if n == 0 { "(" } else { ", (" }).bind(key).push(", ").bind(hour);
        query.push(", ").bind(verdict).push(", ").bind(stored_amount(requests)).push(")");
    }
    query.push(
        ") UPDATE usage
         SET requests = CASE WHEN usage.requests > undone.requests THEN usage.requests - undone.requests ELSE 0 END
         FROM undone WHERE (usage.key_id, usage.hour, usage.verdict) = (undone.key_id, undone.hour, undone.verdict)",
    );
    query.execute(mutation.connection(), false).await?;
    let known = known_keys(mutation, credits.keys().copied()).await?;
    let mut spent = BTreeMap::new();
    for (id, credits) in &credits {
        if let Some(key) = known.get(*id) {
            spent.insert(*id, key.spent.saturating_sub(*credits));
        }
    }
    set_spent(mutation, spent, &known).await?;
    sqlx::query(
        "DELETE FROM reported_usage WHERE token = $1 AND received_hour >= $2
         AND (received_hour, key_id, hour, verdict) <= ($3, $4, $5, $6)",
    )
    .bind(&token)
    .bind(stored_amount(since_hour))
    .bind(last.received_hour)
    .bind(&last.key_id)
    .bind(last.hour)
    .bind(&last.verdict)
    .execute(mutation.connection())
    .await?;
    let facts = details([
        ("since", json!(Timestamp::from_ms(since_hour.saturating_mul(HOUR_MS)))),
        ("keys", json!(credits.len())),
        ("requests", json!(undone.requests)),
        ("credits", json!(undone.credits)),
    ]);
    mutation.audit("usage.undone", &token, facts).await?;
    Ok(undone)
}

/// A sum, limited to what JSON represents exactly.
fn whole(sum: f64) -> u64 {
    sum.clamp(0.0, MAX_CREDITS as f64) as u64
}

async fn sweep(mutation: &mut Mutation) -> Result<u64, Error> {
    let now = mutation.now();
    let batches = sqlx::query(
        "DELETE FROM usage_batches WHERE id IN (SELECT id FROM usage_batches WHERE received_at < $1 LIMIT $2)",
    )
    .bind(now.minus(BATCHES_KEPT).as_stored())
    .bind(i64::from(PURGED_AT_ONCE))
    .execute(mutation.connection())
    .await?;
    let hours = sqlx::query(
        "DELETE FROM usage WHERE (key_id, hour, verdict) IN (SELECT key_id, hour, verdict FROM usage WHERE hour < $1 LIMIT $2)",
    )
    .bind(stored_amount(now.minus(HOURS_KEPT).as_ms() / HOUR_MS))
    .bind(i64::from(PURGED_AT_ONCE))
    .execute(mutation.connection())
    .await?;
    let reports = sqlx::query(
        "DELETE FROM reported_usage WHERE (token, received_hour, key_id, hour, verdict) IN
         (SELECT token, received_hour, key_id, hour, verdict FROM reported_usage WHERE received_hour < $1 LIMIT $2)",
    )
    .bind(stored_amount(now.minus(REPORTS_KEPT).as_ms() / HOUR_MS))
    .bind(i64::from(PURGED_AT_ONCE))
    .execute(mutation.connection())
    .await?;
    Ok(batches.rows_affected() + hours.rows_affected() + reports.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Actor;
    use crate::model::{Key, Secret};
    use crate::store::Location;
    use keyward_core::key::digest::Digest;
    use keyward_core::wire::usage::{BatchId, MAX_COUNT, MAX_KEYS, Verdicts};
    use std::path::Path;

    const NOW: Timestamp = Timestamp::EXAMPLE;
    const THIS_HOUR: u64 = NOW.as_ms() / HOUR_MS;
    const HOUR: Duration = Duration::from_secs(3600);
    const ALL_HOURS: Range<u64> = 0..u64::MAX;

    async fn store(dir: &Path) -> Store {
        Store::open(&Location::Directory(dir.to_owned())).await.unwrap()
    }

    /// Stores a key with one secret.
    async fn stored(store: &Store, n: u8, change: impl FnOnce(&mut Key)) {
        let mut key = Key::new(format!("key_{n}"), "n".into(), "key".into(), NOW);
        key.secrets = vec![Secret::new(format!("sec_{n}"), Digest([n; 32]), String::new(), NOW)];
        change(&mut key);
        store.create_key(Actor::server(), key).await.unwrap();
    }

    fn verdicts(counts: &[(&str, u64)]) -> Verdicts {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn used(n: u8, last_used: Option<Timestamp>, counts: &[(&str, u64)], credits: u64) -> KeyUsage {
        KeyUsage {
            key_id: format!("key_{n}"),
            secret_id: format!("sec_{n}"),
            last_used_ms: last_used.map(Timestamp::as_ms),
            verdicts: verdicts(counts),
            credits,
        }
    }

    fn batch(id: u8, keys: Vec<KeyUsage>) -> Batch {
        Batch { id: BatchId([id; 16]), keys, others: Verdicts::new(), dropped: 0 }
    }

    async fn hours(store: &Store, whose: UsageFilter) -> Vec<(u64, String, u64)> {
        let hours = store.usage(&whose, ALL_HOURS).await.unwrap();
        hours.into_iter().map(|hourly| (hourly.hour, hourly.verdict, hourly.requests)).collect()
    }

    async fn key(store: &Store, n: u8) -> Key {
        store.key(&format!("key_{n}")).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn whoever_revokes_a_key_does_not_wait_for_all_edges_that_tell_of_usage() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        stored(&store, 1, |_| {}).await;
        let another_write = store.commit_order.lock().await;
        let telling: Vec<_> = (0..50)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move {
                    store.take_usage(Actor::edge(), batch(n, vec![used(1, None, &[], 0)]), NOW).await.unwrap()
                })
            })
            .collect();
        let revoking = tokio::spawn({
            let store = store.clone();
            async move { store.revoke_key(Actor::server(), "key_1".to_owned(), NOW).await.unwrap().unwrap() }
        });
        // There is one thread, so by then each has come as far as it can.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        drop(another_write);
        assert_eq!(revoking.await.unwrap().revoked_at, Some(NOW));
        let before = telling.iter().filter(|telling| telling.is_finished()).count();
        assert!(before <= 2, "{before} batches were written first");
        for telling in telling {
            assert_eq!(telling.await.unwrap(), IngestOutcome::Now);
        }
    }

    #[tokio::test]
    async fn requests_count_by_key_hour_and_verdict_and_those_of_nobody_by_themselves() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        stored(&store, 1, |_| {}).await;
        stored(&store, 2, |_| {}).await;
        let first = Batch {
            others: verdicts(&[("missing", 9), ("public", 0)]),
            dropped: 2,
            ..batch(
                1,
                vec![
                    used(1, Some(NOW), &[("allow", 3), ("rate_limited", 1)], 3),
                    used(1, Some(NOW.minus(HOUR)), &[("allow", 5)], 5),
                    used(2, None, &[("revoked", 4)], 0),
                    used(9, Some(NOW), &[("allow", 100)], 100),
                ],
            )
        };
        let second = batch(2, vec![used(1, Some(NOW), &[("allow", 10)], 10)]);
        for batch in [first, second] {
            assert_eq!(store.take_usage(Actor::edge(), batch, NOW).await.unwrap(), IngestOutcome::Now);
        }
        let of = |hour, verdict: &str, requests| (hour, verdict.to_owned(), requests);
        assert_eq!(
            hours(&store, UsageFilter::Key("key_1".into())).await,
            [of(THIS_HOUR - 1, "allow", 5), of(THIS_HOUR, "allow", 13), of(THIS_HOUR, "rate_limited", 1)]
        );
        assert_eq!(hours(&store, UsageFilter::Key("key_2".into())).await, [of(THIS_HOUR, "revoked", 4)]);
        assert_eq!(hours(&store, UsageFilter::Key("key_9".into())).await, [], "there is no such key");
        assert_eq!(
            hours(&store, UsageFilter::AllKeys).await,
            [
                of(THIS_HOUR - 1, "allow", 5),
                of(THIS_HOUR, "allow", 13),
                of(THIS_HOUR, "rate_limited", 1),
                of(THIS_HOUR, "revoked", 4)
            ]
        );
        assert_eq!(hours(&store, UsageFilter::NoKey).await, [of(THIS_HOUR, "dropped", 2), of(THIS_HOUR, "missing", 9)]);
        assert_eq!(store.usage(&UsageFilter::AllKeys, THIS_HOUR - 1..THIS_HOUR).await.unwrap().len(), 1);
        let key = key(&store, 1).await;
        assert_eq!((key.spent, key.version), (18, 1), "usage is no change that anybody asked for");
        let audited: Vec<String> = sqlx::query_scalar("SELECT action FROM audit")
            .fetch_all(&mut *store.database.readers.acquire().await.unwrap())
            .await
            .unwrap();
        assert_eq!(audited, ["key.created"; 2]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_batch_counts_once_however_often_and_at_the_same_time_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        stored(&store, 1, |_| {}).await;
        let sending: Vec<_> = (0..40)
            .map(|n| {
                let (store, batch) = (store.clone(), batch(n % 4, vec![used(1, Some(NOW), &[("allow", 1)], 1)]));
                tokio::spawn(async move { store.take_usage(Actor::edge(), batch, NOW).await.unwrap() })
            })
            .collect();
        let mut counted = 0;
        for sending in sending {
            counted += usize::from(sending.await.unwrap() == IngestOutcome::Now);
        }
        assert_eq!(counted, 4);
        assert_eq!(hours(&store, UsageFilter::AllKeys).await, [(THIS_HOUR, "allow".to_owned(), 4)]);
        assert_eq!(key(&store, 1).await.spent, 4);
    }

    #[tokio::test]
    async fn the_last_use_is_that_of_the_allowed_only_moves_forward_and_is_never_in_the_future() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        stored(&store, 1, |_| {}).await;
        stored(&store, 2, |key| key.secrets[0].id = "sec_other".into()).await;
        let last_used = async |n| {
            let key = key(&store, n).await;
            (key.last_used_at, key.secrets[0].last_used_at)
        };
        let steps = [
            (None, None),
            (Some(NOW.minus(48 * HOUR)), Some(NOW.minus(24 * HOUR))),
            (Some(NOW.minus(HOUR)), Some(NOW.minus(HOUR))),
            (Some(NOW.minus(2 * HOUR)), Some(NOW.minus(HOUR))),
            (None, Some(NOW.minus(HOUR))),
            (Some(NOW.plus(HOUR)), Some(NOW)),
        ];
        for (n, (told, expected)) in (0..).zip(steps) {
            let usage = [1, 2].map(|key| used(key, told, &[("allow", 1)], 0));
            store.take_usage(Actor::edge(), batch(n, usage.into()), NOW).await.unwrap();
            assert_eq!(last_used(1).await, (expected, expected), "step {n}");
            assert_eq!(last_used(2).await, (expected, None), "a secret of another key is left alone");
        }
        let counted = hours(&store, UsageFilter::Key("key_1".into())).await;
        let counted: Vec<_> = counted.iter().map(|(hour, _, requests)| (THIS_HOUR - hour, *requests)).collect();
        assert_eq!(counted, [(24, 1), (2, 1), (1, 1), (0, 3)]);
    }

    #[tokio::test]
    async fn the_edges_hear_once_of_credits_that_are_used_up_and_nothing_of_what_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        stored(&store, 1, |key| key.credits = Some(10)).await;
        stored(&store, 2, |_| {}).await;
        stored(&store, 3, |key| {
            key.credits = Some(10);
            key.environment = Some(Environment::Test);
        })
        .await;
        let mut bell = store.hub().subscribe();
        // What all three spend, how much the first has spent by then, and whether the edges hear of it.
        for (n, (credits, spent, told)) in (0..).zip([(9, 9, false), (1, 10, true), (5, 15, false), (0, 15, false)]) {
            let usage = [1, 2, 3].map(|key| used(key, Some(NOW), &[("allow", 1)], credits));
            store.take_usage(Actor::edge(), batch(n, usage.into()), NOW).await.unwrap();
            assert_eq!(bell.has_changed().unwrap(), told, "batch {n}");
            bell.mark_unchanged();
            assert_eq!(key(&store, 1).await.spent, spent);
        }
        assert!(key(&store, 1).await.is_exhausted());
        assert_eq!((key(&store, 2).await.spent, key(&store, 3).await.spent), (15, 0), "test keys spend none");
    }

    #[tokio::test]
    async fn numbers_that_are_too_large_stop_at_the_largest() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        stored(&store, 1, |key| key.spent = MAX_CREDITS - 1).await;
        stored(&store, 2, |_| {}).await;
        for n in 0..3 {
            let mut keys = vec![used(1, Some(NOW), &[("allow", MAX_COUNT)], MAX_COUNT); MAX_KEYS - 1];
            keys.push(used(2, None, &[("allow", MAX_REQUESTS - 1)], 0));
            store.take_usage(Actor::edge(), Batch { dropped: MAX_COUNT, ..batch(n, keys) }, NOW).await.unwrap();
        }
        for whose in [UsageFilter::Key("key_1".into()), UsageFilter::Key("key_2".into()), UsageFilter::NoKey] {
            assert_eq!(hours(&store, whose).await[0].2, MAX_REQUESTS);
        }
        assert_eq!(hours(&store, UsageFilter::AllKeys).await[0].2, 2 * MAX_REQUESTS);
        assert_eq!(key(&store, 1).await.spent, MAX_CREDITS, "no more than an operator can set");
    }

    #[tokio::test]
    async fn what_is_old_is_swept_and_what_is_not_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        stored(&store, 1, |_| {}).await;
        let day = 24 * HOUR;
        let told = batch(1, vec![used(1, Some(NOW), &[("allow", 1)], 1)]);
        store.take_usage(Actor::edge(), told.clone(), NOW).await.unwrap();
        assert_eq!(store.purge_usage(NOW.plus(day)).await.unwrap(), 0);
        assert_eq!(store.take_usage(Actor::edge(), told, NOW.plus(day)).await.unwrap(), IngestOutcome::Before);
        assert_eq!(store.purge_usage(NOW.plus(day + HOUR)).await.unwrap(), 1, "the id of the batch");
        assert_eq!(store.purge_usage(NOW.plus(31 * day)).await.unwrap(), 0);
        assert_eq!(store.purge_usage(NOW.plus(31 * day + HOUR)).await.unwrap(), 1, "who reported it");
        assert_eq!(store.purge_usage(NOW.plus(400 * day)).await.unwrap(), 0);
        assert_eq!(hours(&store, UsageFilter::AllKeys).await.len(), 1);
        assert_eq!(store.purge_usage(NOW.plus(400 * day + HOUR)).await.unwrap(), 1, "the hour");
        assert_eq!(hours(&store, UsageFilter::AllKeys).await, []);
        assert_eq!(key(&store, 1).await.spent, 1, "what was spent stays so");
    }

    #[tokio::test]
    async fn all_keys_of_a_full_batch_are_counted_and_a_batch_of_nothing_is_no_mistake() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        for n in 0..100 {
            stored(&store, n, |_| {}).await;
        }
        let names = ["allow", "revoked", "expired", "rate_limited", "forbidden_ip", "wrong_kind"];
        let counts = names.map(|name| (name, 7));
        let full: Vec<_> = (0..100).map(|n| used(n, Some(NOW), &counts, 1)).collect();
        store.take_usage(Actor::edge(), batch(1, full), NOW).await.unwrap();
        store.take_usage(Actor::edge(), batch(2, Vec::new()), NOW).await.unwrap();
        let sums: Vec<_> =
            hours(&store, UsageFilter::AllKeys).await.into_iter().map(|(_, _, requests)| requests).collect();
        assert_eq!(sums, [700; 6]);
    }
}
