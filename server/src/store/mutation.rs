//! A transaction that writes, with its entries of the feed and of the audit log.

use super::Error;
use super::audit;
use super::authorization::{Access, Authorization};
use super::database::{Database, Engine};
use super::feed::full_head;
use super::hub::Change;
use super::pool::Transaction;
use super::query_builder::{ROWS_OF_A_STATEMENT, Sql, keep};
use super::rows::{Head, digest, stored_sequence};
use crate::clock::Timestamp;
use keyward_core::key::digest::Digest;
use keyward_core::wire::cursor::{Cursor, chain};
use keyward_core::wire::entry::{Body, Entry};
use keyward_core::wire::summary::Summary;
use serde_json::{Map, Value};
use sqlx::AnyConnection;
use std::collections::HashMap;

/// How many changes the log keeps. An edge that missed more takes a snapshot.
pub(super) const KEPT_CHANGES: u64 = 100_000;

/// A transaction in progress; dropped without [`Mutation::commit`], nothing of it has happened.
pub(super) struct Mutation {
    transaction: Transaction,
    by: Authorization,
    now: Timestamp,
    /// What its entries of the audit log bear; `None` until there is one.
    audited_at: Option<Timestamp>,
    engine: Engine,
    before: Cursor,
    head: Cursor,
    /// The summary of all records at the head; `None` where it is not known.
    summary: Option<Summary>,
    changes: Vec<Change>,
    kept_changes: u64,
    #[cfg(test)]
    answer_is_lost: bool,
}

/// What was committed.
pub(super) struct Committed {
    /// Where the history stood before.
    pub(super) before: Cursor,
    /// What followed.
    pub(super) changes: Vec<Change>,
}

impl Mutation {
    /// Starts after all earlier transactions; fails if the authorization no longer holds.
    pub(super) async fn begin(database: &Database, by: Authorization, started_at: Timestamp) -> Result<Self, Error> {
        let mut transaction = database.begin_write().await?;
        by.check(&mut transaction, Access::Write).await?;
        let Head { cursor: head, summary } = full_head(&mut transaction).await?;
        Ok(Self {
            transaction,
            now: by.now(started_at),
            by,
            audited_at: None,
            engine: database.engine,
            before: head,
            head,
            summary,
            changes: Vec::new(),
            kept_changes: KEPT_CHANGES,
            #[cfg(test)]
            answer_is_lost: false,
        })
    }

    /// The kind of database, for queries with a great many values.
    pub(super) fn engine(&self) -> Engine {
        self.engine
    }

    /// When it happens.
    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    /// Writes into the audit log that this was done to the subject. The details hold no secret and no digest.
    pub(super) async fn audit(
        &mut self,
        action: &'static str,
        subject: &str,
        details: Map<String, Value>,
    ) -> Result<(), Error> {
        let at = self.audited_at().await?;
        audit::append(&mut self.transaction, at, self.by.actor(), action, subject, details).await
    }

    /// Writes into the audit log that this was done to each of the subjects.
    pub(super) async fn audit_all(
        &mut self,
        action: &'static str,
        subjects: &[&str],
        details: Map<String, Value>,
    ) -> Result<(), Error> {
        let (engine, at) = (self.engine, self.audited_at().await?);
        audit::append_all(engine, &mut self.transaction, at, self.by.actor(), action, subjects, details).await
    }

    /// The time for the audit log.
    async fn audited_at(&mut self) -> Result<Timestamp, Error> {
        if let Some(at) = self.audited_at {
            return Ok(at);
        }
        let at = audit::not_before_the_last(&mut self.transaction, self.now).await?;
        self.audited_at = Some(at);
        Ok(at)
    }

    /// Has the servers that share the database look at it once this is committed, though nothing is appended to the feed.
    pub(super) async fn announce(&mut self) -> Result<(), Error> {
        self.engine.announce(&mut self.transaction).await
    }

    /// The connection, for what is not the feed's.
    pub(super) fn connection(&mut self) -> &mut AnyConnection {
        &mut self.transaction
    }

    /// Makes this the current state of the subject, and appends it to the feed.
    pub(super) async fn append(&mut self, subject: Digest, body: Body) -> Result<(), Error> {
        self.append_all(vec![(subject, body)]).await
    }

