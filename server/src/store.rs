//! The state, in SQLite or PostgreSQL: keys, owners, plans, and the feed of changes to them.
//!
//! One transaction writes at a time, over all servers of a database. A change, its entry of the audit log and its entries
//! of the feed are one transaction, and the hub hears of it in commit order (`store/tail.rs`). A request that goes away before its turn writes nothing; one that goes away
//! after that does not stop its write: a commit that nobody publishes would be seen by no edge.

mod audit;
mod authorization;
mod backup;
mod database;
mod export;
mod feed;
mod freshness;
mod idempotency;
mod import;
mod key_changes;
mod key_error;
mod keys;
mod leaks;
mod maintenance;
mod migrations;
mod mutation;
mod owners;
mod page_cache;
mod plans;
mod query_builder;
mod queues;
mod relay;
mod retention;
mod rows;
mod secrets;
mod self_service;
mod sqlite_files;
mod summary;
mod tail;
mod tokens;
mod usage;
mod writer_thread;

pub use audit::AuditQuery;
pub use authorization::Authorization;
pub use backup::{BackupError, back_up};
pub use database::{DATABASE_FILE, Location, RELAY_DATABASE_FILE};
pub use export::Export;
pub use feed::Found;
pub use idempotency::{Before, Made, Once, REPEATABLE_FOR};
pub use import::{Batch, Conflict, Imported};
pub use key_changes::REVOKED_AT_ONCE;
pub use key_error::KeyError;
pub use keys::{KeyQuery, MAX_KNOWN_SECRETS, MAX_VALID_SECRETS};
pub use leaks::{Found as FoundSecret, Leak, LeakOutcome};
pub use owners::OwnerQuery;
pub use plans::PlanDeleted;
pub use query_builder::Page;
pub use queues::QueuePermit;
pub use relay::{ApplyError, Standing, WrongPage};
pub use retention::{RETENTION, Swept};
pub use self_service::{Asking, MAX_KEYS_BY_SELF_SERVICE, MAX_KNOWN_SECRETS_BY_SELF_SERVICE, SHARE};
pub use sqlite_files::STATE_FILE;
pub use tokens::TokenQuery;
pub(crate) use usage::HOUR_MS;
pub use usage::{Hourly, IngestOutcome, REPORTS_KEPT, Reported, Undone, UsageFilter};

use crate::clock::Timestamp;
use crate::feed::hub::{Bounds, Hub};
use crate::random::{self, RngError};
use database::Database;
use freshness::Freshness;
use keyward_core::wire::cursor::Cursor;
use keyward_core::wire::entry::EntryTooLarge;
use maintenance::Health;
use mutation::Mutation;
use page_cache::Pages;
use queues::Queues;
use sqlx::AnyPool;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore, watch};
use tokio::time::{Instant, timeout};
use writer_thread::Writing;

/// The state and its history.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
    pages: Arc<Pages>,
    /// Held from before a transaction of this process begins until the hub knows of it.
    commit_order: Arc<Mutex<()>>,
    queues: Queues,
    /// When the database was last found to answer; held while it is asked, so that all who want to know share one look.
    answered_at: Arc<Mutex<Option<Instant>>>,
    hub: Arc<Hub>,
    /// How many revocations of tokens are known of; `None` at a relay, which has none.
    token_revocations: Option<Arc<watch::Sender<i64>>>,
    freshness: Freshness,
    writing: Writing,
    health: Health,
    /// Whether the directory has a state file, which a relay's has not: it can be filled again.
    has_state_file: bool,
    /// What the state file says.
    recorded: Arc<std::sync::Mutex<Option<Cursor>>>,
    /// One for each export that may be under way.
    exports: Arc<Semaphore>,
}

