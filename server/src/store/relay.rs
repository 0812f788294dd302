//! The database of a relay: a replica of its upstream's feed.
//!
//! Pages are staged until they reach a head of the history, and are then merged into the served records in one transaction with the
//! head. So the served state is always that of one head, and a relay that is killed continues with the old state and the next page.
//! The log has the control plane's sequence numbers, taken from the versions of the entries. A change that was superseded before the
//! relay fetched it is recorded as a change of the subject that follows, which costs a reader in between one more entry. The chain at
//! such a change is unknown, unless every change before it is known.

use super::database::Database;
use super::feed::{cursor_at, full_head, head};
use super::hub::Change;
use super::mutation::{Committed, KEPT_CHANGES, cut_log, write_log};
use super::query_builder::{ROWS_OF_A_STATEMENT, Sql, keep};
use super::rows::{Head, digest, row, sequence, stored_sequence};
use super::summary;
use super::tail::{MOST, WRITERS_PATIENCE};
use super::{Error, LATE, PATIENCE, Store, lock, within};
use crate::clock::Timestamp;
use futures_util::TryStreamExt;
use keyward_core::wire::cursor::{Cursor, Position, chain};
use keyward_core::wire::entry::{Body, Frames};
use keyward_core::wire::page::{Extent, Page, UnreadablePage};
use keyward_core::wire::summary::Summary;
use sqlx::AnyConnection;
use tokio::time::timeout;

/// The progress of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The position of the next page.
    pub position: Position,
    /// Whether there is a complete state to serve.
    pub is_complete: bool,
    /// When the control plane was last known to have nothing beyond it, by the system clock.
    pub current_at: Option<Timestamp>,
}

impl Standing {
    /// Whether everything that the upstream is known to have is served.
    pub fn is_level(&self) -> bool {
        matches!(self.position, Position::Changes { applied, seen } if applied == seen.sequence)
    }
}

/// A page was not stored.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The page is invalid.
    #[error(transparent)]
    Page(#[from] WrongPage),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] Error),
}

impl From<sqlx::Error> for ApplyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Why a page is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongPage {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] UnreadablePage),
    /// The page does not continue the requested position.
    #[error("the page does not continue the requested position")]
    DoesNotFollow,
    /// Its entries cannot be those of the history that it names.
    #[error("the page's entries do not belong to the history that it names")]
    Contradiction,
    /// With the page, the records differ from the upstream's.
    #[error("records differ from the upstream's; requesting a snapshot")]
    Differs,
}

/// The chain where it is not known; none that is computed is all zeros but that of an empty history, at sequence 0.
const UNKNOWN_CHAIN: [u8; Cursor::CHAIN_LENGTH] = [0; Cursor::CHAIN_LENGTH];
/// The place of a history's log that is known though its change is not: no subject is all zeros.
const NO_SUBJECT: [u8; 32] = [0; 32];

row! {
    struct UpstreamRow {
        position: Vec<u8>,
        base: Option<Vec<u8>>,
        complete: i64,
        current_at: Option<i64>,
    }
}

row! {
    struct StagedRow {
        version: i64,
        subject: Vec<u8>,
        entry: Vec<u8>,
    }
}

impl Store {
    /// The progress of the relay.
    pub async fn standing(&self) -> Result<Standing, Error> {
        let row = within(PATIENCE, async { upstream(&mut *self.database.readers.acquire().await?).await }).await?;
        Ok(Standing {
            position: position(&row.position)?,
            is_complete: row.complete != 0,
            current_at: row.current_at.map(Timestamp::from_stored),
        })
    }

    /// Whether a reader's head belongs to another history: the change of that sequence is known here, and differs.
    pub async fn is_of_another_history(&self, seen: &Cursor) -> Result<bool, Error> {
        within(PATIENCE, async {
            let mut transaction = self.database.begin_read(&self.database.feed_readers).await?;
            let head = head(&mut transaction).await?;
            let here = if seen.sequence == head.sequence {
                Some(head)
            } else {
                cursor_at(&mut transaction, &head, seen.sequence).await?
            };
            Ok(here.is_some_and(|here| here.chain != UNKNOWN_CHAIN && here != *seen))
        })
        .await
    }