    /// Makes these the current states of the subjects, of which each is there once, and appends them to the feed in this
    /// order.
    pub(super) async fn append_all(&mut self, states: Vec<(Digest, Body)>) -> Result<(), Error> {
        let first = self.changes.len();
        let before = match self.summary {
            Some(_) => self.summaries_of(&states).await?,
            None => HashMap::new(),
        };
        let mut removed = Vec::with_capacity(states.len());
        for (subject, body) in states {
            let is_removed = body == Body::Removed;
            removed.push(is_removed);
            let sequence = self.head.sequence + 1;
            let mut frame = Vec::new();
            Entry { subject, version: sequence, body }.encode(&mut frame)?;
            let chain = chain(&self.head.chain, &frame);
            self.head.sequence = sequence;
            self.head.chain = chain;
            self.summary = self.summary.map(|summary| {
                let others = summary.minus(before.get(&subject).copied().unwrap_or_default());
                if is_removed { others } else { others.plus(Summary::of(&frame)) }
            });
            self.changes.push(Change { sequence, chain, subject, frame: frame.into(), summary: self.summary });
        }
        let appended = self.changes.get(first..).unwrap_or_default();
        let entries: Vec<_> = appended.iter().zip(removed).collect();
        for rows in entries.chunks(ROWS_OF_A_STATEMENT) {
            let mut insert =
                Sql::of_many_values(self.engine, "INSERT INTO edge_entries (subject, version, entry, removed) VALUES ");
            insert.bind_rows(rows, |columns, (change, removed)| {
                columns
                    .bind(change.subject.0.as_slice())
                    .bind(stored_sequence(change.sequence))
                    .bind(change.frame.as_ref())
                    .bind(*removed);
            });
            insert.push(
                " ON CONFLICT (subject) DO UPDATE
                 SET version = excluded.version, entry = excluded.entry, removed = excluded.removed",
            );
            insert.execute(&mut self.transaction, keep(rows.len())).await?;
        }
        // What would be cut when this commits is not written at all.
        let cut = self.head.sequence.saturating_sub(self.kept_changes);
        let kept = appended.get(appended.partition_point(|change| change.sequence <= cut)..).unwrap_or_default();
        write_log(self.engine, &mut self.transaction, kept).await
    }

    /// The summaries of the subjects' records as they are, of those that have one.
    async fn summaries_of(&mut self, states: &[(Digest, Body)]) -> Result<HashMap<Digest, Summary>, Error> {
        let mut found = HashMap::new();
        for some in states.chunks(ROWS_OF_A_STATEMENT) {
            let mut query = Sql::of_many_values(
                self.engine,
                "SELECT subject, entry FROM edge_entries WHERE NOT removed AND subject IN (",
            );
            query.bind_all(some.iter().map(|(subject, _)| subject.0.as_slice())).push(")");
            let rows: Vec<(Vec<u8>, Vec<u8>)> =
                query.build_as()?.persistent(keep(some.len())).fetch_all(self.connection()).await?;
            for (subject, frame) in rows {
                found.insert(digest(subject)?, Summary::of(&frame));
            }
        }
        Ok(found)
    }

    /// Commits, and returns the changes to publish. If the commit itself fails, its outcome is unknown.
    pub(super) async fn commit(mut self) -> Result<Committed, Error> {
        if !self.changes.is_empty() {
            let head = self.head;
            let summary = self.summary.map(|summary| summary.to_bytes().to_vec());
            sqlx::query("UPDATE head SET sequence = $1, chain = $2, summary = $3, summary_at = $1")
                .bind(stored_sequence(head.sequence))
                .bind(head.chain.as_slice())
                .bind(summary)
                .execute(self.connection())
                .await?;
            let kept_changes = self.kept_changes;
            cut_log(self.connection(), head.sequence, kept_changes).await?;
            self.engine.announce(&mut self.transaction).await?;
        }
        // The steps can have taken a while.
        self.by.check_in_memory()?;
        let committed = self.transaction.commit().await;
        #[cfg(test)]
        let committed = committed.and(if self.answer_is_lost { Err(sqlx::Error::WorkerCrashed) } else { Ok(()) });
        committed.map_err(|error| self.engine.failed_commit(error))?;
        Ok(Committed { before: self.before, changes: self.changes })
    }

