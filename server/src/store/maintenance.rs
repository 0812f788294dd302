//! Maintenance of an SQLite database: checkpoints, the state file, and the check whether changes can be stored.
//!
//! Committed changes are in the write-ahead log (WAL) until a checkpoint copies them into the database file. People copy that file
//! alone, and a damaged log loses all changes that are nowhere else, so there is a checkpoint within a second of the last change, and
//! every few seconds under steady writes.

use super::{Error, Store};
use sqlx::error::DatabaseError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// The interval of the checks.
const TICK: Duration = Duration::from_millis(500);
/// How long changes may be in the log alone under steady writes.
const CHECKPOINT_AGE: Duration = Duration::from_secs(5);

/// SQLite's primary result codes READONLY, IOERR, CORRUPT, FULL, CANTOPEN and NOTADB: the storage fails.
const STORAGE_FAILURES: [i32; 6] = [8, 10, 11, 13, 14, 26];

/// Whether the last change could be stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Health(Arc<State>);

#[derive(Debug, Default)]
struct State {
    commits: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Health {
    /// Records the result of a change.
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

    /// Why the last change could not be stored, if the storage failed.
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
    /// Maintains an SQLite database until `stopping` is true; PostgreSQL needs nothing.
    pub async fn maintain(&self, mut stopping: watch::Receiver<bool>) {
        if self.database.files().is_some() {
            tokio::select! {
                _ = stopping.wait_for(|is_stopping| *is_stopping) => {}
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
                Err(error) if is_ready => tracing::error!(%error, "cannot store changes; not ready"),
                Ok(()) if !is_ready => tracing::info!("storage recovered; ready"),
                _ => {}
            }
            is_ready = state.is_ok();
            if self.health.failure().is_some() {
                // Only a write shows whether it is still so.
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

    /// Whether changes can be stored, without trying to store one.
    pub(super) fn check_storage(&self) -> Result<(), Error> {
        if let Some(files) = self.database.files() {
            files.verify()?;
            files.check_room()?;
        }
        self.health.failure().map_or(Ok(()), |reason| Err(Error::Storage(reason)))
    }

    /// Writes the head of the history into the state file.
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

    /// Commits a change without effect.
    async fn try_to_write(&self) -> Result<(), Error> {
        let _lock = super::lock(&self.commit_order).await?;
        let written = async {
            self.database.verify_files()?;
            // The log may be what fills a full disk.
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