    /// Stores a page, and publishes the changes that it completes; `current_at` is when the control plane had nothing beyond it, if
    /// the page is the last one.
    ///
    /// # Errors
    /// If the page is invalid or cannot be stored; then nothing of it is stored, unless the result of the commit was lost.
    pub async fn take_page(&self, asked: Position, page: &[u8], current_at: Timestamp) -> Result<Standing, ApplyError> {
        let taken = self.take(asked, page, current_at, KEPT_CHANGES).await;
        match &taken {
            Ok(_) => self.health.note(None),
            Err(ApplyError::Store(error)) => self.health.note(Some(error)),
            Err(ApplyError::Page(_)) => {}
        }
        taken
    }

    async fn take(
        &self,
        asked: Position,
        page: &[u8],
        current_at: Timestamp,
        kept_changes: u64,
    ) -> Result<Standing, ApplyError> {
        let page = Page::decode(page).map_err(WrongPage::Unreadable)?;
        check(&asked, &page)?;
        let _lock = lock(&self.commit_order).await?;
        self.database.verify_files()?;
        let mut transaction = self.database.begin_write().await?;
        let row = upstream(&mut transaction).await?;
        if page.answers != Position::Nothing && page.answers != position(&row.position)? {
            return Err(WrongPage::DoesNotFollow.into());
        }
        let mut base = row.base.as_deref().map(position).transpose()?;
        if page.answers == Position::Nothing {
            sqlx::query("DELETE FROM staged").execute(&mut *transaction).await?;
            base = Some(Position::Changes { applied: page.head.sequence, seen: page.head });
        }
        let is_anew = base.is_some();
        stage(&self.database, &mut transaction, &page).await?;
        let mut standing = Standing {
            position: page.next(),
            is_complete: row.complete != 0,
            current_at: row.current_at.map(Timestamp::from_stored),
        };
        let Head { cursor: before, mut summary } = full_head(&mut transaction).await?;
        let mut following = None;
        if standing.is_level() {
            let anchor = match base.take() {
                None => before,
                Some(Position::Changes { seen, .. }) => {
                    replace_all(&mut transaction, &seen).await?;
                    seen
                }
                Some(_) => return Err(Error::Corrupt("begin of a snapshot").into()),
            };
            let known = if is_anew { Some(Summary::EMPTY) } else { summary };
            summary = with_staged(&mut transaction, known).await?;
            if let (Some(ours), Some(theirs)) = (summary, page.summary)
                && ours != theirs
            {
                if !is_anew {
                    return Err(WrongPage::Differs.into());
                }
                tracing::warn!("upstream snapshot does not match its summary; serving it without a summary");
                summary = None;
            }
            following = Some(merge(&self.database, &mut transaction, &anchor, &page.head, kept_changes).await?);
            summary::store(&mut transaction, page.head.sequence, summary).await?;
            standing.is_complete = true;
            standing.current_at = Some(current_at);
        }
        sqlx::query("UPDATE upstream SET position = $1, base = $2, complete = $3, current_at = $4")
            .bind(encoded(&standing.position))
            .bind(base.as_ref().map(encoded))
            .bind(i64::from(standing.is_complete))
            .bind(standing.current_at.map(Timestamp::as_stored))
            .execute(&mut *transaction)
            .await?;
        let committed = timeout(PATIENCE, transaction.commit()).await.unwrap_or(Err(LATE));
        let committed = committed.map_err(|error| self.database.engine.failed_commit(error));
        let committed = self.settled(committed).await;
        match (committed, following) {
            (Err(error), _) => self.publish(Err(error)).await?,
            (Ok(()), None) => {}
            (Ok(()), Some(Some(mut changes))) if !is_anew => {
                if let Some(last) = changes.last_mut() {
                    last.summary = summary;
                }
                self.publish(Ok(Committed { before, changes })).await?;
            }
            (Ok(()), Some(_)) => {
                // Only relays write here, one page after the other, so the hub stands where the database stood.
                if !self.hub.reset(&before, page.head, summary) {
                    within(WRITERS_PATIENCE, self.catch_up()).await?;
                }
            }
        }
        Ok(standing)
    }

    /// Publishes what the hub lacks, after a commit whose result was lost.
    pub async fn republish(&self) -> Result<(), Error> {
        self.catch_up().await.map(drop)
    }
}

