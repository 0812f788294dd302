//! Owners, for operators.

use super::App;
use super::extract::{Document, Id};
use super::keys::json;
use super::openapi::schema;
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::model::{Actor, Owner, OwnerChange};
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

/// One to whom keys belong.
#[derive(Serialize, ToSchema)]
#[schema(as = Owner)]
struct OwnerResource<'a> {
    #[schema(value_type = OwnerId)]
    id: &'a str,
    /// Whether all its keys are refused.
    disabled: bool,
    /// The most that its keys may do; null does not bound them.
    #[schema(required)]
    permissions: Option<&'a [String]>,
    created_at: Timestamp,
}

schema!(OwnerId, "The id of an owner, in the words of whoever runs the service", crate::model::schema::owner_id());

/// An owner
#[utoipa::path(
    get,
    path = "/v1/owners/{id}",
    operation_id = "showOwner",
    tag = "owners",
    params(("id" = OwnerId, Path, description = "The owner's id")),
    responses((status = OK, description = "The owner", body = OwnerResource))
)]
pub(super) async fn show(State(app): State<App>, Id(id): Id) -> Result<Response, ApiError> {
    answer(app.store.owner(&id).await?)
}

/// Disables, enables or bounds an owner
///
/// Fields that are absent leave things as they are.
#[utoipa::path(
    patch,
    path = "/v1/owners/{id}",
    operation_id = "changeOwner",
    tag = "owners",
    params(("id" = OwnerId, Path, description = "The owner's id")),
    request_body(content = ref("#/components/schemas/OwnerChange"), content_type = "application/json"),
    responses((status = OK, description = "The owner as it is now", body = OwnerResource))
)]
pub(super) async fn change(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let change = OwnerChange::read(&document).map_err(ApiError::Invalid)?;
    let owner = app.store.change_owner(actor, id, change, (app.clock)()).await?;
    if let Some(owner) = &owner {
        tracing::info!(owner = owner.id, disabled = owner.disabled, "owner changed");
    }
    answer(owner)
}

fn answer(owner: Option<Owner>) -> Result<Response, ApiError> {
    let owner = owner.ok_or(ApiError::NotFound("owner"))?;
    json(
        StatusCode::OK,
        &OwnerResource {
            id: &owner.id,
            disabled: owner.disabled,
            permissions: owner.permissions.as_deref(),
            created_at: owner.created_at,
        },
    )
}
