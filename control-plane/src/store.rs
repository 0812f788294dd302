//! The state, in SQLite: keys, owners, and the feed of changes to them.
//!
//! One connection writes. A change and its entries of the feed are one transaction, and the hub hears of it in commit
//! order before the next one begins. A request that goes away before its turn writes nothing; one that goes away
//! after that does not stop its write: a commit that nobody publishes would be seen by no edge.

mod feed;
mod keys;
mod mutation;
mod owners;
mod pages;
mod retention;
mod rows;

pub use feed::Found;
pub use keys::{KeyPage, KeyQuery, MAX_VALID_SECRETS, Rotated};
pub use retention::{RETENTION, Swept};

use crate::hub::{Bounds, Hub};
use crate::random::{self, NoRandomness};
use keyward_contract::entry::EntryTooLarge;
use mutation::Mutation;
use pages::Pages;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// The state and its history.
#[derive(Clone, Debug)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
    /// The feed's own, so that operators do not wait behind a thousand edges.
    feed_readers: SqlitePool,
    pages: Arc<Pages>,
    /// Held from before a transaction begins until the hub knows of it.
    commit_order: Arc<Mutex<()>>,
    hub: Arc<Hub>,
    /// Locked for as long as the store is in use.
    _lock: Arc<File>,
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
    /// Another server has the directory.
    #[error("another server uses this data directory")]
    InUse,
    /// The database refused.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema cannot be brought up to date.
    #[error("database schema: {0}")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// What is stored cannot have been written by this program.
    #[error("the database holds a {0} that cannot be read")]
    Corrupt(&'static str),
    /// What an edge is to be told does not fit an entry; requests are checked for it before they come here.
    #[error(transparent)]
    EntryTooLarge(#[from] EntryTooLarge),
    /// No epoch can be drawn.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// More readers of the feed wait than can be served in time.
    #[error("too many edges wait for pages of the feed")]
    Crowded,
    /// The process ends, or the write has failed in a way that should be impossible.
    #[error("the write was interrupted")]
    Interrupted,
}

impl Error {
    /// Whether it may well go if it is tried again: the database is busy, full, or about to be closed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Crowded | Self::Interrupted => true,
            Self::Database(sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed) => true,
            Self::Database(sqlx::Error::Database(refusal)) => {
                // The low byte of an extended result code is the primary one: https://sqlite.org/rescode.html
                let code = refusal.code().and_then(|code| code.parse::<i32>().ok());
                code.is_some_and(|code| [SQLITE_BUSY, SQLITE_FULL].contains(&(code & 0xff)))
            }
            _ => false,
        }
    }
}

/// The future of a step inside a transaction.
type Step<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// The name of the database in the data directory.
pub const DATABASE_FILE: &str = "keyward.db";

const SQLITE_BUSY: i32 = 5;
const SQLITE_FULL: i32 = 13;
const LOCK_FILE: &str = "lock";
const READERS: u32 = 4;
/// One has the turn; the other may still have to roll back what a reader left that went away.
const FEED_READERS: u32 = 2;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

impl Store {
    /// Opens the database of that directory, and makes it where there is none.
    ///
    /// # Errors
    /// If it cannot be used.
    pub async fn open(data_dir: &Path) -> Result<Self, Error> {
        let lock = lock(&data_dir.join(LOCK_FILE))?;
        let path = data_dir.join(DATABASE_FILE);
        private_file(&path)?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = pool(1).connect_with(options.clone()).await?;
        sqlx::migrate!("./migrations").run(&writer).await?;
        let options = options.read_only(true);
        let readers = pool(READERS).connect_with(options.clone()).await?;
        let feed_readers = pool(FEED_READERS).connect_with(options).await?;
        begin_history(&writer).await?;
        let hub = Arc::new(feed::recent(&readers, Bounds::default()).await?);
        Ok(Self {
            writer,
            readers,
            feed_readers,
            pages: Arc::new(Pages::new(pages::PLACES)),
            commit_order: Arc::new(Mutex::new(())),
            hub,
            _lock: Arc::new(lock),
        })
    }

    /// Where each commit is published.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn check(&self) -> Result<(), Error> {
        sqlx::query("SELECT sequence FROM head").fetch_one(&self.readers).await?;
        Ok(())
    }

    /// Waits for the writes that were begun, and closes the database.
    pub async fn close(&self) {
        let _last_write = self.commit_order.lock().await;
        self.feed_readers.close().await;
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Runs the steps in one transaction, commits, and publishes what they appended to the feed.
    async fn mutate<T, F>(&self, steps: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Mutation) -> Step<'a, T> + Send + 'static,
    {
        let store = self.clone();
        let requester = Arc::new(());
        let waits = Arc::downgrade(&requester);
        let write = async move {
            let _turn = store.commit_order.lock().await;
            if waits.strong_count() == 0 {
                return Err(Error::Interrupted);
            }
            let mut mutation = Mutation::begin(&store.writer).await?;
            let outcome = steps(&mut mutation).await?;
            store.hub.publish(mutation.commit().await?);
            Ok(outcome)
        };
        let written = tokio::spawn(write).await;
        drop(requester);
        written.map_err(|_| Error::Interrupted)?
    }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
}

/// Two servers would not hear of each other's commits, and edges of one would miss revocations made at the other.
fn lock(path: &Path) -> Result<File, Error> {
    let file = private_file(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse),
        Err(TryLockError::Error(source)) => Err(Error::File { path: path.to_owned(), source }),
    }
}

/// Opens the file, made for its owner alone where there is none. SQLite gives its other files the same permissions.
fn private_file(path: &Path) -> Result<File, Error> {
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    opened.map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Draws the epoch of a new database.
async fn begin_history(writer: &SqlitePool) -> Result<(), Error> {
    sqlx::query("INSERT INTO head (id, epoch, sequence, chain) VALUES (1, $1, 0, $2) ON CONFLICT (id) DO NOTHING")
        .bind(random::number()?.cast_signed())
        .bind(vec![0; keyward_contract::cursor::Cursor::CHAIN_LENGTH])
        .execute(writer)
        .await?;
    Ok(())
}