/// Creates the row of a new relay.
pub(super) async fn begin(database: &Database) -> Result<(), Error> {
    sqlx::query("INSERT INTO upstream (id, position, complete) VALUES (1, $1, 0) ON CONFLICT (id) DO NOTHING")
        .bind(encoded(&Position::Nothing))
        .execute(&mut *database.writer.acquire().await?)
        .await?;
    Ok(())
}

/// Checks that the page continues the requested position, and that its entries can belong to its history.
fn check(asked: &Position, page: &Page<'_>) -> Result<(), WrongPage> {
    if page.answers != Position::Nothing && page.answers != *asked {
        return Err(WrongPage::DoesNotFollow);
    }
    let versions = match page.answers {
        Position::Nothing => 1..=page.head.sequence,
        Position::Changes { applied: after, seen } | Position::Snapshot { base: after, seen, .. } => {
            if page.head.epoch != seen.epoch || page.head.sequence < seen.sequence {
                return Err(WrongPage::DoesNotFollow);
            }
            match page.extent {
                Extent::Changes { to } if to == after && page.head != seen => return Err(WrongPage::Contradiction),
                Extent::Changes { .. } => after.saturating_add(1)..=page.head.sequence,
                Extent::Snapshot { .. } => 1..=page.head.sequence,
            }
        }
    };
    let mut frames = Frames::new(page.entries).map_while(Result::ok);
    if frames.all(|frame| versions.contains(&frame.version)) { Ok(()) } else { Err(WrongPage::Contradiction) }
}

/// Stages the entries of the page, unchanged.
async fn stage(database: &Database, connection: &mut AnyConnection, page: &Page<'_>) -> Result<(), Error> {
    let frames: Vec<_> = Frames::new(page.entries).map_while(Result::ok).collect();
    for rows in frames.chunks(ROWS_OF_A_STATEMENT) {
        let mut insert =
            Sql::of_many_values(database.engine, "INSERT INTO staged (subject, version, entry, removed) VALUES ");
        insert.bind_rows(rows, |columns, frame| {
            let mut entry = Vec::new();
            frame.encode_with_version(frame.version, &mut entry);
            columns
                .bind(frame.subject.0.as_slice())
                .bind(stored_sequence(frame.version))
                .bind(entry)
                // An unreadable entry is passed on; it is not a removal.
                .bind(frame.decode() == Ok(Body::Removed));
        });
        insert.push(
            " ON CONFLICT (subject) DO UPDATE
             SET version = excluded.version, entry = excluded.entry, removed = excluded.removed",
        );
        insert.execute(connection, keep(rows.len())).await?;
    }
    Ok(())
}

