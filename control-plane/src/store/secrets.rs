//! Secrets, found by what leads to them.

use super::{Error, READ_PATIENCE, Store, keys, within};
use crate::model::{Key, Secret};
use keyward_contract::digest::Digest;

impl Store {
    /// The secret that the digest or address leads to, with its key.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn secret_at(&self, address: &Digest) -> Result<Option<(Key, Secret)>, Error> {
        within(READ_PATIENCE, async {
            let mut connection = self.database.readers.acquire().await?;
            let key_id: Option<String> = sqlx::query_scalar("SELECT key_id FROM secrets WHERE digest = $1")
                .bind(address.0.as_slice())
                .fetch_optional(&mut *connection)
                .await?;
            let Some(key_id) = key_id else { return Ok(None) };
            let Some(key) = keys::find(&mut connection, &key_id).await? else { return Ok(None) };
            let secret = key.secrets.iter().find(|secret| secret.digest == *address).cloned();
            Ok(secret.map(|secret| (key, secret)))
        })
        .await
    }
}
