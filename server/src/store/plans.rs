//! Plans: told to the edges by themselves, so that a change of one with a hundred thousand keys is one entry.

use super::audit::{details, differences};
use super::mutation::Mutation;
use super::query_builder::{Page, Sql};
use super::rows::{PLAN_COLUMNS, PlanRow, stored_amount, to_json};
use super::{Authorization, Error, READ_PATIENCE, Store, within};
use crate::clock::Timestamp;
use crate::model::{Plan, PlanSettings, Target};
use keyward_core::key::digest::Digest;
use keyward_core::wire::entry::Body;
use serde_json::{Value, json};
use sqlx::AnyConnection;

/// What became of the removal of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanDeleted {
    /// It is gone.
    Done,
    /// So many keys that the edges know are on it.
    InUse(u64),
    /// There is no such plan.
    NotFound,
}

impl Store {
    /// The plan of that id.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn plan(&self, id: &str) -> Result<Option<Plan>, Error> {
        within(READ_PATIENCE, async { find(&mut *self.database.readers.acquire().await?, id).await }).await
    }

    /// Some plans, after the one of that id.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn plans(&self, after: Option<&str>, limit: u32) -> Result<Page<Plan>, Error> {
        within(READ_PATIENCE, async {
            let mut query = Sql::new("SELECT ");
            // Every id has at least one character.
            query.push(PLAN_COLUMNS).push(" FROM plans WHERE id > ").bind(after.unwrap_or_default());
            Page::of_rows(
                query.fetch_page("id", limit, &self.database.readers, |plan: &PlanRow| plan.id.clone()).await?,
            )
        })
        .await
    }

    /// Makes the plan what it is to be, and tells whether there was none before. What changes nothing writes nothing.
    ///
    /// # Errors
    /// If it cannot be stored, or has another version than was expected.
    pub async fn put_plan(
        &self,
        by: impl Into<Authorization>,
        target: impl Into<Target>,
        settings: PlanSettings,
        now: Timestamp,
    ) -> Result<(Plan, bool), Error> {
        let target = target.into();
        self.mutate(by, now, move |mutation| Box::pin(put(mutation, target, settings))).await
    }

    /// Removes the plan, unless keys are on it.
    ///
    /// # Errors
    /// If it cannot be stored, or has another version than was expected.
    pub async fn delete_plan(
        &self,
        by: impl Into<Authorization>,
        target: impl Into<Target>,
        now: Timestamp,
    ) -> Result<PlanDeleted, Error> {
        let target = target.into();
        self.mutate(by, now, move |mutation| Box::pin(delete(mutation, target))).await
    }
}

async fn put(mutation: &mut Mutation, target: Target, settings: PlanSettings) -> Result<(Plan, bool), Error> {
    let current = find(mutation.connection(), &target.id).await?;
    if !target.expected.fits(current.as_ref().map(|plan| plan.version)) {
        return Err(Error::OtherVersion);
    }
    let is_new = current.is_none();
    let current = current.unwrap_or_else(|| Plan::new(target.id, mutation.now()));
    let mut plan = current.clone();
    settings.apply(&mut plan);
    if plan == current && !is_new {
        return Ok((plan, false));
    }
    if !is_new {
        plan.version += 1;
    }
    sqlx::query(
        "INSERT INTO plans (id, limits, credits, created_at, version) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (id) DO UPDATE
         SET limits = excluded.limits, credits = excluded.credits, version = excluded.version",
    )
    .bind(&plan.id)
    .bind(plan.limits.as_ref().map(|limits| to_json(limits)))
    .bind(plan.credits.map(stored_amount))
    .bind(plan.created_at.as_stored())
    .bind(stored_amount(plan.version))
    .execute(mutation.connection())
    .await?;
    if is_new {
        let facts = details([("limits", limits(&plan)), ("credits", json!(plan.credits))]);
        mutation.audit("plan.created", &plan.id, facts).await?;
    } else {
        let changed = differences([
            ("limits", limits(&current), limits(&plan)),
            ("credits", json!(current.credits), json!(plan.credits)),
        ]);
        mutation.audit("plan.changed", &plan.id, changed).await?;
    }
    // With how many credits later keys begin is nothing to the edges.
    if is_new || plan.record() != current.record() {
        mutation.append(Digest::of_plan(&plan.id), Body::Plan(plan.record())).await?;
    }
    Ok((plan, is_new))
}

fn limits(plan: &Plan) -> Value {
    json!(plan.limits.as_ref().map(|limits| limits.iter().map(ToString::to_string).collect::<Vec<_>>()))
}

/// An edge refuses a key whose plan it does not know, whatever else it would say of it. So keys count until the edges
/// have forgotten them, and those that are forgotten lose the plan.
async fn delete(mutation: &mut Mutation, target: Target) -> Result<PlanDeleted, Error> {
    let Some(plan) = find(mutation.connection(), &target.id).await? else { return Ok(PlanDeleted::NotFound) };
    if !target.expected.fits(Some(plan.version)) {
        return Err(Error::OtherVersion);
    }
    let users: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM keys WHERE plan = $1
         AND EXISTS (SELECT 1 FROM secrets WHERE secrets.key_id = keys.id AND NOT secrets.forgotten)",
    )
    .bind(&plan.id)
    .fetch_one(mutation.connection())
    .await?;
    if users > 0 {
        return Ok(PlanDeleted::InUse(users.unsigned_abs()));
    }
    let forgotten = sqlx::query("UPDATE keys SET plan = NULL, version = version + 1 WHERE plan = $1")
        .bind(&plan.id)
        .execute(mutation.connection())
        .await?;
    sqlx::query("DELETE FROM plans WHERE id = $1").bind(&plan.id).execute(mutation.connection()).await?;
    let facts = details([("ended_keys", json!(forgotten.rows_affected()))]);
    mutation.audit("plan.deleted", &plan.id, facts).await?;
    mutation.append(Digest::of_plan(&plan.id), Body::Removed).await?;
    Ok(PlanDeleted::Done)
}

pub(super) async fn find(connection: &mut AnyConnection, id: &str) -> Result<Option<Plan>, Error> {
    let mut query = Sql::new("SELECT ");
    query.push(PLAN_COLUMNS).push(" FROM plans WHERE id = ").bind(id);
    let row: Option<PlanRow> = query.build_as()?.fetch_optional(connection).await?;
    row.map(Plan::try_from).transpose()
}
