//! How many keys there are in each state, and how many need attention. All keys are read for that, so the counts of a large
//! database are kept for a while.

use super::key_query::LOW_CREDITS;
use super::query_builder::Sql;
use super::rows::{amount, row};
use super::{Error, READ_PATIENCE, Store, within};
use crate::clock::Timestamp;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// What is counted beside the states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountQuery {
    /// Active keys that expire within this time.
    pub expiring_within: Duration,
    /// Active keys that were not used for this time.
    pub unused_for: Duration,
}

/// The numbers of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyCounts {
    /// All keys.
    pub total: u64,
    /// By state.
    pub active: u64,
    /// By state.
    pub paused: u64,
    /// By state.
    pub revoked: u64,
    /// By state.
    pub expired: u64,
    /// Of the active keys, those that expire within the time.
    pub expiring: u64,
    /// Of the active keys, those that were not used for the time.
    pub unused: u64,
    /// Of the active keys, those that were never used.
    pub never_used: u64,
    /// Of the active keys, those that have spent nine tenths of their credits.
    pub low_credits: u64,
    /// Of the active keys, those with a secret in its grace period.
    pub in_rotation: u64,
    /// In any state, those with a secret that was found in public.
    pub leaked: u64,
    /// When they were counted.
    pub counted_at: Timestamp,
}

/// The last counts.
#[derive(Debug, Default)]
pub(super) struct LastCounts {
    last: std::sync::Mutex<Option<Last>>,
    /// Held while counting.
    counting: Arc<Mutex<()>>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    query: CountQuery,
    counts: KeyCounts,
    done_at: Instant,
    took: Duration,
}

/// Counts that took less are not kept.
const KEPT_IF_SLOWER: Duration = Duration::from_millis(100);
/// Counts are kept so many times as long as they took, so that they take a small part of the database's time.
const KEPT_TIMES: u32 = 20;
/// Older ones are not shown while new ones are being made.
const SHOWN_AT_MOST: Duration = Duration::from_secs(120);

row! {
    struct CountsRow {
        total: i64,
        revoked: i64,
        expired: i64,
        paused: i64,
        expiring: i64,
        unused: i64,
        never_used: i64,
        low_credits: i64,
    }
}

impl Store {
    /// The numbers of keys, perhaps as of a short time ago.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn key_counts(&self, query: CountQuery, now: Timestamp) -> Result<KeyCounts, Error> {
        if let Some(last) = self.counts.last(query).filter(|last| last.took >= KEPT_IF_SLOWER) {
            let age = last.done_at.elapsed();
            if age < last.took * KEPT_TIMES {
                return Ok(last.counts);
            }
            if age < SHOWN_AT_MOST {
                if let Ok(counting) = Arc::clone(&self.counts.counting).try_lock_owned() {
                    let store = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = store.count_anew(query, now).await {
                            tracing::warn!(%error, "failed to count keys; showing the last counts");
                        }
                        drop(counting);
                    });
                }
                return Ok(last.counts);
            }
        }
        let asked_at = Instant::now();
        let _counting = self.counts.counting.lock().await;
        match self.counts.last(query) {
            // Another request has counted meanwhile.
            Some(last) if last.done_at - last.took >= asked_at => Ok(last.counts),
            _ => self.count_anew(query, now).await,
        }
    }

    async fn count_anew(&self, query: CountQuery, now: Timestamp) -> Result<KeyCounts, Error> {
        let started_at = Instant::now();
        let counts = within(READ_PATIENCE, self.count(query, now)).await?;
        let last = Last { query, counts, done_at: Instant::now(), took: started_at.elapsed() };
        *self.counts.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        Ok(counts)
    }

    async fn count(&self, wanted: CountQuery, now: Timestamp) -> Result<KeyCounts, Error> {
        const USABLE: &str = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ";
        let mut transaction = self.database.begin_read(&self.database.bulk_readers).await?;
        let at = now.as_stored();
        let mut query = Sql::new("SELECT COUNT(*) AS total");
        let sum = |query: &mut Sql, name: &str, bind: &dyn Fn(&mut Sql)| {
            query.push(", CAST(COALESCE(SUM(CASE WHEN ");
            bind(query);
            query.push(" THEN 1 ELSE 0 END), 0) AS BIGINT) AS ").push(name);
        };
        let usable = |query: &mut Sql, rest: &str| {
            query.push(USABLE).bind(at).push(")").push(rest);
        };
        let is_active = " AND paused_at IS NULL";
        sum(&mut query, "revoked", &|query| _ = query.push("revoked_at IS NOT NULL"));
        sum(&mut query, "expired", &|query| _ = query.push("revoked_at IS NULL AND expires_at <= ").bind(at));
        sum(&mut query, "paused", &|query| usable(query, " AND paused_at IS NOT NULL"));
        sum(&mut query, "expiring", &|query| {
            usable(query, is_active);
            query.push(" AND expires_at < ").bind(now.plus(wanted.expiring_within).as_stored());
        });
        sum(&mut query, "unused", &|query| {
            usable(query, is_active);
            let since = now.minus(wanted.unused_for).as_stored();
            query.push(" AND COALESCE(last_used_at, created_at) < ").bind(since);
        });
        sum(&mut query, "never_used", &|query| {
            usable(query, is_active);
            query.push(" AND last_used_at IS NULL");
        });
        sum(&mut query, "low_credits", &|query| {
            usable(query, is_active);
            query.push(" AND ").push(LOW_CREDITS);
        });
        query.push(" FROM keys");
        let row: CountsRow = query.build_as()?.fetch_one(&mut *transaction).await?;

        let mut query = Sql::new("SELECT COUNT(*) FROM keys WHERE ");
        usable(&mut query, is_active);
        query.push(" AND id IN (SELECT key_id FROM secrets WHERE not_after IS NOT NULL AND not_after > ");
        query.bind(at).push(")");
        let (in_rotation,): (i64,) = query.build_as()?.fetch_one(&mut *transaction).await?;
        let leaked = "SELECT COUNT(DISTINCT key_id) FROM secrets WHERE leaked_at IS NOT NULL";
        let leaked: i64 = sqlx::query_scalar(leaked).fetch_one(&mut *transaction).await?;

        let number = |stored: i64| amount(stored, "number of keys");
        let CountsRow { total, revoked, expired, paused, expiring, unused, never_used, low_credits } = row;
        Ok(KeyCounts {
            total: number(total)?,
            active: number(total - revoked - expired - paused)?,
            paused: number(paused)?,
            revoked: number(revoked)?,
            expired: number(expired)?,
            expiring: number(expiring)?,
            unused: number(unused)?,
            never_used: number(never_used)?,
            low_credits: number(low_credits)?,
            in_rotation: number(in_rotation)?,
            leaked: number(leaked)?,
            counted_at: now,
        })
    }
}

impl LastCounts {
    fn last(&self, query: CountQuery) -> Option<Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).filter(|last| last.query == query)
    }
}

/// Shared by the clones of a store.
pub(super) type Counts = Arc<LastCounts>;
