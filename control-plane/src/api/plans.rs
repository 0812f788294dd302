//! Plans, for operators.

use super::App;
use super::answer::{json, unless_known, versioned};
use super::conditional::{IfMatch, Known};
use super::extract::{Document, Id, Parameters};
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::model::{Actor, Plan, PlanSettings, Target};
use crate::store::PlanDeleted;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

#[derive(Serialize)]
struct PlanResource<'a> {
    id: &'a str,
    /// Absent limits are the dialect's.
    limits: Option<Vec<String>>,
    credits: Option<u64>,
    created_at: Timestamp,
}

#[derive(Serialize)]
struct ListResource<'a> {
    plans: Vec<PlanResource<'a>>,
    next: Option<&'a str>,
}

pub(super) async fn list(State(app): State<App>, mut parameters: Parameters) -> Result<Response, ApiError> {
    let (limit, after) = (parameters.limit(), parameters.text("after", "the id of a plan"));
    parameters.finish()?;
    let page = app.store.plans(after.as_deref(), limit).await?;
    let plans = page.plans.iter().map(resource).collect();
    json(StatusCode::OK, &ListResource { plans, next: page.next.as_deref() })
}

pub(super) async fn show(State(app): State<App>, known: Known, Id(id): Id) -> Result<Response, ApiError> {
    let plan = app.store.plan(&id).await?.ok_or(NO_PLAN)?;
    unless_known(&known, plan.version, &resource(&plan))
}

pub(super) async fn put(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    IfMatch(expected): IfMatch,
    Id(id): Id,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let settings = PlanSettings::read(&id, &document).map_err(ApiError::Invalid)?;
    let (plan, is_new) = app.store.put_plan(actor, Target { id, expected }, settings, (app.clock)()).await?;
    tracing::info!(plan = plan.id, is_new, "plan set");
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    versioned(status, plan.version, &resource(&plan))
}

pub(super) async fn delete(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    IfMatch(expected): IfMatch,
    Id(id): Id,
) -> Result<Response, ApiError> {
    match app.store.delete_plan(actor, Target { id: id.clone(), expected }, (app.clock)()).await? {
        PlanDeleted::Done => {
            tracing::info!(plan = id, "plan deleted");
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        PlanDeleted::InUse(keys) => Err(ApiError::PlanInUse { keys }),
        PlanDeleted::NotFound => Err(NO_PLAN),
    }
}

const NO_PLAN: ApiError = ApiError::NotFound("plan");

fn resource(plan: &Plan) -> PlanResource<'_> {
    PlanResource {
        id: &plan.id,
        limits: plan.limits.as_ref().map(|limits| limits.iter().map(ToString::to_string).collect()),
        credits: plan.credits,
        created_at: plan.created_at,
    }
}
