//! A pool of connections that gives up a connection which does not answer when it comes back.
//!
//! sqlx pings a connection that is returned, and waits for the answer without a limit; until then the connection
//! keeps its place in the pool. If the database vanishes silently (a host that is down, a
//! firewall that drops packets), every place of a busy pool can be lost so for as long as the system resends, which is a
//! quarter of an hour on Linux. Everything that takes connections from a pool does so here, where that wait is bounded.

use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, Database};
use sqlx_core::sql_str::SqlSafeStr;
use sqlx_core::transaction::TransactionManager;
use std::ops::{Deref, DerefMut};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::timeout;

type Manager = <Any as Database>::TransactionManager;

#[derive(Clone, Debug)]
pub(super) struct Pool {
    connections: AnyPool,
    release_timeout: Option<Duration>,
}

impl Pool {
    /// With a release timeout, a connection that has not answered for so long when it is returned is closed, and its place
    /// is free again.
    pub(super) fn new(connections: AnyPool, release_timeout: Option<Duration>) -> Self {
        Self { connections, release_timeout }
    }

    /// A connection that answers.
    pub(super) async fn acquire(&self) -> Result<PooledConnection, sqlx::Error> {
        Ok(PooledConnection { connection: self.connections.acquire().await?, release_timeout: self.release_timeout })
    }

    /// Begins a transaction by that statement.
    pub(super) async fn begin(&self, statement: &'static str) -> Result<Transaction, sqlx::Error> {
        // Open from here on: a statement whose answer was not waited for may have been executed.
        let mut transaction = Transaction { connection: self.acquire().await?, is_open: true };
        Manager::begin(&mut transaction.connection, Some(statement.into_sql_str())).await?;
        Ok(transaction)
    }

    /// Closes all connections, and waits for those in use.
    pub(super) async fn close(&self) {
        self.connections.close().await;
    }

    #[cfg(test)]
    pub(super) fn max_connections(&self) -> u32 {
        self.connections.options().get_max_connections()
    }
}

/// A connection that returns to its pool when it is dropped.
#[derive(Debug)]
pub(super) struct PooledConnection {
    connection: PoolConnection<Any>,
    release_timeout: Option<Duration>,
}

impl Deref for PooledConnection {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.connection
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.connection
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        let returned = self.connection.return_to_pool();
        // Without a runtime the connection is closed.
        let Ok(runtime) = Handle::try_current() else { return };
        match self.release_timeout {
            // The connection is closed, and its place is free, once what returns it is dropped.
            Some(limit) => drop(runtime.spawn(timeout(limit, returned))),
            None => drop(runtime.spawn(returned)),
        }
    }
}

/// A transaction, which is rolled back if it is dropped without [`Transaction::commit`].
#[derive(Debug)]
pub(super) struct Transaction {
    connection: PooledConnection,
    is_open: bool,
}

impl Transaction {
    /// Commits. If that fails, the outcome can be unknown.
    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        Manager::commit(&mut self.connection).await?;
        self.is_open = false;
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.connection
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.connection
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.is_open {
            // Takes effect before the connection is used again.
            Manager::start_rollback(&mut self.connection);
        }
    }
}
