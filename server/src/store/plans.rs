//! Plans: a feed entry of their own, so that a change of a plan with a hundred thousand keys is one entry.

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

/// The outcome of deleting a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanDeleted {
    /// Deleted.
    Done,
    /// That many keys at the edges are on the plan.
    InUse(u64),
    /// The plan does not exist.
    NotFound,
}

impl Store {
    /// The plan of that id.
    pub async fn plan(&self, id: &str) -> Result<Option<Plan>, Error> {
        within(READ_PATIENCE, async { find(&mut *self.database.readers.acquire().await?, id).await }).await
    }

    /// Plans after that id.
    pub async fn plans(&self, after: Option<&str>, limit: u32) -> Result<Page<Plan>, Error> {
        within(READ_PATIENCE, async {
            let mut query = Sql::new("SELECT ");
            // No id is empty.
            query.push(PLAN_COLUMNS).push(" FROM plans WHERE id > ").bind(after.unwrap_or_default());
            Page::of_rows(
                query
                    .fetch_page("id", limit, &mut *self.database.readers.acquire().await?, |plan: &PlanRow| {
                        plan.id.clone()
                    })
                    .await?,
            )
        })
        .await
    }

    /// Creates or replaces the plan; returns whether it is new. A change without effect is not written.
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

    /// Deletes the plan, unless keys are on it.
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
    // Edges do not need the initial credits of future keys.
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
