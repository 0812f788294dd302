//! The connections to the database, and the few things in which SQLite and PostgreSQL differ.
//!
//! Everything else is written once, in SQL that both understand, over sqlx's `Any` driver. That one cannot read SQLite's
//! booleans, so they are selected as numbers.

use super::migrations::{self, Migrations};
use super::pool::{Pool, Transaction};
use super::sqlite_files::{DATABASE_FILE, Files, Locked, check_room, free_bytes};
use super::{Error, folding};
use keyward_core::key::secret::Secret;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions, install_default_drivers};
use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AnyConnection, ConnectOptions, Connection};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// The location of the database.
#[derive(Clone, Debug)]
pub enum Location {
    /// An SQLite database in this directory, for one server.
    Directory(PathBuf),
    /// The SQLite database of a relay in this directory.
    Relay(PathBuf),
    /// A PostgreSQL database, for several servers; its URL can contain a password.
    Postgres(Secret),
}

impl Location {
    /// Where that is, for the log: without a user, a password and parameters. Of a URL that was mistyped a part of the
    /// password can stand where the database does.
    pub(crate) fn described(&self) -> String {
        match self {
            Self::Directory(directory) | Self::Relay(directory) => format!("SQLite in {}", directory.display()),
            Self::Postgres(url) => {
                let options = postgres_options(url.expose());
                let options = options.ok().and_then(|options| PgConnectOptions::from_url(&options.database_url).ok());
                options.map_or_else(|| "PostgreSQL".to_owned(), |options| described(&options))
            }
        }
    }
}

fn described(options: &PgConnectOptions) -> String {
    let is_name = |name: &&str| name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.".contains(&c));
    let server = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => options.get_host().to_owned(),
    };
    // Unless it is named, it is the user's.
    let database = options.get_database().filter(is_name).map(|name| format!("/{name}"));
    format!("PostgreSQL at {server}{}", database.unwrap_or_default())
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
    pub(super) writer: Pool,
    /// For reads of operators.
    pub(super) readers: Pool,
    /// For reads of users.
    pub(super) user_readers: Pool,
    /// For long operations: exports, imports and the retention.
    pub(super) bulk_readers: Pool,
    /// For look-ups of tokens and keys, and health checks. Each reads a few rows by an index, so that none waits long.
    pub(super) guard_readers: Pool,
    /// The feed's own, so that operators do not wait behind a thousand edges, nor edges behind operators.
    pub(super) feed_readers: Pool,
    /// How PostgreSQL is reached for its notifications, which the `Any` driver does not have.
    notifications: Option<PgConnectOptions>,
    /// What only an SQLite database has.
    sqlite: Option<Arc<Sqlite>>,
}

/// What a database has that lies in files of this machine.
#[derive(Debug)]
struct Sqlite {
    files: Files,
    /// For checkpoints. It is open from first to last, so that the WAL is never closed and removed in between.
    keeper: Mutex<Option<AnyConnection>>,
}

/// The name of a relay's.
pub const RELAY_DATABASE_FILE: &str = "relay.db";

const READERS: u32 = 4;
/// As many lists are served to users at once.
pub(super) const USER_READERS: u32 = 2;
/// Exports have two, see [`super::export`].
const BULK_READERS: u32 = 3;
/// Look-ups of keys have at most two, see [`super::Store::lookup_permit`]; the others are for tokens and health checks.
const GUARD_READERS: u32 = 4;
/// For PostgreSQL, where writes follow each other nevertheless. A silently broken connection occupies its place until the system gives it
/// up.
const WRITERS: u32 = 2;
/// One reads a page, one follows commits, and one may still roll back the transaction of a cancelled read.
const FEED_READERS: u32 = 3;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const SQLITE_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection to an unavailable server is retried before the request fails.
const POSTGRES_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection that comes back may take to answer, after a query that was given up too.
const POSTGRES_RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The channel of PostgreSQL on which servers are notified of changes.
const CHANNEL: &str = "keyward_feed";

