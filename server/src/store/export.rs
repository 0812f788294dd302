//! Reads all keys as of one moment, in pieces. An open read transaction prevents the database from cleaning up, so exports are few and have
//! timeouts.

use super::keys::{Excluded, with_secrets};
use super::pool::Transaction;
use super::rows::{KeyRow, select_keys};
use super::{Error, READ_PATIENCE, Store, within};
use crate::model::Key;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// The maximum of exports in progress, so that connections are left for other readers.
pub(super) const AT_ONCE: usize = 2;

const KEYS_AT_A_TIME: i64 = 500;

/// An export in progress.
pub struct Export {
    transaction: Transaction,
    /// The last key that was read, by its age.
    after: Option<(i64, String)>,
    _place: OwnedSemaphorePermit,
}

impl Store {
    /// Begins an export.
    ///
    /// # Errors
    /// If the database cannot be read, or too many are under way.
    pub async fn export(&self) -> Result<Export, Error> {
        let place = Arc::clone(&self.exports).try_acquire_owned().map_err(|_| Error::Exporting)?;
        within(READ_PATIENCE, async {
            let mut transaction = self.database.begin_read(&self.database.bulk_readers).await?;
            self.database.engine.let_idle(&mut transaction).await?;
            Ok(Export { transaction, after: None, _place: place })
        })
        .await
    }
}

impl Export {
    /// The next keys, the oldest first; none at the end.
    pub async fn next(&mut self) -> Result<Vec<Key>, Error> {
        let mut query = select_keys();
        if let Some((created_at, id)) = &self.after {
            query.push(" WHERE (created_at, id) > (").bind(*created_at).push(", ").bind(id.as_str()).push(")");
        }
        query.push(" ORDER BY created_at, id LIMIT ").bind(KEYS_AT_A_TIME);
        let rows: Vec<KeyRow> = query.build_as()?.fetch_all(&mut *self.transaction).await?;
        if let Some((created_at, id)) = rows.last().map(KeyRow::age) {
            self.after = Some((created_at, id.to_owned()));
        }
        with_secrets(&mut self.transaction, rows, Excluded::None).await
    }
}
