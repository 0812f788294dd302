//! The databases of the tests: a PostgreSQL server, and the look at what lies in a database once a test has used it.
//!
//! `KEYWARD_TEST_POSTGRES_URL` names a server on which databases may be made; without it a test runs a cluster of its own,
//! which ends with the test however that ends (`tools/postgres`). `KEYWARD_TEST_ENGINE=postgres` runs every other test on
//! PostgreSQL too.

use crate::harness::until;
use sqlx::any::install_default_drivers;
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// A PostgreSQL server.
pub(crate) struct Postgres {
    url: String,
    /// Where it is this test's own.
    cluster: Option<Cluster>,
}

struct Cluster {
    dir: tempfile::TempDir,
    serving: Child,
    /// The cluster ends when this is closed.
    keeps: Option<ChildStdin>,
}

const PREFIX: &str = "keyward_test_";
const KEPT_S: u64 = 3600;

impl Postgres {
    /// Any server.
    pub(crate) fn any() -> Self {
        match std::env::var("KEYWARD_TEST_POSTGRES_URL") {
            Ok(url) => Self { url, cluster: None },
            Err(_) => Self::own(),
        }
    }

    /// A server that the test may end.
    pub(crate) fn own() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Its user is another one than the test's, if that is root.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (url, cluster) = serve(dir);
        Self { url, cluster: Some(cluster) }
    }

    /// Where it lies, if it is this test's own.
    pub(crate) fn directory(&self) -> &Path {
        self.cluster.as_ref().unwrap().dir.path()
    }

    /// Ends the server as a crash would.
    pub(crate) fn crash(&mut self) {
        let cluster = self.cluster.as_mut().unwrap();
        let pid = std::fs::read_to_string(cluster.dir.path().join("data/postmaster.pid")).unwrap();
        let pid = pid.lines().next().unwrap();
        assert!(Command::new("kill").args(["-QUIT", pid]).status().unwrap().success());
        cluster.serving.wait().unwrap();
    }

    /// Starts it again, on the same port.
    pub(crate) fn start_again(&mut self) {
        let cluster = self.cluster.take().unwrap();
        let dir = cluster.end();
        let (url, cluster) = serve(dir);
        assert_eq!(url, self.url);
        self.cluster = Some(cluster);
    }

    /// The URL of a new database.
    pub(crate) fn database(&self) -> String {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let name = format!("{PREFIX}{now}_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let mut names = vec![];
        with(&self.url, async |connection| {
            names = sqlx::query_scalar::<_, String>("SELECT CAST(datname AS TEXT) FROM pg_database")
                .fetch_all(&mut *connection)
                .await?;
            // Another test may make one, for which the template has to be nobody else's.
            while let Err(error) = sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0")))
                .execute(&mut *connection)
                .await
            {
                assert!(error.to_string().contains("being accessed"), "{error}");
            }
            // Those of tests that ended long ago.
            for old in names.iter().filter(|old| made_at(old).is_some_and(|made| made + KEPT_S < now)) {
                let drop = format!("DROP DATABASE IF EXISTS {old} WITH (FORCE)");
                let _ = sqlx::query(AssertSqlSafe(drop)).execute(&mut *connection).await;
            }
            Ok(())
        });
        self.url_of(&name)
    }

    /// The URL of a database of that name.
    pub(crate) fn url_of(&self, name: &str) -> String {
        let (server, parameters) = self.url.split_once('?').map_or((self.url.as_str(), ""), |(url, rest)| (url, rest));
        let (server, _) = server.rsplit_once('/').unwrap();
        format!("{server}/{name}{}{parameters}", if parameters.is_empty() { "" } else { "?" })
    }

    /// Runs these statements on the server, outside of any database of a test.
    pub(crate) fn run(&self, statements: &[&str]) {
        run(&self.url, statements);
    }
}

fn made_at(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.split('_').next()?.parse().ok()
}

fn serve(dir: tempfile::TempDir) -> (String, Cluster) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/postgres");
    let mut serving = Command::new(script)
        .arg("serve")
        .arg(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(serving.stdout.take().unwrap()).read_line(&mut url).unwrap();
    if url.is_empty() {
        let mut why = String::new();
        serving.stderr.take().unwrap().read_to_string(&mut why).unwrap();
        panic!("no PostgreSQL could be started; it is needed, or KEYWARD_TEST_POSTGRES_URL: {why}");
    }
    let keeps = serving.stdin.take();
    (url.trim().to_owned(), Cluster { dir, serving, keeps })
}

