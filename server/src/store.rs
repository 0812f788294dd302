//! The database, SQLite or PostgreSQL: keys, owners, plans, tokens, and the feed of changes.
//!
//! One transaction writes at a time, across all servers of a database. A change, its audit entry and its feed entries are one
//! transaction, and the hub receives them in commit order (`store/tail.rs`). A request that is cancelled before its transaction
//! starts writes nothing; afterwards the transaction completes, as a commit that is not published would reach no edge.

mod audit;
mod authorization;
mod backup;
mod counts;
mod database;
mod export;
mod feed;
mod folding;
mod freshness;
pub mod hub;
mod idempotency;
mod import;
mod key_changes;
mod key_error;
mod key_query;
mod keys;
mod leaks;
mod maintenance;
mod migrations;
mod mutation;
mod owners;
mod page;
mod page_cache;
mod pause;
mod plans;
mod pool;
mod query_builder;
mod queues;
mod relay;
mod retention;
mod rows;
mod secrets;
mod self_service;
mod sessions;
mod sqlite_files;
mod summary;
mod tail;
mod tokens;
mod usage;
mod writer_thread;

pub use audit::AuditQuery;
pub use authorization::Authorization;
pub use backup::{BackupError, back_up};
pub use counts::{CountQuery, KeyCounts};
pub use database::{Location, RELAY_DATABASE_FILE};
pub use export::Export;
pub use feed::FeedRead;
pub use idempotency::{Before, Made, Once, REPEATABLE_FOR};
pub use import::{Batch, Conflict, Imported};
pub use key_changes::REVOKED_AT_ONCE;
pub use key_error::KeyError;
pub use key_query::{KeyQuery, KeySort, SortKey};
pub use keys::{MAX_KNOWN_SECRETS, MAX_VALID_SECRETS};
pub use leaks::{FoundSecret, Leak, LeakOutcome};
pub use owners::OwnerQuery;
pub use plans::PlanDeleted;
pub use query_builder::Page;
pub use queues::QueuePermit;
pub use relay::{ApplyError, Standing, WrongPage};
pub use retention::{Purged, RETENTION};
pub use self_service::{Asking, ISSUANCE_QUOTA, MAX_KEYS_BY_SELF_SERVICE, MAX_KNOWN_SECRETS_BY_SELF_SERVICE};
pub use sessions::SessionQuery;
pub use sqlite_files::{DATABASE_FILE, STATE_FILE};
pub use tokens::TokenQuery;
pub(crate) use usage::HOUR_MS;
pub use usage::{Hourly, IngestOutcome, REPORTS_KEPT, Reported, Undone, UsageFilter};

use crate::clock::Timestamp;
use crate::random::{self, RngError};
use database::Database;
use freshness::Freshness;
use hub::{Bounds, Hub};
use keyward_core::wire::cursor::Cursor;
use keyward_core::wire::entry::EntryTooLarge;
use maintenance::Health;
use mutation::Mutation;
use page_cache::Pages;
use pool::Pool;
use queues::Queues;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore, watch};
use tokio::time::{Instant, timeout};
use writer_thread::Writing;

/// The database with the history of its changes.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
    pages: Arc<Pages>,
    /// Held from the start of a transaction of this process until the hub has its changes.
    commit_order: Arc<Mutex<()>>,
    queues: Queues,
    /// When the database last answered a health check; locked during a check, so that simultaneous ones share it.
    answered_at: Arc<Mutex<Option<Instant>>>,
    hub: Arc<Hub>,
    /// The number of token revocations; `None` at a relay, which has none.
    token_revocations: Option<Arc<watch::Sender<i64>>>,
    freshness: Freshness,
    writing: Writing,
    health: Health,
    /// Whether the directory has a state file. A relay needs none, as its data can be fetched again.
    has_state_file: bool,
    /// The head in the state file.
    recorded: Arc<std::sync::Mutex<Option<Cursor>>>,
    /// Bounds the exports in progress.
    exports: Arc<Semaphore>,
    counts: counts::Counts,
}