/// A process that hangs or vanished while it holds the row of the head loses it after these timeouts. Commits are durable whatever the
/// database's default is.
const POSTGRES_SETTINGS: &str = "SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit') = 'off'; \
    SET statement_timeout = '10s'; SET lock_timeout = '8s'; \
    SET idle_in_transaction_session_timeout = '5s'; \
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3";

/// What the URL may say beside the server, the user and the database.
const URL_PARAMETERS: [&str; 10] =
    ["application_name", "dbname", "host", "password", "port", "sslcert", "sslkey", "sslmode", "sslrootcert", "user"];

impl Database {
    /// Connects, and brings the schema up to date; a directory's database is made where there is none.
    pub(super) async fn open(location: &Location) -> Result<Self, Error> {
        install_default_drivers();
        match location {
            Location::Directory(directory) => Self::open_directory(directory, DATABASE_FILE, migrations::SQLITE).await,
            Location::Relay(directory) => Self::open_directory(directory, RELAY_DATABASE_FILE, migrations::RELAY).await,
            Location::Postgres(url) => Self::open_postgres(url).await,
        }
    }

    async fn open_directory(directory: &Path, file: &str, migrations: Migrations) -> Result<Self, Error> {
        let locked = Locked::lock(directory, file)?;
        let path = percent_encode(locked.database().as_os_str().as_bytes(), NON_ALPHANUMERIC).to_string();
        // Not one of a pool: that would try again what fails, and tell at the end that it was out of time.
        let keeper = open_sqlite(&format!("sqlite:{path}"), &locked, application_id(file), migrations).await;
        let keeper = keeper.map_err(|error| cause(error, directory, locked.database()))?;
        let checkpoint_pages = checkpoint_pages(directory);
        let writer = sqlite_options(1)
            .after_connect(move |connection, _| Box::pin(configure_sqlite_writer(connection, checkpoint_pages)));
        let writer = Pool::new(writer.connect(&format!("sqlite:{path}")).await?, None);
        if file == DATABASE_FILE {
            folding::fold_names(&mut *writer.acquire().await?).await?;
        }
        let read_only = format!("sqlite:{path}?mode=ro");
        let sqlite_readers = async |connections| {
            sqlite_options(connections).connect(&read_only).await.map(|readers| Pool::new(readers, None))
        };
        Ok(Self {
            engine: Engine::Sqlite,
            writer,
            readers: sqlite_readers(READERS).await?,
            user_readers: sqlite_readers(USER_READERS).await?,
            bulk_readers: sqlite_readers(BULK_READERS).await?,
            guard_readers: sqlite_readers(GUARD_READERS).await?,
            feed_readers: sqlite_readers(FEED_READERS).await?,
            notifications: None,
            sqlite: Some(Arc::new(Sqlite { files: locked.watch()?, keeper: Mutex::new(Some(keeper)) })),
        })
    }

    async fn open_postgres(url: &Secret) -> Result<Self, Error> {
        let options = postgres_options(url.expose())?;
        let notifications = PgConnectOptions::from_url(&options.database_url).map_err(|_| NOT_A_URL)?;
        // Not from the pool, whose connections have short timeouts: a migration can take long, and a second server waits for it.
        let connecting = timeout(CONNECT_TIMEOUT, AnyConnection::connect_with(&options));
        let mut connection = connecting.await.map_err(|_| Error::Slow)??;
        migrations::POSTGRES.apply(&mut connection).await?;
        folding::fold_names(&mut connection).await?;
        connection.close().await?;
        let postgres_pool = async |connections| {
            let pool = postgres_pool_options(connections).connect_with(options.clone()).await?;
            Ok::<_, sqlx::Error>(Pool::new(pool, Some(POSTGRES_RELEASE_TIMEOUT)))
        };
        Ok(Self {
            engine: Engine::Postgres,
            writer: postgres_pool(WRITERS).await?,
            readers: postgres_pool(READERS).await?,
            user_readers: postgres_pool(USER_READERS).await?,
            bulk_readers: postgres_pool(BULK_READERS).await?,
            guard_readers: postgres_pool(GUARD_READERS).await?,
            feed_readers: postgres_pool(FEED_READERS).await?,
            notifications: Some(notifications),
            sqlite: None,
        })
    }

