//! What has to hold in a database whatever happened to its server: nothing half made, no gap, and a chain that fits.

use crate::database;
use keyward_core::key::digest::Digest;
use keyward_core::wire::cursor::chain;
use keyward_core::wire::entry::{Body, Frames};
use keyward_core::wire::summary::Summary;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, FromRow, Row};
use std::collections::{BTreeMap, HashMap};

/// What a database holds, as an edge would know it.
pub(crate) struct History {
    /// Every subject's version and state.
    pub(crate) state: BTreeMap<Digest, (u64, Body)>,
    /// The subject of each change; the first is number 1.
    pub(crate) log: Vec<Digest>,
}

struct Link {
    sequence: i64,
    subject: Vec<u8>,
    chain: Vec<u8>,
    version: i64,
    entry: Vec<u8>,
}

impl FromRow<'_, AnyRow> for Link {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            sequence: row.try_get("sequence")?,
            subject: row.try_get("subject")?,
            chain: row.try_get("chain")?,
            version: row.try_get("version")?,
            entry: row.try_get("entry")?,
        })
    }
}

impl History {
    /// Reads all of it.
    ///
    /// # Panics
    /// If anything in it does not fit the rest.
    pub(crate) fn check(url: &str) -> Self {
        database::with(url, async |connection| {
            assert_eq!(halves(connection).await?, Vec::<String>::new());
            let (sequence, head, summary, summary_at): (i64, Vec<u8>, Vec<u8>, i64) =
                sqlx::query_as("SELECT sequence, chain, summary, summary_at FROM head")
                    .fetch_one(&mut *connection)
                    .await?;
            let records: Vec<Vec<u8>> = sqlx::query_scalar("SELECT entry FROM edge_entries WHERE NOT removed")
                .fetch_all(&mut *connection)
                .await?;
            let sum = records.iter().fold(Summary::EMPTY, |sum, record| sum.plus(Summary::of(record)));
            assert_eq!(
                (summary, summary_at),
                (sum.to_bytes().to_vec(), sequence),
                "the summary is that of all records"
            );
            let links: Vec<Link> = sqlx::query_as(
                "SELECT feed.sequence, feed.subject, feed.chain, edge_entries.version, edge_entries.entry
                 FROM feed JOIN edge_entries ON edge_entries.subject = feed.subject ORDER BY feed.sequence",
            )
            .fetch_all(connection)
            .await?;
            assert_eq!(i64::try_from(links.len()).unwrap(), sequence, "the log has every change once");
            let history = Self::of(&links);
            assert_eq!(links.last().map_or(vec![0; 16], |last| last.chain.clone()), head);
            Ok(history)
        })
    }

    /// Follows the chain. The entry of a change that was overtaken by another of its subject is not kept; its link is an
    /// input of the next one's.
    fn of(links: &[Link]) -> Self {
        let mut history = Self { state: BTreeMap::new(), log: Vec::new() };
        let mut last_of: HashMap<&[u8], i64> = HashMap::new();
        let mut previous = [0; 16];
        for (link, expected) in links.iter().zip(1..) {
            assert_eq!(link.sequence, expected, "no gap");
            let stored: [u8; 16] = link.chain.clone().try_into().unwrap();
            if link.version == link.sequence {
                assert_eq!(stored, chain(&previous, &link.entry), "the chain at {expected}");
                let frame = Frames::new(&link.entry).next().unwrap().unwrap();
                assert_eq!((frame.subject.0.as_slice(), frame.version), (&*link.subject, expected.try_into().unwrap()));
                match frame.decode().unwrap() {
                    Body::Removed => {}
                    body => drop(history.state.insert(frame.subject, (frame.version, body))),
                }
            }
            last_of.insert(&link.subject, link.version - link.sequence);
            history.log.push(Digest(link.subject.clone().try_into().unwrap()));
            previous = stored;
        }
        assert!(last_of.values().all(|behind| *behind == 0), "each subject is as its last change made it");
        history
    }
}

/// What is there without what belongs to it.
async fn halves(connection: &mut AnyConnection) -> Result<Vec<String>, sqlx::Error> {
    let mut found = Vec::new();
    for (what, query) in [
        ("keys without a secret", "SELECT id FROM keys WHERE id NOT IN (SELECT key_id FROM secrets)"),
        ("secrets without an entry", "SELECT id FROM secrets WHERE digest NOT IN (SELECT subject FROM edge_entries)"),
        (
            "keys that were not audited once",
            "SELECT id FROM keys
             WHERE 1 <> (SELECT count(*) FROM audit WHERE subject = keys.id AND action = 'key.created')",
        ),
        (
            "ends that were not audited once",
            "SELECT id FROM keys WHERE (CASE WHEN revoked_at IS NULL THEN 0 ELSE 1 END)
             <> (SELECT count(*) FROM audit WHERE subject = keys.id AND action = 'key.revoked')",
        ),
        (
            "audited keys that are not there",
            "SELECT subject FROM audit WHERE action = 'key.created' AND subject NOT IN (SELECT id FROM keys)",
        ),
        ("gaps in the audit log", "SELECT CAST(max(sequence) AS TEXT) FROM audit HAVING max(sequence) <> count(*)"),
    ] {
        let rows: Vec<String> = sqlx::query_scalar(query).fetch_all(&mut *connection).await?;
        found.extend(rows.into_iter().map(|row| format!("{what}: {row}")));
    }
    Ok(found)
}
