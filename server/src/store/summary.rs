//! The summary of all records, maintained in each transaction, with which edges compare their state.

use super::Error;
use super::database::Database;
use super::feed::full_head;
use super::rows::stored_sequence;
use keyward_core::wire::summary::Summary;
use sqlx::AnyConnection;

/// How many entries are read at once. PostgreSQL bounds the time of each statement.
const READ_AT_ONCE: i64 = 10_000;

/// Makes the summary where it is not known: in a database of an older version, or one that a server of an older version has
/// written into. All entries are read for that, and no change is made meanwhile: a few seconds for a million keys.
pub(super) async fn establish(database: &Database) -> Result<(), Error> {
    let mut transaction = database.begin_read(&database.readers).await?;
    if full_head(&mut transaction).await?.summary.is_some() {
        return Ok(());
    }
    drop(transaction);
    let mut transaction = database.begin_write().await?;
    let head = full_head(&mut transaction).await?;
    if head.summary.is_none() {
        let summary = sum(&mut transaction).await?;
        store(&mut transaction, head.cursor.sequence, Some(summary)).await?;
        transaction.commit().await?;
        tracing::info!("summary of edge records computed");
    }
    Ok(())
}

/// The summary of what is there, from all entries.
pub(super) async fn sum(connection: &mut AnyConnection) -> Result<Summary, Error> {
    let (mut summary, mut after) = (Summary::EMPTY, Vec::new());
    loop {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as(
            "SELECT subject, entry FROM edge_entries WHERE subject > $1 AND NOT removed ORDER BY subject LIMIT $2",
        )
        .bind(after)
        .bind(READ_AT_ONCE)
        .fetch_all(&mut *connection)
        .await?;
        for (_, frame) in &rows {
            summary = summary.plus(Summary::of(frame));
        }
        match rows.into_iter().next_back() {
            Some((subject, _)) => after = subject,
            None => return Ok(summary),
        }
    }
}

