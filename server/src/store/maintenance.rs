//! What keeps an SQLite database well while it is used: checkpoints, the state file, and whether changes can be stored.
//!
//! Acknowledged changes lie in the write-ahead log (WAL) until a checkpoint copies them into the database file. People
//! copy that file alone, and a damaged log takes everything with it that is in no other place, so the log is copied
//! within a second of the last change, and every few seconds while changes come without a break.

use super::{Error, Store};
use sqlx::error::DatabaseError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How often it is looked whether there is anything to do.
const TICK: Duration = Duration::from_millis(500);
/// How long changes that come without a break may lie in the log alone.
const CHECKPOINT_AGE: Duration = Duration::from_secs(5);

/// SQLite's primary result codes READONLY, IOERR, CORRUPT, FULL, CANTOPEN and NOTADB: the disk does not do what it should.
const STORAGE_FAILURES: [i32; 6] = [8, 10, 11, 13, 14, 26];

/// Whether changes can be stored, as far as the last of them shows.
#[derive(Clone, Debug, Default)]
pub(super) struct Health(Arc<State>);

#[derive(Debug, Default)]
struct State {
    commits: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Health {
    /// Takes note of how a change went.
    pub(super) fn note(&self, failed: Option<&Error>) {
        match failed {
            None => {
                self.0.commits.fetch_add(1, Ordering::Relaxed);
                self.set(None);
            }
            Some(error) if is_storage_failure(error) => self.set(Some(error.to_string())),
            Some(_) => {}
        }
    }

    /// Why the last change could not be stored, if the disk was to blame.
    pub(super) fn failure(&self) -> Option<String> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, failure: Option<String>) {
        *self.0.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    fn commits(&self) -> u64 {
        self.0.commits.load(Ordering::Relaxed)
    }
}

fn is_storage_failure(error: &Error) -> bool {
    match error {
        Error::Replaced { .. } | Error::DiskFull { .. } | Error::File { .. } => true,
        Error::Database(error) | Error::OutcomeUnknown(error) => {
            let code = error.as_database_error().and_then(DatabaseError::code);
            // PostgreSQL's codes have five characters and are its own matter.
            let code = code.filter(|code| code.len() < 5).and_then(|code| code.parse::<i32>().ok());
            code.is_some_and(|code| STORAGE_FAILURES.contains(&(code & 0xff)))
        }
        _ => false,
    }
}

impl Store {
    /// Keeps an SQLite database well until `ending` is true; of PostgreSQL nothing is to be done.
    pub async fn maintain(&self, mut ending: watch::Receiver<bool>) {
        if self.database.files().is_some() {
            tokio::select! {
                _ = ending.wait_for(|ending| *ending) => {}
                () = self.keep_maintained() => {}
            }
        }
    }

    async fn keep_maintained(&self) {
        let (mut last_tick, mut copied, mut copied_at) = (0, 0, Instant::now());
        let mut is_ready = true;
        loop {
            sleep(TICK).await;
            let state = self.check_storage();
            match &state {
                Err(error) if is_ready => tracing::error!(%error, "not ready: changes cannot be stored"),
                Ok(()) if !is_ready => tracing::info!("ready again: changes can be stored"),
                _ => {}
            }
            is_ready = state.is_ok();
            if self.health.failure().is_some() {
                // Whether that is so is known only by trying.
                let _ = self.try_to_write().await;
            }
            self.record_head();
            let commits = self.health.commits();
            let is_idle = commits == last_tick;
            if commits != copied && (is_idle || copied_at.elapsed() >= CHECKPOINT_AGE) {
                match self.database.checkpoint().await {
                    Ok(()) => (copied, copied_at) = (commits, Instant::now()),
                    Err(error) => tracing::debug!(%error, "checkpoint failed"),
                }
            }
            last_tick = commits;
        }
    }

    /// Whether changes can be stored, as far as can be told without storing one.
    pub(super) fn check_storage(&self) -> Result<(), Error> {
        if let Some(files) = self.database.files() {
            files.verify()?;
            files.check_room()?;
        }
        self.health.failure().map_or(Ok(()), |reason| Err(Error::Storage(reason)))
    }

    /// Writes into the state file how far the database has come.
    pub(super) fn record_head(&self) {
        let Some(files) = self.database.files() else { return };
        let head = self.hub.head();
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.has_state_file || *recorded == Some(head) || files.verify().is_err() {
            return;
        }
        match files.record(&head) {
            Ok(()) => *recorded = Some(head),
            Err(error) => tracing::debug!(%error, "failed to write state file"),
        }
    }

    /// Stores a change that changes nothing.
    async fn try_to_write(&self) -> Result<(), Error> {
        let _turn = super::turn(&self.commit_order).await?;
        let written = async {
            self.database.verify_files()?;
            // On a full disk, the log may be what fills it.
            if let Err(error) = self.database.empty_log().await {
                tracing::debug!(%error, "failed to truncate write-ahead log");
            }
            let mut transaction = self.database.begin_write().await?;
            sqlx::query("UPDATE head SET sequence = sequence").execute(&mut *transaction).await?;
            transaction.commit().await?;
            self.database.verify_files()
        };
        let written = written.await;
        self.health.note(written.as_ref().err());
        written
    }
}