    /// Listens for what [`Engine::announce`] says, if the database can say it and does so now.
    pub(super) async fn listen(&self) -> Option<PgListener> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(POSTGRES_ACQUIRE_TIMEOUT)
            .connect_lazy_with(self.notifications.clone()?);
        let listening = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        // Where it fails, polling does, and that is where it is logged.
        timeout(POSTGRES_ACQUIRE_TIMEOUT, listening).await.ok()?.ok()
    }

    /// A transaction that sees one state from its first query to its last.
    pub(super) async fn begin_read(&self, pool: &Pool) -> Result<Transaction, Error> {
        let begin = match self.engine {
            Engine::Sqlite => "BEGIN",
            Engine::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        Ok(pool.begin(begin).await?)
    }

    /// A transaction that has waited for those that write, and lets no other write until it ends.
    pub(super) async fn begin_write(&self) -> Result<Transaction, Error> {
        match self.engine {
            Engine::Sqlite => Ok(self.writer.begin("BEGIN IMMEDIATE").await?),
            Engine::Postgres => {
                // Whatever the database's default is: what it sees has to be newer than the lock.
                let mut transaction = self.writer.begin("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
                sqlx::query("SELECT id FROM head FOR UPDATE").execute(&mut *transaction).await?;
                Ok(transaction)
            }
        }
    }

    /// Closes every connection.
    pub(super) async fn close(&self) {
        for readers in [&self.feed_readers, &self.guard_readers, &self.bulk_readers, &self.user_readers, &self.readers]
        {
            readers.close().await;
        }
        self.writer.close().await;
        if let Some(sqlite) = &self.sqlite
            && let Some(mut keeper) = sqlite.keeper.lock().await.take()
        {
            let _ = set_in_use(&mut keeper, false).await;
            let _ = keeper.close().await;
        }
    }

    /// The files of an SQLite database.
    pub(super) fn files(&self) -> Option<&Files> {
        self.sqlite.as_ref().map(|sqlite| &sqlite.files)
    }

    /// Whether the files of an SQLite database are still those that were opened.
    pub(super) fn verify_files(&self) -> Result<(), Error> {
        self.files().map_or(Ok(()), Files::verify)
    }

    /// Copies what lies in the WAL into the database file, as far as no reader needs it there. Nothing waits for it.
    pub(super) async fn checkpoint(&self) -> Result<(), Error> {
        self.run_checkpoint("PRAGMA wal_checkpoint(PASSIVE)").await.map(drop)
    }

    /// Empties the WAL, which gives its room on the disk back, and makes sure that a change whose commit has failed is not made
    /// by the next start: its frames may stand in the WAL, whole, where this process does not see them any more but recovery
    /// would. Only the holder of the commit lock may call this.
    ///
    /// # Errors
    /// If the WAL cannot be emptied at the moment.
    pub(super) async fn empty_log(&self) -> Result<(), Error> {
        if self.run_checkpoint("PRAGMA wal_checkpoint(TRUNCATE)").await? { Ok(()) } else { Err(Error::Slow) }
    }

    /// Whether it went through.
    async fn run_checkpoint(&self, checkpoint: &'static str) -> Result<bool, Error> {
        let Some(sqlite) = &self.sqlite else { return Ok(false) };
        let mut keeper = sqlite.keeper.lock().await;
        let Some(keeper) = keeper.as_mut() else { return Ok(false) };
        let (busy, _, _): (i64, i64, i64) = sqlx::query_as(checkpoint).fetch_one(keeper).await?;
        Ok(busy == 0)
    }
}

impl Engine {
    /// Tells every server that uses the database, once the transaction is committed, that there is something new.
    pub(super) async fn announce(self, connection: &mut AnyConnection) -> Result<(), Error> {
        if self == Self::Postgres {
            sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(connection).await?;
        }
        Ok(())
    }

    /// Lets the transaction be idle between two queries, while the client reads the results. Elsewhere an idle transaction is aborted.
    pub(super) async fn let_idle(self, connection: &mut AnyConnection) -> Result<(), Error> {
        if self == Self::Postgres {
            sqlx::query("SET LOCAL idle_in_transaction_session_timeout = '60s'").execute(connection).await?;
        }
        Ok(())
    }

    /// What a commit that failed means. SQLite has undone it for this process; but if it had written the whole of it into the
    /// WAL before something else failed, such as to grow the `-shm` file or to wait for the disk, the next start would find it
    /// there. With PostgreSQL the response may have been lost after the commit.
    pub(super) fn failed_commit(self, error: sqlx::Error) -> Error {
        let code = error.as_database_error().and_then(DatabaseError::code);
        let code = code.and_then(|code| code.parse::<i32>().ok());
        match (self, code) {
            (Self::Sqlite, Some(code)) if SQLITE_NEVER_COMMITTED.contains(&(code & 0xff)) => error.into(),
            _ => Error::OutcomeUnknown(error),
        }
    }
}

/// SQLite's primary result codes BUSY, LOCKED, READONLY, INTERRUPT, FULL and CONSTRAINT: of a commit, its last frame was not
/// written. https://sqlite.org/rescode.html
const SQLITE_NEVER_COMMITTED: [i32; 6] = [5, 6, 8, 9, 13, 19];

const NOT_A_URL: Error = Error::Url("is not a URL such as postgres://user:password@host/database?sslmode=verify-full");

/// How PostgreSQL is reached. sqlx would log a parameter that it does not know together with its value, which can be a
/// mistyped password's.
fn postgres_options(url: &str) -> Result<AnyConnectOptions, Error> {
    let mut options: AnyConnectOptions = url.parse().map_err(|_| NOT_A_URL)?;
    if !matches!(options.database_url.scheme(), "postgres" | "postgresql") {
        return Err(NOT_A_URL);
    }
    let named = |name: &str| options.database_url.query_pairs().any(|(key, _)| key == name);
    if options.database_url.query_pairs().any(|(key, _)| !URL_PARAMETERS.contains(&&*key)) {
        return Err(Error::Url(
            "has a parameter that is none of application_name, dbname, host, password, port, sslcert, sslkey, sslmode, \
             sslrootcert and user",
        ));
    }
    if !named("application_name") {
        options.database_url.query_pairs_mut().append_pair("application_name", "keyward");
    }
    Ok(options)
}

/// Brings the schema up to date. PostgreSQL lets one do so at a time; an SQLite database has one server.
fn pool_options(connections: u32) -> AnyPoolOptions {
    AnyPoolOptions::new().max_connections(connections).idle_timeout(None).max_lifetime(None)
}

/// All connections are made at once: later there may be no file descriptor to be had.
fn sqlite_options(connections: u32) -> AnyPoolOptions {
    pool_options(connections)
        .min_connections(connections)
        .acquire_timeout(SQLITE_ACQUIRE_TIMEOUT)
        .after_connect(|connection, _| Box::pin(configure_sqlite(connection)))
        .after_release(|connection, _| Box::pin(has_no_transaction(connection)))
}

fn postgres_pool_options(connections: u32) -> AnyPoolOptions {
    pool_options(connections).acquire_timeout(POSTGRES_ACQUIRE_TIMEOUT).after_connect(|connection, _| {
        Box::pin(async move { sqlx::raw_sql(POSTGRES_SETTINGS).execute(connection).await.map(drop) })
    })
}

/// Opens the database, makes sure that it is one of this program, and brings its schema up to date.
async fn open_sqlite(
    url: &str,
    locked: &Locked,
    application_id: i64,
    migrations: Migrations,
) -> Result<AnyConnection, Error> {
    let mut connection = AnyConnection::connect(url).await?;
    let count = "SELECT count(*), COALESCE(sum(name = 'edge_entries'), 0), COALESCE(sum(name = '_sqlx_migrations'), 0)
                 FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let (tables, ours, migrated): (i64, i64, i64) = sqlx::query_as(count).fetch_one(&mut connection).await?;
    let found: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut connection).await?;
    let is_foreign = tables > migrated && ours == 0;
    if is_foreign || (found != 0 && found != application_id) {
        return Err(Error::OtherApplication { path: locked.database().to_owned() });
    }
    if ours == 0 {
        locked.refuse_loss()?;
    }
    configure_sqlite(&mut connection).await?;
    migrations.apply(&mut connection).await?;
    if found == 0 {
        let set = format!("PRAGMA application_id = {application_id}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(&mut connection).await?;
    }
    if sqlx::query_scalar::<_, i64>("PRAGMA user_version").fetch_one(&mut connection).await? == IN_USE {
        locked.warn_of_missing_wal();
    }
    set_in_use(&mut connection, true).await?;
    // A checkpoint that has to wait is better given up soon.
    sqlx::raw_sql("PRAGMA busy_timeout = 200").execute(&mut connection).await?;
    sqlx::raw_sql("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut connection).await?;
    Ok(connection)
}

/// What the `user_version` of a database says that a server uses; 0 where it was closed. A copy that was made meanwhile is known
/// by it.
const IN_USE: i64 = 1;

async fn set_in_use(connection: &mut AnyConnection, is_in_use: bool) -> Result<(), sqlx::Error> {
    let set = if is_in_use { "PRAGMA user_version = 1" } else { "PRAGMA user_version = 0" };
    sqlx::raw_sql(set).execute(connection).await.map(drop)
}

/// The number by which a database is known as one of a control plane ("KWcp") or of a relay ("KWrl").
pub(super) fn application_id(file: &str) -> i64 {
    if file == RELAY_DATABASE_FILE { 0x4b57_726c } else { 0x4b57_6370 }
}

/// The cause of a start that failed: what SQLite says of a file that it cannot make sense of, with what to do, and which of
/// its I/O errors come from a full disk.
fn cause(error: Error, directory: &Path, path: &Path) -> Error {
    let code = match &error {
        Error::Database(error) => error.as_database_error().and_then(DatabaseError::code),
        Error::Schema(MigrateError::Execute(error)) => error.as_database_error().and_then(DatabaseError::code),
        _ => None,
    };
    // The primary result codes CORRUPT and NOTADB; IOERR, FULL and CANTOPEN.
    match code.and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff) {
        Some(11 | 26) => Error::Damaged { path: path.to_owned(), source: Box::new(error) },
        Some(10 | 13 | 14) => check_room(directory).err().unwrap_or(error),
        _ => error,
    }
}

async fn configure_sqlite(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let busy_timeout = format!("PRAGMA busy_timeout = {}", BUSY_TIMEOUT.as_millis());
    sqlx::query(sqlx::AssertSqlSafe(busy_timeout)).execute(&mut *connection).await?;
    // Temporary files would need a directory for them that can be written, and file descriptors.
    for pragma in [
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
        "PRAGMA temp_store = MEMORY",
    ] {
        sqlx::query(pragma).execute(&mut *connection).await?;
    }
    Ok(())
}

/// A batch of an import touches thousands of pages, each of which would be written several times if they did not stay in
/// memory, and once for each batch if they went back to the file at once.
async fn configure_sqlite_writer(connection: &mut AnyConnection, checkpoint_pages: u64) -> Result<(), sqlx::Error> {
    configure_sqlite(connection).await?;
    let checkpoint = format!("PRAGMA wal_autocheckpoint = {checkpoint_pages}");
    for pragma in ["PRAGMA cache_size = -32768", &checkpoint] {
        sqlx::query(sqlx::AssertSqlSafe(pragma.to_owned())).execute(&mut *connection).await?;
    }
    Ok(())
}

/// How many pages the WAL may have before a commit copies it into the database file and the next starts it again: an eighth of
/// the free disk space, so that the log does not fill a small disk, and at most 128 MiB.
///
/// The checkpoints in `maintenance.rs` do not bound the log: under steady writes, commits add to it while it is copied.
fn checkpoint_pages(directory: &Path) -> u64 {
    const PAGE_BYTES: u64 = 4096;
    free_bytes(directory).map_or(32_768, |free| (free / 8 / PAGE_BYTES).clamp(256, 32_768))
}

/// Whether the connection can be used again. SQLite ends some transactions itself, such as those that fill the disk; sqlx
/// cannot end them again and believes for ever that they go on.
async fn has_no_transaction(connection: &mut AnyConnection) -> Result<bool, sqlx::Error> {
    // Once this is answered, whatever was asked before has been done.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::model::{Actor, OwnerKind};
    use crate::store::Store;

    #[test]
    fn a_database_is_described_without_user_password_and_parameters() {
        let described = |url: &str| Location::Postgres(Secret::new(url.to_owned())).described();
        for (url, expected) in [
            ("postgres://user:password@db.example:5433/state?sslmode=require", "PostgreSQL at db.example/state"),
            ("postgres://user:password@db.example", "PostgreSQL at db.example"),
            ("postgres:///state?host=/run/postgresql", "PostgreSQL at /run/postgresql/state"),
            ("postgres://user@db.example/other?dbname=state", "PostgreSQL at db.example/state"),
            // A slash of a password that was not escaped.
            ("postgres://user:12/password@db.example/state", "PostgreSQL at user"),
            ("password", "PostgreSQL"),
        ] {
            assert_eq!(described(url), expected, "{url}");
        }
        assert_eq!(Location::Directory("/var/lib/keyward".into()).described(), "SQLite in /var/lib/keyward");
    }

    #[tokio::test]
    async fn what_the_first_version_has_stored_is_there_after_an_update_and_can_be_changed() {
        install_default_drivers();
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}?mode=rwc", dir.path().join(DATABASE_FILE).display());
        let mut connection = AnyConnection::connect(&url).await.unwrap();
        migrations::SQLITE.first(1).apply(&mut connection).await.unwrap();
        let rows = "INSERT INTO owners VALUES ('acme', true, '[\"a\"]', 1);
            INSERT INTO keys VALUES ('key_1', 'n', 'acme', 'key', NULL, '[\"a\"]', '[]', NULL, 1, NULL, NULL);
            INSERT INTO secrets VALUES ('sec_1', 'key_1', zeroblob(32), 'hint', 1, NULL, false);
            INSERT INTO head VALUES (1, 7, 2, zeroblob(16));";
        sqlx::raw_sql(rows).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();

        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let key = store.key("key_1").await.unwrap().unwrap();
        assert_eq!((key.version, key.spent, key.credits, key.metadata.len()), (1, 0, None, 0));
        assert_eq!((&*key.secrets[0].id, key.secrets[0].hash.is_none()), ("sec_1", true));
        let owner = store.owner("acme").await.unwrap().unwrap();
        assert_eq!((owner.version, owner.kind, owner.disabled), (1, None::<OwnerKind>, true));
        let revoked = store.revoke_key(Actor::server(), "key_1".to_owned(), Timestamp::EXAMPLE).await.unwrap().unwrap();
        assert_eq!((revoked.version, store.hub().head().sequence), (2, 3));
    }
}
