//! The state, in SQLite or PostgreSQL: keys, owners, plans, and the feed of changes to them.
//!
//! One connection writes. A change, its entry of the audit log and its entries of the feed are one transaction, and the
//! hub hears of it in commit order before the next one begins. A request that goes away before its turn writes nothing; one that goes away
//! after that does not stop its write: a commit that nobody publishes would be seen by no edge.

mod audit;
mod database;
mod feed;
mod idempotency;
mod key_changes;
mod keys;
mod mutation;
mod owners;
mod pages;
mod plans;
mod retention;
mod rows;
mod secrets;
mod self_service;
mod sql;
mod tokens;
mod usage;

pub use audit::{AuditPage, AuditQuery};
pub use database::{DATABASE_FILE, Location};
pub use feed::Found;
pub use idempotency::{Before, Made, Once, REPEATABLE_FOR};
pub use key_changes::{Changed, REVOKED_AT_ONCE, SecretEnded};
pub use keys::{KeyPage, KeyQuery, MAX_VALID_SECRETS, Rotated};
pub use owners::{OwnerPage, OwnerQuery};
pub use plans::{PlanDeleted, PlanPage};
pub use retention::{RETENTION, Swept};
pub use self_service::{Asking, CreatedBy, MAX_KEYS_BY_SELF_SERVICE};
pub use tokens::{TokenPage, TokenQuery};
pub(crate) use usage::HOUR_MS;
pub use usage::{Hourly, Taken, Whose};

use crate::clock::Timestamp;
use crate::hub::{Bounds, Hub};
use crate::model::Actor;
use crate::random::{self, NoRandomness};
use database::Database;
use keyward_contract::entry::EntryTooLarge;
use mutation::Mutation;
use pages::Pages;
use sqlx::AnyPool;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The state and its history.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
    pages: Arc<Pages>,
    /// Held from before a transaction begins until the hub knows of it.
    commit_order: Arc<Mutex<()>>,
    hub: Arc<Hub>,
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
    Random(#[from] NoRandomness),
    /// More readers of the feed wait than can be served in time.
    #[error("too many edges wait for pages of the feed")]
    Crowded,
    /// What the write rests on was changed before its turn came.
    #[error("what this rests on was changed meanwhile")]
    Changed,
    /// The process ends, or the write has failed in a way that should be impossible.
    #[error("the write was interrupted")]
    Interrupted,
}

impl Error {
    /// Whether it may well go if it is tried again: the database is busy, full, or about to be closed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Crowded | Self::Changed | Self::Interrupted => true,
            Self::Database(error) => is_temporary(error),
            _ => false,
        }
    }
}

fn is_temporary(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) => true,
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

/// SQLite's primary result codes BUSY, LOCKED, IOERR and FULL.
const SQLITE_TEMPORARY: [i32; 4] = [5, 6, 10, 13];

/// The connection is lost, resources are used up (a full disk among them), another transaction was in the way, or an
/// operator intervenes.
const POSTGRES_TEMPORARY: [&str; 5] = ["08", "53", "40", "57P", "55P03"];

impl Store {
    /// Opens the database, and makes it where there is none.
    ///
    /// # Errors
    /// If it cannot be used.
    pub async fn open(location: &Location) -> Result<Self, Error> {
        let database = Database::open(location).await?;
        begin_history(&database.writer).await?;
        let hub = Arc::new(feed::recent(&database, Bounds::default()).await?);
        Ok(Self { database, pages: Arc::new(Pages::new(pages::PLACES)), commit_order: Arc::new(Mutex::new(())), hub })
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
        sqlx::query("SELECT sequence FROM head").fetch_one(&self.database.readers).await?;
        Ok(())
    }

    /// Waits for the writes that were begun, and closes the database.
    pub async fn close(&self) {
        let _last_write = self.commit_order.lock().await;
        self.database.close().await;
    }

    /// Runs the steps in one transaction in the name of the actor, commits, and publishes what they appended to the feed.
    async fn mutate<T, F>(&self, actor: Actor, now: Timestamp, steps: F) -> Result<T, Error>
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
            let mut mutation = Mutation::begin(&store.database, actor, now).await?;
            let outcome = steps(&mut mutation).await?;
            store.hub.publish(mutation.commit().await?);
            Ok(outcome)
        };
        let written = tokio::spawn(write).await;
        drop(requester);
        written.map_err(|_| Error::Interrupted)?
    }
}

/// Draws the epoch of a new database.
async fn begin_history(writer: &AnyPool) -> Result<(), Error> {
    sqlx::query("INSERT INTO head (id, epoch, sequence, chain) VALUES (1, $1, 0, $2) ON CONFLICT (id) DO NOTHING")
        .bind(random::number()?.cast_signed())
        .bind(vec![0_u8; keyward_contract::cursor::Cursor::CHAIN_LENGTH])
        .execute(writer)
        .await?;
    Ok(())
}
