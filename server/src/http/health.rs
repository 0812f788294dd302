//! Whether the process lives, and whether it can do its work. No token, and no more about why not than that the disk is to blame.

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

/// Whether the process lives
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "isAlive",
    tag = "service",
    responses((status = OK, description = "It does", body = Health))
)]
pub(super) async fn alive() -> Result<Response, ApiError> {
    json(StatusCode::OK, &Health { status: "alive" })
}

/// Whether it can do its work
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "isReady",
    tag = "service",
    responses((status = OK, description = "It can", body = Health), Refused<503>)
)]
pub(super) async fn ready(State(app): State<App>) -> Result<Response, ApiError> {
    app.store.check().await.map_err(ApiError::Unavailable)?;
    json(StatusCode::OK, &Health { status: "ready" })
}
