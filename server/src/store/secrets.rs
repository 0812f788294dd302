//! Look-up of secrets by digest.

use super::{Error, QueuePermit, READ_PATIENCE, Store, keys, within};
use crate::model::{Key, Secret};
use keyward_core::key::digest::Digest;
use sqlx::AnyConnection;

impl Store {
    /// The secret with that digest or address, with its key.
    pub async fn secret_at(&self, _permit: &QueuePermit, address: &Digest) -> Result<Option<(Key, Secret)>, Error> {
        within(READ_PATIENCE, async {
            let mut connection = self.database.guard_readers.acquire().await?;
            let Some((key_id, _)) = at(&mut connection, address).await? else { return Ok(None) };
            let Some(key) = keys::find(&mut connection, &key_id).await? else { return Ok(None) };
            let secret = key.secrets.iter().find(|secret| secret.digest == *address).cloned();
            Ok(secret.map(|secret| (key, secret)))
        })
        .await
    }

    /// Whether a secret has or ever had that digest or address.
    pub async fn is_taken(&self, address: &Digest) -> Result<bool, Error> {
        within(READ_PATIENCE, async {
            let mut connection = self.database.readers.acquire().await?;
            Ok(at(&mut connection, address).await?.is_some())
        })
        .await
    }
}

/// The ids of the key and the secret with that digest or address.
pub(super) async fn at(connection: &mut AnyConnection, address: &Digest) -> Result<Option<(String, String)>, Error> {
    let found = sqlx::query_as("SELECT key_id, id FROM secrets WHERE digest = $1").bind(address.0.as_slice());
    Ok(found.fetch_optional(connection).await?)
}
