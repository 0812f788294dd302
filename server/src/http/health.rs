//! Liveness and readiness. They require no token, and name no cause except a failing disk.

use super::answer::json;
use super::app::App;
use super::openapi::Refused;
use super::problem::ApiError;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Serialize, ToSchema)]
struct Health {
    status: &'static str,
}

/// Check liveness
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "checkLiveness",
    tag = "service",
    responses((status = OK, description = "The process is alive", body = Health))
)]
pub(super) async fn alive() -> Result<Response, ApiError> {
    json(StatusCode::OK, &Health { status: "alive" })
}

/// Check readiness
///
/// Ready: the database answers, and changes can be stored.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "checkReadiness",
    tag = "service",
    responses((status = OK, description = "Ready", body = Health), Refused<503>)
)]
pub(super) async fn ready(State(app): State<App>) -> Result<Response, ApiError> {
    app.store.check().await.map_err(ApiError::Unavailable)?;
    json(StatusCode::OK, &Health { status: "ready" })
}
