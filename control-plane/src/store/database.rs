//! The connections to the database, and the few things in which SQLite and PostgreSQL differ.
//!
//! Everything else is written once, in SQL that both understand, over sqlx's `Any` driver. That one cannot read SQLite's
//! booleans, so they are selected as numbers.

use super::Error;
use keyward_contract::secret::Secret;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use sqlx::any::{AnyPoolOptions, install_default_drivers};
use sqlx::migrate::Migrator;
use sqlx::{Any, AnyConnection, AnyPool, Transaction};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where the state lies.
#[derive(Clone, Debug)]
pub enum Location {
    /// In an SQLite database in this directory, which one server uses.
    Directory(PathBuf),
    /// In a PostgreSQL database, which several servers can use; its URL can hold a password.
    Postgres(Secret),
}

/// The kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Sqlite,
    Postgres,
}

/// The connections to one database.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) engine: Engine,
    pub(super) writer: AnyPool,
    pub(super) readers: AnyPool,
    /// The feed's own, so that operators do not wait behind a thousand edges.
    pub(super) feed_readers: AnyPool,
    /// Locked for as long as the database is in use.
    _lock: Option<Arc<File>>,
}

/// The name of the SQLite database in the data directory.
pub const DATABASE_FILE: &str = "keyward.db";

const LOCK_FILE: &str = "lock";
const READERS: u32 = 4;
/// One has the turn; the other may still have to roll back what a reader left that went away.
const FEED_READERS: u32 = 2;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("./migrations/sqlite");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("./migrations/postgres");

impl Database {
    /// Connects, and brings the schema up to date; a directory's database is made where there is none.
    pub(super) async fn open(location: &Location) -> Result<Self, Error> {
        install_default_drivers();
        match location {
            Location::Directory(directory) => Self::open_directory(directory).await,
            Location::Postgres(url) => Self::open_postgres(url).await,
        }
    }

    async fn open_directory(directory: &Path) -> Result<Self, Error> {
        let lock = lock(&directory.join(LOCK_FILE))?;
        let path = directory.join(DATABASE_FILE);
        private_file(&path)?;
        let path = percent_encode(path.as_os_str().as_bytes(), NON_ALPHANUMERIC).to_string();
        let writer = sqlite_pool(1).connect(&format!("sqlite:{path}")).await?;
        SQLITE_MIGRATIONS.run(&writer).await?;
        let readers = format!("sqlite:{path}?mode=ro");
        Ok(Self {
            engine: Engine::Sqlite,
            writer,
            readers: sqlite_pool(READERS).connect(&readers).await?,
            feed_readers: sqlite_pool(FEED_READERS).connect(&readers).await?,
            _lock: Some(Arc::new(lock)),
        })
    }

    async fn open_postgres(url: &Secret) -> Result<Self, Error> {
        let url = url.expose();
        let writer = pool(1).connect(url).await?;
        POSTGRES_MIGRATIONS.run(&writer).await?;
        Ok(Self {
            engine: Engine::Postgres,
            writer,
            readers: pool(READERS).connect(url).await?,
            feed_readers: pool(FEED_READERS).connect(url).await?,
            _lock: None,
        })
    }

    /// A transaction that sees one state from its first query to its last.
    pub(super) async fn begin_read(&self, pool: &AnyPool) -> Result<Transaction<'static, Any>, Error> {
        let begin = match self.engine {
            Engine::Sqlite => "BEGIN",
            Engine::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        Ok(pool.begin_with(begin).await?)
    }

    /// A transaction that has waited for those that write, and lets no other write until it ends.
    pub(super) async fn begin_write(&self) -> Result<Transaction<'static, Any>, Error> {
        match self.engine {
            Engine::Sqlite => Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?),
            Engine::Postgres => {
                let mut transaction = self.writer.begin().await?;
                sqlx::query("SELECT id FROM head FOR UPDATE").execute(&mut *transaction).await?;
                Ok(transaction)
            }
        }
    }

    /// Closes every connection.
    pub(super) async fn close(&self) {
        self.feed_readers.close().await;
        self.readers.close().await;
        self.writer.close().await;
    }
}

fn pool(connections: u32) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
}

fn sqlite_pool(connections: u32) -> AnyPoolOptions {
    pool(connections).after_connect(|connection, _| Box::pin(configure_sqlite(connection)))
}

async fn configure_sqlite(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let busy_timeout = format!("PRAGMA busy_timeout = {}", BUSY_TIMEOUT.as_millis());
    sqlx::query(sqlx::AssertSqlSafe(busy_timeout)).execute(&mut *connection).await?;
    for pragma in ["PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA foreign_keys = ON"] {
        sqlx::query(pragma).execute(&mut *connection).await?;
    }
    Ok(())
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
