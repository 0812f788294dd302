//! The audit log: appended to in the transaction of the change, and never modified.

use super::database::Engine;
use super::query_builder::{Page, ROWS_OF_A_STATEMENT, Sql, keep};
use super::rows::{from_json, row, sequence, stored_sequence};
use super::{Error, READ_PATIENCE, Store, within};
use crate::clock::Timestamp;
use crate::model::{Actor, AuditEntry, series_of};
use serde_json::{Map, Value, json};
use sqlx::AnyConnection;
use std::iter;
use std::time::Duration;

/// A query for audit log entries.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// The maximum number of results.
    pub limit: u32,
    /// Only entries before this one.
    pub before: Option<u64>,
    /// Only those of this actor.
    pub actor: Option<String>,
    /// Only those of this action.
    pub action: Option<String>,
    /// Only those of this time or later.
    pub since: Option<Timestamp>,
    /// Only those before this time.
    pub until: Option<Timestamp>,
    /// Only those about what has this id, or, of a key, about the series of an import to which its id belongs.
    pub subject: Option<String>,
}

row! {
    struct AuditRow {
        sequence: i64,
        at: i64,
        actor: String,
        action: String,
        subject: String,
        details: String,
    }
}

impl Store {
    /// The entries that match the query.
    pub async fn audit(&self, wanted: &AuditQuery) -> Result<Page<AuditEntry, u64>, Error> {
        within(READ_PATIENCE, async {
            let mut query =
                Sql::new("SELECT sequence, at, actor, action, subject, details FROM audit WHERE sequence < ");
            query.bind(stored_sequence(wanted.before.unwrap_or(u64::MAX)));
            if let Some(subject) = &wanted.subject {
                query
                    .push(" AND subject IN (")
                    .bind_all(iter::once(subject.clone()).chain(series_of(subject)))
                    .push(")");
            }
            for (column, value) in [("actor", &wanted.actor), ("action", &wanted.action)] {
                if let Some(value) = value {
                    query.push(" AND ").push(column).push(" = ").bind(value.as_str());
                }
            }
            for (bound, time) in [(" AND at >= ", wanted.since), (" AND at < ", wanted.until)] {
                if let Some(time) = time {
                    query.push(bound).bind(time.as_stored());
                }
            }
            let next = |entry: &AuditRow| entry.sequence.unsigned_abs();
            Page::of_rows(
                query
                    .fetch_page("sequence DESC", wanted.limit, &mut *self.database.readers.acquire().await?, next)
                    .await?,
            )
        })
        .await
    }
}

impl TryFrom<AuditRow> for AuditEntry {
    type Error = Error;

    fn try_from(row: AuditRow) -> Result<Self, Error> {
        Ok(Self {
            sequence: sequence(row.sequence)?,
            at: Timestamp::from_stored(row.at),
            actor: row.actor,
            action: row.action,
            subject: row.subject,
            details: from_json(&row.details, "entry of the audit log")?,
        })
    }
}

/// What else is worth knowing of a change; nothing is said of what is null.
pub(super) fn details<const N: usize>(facts: [(&str, Value); N]) -> Map<String, Value> {
    let known = facts.into_iter().filter(|(_, value)| !value.is_null());
    known.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What has become of each field that has changed.
pub(super) fn differences<const N: usize>(fields: [(&str, Value, Value); N]) -> Map<String, Value> {
    let different = fields.into_iter().filter(|(_, old, new)| old != new);
    different.map(|(name, old, new)| (name.to_owned(), json!({"old": old, "new": new}))).collect()
}

/// By how much the clocks of servers that share a database may differ, and the last entry still be believed about the time.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// That time, or the one of the last entry where that is a little later: servers share a log, and their clocks differ. A last
/// entry that is further ahead was made by a clock that was wrong.
pub(super) async fn not_before_the_last(connection: &mut AnyConnection, now: Timestamp) -> Result<Timestamp, Error> {
    let last: Option<i64> =
        sqlx::query_scalar("SELECT at FROM audit ORDER BY sequence DESC LIMIT 1").fetch_optional(connection).await?;
    let last = last.map(Timestamp::from_stored).filter(|last| *last <= now.plus(CLOCK_TOLERANCE));
    Ok(last.map_or(now, |last| last.max(now)))
}

/// Appends an entry. Transactions that write follow each other, so the next number is free.
pub(super) async fn append(
    connection: &mut AnyConnection,
    at: Timestamp,
    actor: &Actor,
    action: &'static str,
    subject: &str,
    details: Map<String, Value>,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO audit (sequence, at, actor, action, subject, details)
         VALUES ((SELECT COALESCE(MAX(sequence), 0) + 1 FROM audit), $1, $2, $3, $4, $5)",
    )
    .bind(at.as_stored())
    .bind(actor.to_string())
    .bind(action)
    .bind(subject)
    .bind(Value::Object(details).to_string())
    .execute(connection)
    .await?;
    Ok(())
}

/// Appends an entry for each of the subjects, to which the same was done.
pub(super) async fn append_all(
    engine: Engine,
    connection: &mut AnyConnection,
    at: Timestamp,
    actor: &Actor,
    action: &'static str,
    subjects: &[&str],
    details: Map<String, Value>,
) -> Result<(), Error> {
    if subjects.is_empty() {
        return Ok(());
    }
    let (actor, details) = (actor.to_string(), Value::Object(details).to_string());
    let last = "SELECT CAST(COALESCE(MAX(sequence), 0) AS BIGINT) FROM audit";
    let last: i64 = sqlx::query_scalar(last).fetch_one(&mut *connection).await?;
    let mut sequence = last;
    for some in subjects.chunks(ROWS_OF_A_STATEMENT) {
        let mut insert =
            Sql::of_many_values(engine, "INSERT INTO audit (sequence, at, actor, action, subject, details) VALUES ");
        insert.bind_rows((sequence + 1..).zip(some), |columns, (sequence, subject)| {
            columns.bind(sequence).bind(at.as_stored()).bind(actor.clone()).bind(action);
            columns.bind((*subject).to_owned()).bind(details.clone());
        });
        insert.execute(connection, keep(some.len())).await?;
        sequence += some.len() as i64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Location;

    #[tokio::test]
    async fn times_rise_with_the_sequence_unless_a_clock_was_far_ahead() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let second = |n: u64| Timestamp::EXAMPLE.plus(Duration::from_secs(n));
        for (n, clock) in [30, 0, 31, 500, 0, 1].into_iter().enumerate() {
            let append = store.mutate(Actor::server(), second(clock), move |mutation| {
                Box::pin(async move { mutation.audit("key.changed", &format!("key_{n}"), Map::new()).await })
            });
            append.await.unwrap();
        }
        let entries = store.audit(&AuditQuery { limit: 9, ..AuditQuery::default() }).await.unwrap().items;
        let times: Vec<_> = entries.iter().rev().map(|entry| entry.at).collect();
        assert_eq!(times, [30, 30, 31, 500, 0, 1].map(second));
    }
}
