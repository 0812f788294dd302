//! Owners, for operators.

use super::App;
use super::answer::{json, unless_known, versioned};
use super::conditional::{IfMatch, Known};
use super::extract::{Document, Id, Parameters};
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::model::{Actor, KeysToRevoke, Owner, OwnerChange, OwnerKind, OwnerSettings, Target};
use crate::store::OwnerQuery;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

#[derive(Serialize)]
struct OwnerResource<'a> {
    id: &'a str,
    kind: Option<&'static str>,
    disabled: bool,
    permissions: Option<&'a [String]>,
    created_at: Timestamp,
}

#[derive(Serialize)]
struct ListResource<'a> {
    owners: Vec<OwnerResource<'a>>,
    next: Option<&'a str>,
}

#[derive(Serialize)]
struct RevokedResource {
    revoked: usize,
}

pub(super) async fn list(State(app): State<App>, mut parameters: Parameters) -> Result<Response, ApiError> {
    let query = OwnerQuery {
        limit: parameters.limit(),
        after: parameters.text("after", "the id of an owner"),
        kind: parameters.take("kind", "user, team or organization", OwnerKind::from_name),
        disabled: parameters.take("disabled", "true or false", |text| text.parse().ok()),
    };
    parameters.finish()?;
    let page = app.store.owners(&query).await?;
    let owners = page.owners.iter().map(resource).collect();
    json(StatusCode::OK, &ListResource { owners, next: page.next.as_deref() })
}

pub(super) async fn show(State(app): State<App>, known: Known, Id(id): Id) -> Result<Response, ApiError> {
    let owner = app.store.owner(&id).await?.ok_or(NO_OWNER)?;
    unless_known(&known, owner.version, &resource(&owner))
}

pub(super) async fn put(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    IfMatch(expected): IfMatch,
    Id(id): Id,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let settings = OwnerSettings::read(&id, &document).map_err(ApiError::Invalid)?;
    let (owner, is_new) = app.store.put_owner(actor, Target { id, expected }, settings, (app.clock)()).await?;
    tracing::info!(owner = owner.id, disabled = owner.disabled, is_new, "owner set");
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    versioned(status, owner.version, &resource(&owner))
}

pub(super) async fn change(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    IfMatch(expected): IfMatch,
    Id(id): Id,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let change = OwnerChange::read(&document).map_err(ApiError::Invalid)?;
    let owner = app.store.change_owner(actor, Target { id, expected }, change, (app.clock)()).await?.ok_or(NO_OWNER)?;
    tracing::info!(owner = owner.id, disabled = owner.disabled, "owner changed");
    versioned(StatusCode::OK, owner.version, &resource(&owner))
}

pub(super) async fn revoke_keys(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let KeysToRevoke { member } = KeysToRevoke::read(&document).map_err(ApiError::Invalid)?;
    let revoked = app.store.revoke_keys_of(actor, id.clone(), member, (app.clock)()).await?.ok_or(NO_OWNER)?;
    tracing::info!(owner = id, revoked, "keys of the owner revoked");
    json(StatusCode::OK, &RevokedResource { revoked })
}

const NO_OWNER: ApiError = ApiError::NotFound("owner");

fn resource(owner: &Owner) -> OwnerResource<'_> {
    OwnerResource {
        id: &owner.id,
        kind: owner.kind.map(OwnerKind::name),
        disabled: owner.disabled,
        permissions: owner.permissions.as_deref(),
        created_at: owner.created_at,
    }
}
