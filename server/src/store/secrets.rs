//! Look-up of secrets by digest.

use super::{Error, READ_PATIENCE, Store, within};
use keyward_core::key::digest::Digest;
use sqlx::AnyConnection;

impl Store {
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