/// The state cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be made.
    #[error("{}: {source}", path.display())]
    File {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no thread to be had.
    #[error("no thread for changes: {0}")]
    Thread(#[source] io::Error),
    /// There was a database here.
    #[error(
        "{} is missing or empty, though {} shows that there was a database: restore a backup \
         (docs/guides/backup-and-restore.md); or, to begin with an empty database, without any key, token or revocation of before, remove {}",
        database.display(), evidence.display(), evidence.display()
    )]
    Lost {
        /// The database file.
        database: PathBuf,
        /// What shows it.
        evidence: PathBuf,
    },
    /// The database file is another kind of file.
    #[error("{} is not an SQLite database: {}", path.display(), way_out(path))]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The database is that of another program.
    #[error("{} is an SQLite database of another application; Keyward needs one of its own", path.display())]
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
    #[error("others can read or write {} (mode {mode:o}), and it cannot be made mode 600: {source}", path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Why.
        source: io::Error,
    },
    /// A file of the database is not where it was.
    #[error("{} was {how} while the server used it: put the file back, or start the server anew", path.display())]
    Replaced {
        /// The file.
        path: PathBuf,
        /// What became of it.
        how: &'static str,
    },
    /// There is no room on the disk.
    #[error("the disk of the data directory is full: {free_bytes} bytes are free")]
    DiskFull {
        /// How many bytes are left.
        free_bytes: u64,
    },
    /// The last change could not be stored.
    #[error("the last change could not be stored: {0}")]
    Storage(String),
    /// Another server has the directory.
    #[error("another server uses this data directory")]
    InUse,
    /// The database refused.
    #[error("{}", told(.0))]
    Database(#[from] sqlx::Error),
    /// The URL cannot be used. Nothing of it is told, since it can hold a password.
    #[error("KEYWARD_DATABASE_URL {0}")]
    Url(&'static str),
    /// The database was brought to a schema that this program does not know.
    #[error("its schema was made by a newer Keyward ({found}; this one knows up to {known}): update this program")]
    NewerSchema {
        /// The number of the unknown migration.
        found: i64,
        /// The number of the last known one.
        known: i64,
    },
    /// The schema cannot be brought up to date.
    #[error("database schema: {0}")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// What is stored cannot have been written by this program.
    #[error("the database holds a {0} that cannot be read")]
    Corrupt(&'static str),
    /// What an edge is to be told does not fit an entry.
    #[error(transparent)]
    EntryTooLarge(#[from] EntryTooLarge),
    /// What was to be changed is there in another version than was expected.
    #[error("it has another version than was expected")]
    OtherVersion,
    /// The plan that a key is to have is not there.
    #[error("there is no plan of that id")]
    NoSuchPlan,
    /// The Idempotency-Key came with another request before.
    #[error("the Idempotency-Key was used for another request")]
    OtherRequest,
    /// No epoch can be drawn.
    #[error(transparent)]
    Random(#[from] RngError),
    /// More requests wait than can be served in time.
    #[error("too many requests are waiting")]
    Crowded,
    /// The credential that was shown has ended: it was revoked or removed, or has expired.
    #[error("the credential that was shown is not valid any more")]
    NotAuthorized,
    /// More requests of this caller wait than may.
    #[error("too many requests of this caller are waiting")]
    TooManyOfCaller,
    /// What the write rests on was changed before its turn came.
    #[error("what this rests on was changed meanwhile")]
    Changed,
    /// A relay has no complete snapshot yet.
    #[error("there is no complete snapshot here yet")]
    NoSnapshot,
    /// A reader knows more than a relay, and the relay's upstream cannot be asked.
    #[error("the reader knows more than this relay, which waits for its upstream")]
    Behind,
    /// Other servers may have committed what is not known here, as the database could not be looked at for too long.
    #[error("the database was out of freshness for too long to tell what is new in it")]
    Stale,
    /// As many exports are under way as there may be.
    #[error("{} exports are under way already", export::AT_ONCE)]
    Exporting,
    /// The database has not answered in time, or a write has waited for others for too long.
    #[error("the database does not answer in time")]
    Slow,
    /// The answer to a commit was lost, so the change may have been made or not.
    #[error("whether the change was made is not known: {0}")]
    OutcomeUnknown(#[source] sqlx::Error),
    /// The process ends, or the write has failed in a way that should be impossible.
    #[error("the write was interrupted")]
    Interrupted,
}

/// What to do about a database file that cannot be used.
fn way_out(path: &Path) -> &'static str {
    if path.file_name().is_some_and(|name| name == RELAY_DATABASE_FILE) {
        "remove the file, and the relay fetches everything from its upstream anew"
    } else {
        "restore a backup (docs/guides/backup-and-restore.md)"
    }
}

/// What a database says that refuses, in its own words and without the line of its source; of other errors, what sqlx says.
fn told(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(refusal) => refusal.message().to_owned(),
        other => other.to_string(),
    }
}

impl Error {
    /// Whether it may well go if it is tried again: the database is busy, full, or about to be closed.
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
    /// Whether there was no room on the disk.
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

/// How long a question to the database may take altogether. A connection that broke without a word answers never.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same of what an operator asks, which can be many questions, or one about a million keys.
const READ_PATIENCE: Duration = Duration::from_secs(30);
/// How long a write may wait for the turn of this process.
const TURN_PATIENCE: Duration = Duration::from_secs(5);
/// How long a transaction that writes may take altogether.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

impl Store {
    /// Opens the database, and makes it where there is none.
    ///
    /// # Errors
    /// If it cannot be used.
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
            health: Health::default(),
            has_state_file,
            recorded: Arc::default(),
        };
        // The state file may speak of a database only once that is in its own file.
        store.database.checkpoint().await?;
        store.record_head();
        Ok(store)
    }

    /// Where each commit is published.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// As of when the hub has all that was committed; `None` where nobody else can commit anything.
    pub fn seen_at(&self) -> Option<Instant> {
        self.freshness.seen_at()
    }

    /// Whether the database answers, and changes can be stored in it.
    ///
    /// # Errors
    /// If it does not, or they cannot.
    pub async fn check(&self) -> Result<(), Error> {
        self.check_storage()?;
        let came = Instant::now();
        within(PATIENCE, async {
            let mut answered_at = self.answered_at.lock().await;
            // Somebody else has asked since.
            if answered_at.is_some_and(|asked| asked > came) {
                return Ok(());
            }
            let asked = Instant::now();
            sqlx::query("SELECT sequence FROM head").fetch_one(&self.database.guard_readers).await?;
            *answered_at = Some(asked);
            Ok(())
        })
        .await
    }

    /// Waits for the writes that were begun, and closes the database.
    pub async fn close(&self) {
        let _last_write = self.commit_order.lock().await;
        self.record_head();
        self.database.close().await;
    }

    /// What became of a commit, after a look at the files of an SQLite database. What was committed counts only if they are
    /// still there; what failed while it was committed is kept from being made by the next start, if that can be done.
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

    /// Runs the steps in one transaction if the authorization holds in it, commits if it holds still, and publishes what the
    /// steps appended to the feed. For who has shown a credential it happens at the time of the transaction, and for the server
    /// itself at the time for which it was begun.
    async fn mutate<T, F>(&self, by: impl Into<Authorization>, begun: Timestamp, steps: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Mutation) -> Step<'a, T> + Send + 'static,
    {
        let by = by.into();
        let turn = self.queues.write(&by, false).await?;
        self.mutate_in(turn, by, begun, steps).await
    }

    /// The same for one of many changes that follow each other and are not to be in the way of others.
    async fn mutate_bulk<T, F>(&self, by: impl Into<Authorization>, begun: Timestamp, steps: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Mutation) -> Step<'a, T> + Send + 'static,
    {
        let by = by.into();
        let turn = self.queues.write(&by, true).await?;
        self.mutate_in(turn, by, begun, steps).await
    }

    async fn mutate_in<T, F>(
        &self,
        held: Option<QueuePermit>,
        by: Authorization,
        begun: Timestamp,
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
            let _turn = turn(&store.commit_order).await?;
            if waits.strong_count() == 0 {
                return Err(Error::Interrupted);
            }
            store.database.verify_files()?;
            let (mutation, outcome) = within(WRITE_PATIENCE, async {
                let mut mutation = Mutation::begin(&store.database, by, begun).await?;
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

/// Waits for the turn, but not for ever.
async fn turn(turn: &Arc<Mutex<()>>) -> Result<OwnedMutexGuard<()>, Error> {
    timeout(TURN_PATIENCE, Arc::clone(turn).lock_owned()).await.map_err(|_| Error::Slow)
}

/// What is told of a commit that was not answered in time.
const LATE: sqlx::Error = sqlx::Error::PoolTimedOut;

/// Gives up after that long.
async fn within<T>(patience: Duration, question: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(patience, question).await.unwrap_or(Err(Error::Slow))
}

/// Draws the epoch of a new database.
async fn begin_history(writer: &AnyPool) -> Result<(), Error> {
    sqlx::query("INSERT INTO head (id, epoch, sequence, chain) VALUES (1, $1, 0, $2) ON CONFLICT (id) DO NOTHING")
        .bind(random::number()?.cast_signed())
        .bind(vec![0_u8; keyward_core::wire::cursor::Cursor::CHAIN_LENGTH])
        .execute(writer)
        .await?;
    Ok(())
}
