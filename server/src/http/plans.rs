//! Plans, for operators.

use super::answer::{json, unless_known, versioned};
use super::app::App;
use super::extract::{Document, Id};
use super::openapi::Refused;
use super::parameters::{Name, PageSize, Parameters};
use super::precondition::{IfMatch, Known};
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::model::{Plan, PlanSettings, Target};
use crate::store::Authorization;
use crate::store::PlanDeleted;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// A plan.
#[derive(Serialize, ToSchema)]
#[schema(as = Plan)]
struct PlanResource<'a> {
    #[schema(value_type = Name)]
    id: &'a str,
    /// The rate limits of keys on the plan; null for the dialect's.
    #[schema(required)]
    limits: Option<Vec<String>>,
    /// The initial credits of keys created without their own; null is unlimited.
    #[schema(required)]
    credits: Option<u64>,
    created_at: Timestamp,
}

/// A page of plans, sorted by id.
#[derive(Serialize, ToSchema)]
#[schema(as = Plans)]
struct ListResource<'a> {
    plans: Vec<PlanResource<'a>>,
    /// The `after` of the next page; null on the last page.
    #[schema(required)]
    next: Option<&'a str>,
}

/// List plans, sorted by id
#[utoipa::path(
    get,
    path = "/v1/plans",
    operation_id = "listPlans",
    tag = "plans",
    params(("limit" = inline(Option<PageSize>), Query, description = "The maximum number of results; 100 by default"), ("after" = Option<Name>, Query, description = "Continue after this: the `next` of the previous page")),
    responses((status = OK, description = "The plans", body = ListResource))
)]
pub(super) async fn list(State(app): State<App>, mut parameters: Parameters) -> Result<Response, ApiError> {
    let (limit, after) = (parameters.limit(), parameters.id("after", "the id of a plan"));
    parameters.finish()?;
    let page = app.store.plans(after.as_deref(), limit).await?;
    let plans = page.items.iter().map(resource).collect();
    json(StatusCode::OK, &ListResource { plans, next: page.next.as_deref() })
}

/// Show a plan
#[utoipa::path(
    get,
    path = "/v1/plans/{id}",
    operation_id = "showPlan",
    tag = "plans",
    params(("id" = Name, Path, description = "The plan's id"), Known),
    responses((status = OK, description = "The plan", body = PlanResource))
)]
pub(super) async fn show(State(app): State<App>, known: Known, Id(id): Id) -> Result<Response, ApiError> {
    let plan = app.store.plan(&id).await?.ok_or(NO_PLAN)?;
    unless_known(&known, plan.version, &resource(&plan))
}

/// Create or replace a plan
///
/// Absent fields get their defaults. New limits apply to all keys on the plan immediately.
#[utoipa::path(
    put,
    path = "/v1/plans/{id}",
    operation_id = "setPlan",
    tag = "plans",
    params(("id" = Name, Path, description = "The plan's id"), IfMatch, ("If-None-Match" = Option<String>, Header, description = "`*`: create only, fail if the resource exists")),
    request_body(content = ref("#/components/schemas/PlanSettings"), content_type = "application/json"),
    responses((status = OK, description = "The plan after the change", body = PlanResource), (status = CREATED, description = "The new plan", body = PlanResource))
)]
pub(super) async fn put(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    IfMatch(expected): IfMatch,
    Id(id): Id,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let settings = PlanSettings::read(&id, &document).map_err(ApiError::Invalid)?;
    let (plan, is_new) = app.store.put_plan(by, Target { id, expected }, settings, (app.clock)()).await?;
    tracing::info!(plan = plan.id, is_new, "plan set");
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    versioned(status, plan.version, &resource(&plan))
}

/// Delete a plan that no key is on
#[utoipa::path(
    delete,
    path = "/v1/plans/{id}",
    operation_id = "deletePlan",
    tag = "plans",
    params(("id" = Name, Path, description = "The plan's id"), IfMatch),
    responses((status = NO_CONTENT, description = "Deleted"), Refused<409>)
)]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    IfMatch(expected): IfMatch,
    Id(id): Id,
) -> Result<Response, ApiError> {
    match app.store.delete_plan(by, Target { id: id.clone(), expected }, (app.clock)()).await? {
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
