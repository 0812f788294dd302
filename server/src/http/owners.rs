//! Owners, for operators.

use super::answer::{json, unless_known, versioned};
use super::app::App;
use super::extract::{Document, Id};
use super::parameters::{Name, PageSize, Parameters};
use super::precondition::{IfMatch, Known};
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::model::{KeysToRevoke, Owner, OwnerChange, OwnerKind, OwnerSettings, Target};
use crate::store::Authorization;
use crate::store::OwnerQuery;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

/// An owner of keys.
#[derive(Serialize, ToSchema)]
#[schema(as = Owner)]
struct OwnerResource<'a> {
    #[schema(value_type = Name)]
    id: &'a str,
    /// The kind of owner; null if unspecified.
    #[schema(required, value_type = Option<OwnerKind>)]
    kind: Option<&'static str>,
    /// Whether all keys of the owner are refused.
    disabled: bool,
    /// The permissions that bound those of its keys; null is unbounded.
    #[schema(required)]
    permissions: Option<&'a [String]>,
    created_at: Timestamp,
}

/// A page of owners, sorted by id.
#[derive(Serialize, ToSchema)]
#[schema(as = Owners)]
struct ListResource<'a> {
    owners: Vec<OwnerResource<'a>>,
    /// The `after` of the next page; null on the last page.
    #[schema(required)]
    next: Option<&'a str>,
}

/// The result of revoking the keys of an owner.
#[derive(Serialize, ToSchema)]
#[schema(as = RevokedKeys)]
struct RevokedResource {
    /// How many keys this request revoked.
    revoked: usize,
}

/// List owners, sorted by id
#[utoipa::path(
    get,
    path = "/v1/owners",
    operation_id = "listOwners",
    tag = "owners",
    params(("limit" = inline(Option<PageSize>), Query, description = "The maximum number of results; 100 by default"), ("after" = Option<Name>, Query, description = "Continue after this: the `next` of the previous page"), ("kind" = Option<OwnerKind>, Query, description = "Only owners of this kind"), ("disabled" = Option<bool>, Query, description = "Only disabled owners, or only enabled ones")),
    responses((status = OK, description = "The owners", body = ListResource))
)]
pub(super) async fn list(State(app): State<App>, mut parameters: Parameters) -> Result<Response, ApiError> {
    let query = OwnerQuery {
        limit: parameters.limit(),
        after: parameters.id("after", "the id of an owner"),
        kind: parameters.take("kind", "user, team or organization", OwnerKind::from_name),
        disabled: parameters.take("disabled", "true or false", |text| text.parse().ok()),
    };
    parameters.finish()?;
    let page = app.store.owners(&query).await?;
    let owners = page.items.iter().map(resource).collect();
    json(StatusCode::OK, &ListResource { owners, next: page.next.as_deref() })
}

/// Show an owner
#[utoipa::path(
    get,
    path = "/v1/owners/{id}",
    operation_id = "showOwner",
    tag = "owners",
    params(("id" = Name, Path, description = "The owner's id"), Known),
    responses((status = OK, description = "The owner", body = OwnerResource))
)]
pub(super) async fn show(State(app): State<App>, known: Known, Id(id): Id) -> Result<Response, ApiError> {
    let owner = app.store.owner(&id).await?.ok_or(NO_OWNER)?;
    unless_known(&known, owner.version, &resource(&owner))
}

/// Create or replace an owner
///
/// Absent fields get their defaults.
#[utoipa::path(
    put,
    path = "/v1/owners/{id}",
    operation_id = "setOwner",
    tag = "owners",
    params(("id" = Name, Path, description = "The owner's id"), IfMatch, ("If-None-Match" = Option<String>, Header, description = "`*`: create only, fail if the resource exists")),
    request_body(content = ref("#/components/schemas/OwnerSettings"), content_type = "application/json"),
    responses((status = OK, description = "The owner after the change", body = OwnerResource), (status = CREATED, description = "The new owner", body = OwnerResource))
)]
pub(super) async fn put(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    IfMatch(expected): IfMatch,
    Id(id): Id,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let settings = OwnerSettings::read(&id, &document).map_err(ApiError::Invalid)?;
    let (owner, is_new) = app.store.put_owner(by, Target { id, expected }, settings, (app.clock)()).await?;
    tracing::info!(owner = owner.id, disabled = owner.disabled, is_new, "owner set");
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    versioned(status, owner.version, &resource(&owner))
}

/// Change an owner: disable, enable, or set its permissions
///
/// Fields that are not named stay.
#[utoipa::path(
    patch,
    path = "/v1/owners/{id}",
    operation_id = "changeOwner",
    tag = "owners",
    params(("id" = Name, Path, description = "The owner's id"), IfMatch),
    request_body(content = ref("#/components/schemas/OwnerChange"), content_type = "application/json"),
    responses((status = OK, description = "The owner after the change", body = OwnerResource))
)]
pub(super) async fn change(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    IfMatch(expected): IfMatch,
    Id(id): Id,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let change = OwnerChange::read(&document).map_err(ApiError::Invalid)?;
    let owner = app.store.change_owner(by, Target { id, expected }, change, (app.clock)()).await?.ok_or(NO_OWNER)?;
    tracing::info!(owner = owner.id, disabled = owner.disabled, "owner changed");
    versioned(StatusCode::OK, owner.version, &resource(&owner))
}

/// Revoke all keys of an owner or of one of its members, immediately and permanently
#[utoipa::path(
    post,
    path = "/v1/owners/{id}/revoke-keys",
    operation_id = "revokeKeysOfOwner",
    tag = "owners",
    params(("id" = Name, Path, description = "The owner's id")),
    request_body(content = ref("#/components/schemas/KeysToRevoke"), content_type = "application/json"),
    responses((status = OK, description = "The number of revoked keys", body = RevokedResource))
)]
pub(super) async fn revoke_keys(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    Id(id): Id,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let KeysToRevoke { member } = KeysToRevoke::read(&document).map_err(ApiError::Invalid)?;
    let revoked = app.store.revoke_keys_of(by, id.clone(), member, (app.clock)()).await?.ok_or(NO_OWNER)?;
    tracing::info!(owner = id, revoked, "keys of owner revoked");
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
