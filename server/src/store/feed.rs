//! The feed, read from the database: changes after a cursor, or a snapshot, each page from one read transaction.

use super::database::Database;
use super::hub::{Bounds, Change, Hub};
use super::page::PageEntries;
use super::rows::{HEAD_COLUMNS, Head, HeadRow, chain, digest, row, sequence, stored_sequence};
use super::{Error, PATIENCE, Store, within};
use bytes::Bytes;
use futures_util::TryStreamExt;
use keyward_core::wire::cursor::{Cursor, Position};
use keyward_core::wire::page::{Extent, Page};
use keyward_core::wire::summary::Summary;
use sqlx::{AnyConnection, AssertSqlSafe};
use std::collections::HashSet;

/// The result of reading the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedRead {
    /// An encoded page.
    Page(Bytes),
    /// The reader has everything that was committed; with the summary of all records there.
    UpToDate(Option<Summary>),
}

impl Store {
    /// The page after the position, for the reader with that name. A position of another history is answered with the start of a
    /// snapshot.
    ///
    /// # Errors
    /// If the database cannot be read, or too many want to.
    pub async fn feed_after(&self, reader: &str, position: &Position) -> Result<FeedRead, Error> {
        let find = || self.pages.find(position, &self.hub.head());
        if let Some(page) = find() {
            return Ok(FeedRead::Page(page));
        }
        let _permit = self.pages.permit(reader).await?;
        if let Some(page) = find() {
            return Ok(FeedRead::Page(page));
        }
        within(PATIENCE, self.read_after(position)).await
    }

    async fn read_after(&self, position: &Position) -> Result<FeedRead, Error> {
        let mut transaction = self.database.begin_read(&self.database.feed_readers).await?;
        let Head { cursor: head, summary } = full_head(&mut transaction).await?;
        let fits = match position {
            Position::Nothing => false,
            Position::Changes { applied: from, seen } | Position::Snapshot { base: from, seen, .. } => {
                fits(&mut transaction, &head, *from, seen).await?
            }
        };
        let answers = if fits { *position } else { Position::Nothing };
        // The page for another history is the start of a snapshot, which may be cached.
        if let Some(page) = self.pages.find(&answers, &head) {
            return Ok(FeedRead::Page(page));
        }
        let page = match answers {
            Position::Changes { applied, .. } if applied == head.sequence => {
                return Ok(FeedRead::UpToDate(
                    summary.filter(|_| *position == (Position::Changes { applied, seen: head })),
                ));
            }
            Position::Changes { applied, .. } => {
                changes_page(&mut transaction, Head { cursor: head, summary }, answers, applied).await?
            }
            Position::Nothing | Position::Snapshot { .. } => {
                snapshot_page(&mut transaction, Head { cursor: head, summary }, answers).await?
            }
        };
        let page = Bytes::from(page);
        self.pages.keep(answers, head, page.clone());
        Ok(FeedRead::Page(page))
    }
}

/// A hub with the newest changes, so that edges are served from memory right after a restart.
pub(super) async fn recent(database: &Database, bounds: Bounds) -> Result<Hub, Error> {
    let mut transaction = database.begin_read(&database.readers).await?;
    let Head { cursor: head, summary } = full_head(&mut transaction).await?;
    let window = u64::try_from(bounds.changes).unwrap_or(u64::MAX);
    let first = head.sequence.saturating_sub(window);
    let base = cursor_at(&mut transaction, &head, first).await?;
    let at_head = |cursor: &Cursor| summary.filter(|_| *cursor == head);
    let begin = base.unwrap_or(head);
    let hub = Hub::new(begin, at_head(&begin), bounds);
    if let Some(base) = base {
        let mut changes = changes_after(&mut transaction, base.sequence);
        while let Some(change) = changes.try_next().await? {
            let mut change = Change::try_from(change)?;
            change.summary = summary.filter(|_| change.sequence == head.sequence);
            hub.publish(vec![change]);
        }
    }
    Ok(hub)
}

row! {
    pub(super) struct ChangeRow {
        sequence: i64,
        chain: Vec<u8>,
        subject: Vec<u8>,
        entry: Vec<u8>,
    }
}

impl TryFrom<ChangeRow> for Change {
    type Error = Error;

    fn try_from(row: ChangeRow) -> Result<Self, Error> {
        Ok(Self {
            sequence: sequence(row.sequence)?,
            chain: chain(row.chain)?,
            subject: digest(row.subject)?,
            frame: row.entry.into(),
            summary: None,
        })
    }
}

pub(super) async fn head(connection: &mut AnyConnection) -> Result<Cursor, Error> {
    Ok(full_head(connection).await?.cursor)
}

/// The head with the summary of all records there.
pub(super) async fn full_head(connection: &mut AnyConnection) -> Result<Head, Error> {
    let query = format!("SELECT {HEAD_COLUMNS} FROM head");
    let row: HeadRow = sqlx::query_as(AssertSqlSafe(query)).fetch_one(connection).await?;
    row.try_into()
}

