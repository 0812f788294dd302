//! Owners, for operators.

use super::App;
use super::answer::{json, unless_known, versioned};
use super::extract::{Document, Id, Parameters};
use super::keys::PageSize;
use super::openapi::schema;
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

/// One to whom keys belong.
#[derive(Serialize, ToSchema)]
#[schema(as = Owner)]
struct OwnerResource<'a> {
    #[schema(value_type = Name)]
    id: &'a str,
    /// What it is, where somebody has said.
    #[schema(required, value_type = Option<OwnerKind>)]
    kind: Option<&'static str>,
    /// Whether all its keys are refused.
    disabled: bool,
    /// The most that its keys may do; null does not bound them.
    #[schema(required)]
    permissions: Option<&'a [String]>,
    created_at: Timestamp,
}

/// Some owners, by their ids.
#[derive(Serialize, ToSchema)]
#[schema(as = Owners)]
struct ListResource<'a> {
    owners: Vec<OwnerResource<'a>>,
    /// What to ask for with `after`, where there are more.
    #[schema(required)]
    next: Option<&'a str>,
}

/// How many keys were revoked.
#[derive(Serialize, ToSchema)]
#[schema(as = RevokedKeys)]
struct RevokedResource {
    /// Those that had not been revoked before.
    revoked: usize,
}

schema!(
    Name,
    "The id of an owner, a member or a plan, in the words of whoever runs the service",
    crate::model::schema::id()
);

/// Lists owners, by their ids
#[utoipa::path(
    get,
    path = "/v1/owners",
    operation_id = "listOwners",
    tag = "owners",
    params(("limit" = inline(Option<PageSize>), Query, description = "How many at most; 100 unless it is said"), ("after" = Option<Name>, Query, description = "The `next` of the list before"), ("kind" = Option<OwnerKind>, Query, description = "Only those that are this"), ("disabled" = Option<bool>, Query, description = "Only those that are disabled, or only the others")),
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

/// An owner
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

/// Makes an owner, or says all of what one is to be
///
/// What is absent is as in a new one.
#[utoipa::path(
    put,
    path = "/v1/owners/{id}",
    operation_id = "setOwner",
    tag = "owners",
    params(("id" = Name, Path, description = "The owner's id"), IfMatch, ("If-None-Match" = Option<String>, Header, description = "`*`: only if it is not there yet")),
    request_body(content = ref("#/components/schemas/OwnerSettings"), content_type = "application/json"),
    responses((status = OK, description = "The owner as it is now", body = OwnerResource), (status = CREATED, description = "The owner, which is new", body = OwnerResource))
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

/// Disables, enables or bounds an owner
///
/// What is not named stays.
#[utoipa::path(
    patch,
    path = "/v1/owners/{id}",
    operation_id = "changeOwner",
    tag = "owners",
    params(("id" = Name, Path, description = "The owner's id"), IfMatch),
    request_body(content = ref("#/components/schemas/OwnerChange"), content_type = "application/json"),
    responses((status = OK, description = "The owner as it is now", body = OwnerResource))
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

/// Ends all keys of an owner or of one member, at once and for good
#[utoipa::path(
    post,
    path = "/v1/owners/{id}/revoke-keys",
    operation_id = "revokeKeysOfOwner",
    tag = "owners",
    params(("id" = Name, Path, description = "The owner's id")),
    request_body(content = ref("#/components/schemas/KeysToRevoke"), content_type = "application/json"),
    responses((status = OK, description = "How many were revoked", body = RevokedResource))
)]
pub(super) async fn revoke_keys(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    Id(id): Id,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let KeysToRevoke { member } = KeysToRevoke::read(&document).map_err(ApiError::Invalid)?;
    let revoked = app.store.revoke_keys_of(by, id.clone(), member, (app.clock)()).await?.ok_or(NO_OWNER)?;
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
