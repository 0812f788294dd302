//! Owners: known once a key names them, changed for all their keys at once.

use super::mutation::Mutation;
use super::rows::{OWNER_COLUMNS, OwnerRow, to_json};
use super::sql::{ROWS_OF_A_STATEMENT, Sql, keep};
use super::{Error, Store};
use crate::clock::Timestamp;
use crate::model::{Actor, Owner, OwnerChange};
use keyward_contract::digest::Digest;
use keyward_contract::entry::Body;
use serde_json::Map;
use sqlx::AnyConnection;
use std::collections::HashSet;

impl Store {
    /// The owner of that id.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn owner(&self, id: &str) -> Result<Option<Owner>, Error> {
        find(&mut *self.database.readers.acquire().await?, id).await
    }

    /// Changes the owner; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be stored.
    pub async fn change_owner(
        &self,
        actor: Actor,
        id: String,
        change: OwnerChange,
        now: Timestamp,
    ) -> Result<Option<Owner>, Error> {
        self.mutate(actor, now, move |mutation| Box::pin(apply(mutation, id, change))).await
    }
}

/// Makes the owner known where nobody has named it before.
pub(super) async fn ensure(mutation: &mut Mutation, id: &str) -> Result<(), Error> {
    ensure_all(mutation, vec![id]).await
}

/// Makes those owners known whom nobody has named before; each is named once.
pub(super) async fn ensure_all(mutation: &mut Mutation, ids: Vec<&str>) -> Result<(), Error> {
    for some in ids.chunks(ROWS_OF_A_STATEMENT) {
        let mut query = Sql::of_many_values(mutation.engine(), "SELECT id FROM owners WHERE id IN (");
        query.bind_all(some.iter().copied()).push(")");
        let rows: Vec<(String,)> = query.build_as()?.fetch_all(mutation.connection()).await?;
        let known: HashSet<_> = rows.into_iter().map(|(id,)| id).collect();
        let now = mutation.now();
        let unknown = some.iter().filter(|id| !known.contains(**id));
        let new: Vec<_> = unknown.map(|id| Owner::new((*id).to_owned(), now)).collect();
        if new.is_empty() {
            continue;
        }
        let mut insert = Sql::of_many_values(
            mutation.engine(),
            "INSERT INTO owners (id, disabled, permissions, created_at) VALUES ",
        );
        insert.bind_rows(&new, |columns, owner| {
            columns.bind(owner.id.as_str()).bind(owner.disabled).bind(None::<&str>).bind(owner.created_at.as_stored());
        });
        insert.execute(mutation.connection(), keep(new.len())).await?;
        let told = new.iter().map(|owner| (Digest::of_owner(&owner.id), Body::Owner(owner.record())));
        mutation.append_all(told.collect()).await?;
    }
    Ok(())
}

async fn apply(mutation: &mut Mutation, id: String, change: OwnerChange) -> Result<Option<Owner>, Error> {
    let Some(current) = find(mutation.connection(), &id).await? else { return Ok(None) };
    let mut owner = current.clone();
    owner.disabled = change.disabled.unwrap_or(owner.disabled);
    if let Some(permissions) = change.permissions {
        owner.permissions = permissions;
    }
    if owner != current {
        sqlx::query("UPDATE owners SET disabled = $1, permissions = $2, version = version + 1 WHERE id = $3")
            .bind(owner.disabled)
            .bind(owner.permissions.as_deref().map(to_json))
            .bind(&owner.id)
            .execute(mutation.connection())
            .await?;
        owner.version += 1;
        let details = Map::from_iter([
            ("disabled".to_owned(), owner.disabled.into()),
            ("permissions".to_owned(), owner.permissions.clone().into()),
        ]);
        mutation.audit("owner.changed", &owner.id, details).await?;
        tell(mutation, &owner).await?;
    }
    Ok(Some(owner))
}

async fn tell(mutation: &mut Mutation, owner: &Owner) -> Result<(), Error> {
    mutation.append(Digest::of_owner(&owner.id), Body::Owner(owner.record())).await
}

async fn find(connection: &mut AnyConnection, id: &str) -> Result<Option<Owner>, Error> {
    let mut query = Sql::new("SELECT ");
    query.push(OWNER_COLUMNS).push(" FROM owners WHERE id = ").bind(id);
    let row: Option<OwnerRow> = query.build_as()?.fetch_optional(connection).await?;
    row.map(Owner::try_from).transpose()
}