    /// Keeps fewer changes than usual, so that a test reaches the end of the log.
    #[cfg(test)]
    pub(super) fn keep(&mut self, changes: u64) {
        self.kept_changes = changes;
    }

    /// Commits, and says that it did not.
    #[cfg(test)]
    pub(super) fn lose_answer(&mut self) {
        self.answer_is_lost = true;
    }
}

/// Appends the changes to the log.
pub(super) async fn write_log(engine: Engine, connection: &mut AnyConnection, changes: &[Change]) -> Result<(), Error> {
    for rows in changes.chunks(ROWS_OF_A_STATEMENT) {
        let mut insert = Sql::of_many_values(engine, "INSERT INTO feed (sequence, subject, chain) VALUES ");
        insert.bind_rows(rows, |columns, change| {
            columns
                .bind(stored_sequence(change.sequence))
                .bind(change.subject.0.as_slice())
                .bind(change.chain.as_slice());
        });
        insert.execute(connection, keep(rows.len())).await?;
    }
    Ok(())
}

/// Cuts the oldest changes off the log. Removals are deleted with their last change: every edge that can still continue has received
/// them.
pub(super) async fn cut_log(connection: &mut AnyConnection, head: u64, kept_changes: u64) -> Result<(), Error> {
    let Some(last_cut) = head.checked_sub(kept_changes) else { return Ok(()) };
    let last_cut = stored_sequence(last_cut);
    sqlx::query("DELETE FROM feed WHERE sequence <= $1").bind(last_cut).execute(&mut *connection).await?;
    sqlx::query("DELETE FROM edge_entries WHERE removed AND version <= $1").bind(last_cut).execute(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Actor;
    use crate::store::pool::PooledConnection;
    use crate::store::{FeedRead, Location, Store};
    use keyward_core::wire::cursor::Position;
    use keyward_core::wire::entry::{Frames, KeyRecord};
    use keyward_core::wire::page::{Extent, Page};
    use sqlx::Connection;
    use std::sync::Arc;

    const KEPT: u64 = 3;

    /// Commits one change of the subject, in a log of few.
    async fn change(store: &Store, subject: u8, removed: bool) {
        let record = KeyRecord { key_id: "k".into(), ..KeyRecord::default() };
        let body = if removed { Body::Removed } else { Body::Key(record) };
        let append = store.mutate(Actor::server(), Timestamp::EXAMPLE, move |mutation| {
            mutation.keep(KEPT);
            Box::pin(mutation.append(Digest([subject; 32]), body))
        });
        append.await.unwrap();
    }

    async fn page(store: &Store, position: Position) -> (Position, bool, Vec<u8>) {
        let FeedRead::Page(bytes) = store.feed_after("a reader", &position).await.unwrap() else {
            panic!("nothing new")
        };
        let page = Page::decode(&bytes).unwrap();
        let subjects = Frames::new(page.entries).map(|frame| frame.unwrap().subject.0[0]).collect();
        (page.next(), matches!(page.extent, Extent::Snapshot { .. }), subjects)
    }

    async fn count(store: &Store, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut *store.database.readers.acquire().await.unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn the_log_keeps_its_length_and_a_cursor_before_it_leads_to_a_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let (start, _, _) = page(&store, Position::Nothing).await;
        change(&store, 1, false).await;
        let (first, is_snapshot, subjects) = page(&store, start).await;
        assert_eq!((is_snapshot, subjects), (false, vec![1]));
        for subject in 2..=4 {
            change(&store, subject, false).await;
        }
        assert_eq!(count(&store, "SELECT count(*) FROM feed").await, 3);
        for cut in [start, first] {
            let (_, is_snapshot, subjects) = page(&store, cut).await;
            assert_eq!((is_snapshot, subjects), (true, vec![1, 2, 3, 4]));
        }
    }

    #[tokio::test]
    async fn of_more_changes_than_the_log_keeps_only_those_are_written_that_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let append = store.mutate(Actor::server(), Timestamp::EXAMPLE, |mutation| {
            mutation.keep(KEPT);
            Box::pin(async move {
                let record = || Body::Key(KeyRecord { key_id: "k".into(), ..KeyRecord::default() });
                mutation.append_all((1..=5).map(|subject| (Digest([subject; 32]), record())).collect()).await?;
                Ok(sqlx::query_scalar::<_, i64>("SELECT count(*) FROM feed").fetch_one(mutation.connection()).await?)
            })
        });
        assert_eq!(append.await.unwrap(), 3);
        assert_eq!(count(&store, "SELECT min(sequence) FROM feed").await, 3);
        assert_eq!(page(&store, Position::Nothing).await.2, [1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn what_was_removed_is_in_the_log_but_in_no_snapshot_and_goes_with_its_change() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        change(&store, 1, false).await;
        let (known, _, _) = page(&store, Position::Nothing).await;
        change(&store, 1, true).await;
        assert_eq!(page(&store, known).await.2, [1]);
        assert_eq!(page(&store, Position::Nothing).await.2, [0; 0]);
        for subject in 2..=3 {
            change(&store, subject, false).await;
            assert_eq!(count(&store, "SELECT count(*) FROM edge_entries WHERE removed").await, 1);
        }
        change(&store, 4, false).await;
        assert_eq!(count(&store, "SELECT count(*) FROM edge_entries WHERE removed").await, 0);
    }

    #[tokio::test]
    async fn request_cancelled_before_its_transaction_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let lock = store.commit_order.lock().await;
        let asking = store.clone();
        let asking = tokio::spawn(async move { change(&asking, 1, false).await });
        while Arc::strong_count(&store.commit_order) < 3 {
            tokio::task::yield_now().await;
        }
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
        drop(lock);
        // Waiting requests get the lock in the order of their arrival.
        change(&store, 2, false).await;
        assert_eq!(count(&store, "SELECT count(*) FROM feed").await, 1);

        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let asking = store.clone();
        let asking = tokio::spawn(async move {
            let write = asking.mutate(Actor::server(), Timestamp::EXAMPLE, move |mutation| {
                Box::pin(async move {
                    begun.send(()).unwrap();
                    tokio::task::yield_now().await;
                    mutation.append(Digest([3; 32]), Body::Removed).await
                })
            });
            write.await
        });
        has_begun.await.unwrap();
        asking.abort();
        let _ = asking.await;
        change(&store, 4, false).await;
        assert_eq!(count(&store, "SELECT sequence FROM head").await, 3);
    }

    #[tokio::test]
    async fn a_database_that_is_full_or_busy_is_so_for_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let path = dir.path().join(crate::store::DATABASE_FILE);
        let mut other = AnyConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
        sqlx::query("PRAGMA busy_timeout = 0")
            .execute(&mut *store.database.writer.acquire().await.unwrap())
            .await
            .unwrap();
        let append = || {
            store.mutate(Actor::server(), Timestamp::EXAMPLE, |mutation| {
                Box::pin(mutation.append(Digest([1; 32]), Body::Removed))
            })
        };
        sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        assert!(append().await.unwrap_err().is_temporary());
        sqlx::query("COMMIT").execute(&mut other).await.unwrap();
        append().await.unwrap();

        let fill = |scopes: usize| {
            let record = KeyRecord { scopes: vec!["s".repeat(50); scopes], ..KeyRecord::default() };
            store.mutate(Actor::server(), Timestamp::EXAMPLE, move |mutation| {
                Box::pin(async move {
                    sqlx::query("PRAGMA max_page_count = 1").execute(mutation.connection()).await?;
                    mutation.append(Digest([2; 32]), Body::Key(record)).await
                })
            })
        };
        assert!(fill(1000).await.unwrap_err().is_temporary());
        let nonsense = store.mutate(Actor::server(), Timestamp::EXAMPLE, |mutation| {
            Box::pin(async move {
                sqlx::query("SELECT nonsense").execute(mutation.connection()).await?;
                Ok(())
            })
        });
        assert!(!nonsense.await.unwrap_err().is_temporary());
    }

    /// Takes every connection with which the feed is read and followed.
    async fn hold_readers(store: &Store) -> Vec<PooledConnection> {
        let pool = &store.database.feed_readers;
        let all = (0..pool.max_connections()).map(|_| pool.acquire());
        futures_util::future::try_join_all(all).await.unwrap()
    }

    #[tokio::test]
    async fn a_commit_whose_answer_is_lost_is_published_all_the_same_and_those_after_it_too() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let (start, _, _) = page(&store, Position::Nothing).await;
        let lost = |subject: u8, readers_are_away: bool| {
            let store = store.clone();
            async move {
                let held = match readers_are_away {
                    true => hold_readers(&store).await,
                    false => Vec::new(),
                };
                let write = store.mutate(Actor::server(), Timestamp::EXAMPLE, move |mutation| {
                    mutation.lose_answer();
                    Box::pin(mutation.append(Digest([subject; 32]), Body::Removed))
                });
                assert!(matches!(write.await, Err(Error::OutcomeUnknown(_))));
                drop(held);
            }
        };
        lost(1, false).await;
        assert_eq!(store.hub().head().sequence, 1);
        assert_eq!(page(&store, start).await.2, [1]);
        // Where not even that can be looked up, the next commit finds that something is missing before it.
        lost(2, true).await;
        assert_eq!(store.hub().head().sequence, 1);
        change(&store, 3, false).await;
        assert_eq!(store.hub().head().sequence, 3);
        assert_eq!(page(&store, start).await.2, [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_hub_that_lacks_very_much_begins_anew_and_who_is_behind_reads_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let (start, _, _) = page(&store, Position::Nothing).await;
        let bell = store.hub().subscribe();
        let write = store.mutate(Actor::server(), Timestamp::EXAMPLE, |mutation| {
            mutation.lose_answer();
            Box::pin(async move {
                for n in 0..=crate::store::tail::MOST {
                    let [low, middle, ..] = n.to_le_bytes();
                    let mut subject = [0; 32];
                    subject[..2].copy_from_slice(&[middle, low]);
                    mutation.append(Digest(subject), Body::Removed).await?;
                }
                Ok(())
            })
        });
        assert!(write.await.is_err());
        assert!(bell.has_changed().unwrap());
        let Position::Changes { seen, .. } = start else { panic!("{start:?}") };
        assert_eq!(store.hub().changes_after(0, &seen), crate::store::hub::Recent::Unknown);
        let (next, is_snapshot, subjects) = page(&store, start).await;
        assert_eq!((is_snapshot, subjects.len()), (false, 4097));
        assert_eq!(next, Position::Changes { applied: 4097, seen: store.hub().head() });
    }

    #[tokio::test]
    async fn a_commit_that_cannot_be_looked_up_at_once_is_published_by_the_tail() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let mut bell = store.hub().subscribe();
        let held = hold_readers(&store).await;
        let write = store.mutate(Actor::server(), Timestamp::EXAMPLE, |mutation| {
            mutation.lose_answer();
            Box::pin(mutation.append(Digest([1; 32]), Body::Removed))
        });
        assert!(write.await.is_err());
        drop(held);
        assert!(!bell.has_changed().unwrap());
        let (end, ending) = tokio::sync::watch::channel(false);
        let following = tokio::spawn({
            let store = store.clone();
            async move { store.follow(ending).await }
        });
        bell.changed().await.unwrap();
        assert_eq!(store.hub().head().sequence, 1);
        end.send_replace(true);
        following.await.unwrap();
    }

    #[tokio::test]
    async fn a_transaction_that_fails_leaves_nothing_and_tells_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let bell = store.hub().subscribe();
        let failed = store.mutate(Actor::server(), Timestamp::EXAMPLE, |mutation| {
            Box::pin(async move {
                mutation.append(Digest([1; 32]), Body::Removed).await?;
                Err::<(), _>(Error::Interrupted)
            })
        });
        assert!(failed.await.is_err());
        assert!(!bell.has_changed().unwrap());
        assert_eq!(count(&store, "SELECT count(*) FROM edge_entries").await, 0);
        assert_eq!(count(&store, "SELECT sequence FROM head").await, 0);
    }
}