/// An error of the database, or of a request to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be created.
    #[error("{}: {source}", path.display())]
    File {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the writer thread: {0}")]
    Thread(#[source] io::Error),
    /// The database file was lost.
    #[error(
        "{} is missing or empty, but {} shows that there was a database: restore a backup \
         (docs/guides/backup-and-restore.md); or, to start with an empty database and lose all keys, tokens and revocations, remove {}",
        database.display(), evidence.display(), evidence.display()
    )]
    Lost {
        /// The database file.
        database: PathBuf,
        /// The file that shows that there was a database.
        evidence: PathBuf,
    },
    /// The file is not an SQLite database.
    #[error("{} is not an SQLite database: {}", path.display(), way_out(path))]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The database is of another application.
    #[error("expected a database of Keyward, got an SQLite database of another application: {}", path.display())]
    OtherApplication {
        /// The file.
        path: PathBuf,
    },
    /// The database file is damaged.
    #[error("{} is damaged or cut short ({source}): {}", path.display(), way_out(path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: Box<Error>,
    },
    /// Others can read or write the file, and that cannot be changed.
    #[error("{} can be read or written by others (mode {mode:o}), and cannot be changed to mode 600: {source}", path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Why.
        source: io::Error,
    },
    /// A file of the database was deleted or replaced.
    #[error("{} was {how} while the server used it: restore the file, or restart the server", path.display())]
    Replaced {
        /// The file.
        path: PathBuf,
        /// What happened to it.
        how: &'static str,
    },
    /// The disk is full.
    #[error("the disk of the data directory is full: {free_bytes} bytes left")]
    DiskFull {
        /// How many bytes are left.
        free_bytes: u64,
    },
    /// The last change could not be stored.
    #[error("cannot store changes: {0}")]
    Storage(String),
    /// Another server uses the directory.
    #[error("another server uses this data directory")]
    InUse,
    /// The database returned an error.
    #[error("{}", describe_error(.0))]
    Database(#[from] sqlx::Error),
    /// The URL is invalid. The message repeats nothing of it, as it can contain a password.
    #[error("KEYWARD_DATABASE_URL {0}")]
    Url(&'static str),
    /// The schema is of a newer version.
    #[error("the database schema {found} is of a newer Keyward; this version supports up to {known}: update Keyward")]
    NewerSchema {
        /// The number of the unknown migration.
        found: i64,
        /// The number of the last known one.
        known: i64,
    },
    /// The schema cannot be migrated.
    #[error("database schema: {0}")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// The stored data is invalid.
    #[error("corrupt database: cannot read a {0}")]
    Corrupt(&'static str),
    /// The feed entry is too large.
    #[error(transparent)]
    EntryTooLarge(#[from] EntryTooLarge),
    /// The resource has another version than expected.
    #[error("version mismatch")]
    OtherVersion,
    /// The plan of a key does not exist.
    #[error("plan not found")]
    NoSuchPlan,
    /// The Idempotency-Key was used for another request.
    #[error("the Idempotency-Key was used for another request")]
    OtherRequest,
    /// No epoch can be drawn.
    #[error(transparent)]
    Random(#[from] RngError),
    /// Too many requests wait.
    #[error("too many requests are waiting")]
    Crowded,
    /// The credential was revoked, removed or expired.
    #[error("the credential is no longer valid")]
    NotAuthorized,
    /// Too many requests of this caller wait.
    #[error("too many requests of this caller are waiting")]
    TooManyOfCaller,
    /// The calling key or its owner was changed before the transaction.
    #[error("the calling key or its owner was changed concurrently")]
    Changed,
    /// A relay has no complete snapshot yet.
    #[error("no complete snapshot yet")]
    NoSnapshot,
    /// A reader has more than the relay, whose upstream does not answer.
    #[error("the relay is behind the reader, and waits for its upstream")]
    Behind,
    /// The database was not read for too long, and other servers may have committed changes.
    #[error("the database was not read for too long to know whether there are changes")]
    Stale,
    /// Too many exports are in progress.
    #[error("{} exports are in progress, the maximum", export::AT_ONCE)]
    Exporting,
    /// The database did not answer in time, or a write waited too long.
    #[error("the database did not answer in time")]
    Slow,
    /// The result of a commit was lost: the change may have been made.
    #[error("outcome of the commit unknown: {0}")]
    OutcomeUnknown(#[source] sqlx::Error),
    /// The process is shutting down, or the writer thread panicked.
    #[error("the write was interrupted")]
    Interrupted,
}

/// What to do about a database file that cannot be used.
fn way_out(path: &Path) -> &'static str {
    if path.file_name().is_some_and(|name| name == RELAY_DATABASE_FILE) {
        "remove the file, and the relay fetches a new snapshot from its upstream"
    } else {
        "restore a backup (docs/guides/backup-and-restore.md)"
    }
}

/// The message of the database, without the position in its source; for other errors, the message of sqlx.
fn describe_error(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(refusal) => refusal.message().to_owned(),
        other => other.to_string(),
    }
}

impl Error {
    /// Whether a retry can succeed: the database is busy, full, or shutting down.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Crowded
            | Self::TooManyOfCaller
            | Self::Changed
            | Self::NoSnapshot
            | Self::Behind
            | Self::Stale
            | Self::Exporting
            | Self::Slow
            | Self::Replaced { .. }
            | Self::DiskFull { .. }
            | Self::Storage(_)
            | Self::File { .. }
            | Self::OutcomeUnknown(_)
            | Self::Interrupted => true,
            Self::Database(error) => is_temporary(error),
            _ => false,
        }
    }
}

impl Error {
    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            // SQLite's FULL; PostgreSQL's disk_full.
            Self::Database(sqlx::Error::Database(refusal)) => matches!(refusal.code().as_deref(), Some("13" | "53100")),
            _ => false,
        }
    }
}

