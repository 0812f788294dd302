//! All keys as they were at one moment, a few at a time. The read transaction keeps the moment; so that none keeps the
//! database from tidying up behind it, there are few of them and whoever reads must go on.

use super::keys::{Excluded, with_secrets};
use super::rows::{KeyRow, select_keys};
use super::{Error, READ_PATIENCE, Store, within};
use crate::model::Key;
use sqlx::{Any, Transaction};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// How many exports may be under way, so that they leave connections to other readers.
pub(super) const AT_ONCE: usize = 2;

const KEYS_AT_A_TIME: i64 = 500;

/// An export under way.
pub struct Export {
    transaction: Transaction<'static, Any>,
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
    ///
    /// # Errors
    /// If the database cannot be read.
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
