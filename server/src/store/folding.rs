//! Folds names, so that searches compare them alike on SQLite and PostgreSQL.

use super::Error;
use sqlx::{AnyConnection, Connection};
use unicode_normalization::UnicodeNormalization;

/// The text as searches compare it: compatibility forms alike (Unicode's NFKC), in small letters. By our own means, as
/// PostgreSQL's LOWER knows other letters than SQLite's, and which ones depends on how the database was made.
pub(super) fn folded(text: &str) -> String {
    text.nfkc().flat_map(char::to_lowercase).nfkc().collect()
}

/// Folds the names of keys that an older version stored.
pub(super) async fn fold_names(connection: &mut AnyConnection) -> Result<(), Error> {
    loop {
        let unfolded = "SELECT id, name FROM keys WHERE name_folded IS NULL LIMIT 1000";
        let rows: Vec<(String, String)> = sqlx::query_as(unfolded).fetch_all(&mut *connection).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut transaction = connection.begin().await?;
        for (id, name) in rows {
            sqlx::query("UPDATE keys SET name_folded = $1 WHERE id = $2")
                .bind(folded(&name))
                .bind(id)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
    }
}