fn is_temporary(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => true,
        // The last two are what is left of an answer when a server ends in the middle of it.
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(refusal) => match refusal.code().as_deref() {
            // PostgreSQL's codes have five characters, of which two are the class (PostgreSQL manual, appendix A).
            Some(code) if code.len() == 5 => POSTGRES_TEMPORARY.iter().any(|class| code.starts_with(class)),
            // The low byte of an extended result code is the primary one: https://sqlite.org/rescode.html
            Some(code) => code.parse::<i32>().is_ok_and(|code| SQLITE_TEMPORARY.contains(&(code & 0xff))),
            None => false,
        },
        _ => false,
    }
}

/// The future of a step inside a transaction.
type Step<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// SQLite's primary result codes PERM, BUSY, LOCKED, NOMEM, READONLY, IOERR, FULL, CANTOPEN and PROTOCOL: another program is in
/// the way, or the disk, the memory or the file descriptors are used up or cannot be had.
const SQLITE_TEMPORARY: [i32; 9] = [3, 5, 6, 7, 8, 10, 13, 14, 15];

/// The connection is lost, resources are used up (a full disk among them), another transaction was in the way or this one
/// took too long, an operator intervenes, the disk fails, or a standby has not yet taken over (25006).
const POSTGRES_TEMPORARY: [&str; 9] = ["08", "53", "40", "57P", "57014", "55P03", "25P03", "25006", "58"];

/// The timeout of a query. A connection that broke silently never answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// The timeout of reads for operators, which can be several queries, or one over a million keys.
const READ_PATIENCE: Duration = Duration::from_secs(30);
/// How long a write may wait for the others of this process.
const TURN_PATIENCE: Duration = Duration::from_secs(5);
/// The timeout of a transaction that writes.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

impl Store {
    /// Opens the database; creates it if there is none.
    pub async fn open(location: &Location) -> Result<Self, Error> {
        let database = Database::open(location).await?;
        begin_history(&database.writer).await?;
        if matches!(location, Location::Relay(_)) {
            relay::begin(&database).await?;
        }
        if matches!(location, Location::Relay(_)) {
            relay::verify(&database).await?;
        } else {
            summary::establish(&database).await?;
        }
        let looked = Instant::now();
        let hub = Arc::new(feed::recent(&database, Bounds::default()).await?);
        let freshness = Freshness::new(database.engine, looked);
        let has_state_file = matches!(location, Location::Directory(_));
        if let Some(files) = database.files().filter(|_| has_state_file) {
            files.compare(&hub.head());
        }
        let token_revocations = match location {
            Location::Relay(_) => None,
            Location::Directory(_) | Location::Postgres(_) => {
                Some(Arc::new(watch::Sender::new(tokens::revocations(&database.readers).await?)))
            }
        };
        let store = Self {
            database,
            pages: Arc::new(Pages::new(page_cache::PLACES)),
            commit_order: Arc::default(),
            queues: Queues::new(),
            answered_at: Arc::default(),
            hub,
            token_revocations,
            freshness,
            writing: Writing::start().map_err(Error::Thread)?,
            exports: Arc::new(Semaphore::new(export::AT_ONCE)),
            counts: counts::Counts::default(),
            health: Health::default(),
            has_state_file,
            recorded: Arc::default(),
        };
        // The state file may name a head only once it is in the database file.
        store.database.checkpoint().await?;
        store.record_head();
        Ok(store)
    }

    /// The hub, to which commits are published.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// When the hub last had everything that was committed; `None` if no other server can commit.
    pub fn seen_at(&self) -> Option<Instant> {
        self.freshness.seen_at()
    }

