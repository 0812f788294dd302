//! Owners: created when a key or an operator first names them; a change applies to all their keys at once.

use super::audit::{details, differences};
use super::mutation::Mutation;
use super::query_builder::{Page, ROWS_OF_A_STATEMENT, Sql, keep};
use super::rows::{OWNER_COLUMNS, OwnerRow, stored_amount, to_json};
use super::{Authorization, Error, READ_PATIENCE, Store, within};
use crate::clock::Timestamp;
use crate::model::{Owner, OwnerChange, OwnerKind, OwnerSettings, Target};
use keyward_core::key::digest::Digest;
use keyward_core::wire::entry::Body;
use serde_json::{Map, Value, json};
use sqlx::AnyConnection;
use std::collections::HashSet;

/// A query for owners.
#[derive(Clone, Debug, Default)]
pub struct OwnerQuery {
    /// The maximum number of results.
    pub limit: u32,
    /// The id to continue after.
    pub after: Option<String>,
    /// Only owners of this kind.
    pub kind: Option<OwnerKind>,
    /// Only disabled owners, or only enabled ones.
    pub disabled: Option<bool>,
}

impl Store {
    /// The owner of that id.
    pub async fn owner(&self, id: &str) -> Result<Option<Owner>, Error> {
        within(READ_PATIENCE, async { find(&mut *self.database.readers.acquire().await?, id).await }).await
    }

    /// The owners that match the query.
    pub async fn owners(&self, wanted: &OwnerQuery) -> Result<Page<Owner>, Error> {
        within(READ_PATIENCE, async {
            let mut query = Sql::new("SELECT ");
            // No id is empty.
            query
                .push(OWNER_COLUMNS)
                .push(" FROM owners WHERE id > ")
                .bind(wanted.after.as_deref().unwrap_or_default());
            if let Some(kind) = wanted.kind {
                query.push(" AND kind = ").bind(kind.name());
            }
            if let Some(disabled) = wanted.disabled {
                query.push(" AND disabled = ").bind(disabled);
            }
            let next = |owner: &OwnerRow| owner.id.clone();
            Page::of_rows(
                query.fetch_page("id", wanted.limit, &mut *self.database.readers.acquire().await?, next).await?,
            )
        })
        .await
    }

    /// Changes the owner; `None` if there is none. A change without effect is not written.
    pub async fn change_owner(
        &self,
        by: impl Into<Authorization>,
        target: impl Into<Target>,
        change: OwnerChange,
        now: Timestamp,
    ) -> Result<Option<Owner>, Error> {
        let target = target.into();
        self.mutate(by, now, move |mutation| Box::pin(apply(mutation, target, change))).await
    }

    /// Creates or replaces the owner; returns whether it is new. A change without effect is not written.
    pub async fn put_owner(
        &self,
        by: impl Into<Authorization>,
        target: impl Into<Target>,
        settings: OwnerSettings,
        now: Timestamp,
    ) -> Result<(Owner, bool), Error> {
        let target = target.into();
        self.mutate(by, now, move |mutation| Box::pin(put(mutation, target, settings))).await
    }
}

/// Creates the owner unless it exists.
pub(super) async fn ensure(mutation: &mut Mutation, id: &str) -> Result<(), Error> {
    if find(mutation.connection(), id).await?.is_none() {
        let owner = Owner::new(id.to_owned(), mutation.now());
        create(mutation, &owner).await?;
    }
    Ok(())
}

/// Creates the owners of an import that do not exist; each is given once.
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
        let created: Vec<_> = new.iter().map(|owner| owner.id.as_str()).collect();
        // All of them are as new owners are.
        if let Some(owner) = new.first() {
            mutation.audit_all("owner.created", &created, facts(owner)).await?;
        }
        let entries = new.iter().map(|owner| (Digest::of_owner(&owner.id), Body::Owner(owner.record())));
        mutation.append_all(entries.collect()).await?;
    }
    Ok(())
}

async fn apply(mutation: &mut Mutation, target: Target, change: OwnerChange) -> Result<Option<Owner>, Error> {
    let Some(current) = find(mutation.connection(), &target.id).await? else { return Ok(None) };
    if !target.expected.fits(Some(current.version)) {
        return Err(Error::OtherVersion);
    }
    let mut owner = current.clone();
    change.apply(&mut owner);
    store(mutation, &current, owner).await.map(Some)
}

async fn put(mutation: &mut Mutation, target: Target, settings: OwnerSettings) -> Result<(Owner, bool), Error> {
    let current = find(mutation.connection(), &target.id).await?;
    if !target.expected.fits(current.as_ref().map(|owner| owner.version)) {
        return Err(Error::OtherVersion);
    }
    match current {
        Some(current) => {
            let mut owner = current.clone();
            settings.apply(&mut owner);
            Ok((store(mutation, &current, owner).await?, false))
        }
        None => {
            let mut owner = Owner::new(target.id, mutation.now());
            settings.apply(&mut owner);
            create(mutation, &owner).await?;
            Ok((owner, true))
        }
    }
}

async fn create(mutation: &mut Mutation, owner: &Owner) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO owners (id, kind, disabled, permissions, created_at, version) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&owner.id)
    .bind(owner.kind.map(OwnerKind::name))
    .bind(owner.disabled)
    .bind(owner.permissions.as_deref().map(to_json))
    .bind(owner.created_at.as_stored())
    .bind(stored_amount(owner.version))
    .execute(mutation.connection())
    .await?;
    mutation.audit("owner.created", &owner.id, facts(owner)).await?;
    tell(mutation, owner).await
}

/// The audit details of a new owner.
fn facts(owner: &Owner) -> Map<String, Value> {
    details([
        ("kind", json!(owner.kind.map(OwnerKind::name))),
        ("disabled", json!(owner.disabled)),
        ("permissions", json!(owner.permissions)),
    ])
}

/// Stores the changed owner.
async fn store(mutation: &mut Mutation, current: &Owner, mut owner: Owner) -> Result<Owner, Error> {
    if owner == *current {
        return Ok(owner);
    }
    owner.version += 1;
    sqlx::query("UPDATE owners SET kind = $1, disabled = $2, permissions = $3, version = $4 WHERE id = $5")
        .bind(owner.kind.map(OwnerKind::name))
        .bind(owner.disabled)
        .bind(owner.permissions.as_deref().map(to_json))
        .bind(stored_amount(owner.version))
        .bind(&owner.id)
        .execute(mutation.connection())
        .await?;
    let kind = |owner: &Owner| json!(owner.kind.map(OwnerKind::name));
    let changed = differences([
        ("kind", kind(current), kind(&owner)),
        ("disabled", json!(current.disabled), json!(owner.disabled)),
        ("permissions", json!(current.permissions), json!(owner.permissions)),
    ]);
    mutation.audit("owner.changed", &owner.id, changed).await?;
    // Edges do not need the kind of owner.
    if owner.record() != current.record() {
        tell(mutation, &owner).await?;
    }
    Ok(owner)
}

async fn tell(mutation: &mut Mutation, owner: &Owner) -> Result<(), Error> {
    mutation.append(Digest::of_owner(&owner.id), Body::Owner(owner.record())).await
}

pub(super) async fn find(connection: &mut AnyConnection, id: &str) -> Result<Option<Owner>, Error> {
    let mut query = Sql::new("SELECT ");
    query.push(OWNER_COLUMNS).push(" FROM owners WHERE id = ").bind(id);
    let row: Option<OwnerRow> = query.build_as()?.fetch_optional(connection).await?;
    row.map(Owner::try_from).transpose()
}