/// Writes the summary of the records at the head, which has that sequence.
pub(super) async fn store(
    connection: &mut AnyConnection,
    sequence: u64,
    summary: Option<Summary>,
) -> Result<(), Error> {
    sqlx::query("UPDATE head SET summary = $1, summary_at = $2")
        .bind(summary.map(|summary| summary.to_bytes().to_vec()))
        .bind(stored_sequence(sequence))
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::model::Actor;
    use crate::store::hub::Recent;
    use crate::store::{ApplyError, Location, Store, WrongPage};
    use keyward_core::key::digest::Digest;
    use keyward_core::wire::cursor::{Cursor, Position, chain};
    use keyward_core::wire::entry::{Body, Entry, KeyRecord};
    use keyward_core::wire::page::{Extent, Page};

    const NOW: Timestamp = Timestamp::EXAMPLE;

    async fn opened(location: Location) -> Store {
        Store::open(&location).await.unwrap()
    }

    async fn known(store: &Store) -> Option<Summary> {
        full_head(&mut store.database.readers.acquire().await.unwrap()).await.unwrap().summary
    }

    async fn counted(store: &Store) -> Summary {
        sum(&mut store.database.readers.acquire().await.unwrap()).await.unwrap()
    }

    async fn change(store: &Store, states: &[(u8, bool)]) {
        let states = states.to_vec();
        let append = store.mutate(Actor::server(), NOW, move |mutation| {
            Box::pin(async move {
                let body = |removed| if removed { Body::Removed } else { Body::Key(KeyRecord::default()) };
                let states = states.into_iter().map(|(n, removed)| (Digest([n; 32]), body(removed)));
                mutation.append_all(states.collect()).await
            })
        });
        append.await.unwrap();
    }

    #[tokio::test]
    async fn the_summary_is_that_of_all_records_after_each_change_and_is_told_with_each_page() {
        let dir = tempfile::tempdir().unwrap();
        let store = opened(Location::Directory(dir.path().to_owned())).await;
        assert_eq!(known(&store).await, Some(Summary::EMPTY));
        let begin = store.hub().head();
        let changes: [&[(u8, bool)]; 5] =
            [&[(1, false), (2, false)], &[(1, false)], &[(2, true), (3, false)], &[(2, true)], &[(2, false)]];
        for states in changes {
            change(&store, states).await;
            let summary = Some(counted(&store).await);
            assert_eq!(known(&store).await, summary, "{states:?}");
            let head = store.hub().head();
            assert_eq!(store.hub().changes_after(head.sequence, &head), Recent::UpToDate(summary));
            for position in [Position::Nothing, Position::Changes { applied: 0, seen: begin }] {
                let crate::store::FeedRead::Page(page) = store.feed_after("a reader", &position).await.unwrap() else {
                    panic!("a page")
                };
                assert_eq!(Page::decode(&page).unwrap().summary, summary, "{states:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_an_older_server_has_written_is_not_compared_until_the_summary_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::Directory(dir.path().to_owned());
        let store = opened(location.clone()).await;
        change(&store, &[(1, false)]).await;
        sqlx::query("UPDATE head SET sequence = sequence + 1")
            .execute(&mut *store.database.writer.acquire().await.unwrap())
            .await
            .unwrap();
        assert_eq!(known(&store).await, None);
        change(&store, &[(2, false)]).await;
        assert_eq!(known(&store).await, None, "nothing is added to what is not known");
        store.purge_expired(NOW, crate::store::RETENTION).await.unwrap();
        assert_eq!(known(&store).await, Some(counted(&store).await));
        change(&store, &[(3, false)]).await;
        store.close().await;
        drop(store);
        let store = opened(location).await;
        assert_eq!(known(&store).await, Some(counted(&store).await));
    }

    #[tokio::test]
    async fn a_relay_finds_what_its_disk_has_changed_and_what_its_upstream_contradicts() {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::Relay(dir.path().to_owned());
        let relay = opened(location.clone()).await;
        let frame = |n: u8, version| {
            let mut frame = Vec::new();
            let body = Body::Key(KeyRecord::default());
            Entry { subject: Digest([n; 32]), version, body }.encode(&mut frame).unwrap();
            frame
        };
        let (first, second) = (frame(1, 1), frame(2, 2));
        let begin = Cursor { epoch: 1, sequence: 1, chain: [1; 16] };
        let of_first = Some(Summary::of(&first));
        let extent = Extent::Snapshot { end: None };
        let snapshot =
            Page { answers: Position::Nothing, head: begin, summary: of_first, extent, entries: &first }.encode();
        relay.take_page(Position::Nothing, &snapshot, NOW).await.unwrap();
        assert_eq!(known(&relay).await, of_first);

        let at = Position::Changes { applied: 1, seen: begin };
        let head = Cursor { sequence: 2, chain: chain(&begin.chain, &second), ..begin };
        let both = Summary::of(&first).plus(Summary::of(&second));
        let changes = |summary| {
            Page { answers: at, head, summary: Some(summary), extent: Extent::Changes { to: 2 }, entries: &second }
                .encode()
        };
        let refused = relay.take_page(at, &changes(Summary::EMPTY), NOW).await;
        assert!(matches!(refused, Err(ApplyError::Page(WrongPage::Differs))), "{refused:?}");
        assert_eq!((known(&relay).await, counted(&relay).await), (of_first, Summary::of(&first)));
        relay.take_page(at, &changes(both), NOW).await.unwrap();
        assert_eq!((known(&relay).await, counted(&relay).await), (Some(both), both));
        assert_eq!(relay.hub().changes_after(2, &head), Recent::UpToDate(Some(both)));

        sqlx::query("UPDATE edge_entries SET entry = $1 WHERE version = 2")
            .bind(first.as_slice())
            .execute(&mut *relay.database.writer.acquire().await.unwrap())
            .await
            .unwrap();
        relay.close().await;
        drop(relay);
        let relay = opened(location).await;
        let standing = relay.standing().await.unwrap();
        assert_eq!((standing.position, standing.is_complete), (Position::Nothing, true), "it serves on meanwhile");
        assert_eq!(known(&relay).await, None);

        // An upstream whose own snapshot contradicts its summary is followed all the same.
        let wrong = Page { answers: Position::Nothing, head: begin, summary: Some(both), extent, entries: &first };
        relay.take_page(Position::Nothing, &wrong.encode(), NOW).await.unwrap();
        assert_eq!((known(&relay).await, counted(&relay).await), (None, Summary::of(&first)));
    }
}