    /// Whether the database answers, and changes can be stored in it.
    pub async fn check(&self) -> Result<(), Error> {
        self.check_storage()?;
        let came = Instant::now();
        within(PATIENCE, async {
            let mut answered_at = self.answered_at.lock().await;
            // Another check has completed since.
            if answered_at.is_some_and(|asked| asked > came) {
                return Ok(());
            }
            let asked = Instant::now();
            sqlx::query("SELECT sequence FROM head")
                .fetch_one(&mut *self.database.guard_readers.acquire().await?)
                .await?;
            *answered_at = Some(asked);
            Ok(())
        })
        .await
    }

    /// Waits for the running write, and closes the database.
    pub async fn close(&self) {
        let _last_write = self.commit_order.lock().await;
        self.record_head();
        self.database.close().await;
    }

    /// The result of a commit, after a check of the files of an SQLite database. A commit counts only if they are still in place; a failed
    /// one is prevented from being recovered by the next start, if possible.
    async fn settled<T>(&self, committed: Result<T, Error>) -> Result<T, Error> {
        match committed {
            Ok(committed) => match self.database.verify_files() {
                Ok(()) => Ok(committed),
                Err(error) => Err(Error::OutcomeUnknown(sqlx::Error::Io(io::Error::other(error.to_string())))),
            },
            Err(Error::OutcomeUnknown(error))
                if error.as_database_error().is_some() && self.database.files().is_some() =>
            {
                match self.database.empty_log().await {
                    Ok(()) => Err(Error::Database(error)),
                    Err(_) => Err(Error::OutcomeUnknown(error)),
                }
            }
            failed => failed,
        }
    }

    /// Runs the steps in a transaction, and publishes the entries that they appended to the feed. The authorization is checked at the start
    /// and before the commit. The change has the time of the transaction, or `started_at` for the server itself.
    async fn mutate<T, F>(&self, by: impl Into<Authorization>, started_at: Timestamp, steps: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Mutation) -> Step<'a, T> + Send + 'static,
    {
        let by = by.into();
        let permit = self.queues.write(&by, false).await?;
        self.mutate_in(permit, by, started_at, steps).await
    }

    /// The same for one of many bulk changes, which must not delay others.
    async fn mutate_bulk<T, F>(&self, by: impl Into<Authorization>, started_at: Timestamp, steps: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Mutation) -> Step<'a, T> + Send + 'static,
    {
        let by = by.into();
        let permit = self.queues.write(&by, true).await?;
        self.mutate_in(permit, by, started_at, steps).await
    }

    async fn mutate_in<T, F>(
        &self,
        held: Option<QueuePermit>,
        by: Authorization,
        started_at: Timestamp,
        steps: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Mutation) -> Step<'a, T> + Send + 'static,
    {
        let store = self.clone();
        let requester = Arc::new(());
        let waits = Arc::downgrade(&requester);
        let write = async move {
            let _held = held;
            let _lock = lock(&store.commit_order).await?;
            if waits.strong_count() == 0 {
                return Err(Error::Interrupted);
            }
            store.database.verify_files()?;
            let (mutation, outcome) = within(WRITE_PATIENCE, async {
                let mut mutation = Mutation::begin(&store.database, by, started_at).await?;
                let outcome = steps(&mut mutation).await?;
                Ok((mutation, outcome))
            })
            .await?;
            let committed = timeout(PATIENCE, mutation.commit()).await.unwrap_or(Err(Error::OutcomeUnknown(LATE)));
            store.publish(store.settled(committed).await).await?;
            Ok(outcome)
        };
        let health = self.health.clone();
        let write = async move {
            let written = write.await;
            health.note(written.as_ref().err());
            written
        };
        let written = self.writing.spawn(write).await;
        drop(requester);
        written.map_err(|_| Error::Interrupted)?
    }
}

/// Waits for the lock, with a timeout.
async fn lock(lock: &Arc<Mutex<()>>) -> Result<OwnedMutexGuard<()>, Error> {
    timeout(TURN_PATIENCE, Arc::clone(lock).lock_owned()).await.map_err(|_| Error::Slow)
}

/// The error of a commit that timed out.
const LATE: sqlx::Error = sqlx::Error::PoolTimedOut;

/// Runs a query with a timeout.
async fn within<T>(patience: Duration, question: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(patience, question).await.unwrap_or(Err(Error::Slow))
}

/// Draws the epoch of a new database.
async fn begin_history(writer: &Pool) -> Result<(), Error> {
    sqlx::query("INSERT INTO head (id, epoch, sequence, chain) VALUES (1, $1, 0, $2) ON CONFLICT (id) DO NOTHING")
        .bind(random::number()?.cast_signed())
        .bind(vec![0_u8; keyward_core::wire::cursor::Cursor::CHAIN_LENGTH])
        .execute(&mut *writer.acquire().await?)
        .await?;
    Ok(())
}
