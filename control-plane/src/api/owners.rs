//! Owners, for operators.

use super::App;
use super::extract::{Document, Id};
use super::keys::json;
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::model::{Actor, Owner, OwnerChange};
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

#[derive(Serialize)]
struct OwnerResource<'a> {
    id: &'a str,
    disabled: bool,
    permissions: Option<&'a [String]>,
    created_at: Timestamp,
}

pub(super) async fn show(State(app): State<App>, Id(id): Id) -> Result<Response, ApiError> {
    answer(app.store.owner(&id).await?)
}

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