/// Whether the head that a reader saw is one of this history, and all that followed `from` is still there.
async fn fits(connection: &mut AnyConnection, head: &Cursor, from: u64, seen: &Cursor) -> Result<bool, Error> {
    Ok(seen.epoch == head.epoch
        && from <= seen.sequence
        && cursor_at(connection, head, seen.sequence).await? == Some(*seen)
        && cursor_at(connection, head, from).await?.is_some())
}

/// The cursor at that sequence; `None` where the log does not reach.
pub(super) async fn cursor_at(
    connection: &mut AnyConnection,
    head: &Cursor,
    sequence: u64,
) -> Result<Option<Cursor>, Error> {
    let at = |chain| Cursor { epoch: head.epoch, sequence, chain };
    if sequence == 0 {
        let first: Option<i64> = sqlx::query_scalar("SELECT sequence FROM feed ORDER BY sequence LIMIT 1")
            .fetch_optional(connection)
            .await?;
        // A relay's log can be empty though there is a history.
        let is_whole = first.map_or(head.sequence == 0, |first| first == 1);
        return Ok(is_whole.then(|| at([0; Cursor::CHAIN_LENGTH])));
    }
    let stored: Option<Vec<u8>> = sqlx::query_scalar("SELECT chain FROM feed WHERE sequence = $1")
        .bind(stored_sequence(sequence))
        .fetch_optional(connection)
        .await?;
    stored.map(|stored| chain(stored).map(at)).transpose()
}

/// The changes after a sequence in order, each with the current state of its subject.
pub(super) fn changes_after(
    connection: &mut AnyConnection,
    sequence: u64,
) -> impl TryStreamExt<Ok = ChangeRow, Error = sqlx::Error> + Unpin {
    sqlx::query_as(
        "SELECT feed.sequence, feed.chain, feed.subject, edge_entries.entry
         FROM feed JOIN edge_entries ON edge_entries.subject = feed.subject
         WHERE feed.sequence > $1 ORDER BY feed.sequence",
    )
    .bind(stored_sequence(sequence))
    .fetch(connection)
}

async fn changes_page(
    connection: &mut AnyConnection,
    Head { cursor: head, summary }: Head,
    answers: Position,
    applied: u64,
) -> Result<Vec<u8>, Error> {
    let mut entries = PageEntries::default();
    let mut seen = HashSet::new();
    let mut to = applied;
    let mut changes = changes_after(connection, applied);
    while let Some(row) = changes.try_next().await? {
        let change = Change::try_from(row)?;
        if seen.insert(change.subject) && !entries.push(&change.frame) {
            break;
        }
        to = change.sequence;
    }
    Ok(Page { answers, head, summary, extent: Extent::Changes { to }, entries: entries.as_slice() }.encode())
}

async fn snapshot_page(
    connection: &mut AnyConnection,
    Head { cursor: head, summary }: Head,
    answers: Position,
) -> Result<Vec<u8>, Error> {
    let mut page = Page { answers, head, summary, extent: Extent::Snapshot { end: None }, entries: &[] };
    let mut entries = PageEntries::default();
    let start = page.start();
    let mut current = sqlx::query_as::<_, (Vec<u8>, Vec<u8>)>(
        "SELECT subject, entry FROM edge_entries WHERE subject >= $1 AND NOT removed ORDER BY subject",
    )
    .bind(start.0.as_slice())
    .fetch(connection);
    while let Some((subject, frame)) = current.try_next().await? {
        if !entries.push(&frame) {
            page.extent = Extent::Snapshot { end: Some(digest(subject)?) };
            break;
        }
    }
    page.entries = entries.as_slice();
    Ok(page.encode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Location;

    fn page(found: FeedRead) -> Bytes {
        match found {
            FeedRead::Page(page) => page,
            FeedRead::UpToDate(_) => panic!("no page"),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_a_thousand_who_begin_a_snapshot_at_once_one_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let of_another_history = Cursor { epoch: 0, sequence: 5, chain: [9; 16] };
        let permit = store.pages.permit("a reader").await.unwrap();
        let asking: Vec<_> = (0..1000)
            .map(|n| {
                let position = match n % 2 {
                    0 => Position::Nothing,
                    _ => Position::Changes { applied: 5, seen: of_another_history },
                };
                let store = store.clone();
                tokio::spawn(async move { page(store.feed_after("a reader", &position).await.unwrap()) })
            })
            .collect();
        let all_wait = async {
            while store.pages.waiting() < 1000 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), all_wait).await.unwrap();
        drop(permit);
        let mut places = HashSet::new();
        for asking in asking {
            places.insert(asking.await.unwrap().as_ptr());
        }
        assert_eq!(places.len(), 1);
    }
}