impl Cluster {
    fn end(mut self) -> tempfile::TempDir {
        drop(self.keeps.take());
        self.serving.wait().unwrap();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeps.take());
        drop(self.serving.wait());
    }
}

/// The URL of the database of a server in this directory: one and the same each time, if the tests run on PostgreSQL.
pub(crate) fn of_directory(data_dir: &Path) -> Option<String> {
    static KNOWN: LazyLock<Mutex<HashMap<PathBuf, String>>> = LazyLock::new(Mutex::default);
    match std::env::var("KEYWARD_TEST_ENGINE").as_deref() {
        Err(_) | Ok("" | "sqlite") => None,
        Ok("postgres") => {
            let needed = "KEYWARD_TEST_ENGINE=postgres needs KEYWARD_TEST_POSTGRES_URL: use tools/postgres run";
            std::env::var("KEYWARD_TEST_POSTGRES_URL").expect(needed);
            let mut known = KNOWN.lock().unwrap();
            Some(known.entry(data_dir.to_owned()).or_insert_with(|| Postgres::any().database()).clone())
        }
        Ok(other) => panic!("KEYWARD_TEST_ENGINE is {other}"),
    }
}

/// The URL of the SQLite database in a directory.
pub(crate) fn sqlite(data_dir: &Path) -> String {
    format!("sqlite:{}", data_dir.join("keyward.db").display())
}

/// Everything that is stored for a server in this directory, text as it is: its files, and the rows of its PostgreSQL database.
pub(crate) fn stored(data_dir: &Path) -> Vec<u8> {
    let mut bytes = crate::harness::contents(data_dir);
    if let Some(url) = of_directory(data_dir) {
        with(&url, async |connection| {
            let tables = "SELECT CAST(query_to_xml(format('SELECT * FROM %I', tablename), true, false, '') AS TEXT)
                          FROM pg_tables WHERE schemaname = 'public'";
            for table in sqlx::query_scalar::<_, String>(tables).fetch_all(connection).await? {
                bytes.extend(table.into_bytes());
            }
            Ok(())
        });
    }
    bytes
}

/// Runs these statements in the database.
pub(crate) fn run(url: &str, statements: &[&str]) {
    with(url, async |connection| {
        for statement in statements {
            sqlx::raw_sql(AssertSqlSafe((*statement).to_owned())).execute(&mut *connection).await?;
        }
        Ok(())
    });
}

/// Does this with a connection to the database.
pub(crate) fn with<T>(url: &str, task: impl AsyncFnOnce(&mut AnyConnection) -> Result<T, sqlx::Error>) -> T {
    install_default_drivers();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = AnyConnection::connect(url).await.unwrap();
        let outcome = task(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        outcome
    })
}

/// Waits until this query finds a number other than zero.
pub(crate) fn until_found(url: &str, query: &str) {
    until(|| {
        with(url, async |connection| {
            sqlx::query_scalar::<_, i64>(AssertSqlSafe(query.to_owned())).fetch_one(connection).await
        }) != 0
    });
}

/// Holds up every write of the servers of a database, as a long one would.
pub(crate) struct HeldWrites {
    runtime: tokio::runtime::Runtime,
    connection: AnyConnection,
}

impl HeldWrites {
    pub(crate) fn of(data_dir: &Path) -> Self {
        install_default_drivers();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let url = of_directory(data_dir);
        let begin = match url {
            Some(_) => "BEGIN; SELECT id FROM head FOR UPDATE",
            None => "BEGIN IMMEDIATE",
        };
        let url = url.unwrap_or_else(|| sqlite(data_dir));
        let connection = runtime.block_on(async {
            let mut connection = AnyConnection::connect(&url).await.unwrap();
            sqlx::raw_sql(begin).execute(&mut connection).await.unwrap();
            connection
        });
        Self { runtime, connection }
    }

    /// Lets them go on, after this change.
    pub(crate) fn release(mut self, change: &str) {
        self.runtime.block_on(async {
            let end = format!("{change};COMMIT");
            sqlx::raw_sql(AssertSqlSafe(end)).execute(&mut self.connection).await.unwrap();
            self.connection.close().await.unwrap();
        });
    }
}

/// The number that each of these queries finds.
pub(crate) fn numbers(data_dir: &Path, queries: &[&str]) -> Vec<i64> {
    let url = of_directory(data_dir).unwrap_or_else(|| sqlite(data_dir));
    with(&url, async |connection| {
        let mut numbers = Vec::new();
        for query in queries {
            let query = sqlx::query_scalar::<_, i64>(AssertSqlSafe((*query).to_owned()));
            numbers.push(query.fetch_one(&mut *connection).await?);
        }
        Ok(numbers)
    })
}