/// Drops all records, for a snapshot that starts at that cursor.
async fn replace_all(connection: &mut AnyConnection, begin: &Cursor) -> Result<(), Error> {
    for table in ["DELETE FROM edge_entries", "DELETE FROM feed"] {
        sqlx::query(table).execute(&mut *connection).await?;
    }
    // A reader at this head is recognized by it, although the changes before are unknown. A log that starts with the first change
    // would claim to have all of them.
    if begin.sequence > 1 {
        sqlx::query("INSERT INTO feed (sequence, subject, chain) VALUES ($1, $2, $3)")
            .bind(stored_sequence(begin.sequence))
            .bind(NO_SUBJECT.as_slice())
            .bind(begin.chain.as_slice())
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// The summary of the records with the staged entries merged.
async fn with_staged(connection: &mut AnyConnection, known: Option<Summary>) -> Result<Option<Summary>, Error> {
    let Some(mut summary) = known else { return Ok(None) };
    let mut before = sqlx::query_scalar::<_, Vec<u8>>(
        "SELECT edge_entries.entry FROM staged JOIN edge_entries ON edge_entries.subject = staged.subject
         WHERE NOT edge_entries.removed",
    )
    .fetch(&mut *connection);
    while let Some(frame) = before.try_next().await? {
        summary = summary.minus(Summary::of(&frame));
    }
    drop(before);
    let mut after = sqlx::query_scalar::<_, Vec<u8>>("SELECT entry FROM staged WHERE NOT removed").fetch(connection);
    while let Some(frame) = after.try_next().await? {
        summary = summary.plus(Summary::of(&frame));
    }
    Ok(Some(summary))
}

/// Compares the records with their summary. If they differ, they are served without a summary, and a snapshot is requested.
pub(super) async fn verify(database: &Database) -> Result<(), Error> {
    let mut transaction = database.begin_write().await?;
    let head = full_head(&mut transaction).await?;
    let Some(known) = head.summary else { return Ok(()) };
    if summary::sum(&mut transaction).await? == known {
        return Ok(());
    }
    tracing::error!("relay database damaged; requesting a snapshot from the upstream");
    sqlx::query("DELETE FROM staged").execute(&mut *transaction).await?;
    sqlx::query("UPDATE upstream SET position = $1, base = NULL")
        .bind(encoded(&Position::Nothing))
        .execute(&mut *transaction)
        .await?;
    summary::store(&mut transaction, head.cursor.sequence, None).await?;
    Ok(transaction.commit().await?)
}

/// Makes the staged entries the state at `head`, and logs the changes since `anchor`; returns these unless they are too many to be
/// published at once.
async fn merge(
    database: &Database,
    connection: &mut AnyConnection,
    anchor: &Cursor,
    head: &Cursor,
    kept_changes: u64,
) -> Result<Option<Vec<Change>>, ApplyError> {
    let mut log = Log { last: *anchor, chain: Some(anchor.chain), changes: Vec::new() };
    let cut = head.sequence.saturating_sub(kept_changes);
    let is_published = head.sequence.saturating_sub(anchor.sequence) <= MOST;
    let mut published = is_published.then(Vec::new);
    loop {
        let rows: Vec<StagedRow> =
            sqlx::query_as("SELECT version, subject, entry FROM staged WHERE version > $1 ORDER BY version LIMIT 500")
                .bind(stored_sequence(log.last.sequence))
                .fetch_all(&mut *connection)
                .await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            log.append(row, head, cut)?;
        }
        write_log(database.engine, connection, &log.changes).await?;
        match &mut published {
            Some(published) => published.append(&mut log.changes),
            None => log.changes.clear(),
        }
    }
    // The last change is always in a page, and if all are, the chain is known.
    if log.last.sequence != head.sequence || log.chain.is_some_and(|chain| chain != head.chain) {
        return Err(WrongPage::Contradiction.into());
    }
    let mut moved_to = Vec::new();
    loop {
        // A statement keeps its undo data in memory, so each moves a few rows.
        let last = "SELECT max(subject) FROM (SELECT subject FROM staged WHERE subject > $1 ORDER BY subject LIMIT 1000) AS some";
        let last: Option<Vec<u8>> =
            sqlx::query_scalar(last).bind(moved_to.as_slice()).fetch_one(&mut *connection).await?;
        let Some(last) = last else { break };
        let statement = "INSERT INTO edge_entries (subject, version, entry, removed)
             SELECT subject, version, entry, removed FROM staged WHERE subject > $1 AND subject <= $2
             ON CONFLICT (subject) DO UPDATE
             SET version = excluded.version, entry = excluded.entry, removed = excluded.removed";
        sqlx::query(statement).bind(moved_to.as_slice()).bind(last.as_slice()).execute(&mut *connection).await?;
        moved_to = last;
    }
    sqlx::query("DELETE FROM staged").execute(&mut *connection).await?;
    sqlx::query("UPDATE head SET epoch = $1, sequence = $2, chain = $3")
        .bind(head.epoch.cast_signed())
        .bind(stored_sequence(head.sequence))
        .bind(head.chain.as_slice())
        .execute(&mut *connection)
        .await?;
    cut_log(connection, head.sequence, kept_changes).await?;
    Ok(published)
}

/// A log while it is written.
struct Log {
    /// The last change in the log.
    last: Cursor,
    /// The chain at that change, if every change since the start is known.
    chain: Option<[u8; Cursor::CHAIN_LENGTH]>,
    /// The changes not written yet.
    changes: Vec<Change>,
}

impl Log {
    /// Appends the change of a record, and the unknown changes before it.
    fn append(&mut self, row: StagedRow, head: &Cursor, cut: u64) -> Result<(), ApplyError> {
        let (version, subject) = (sequence(row.version)?, digest(row.subject)?);
        let frame = bytes::Bytes::from(row.entry);
        if version > head.sequence {
            return Err(WrongPage::Contradiction.into());
        }
        let unknown = self.last.sequence + 1..version;
        self.chain = self.chain.filter(|_| unknown.is_empty()).map(|last| chain(&last, &frame));
        for sequence in unknown.start.max(cut + 1)..unknown.end {
            let frame = frame.clone();
            self.changes.push(Change { sequence, chain: UNKNOWN_CHAIN, subject, frame, summary: None });
        }
        let chain = if version == head.sequence { head.chain } else { self.chain.unwrap_or(UNKNOWN_CHAIN) };
        if version > cut {
            self.changes.push(Change { sequence: version, chain, subject, frame, summary: None });
        }
        self.last.sequence = version;
        Ok(())
    }
}

async fn upstream(connection: &mut AnyConnection) -> Result<UpstreamRow, Error> {
    Ok(sqlx::query_as("SELECT position, base, complete, current_at FROM upstream").fetch_one(connection).await?)
}

fn position(stored: &[u8]) -> Result<Position, Error> {
    Position::decode(stored).ok_or(Error::Corrupt("position"))
}

fn encoded(position: &Position) -> Vec<u8> {
    let mut bytes = Vec::new();
    position.encode(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Actor;
    use crate::store::{FeedRead, Location};
    use keyward_core::key::digest::Digest;
    use keyward_core::wire::entry::KeyRecord;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// So few that the log is cut often.
    const KEPT: u64 = 12;
    const NOW: Timestamp = Timestamp::EXAMPLE;

    #[derive(Clone, Debug)]
    enum Step {
        /// The control plane commits a change of each of these subjects; of some it is their removal.
        Commit(BTreeSet<u8>, bool),
        /// The relay reads one page.
        RelayReads,
        /// The relay is started again.
        RelayRestarts,
        /// A reader asks, here or there.
        Read { reader: usize, at_relay: bool },
        /// A reader starts again.
        Forget { reader: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        let subjects = prop::collection::btree_set(1_u8..8, 1..4);
        prop_oneof![
            4 => (subjects, prop::bool::weighted(0.2)).prop_map(|(subjects, removed)| Step::Commit(subjects, removed)),
            4 => Just(Step::RelayReads),
            1 => Just(Step::RelayRestarts),
            6 => (0_usize..3, any::<bool>()).prop_map(|(reader, at_relay)| Step::Read { reader, at_relay }),
            1 => (0_usize..3).prop_map(|reader| Step::Forget { reader }),
        ]
    }

    async fn commit(centre: &Store, subjects: BTreeSet<u8>, removed: bool) {
        let body = || {
            if removed { Body::Removed } else { Body::Key(KeyRecord { key_id: "k".into(), ..KeyRecord::default() }) }
        };
        let states = subjects.into_iter().map(|subject| (Digest([subject; 32]), body())).collect();
        let append = centre.mutate(Actor::server(), NOW, move |mutation| {
            mutation.keep(KEPT);
            Box::pin(mutation.append_all(states))
        });
        append.await.unwrap();
    }

    /// What a server answers at once; `None` if that is nothing new.
    async fn page(store: &Store, position: &Position) -> Option<Vec<u8>> {
        use crate::store::hub::Recent;
        if let Position::Changes { applied, seen } = position {
            match store.hub().changes_after(*applied, seen) {
                Recent::Page(page) => return Some(page.to_vec()),
                Recent::UpToDate(_) => return None,
                Recent::Unknown => {}
            }
        }
        match store.feed_after("a reader", position).await.unwrap() {
            FeedRead::Page(page) => Some(page.to_vec()),
            FeedRead::UpToDate(_) => None,
        }
    }

    async fn relay_reads(centre: &Store, relay: &Store) -> bool {
        let position = relay.standing().await.unwrap().position;
        let Some(page) = page(centre, &position).await else { return false };
        relay.take(position, &page, NOW, KEPT).await.unwrap();
        true
    }

    struct Reader {
        position: Position,
        known: BTreeMap<Digest, (u64, Body)>,
    }

    impl Reader {
        fn new() -> Self {
            Self { position: Position::Nothing, known: BTreeMap::new() }
        }

        /// Whether the server may answer this reader: a relay makes one wait that knows more (`feed.rs`).
        fn may_ask(&self, store: &Store) -> bool {
            match self.position {
                Position::Nothing => true,
                Position::Changes { seen, .. } | Position::Snapshot { seen, .. } => {
                    let head = store.hub().head();
                    seen.epoch == head.epoch && seen.sequence <= head.sequence
                }
            }
        }

        async fn read(&mut self, store: &Store) -> bool {
            let Some(bytes) = page(store, &self.position).await else { return false };
            let page = Page::decode(&bytes).unwrap();
            if let Extent::Snapshot { end } = page.extent {
                let start = page.start();
                self.known.retain(|subject, _| *subject < start || end.is_some_and(|end| *subject >= end));
            }
            for frame in Frames::new(page.entries).map(Result::unwrap) {
                match frame.decode().unwrap() {
                    Body::Removed => drop(self.known.remove(&frame.subject)),
                    body => drop(self.known.insert(frame.subject, (frame.version, body))),
                }
            }
            self.position = page.next();
            true
        }
    }

    async fn run(steps: Vec<Step>) {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let centre = Store::open(&Location::Directory(dirs[0].path().to_owned())).await.unwrap();
        let location = Location::Relay(dirs[1].path().to_owned());
        let mut relay = Store::open(&location).await.unwrap();
        let mut readers = [Reader::new(), Reader::new(), Reader::new()];
        for step in steps {
            match step {
                Step::Commit(subjects, removed) => commit(&centre, subjects, removed).await,
                Step::RelayReads => drop(relay_reads(&centre, &relay).await),
                Step::RelayRestarts => {
                    relay.close().await;
                    let before = relay.hub().head();
                    drop(relay);
                    relay = Store::open(&location).await.unwrap();
                    assert_eq!(relay.hub().head(), before);
                }
                Step::Read { reader, at_relay: false } => drop(readers[reader].read(&centre).await),
                Step::Read { reader, at_relay: true } => {
                    if relay.standing().await.unwrap().is_complete && readers[reader].may_ask(&relay) {
                        readers[reader].read(&relay).await;
                    }
                }
                Step::Forget { reader } => readers[reader] = Reader::new(),
            }
        }
        while relay_reads(&centre, &relay).await {}
        let mut expected = Reader::new();
        while expected.read(&centre).await {}
        for (n, reader) in readers.iter_mut().enumerate() {
            while reader.read(&relay).await {}
            assert_eq!((reader.position, &reader.known), (expected.position, &expected.known), "reader {n}");
        }
        for store in [centre, relay] {
            store.close().await;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn whoever_reads_here_or_there_in_turn_ends_with_what_the_control_plane_has(
            steps in prop::collection::vec(step(), 1..60),
        ) {
            tokio::runtime::Runtime::new().unwrap().block_on(run(steps));
        }
    }

    #[tokio::test]
    async fn a_relay_that_keeps_up_knows_every_head_and_one_that_was_away_those_before_what_it_missed() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let centre = Store::open(&Location::Directory(dirs[0].path().to_owned())).await.unwrap();
        let relay = Store::open(&Location::Relay(dirs[1].path().to_owned())).await.unwrap();
        commit(&centre, BTreeSet::from([1]), false).await;
        assert!(relay_reads(&centre, &relay).await);
        let mut heads = vec![centre.hub().head()];
        for subject in [2, 3, 2, 4] {
            commit(&centre, BTreeSet::from([subject]), false).await;
            heads.push(centre.hub().head());
        }
        assert!(relay_reads(&centre, &relay).await);
        let mut known = Vec::new();
        for seen in heads {
            let position = Position::Changes { applied: seen.sequence, seen };
            known.push(
                matches!(relay.feed_after("a reader", &position).await.unwrap(), FeedRead::UpToDate(_)) || {
                    let page = page(&relay, &position).await.unwrap();
                    Page::decode(&page).unwrap().answers == position
                },
            );
        }
        // The first change of subject 2 was never fetched, so the changes up to the last are known by number alone.
        assert_eq!(known, [true, false, false, false, true]);
    }
}
