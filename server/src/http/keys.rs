//! Keys, for operators.

pub(super) mod issue;
mod resource;
pub(super) mod why;

use super::answer::{json, unless_known, versioned};
use super::app::App;
use super::extract::{Document, Id, TwoIds};
use super::openapi::{Refused, number, schema, text};
use super::parameters::{EnvironmentName, KeyId, Name, PageSize, Parameters, Words};
use super::precondition::{IfMatch, Known};
use super::problem::{ApiError, problem};
use crate::clock::Timestamp;
use crate::model::{KeyChange, MAX_METADATA, State as KeyState, Target};
use crate::store::{Authorization, CountQuery, KeyError, KeyQuery, KeySort};
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use keyward_core::document::{Problem, Problems};
use keyward_core::key::environment::Environment;
use resource::{CountsResource, KeyResource, ListResource, resource};
use serde_json::Value;
use std::time::Duration;

/// List keys, newest first unless sorted otherwise
#[utoipa::path(
    get,
    path = "/v1/keys",
    operation_id = "listKeys",
    tag = "keys",
    params(("limit" = inline(Option<PageSize>), Query, description = "The maximum number of results; 100 by default"), ("after" = Option<KeyId>, Query, description = "Continue after this: the `next` of the previous page"), ("owner" = Option<Name>, Query, description = "Only keys of this owner"), ("member" = Option<Name>, Query, description = "Only keys for this member"), ("plan" = Option<Name>, Query, description = "Only keys on this plan"), ("kind" = inline(Option<Words>), Query, description = "Only keys of this kind"), ("environment" = inline(Option<EnvironmentName>), Query, description = "Only keys of this environment"), ("state" = Option<KeyState>, Query, description = "Only keys in this state"), ("name" = inline(Option<Words>), Query, description = "Only keys whose name contains this, regardless of case"), ("created_after" = inline(Option<Timestamp>), Query, description = "Only keys created at this time or later"), ("created_before" = inline(Option<Timestamp>), Query, description = "Only keys created before this time"), ("expires_before" = inline(Option<Timestamp>), Query, description = "Only keys that expire before this time"), ("expires_after" = inline(Option<Timestamp>), Query, description = "Only keys that expire at this time or later"), ("used_after" = inline(Option<Timestamp>), Query, description = "Only keys that were last used at this time or later"), ("unused_since" = inline(Option<Timestamp>), Query, description = "Only keys that were created before this time, and not used since"), ("used" = Option<bool>, Query, description = "Only keys that were used, or only keys that never were"), ("leaked" = Option<bool>, Query, description = "Only keys with a leaked secret, or only keys without"), ("in_rotation" = Option<bool>, Query, description = "Only keys with a secret in its grace period, or only keys without"), ("low_credits" = Option<bool>, Query, description = "Only keys that have spent at least nine tenths of their credits, or only others"), ("search" = inline(Option<Words>), Query, description = "Only keys whose id, or the hint of one of whose secrets, begins with this, and the key with the secret of this id"), ("sort" = inline(Option<SortName>), Query, description = "The order, descending with `-`; `-created` by default. Keys without an expiry sort after, never used ones before all others")),
    responses((status = OK, description = "The keys", body = ListResource))
)]
pub(super) async fn list(State(app): State<App>, mut parameters: Parameters) -> Result<Response, ApiError> {
    let sorts = format!("one of {}", KeySort::NAMES.join(", "));
    let query = KeyQuery {
        limit: parameters.limit(),
        after: parameters.text("after", "the id of a key"),
        owner: parameters.id("owner", "the id of an owner"),
        member: parameters.id("member", "the id of a member"),
        plan: parameters.id("plan", "the id of a plan"),
        kinds: parameters.text("kind", "a kind of key").into_iter().collect(),
        environment: parameters.take("environment", "live or test", Environment::from_name),
        state: parameters.take("state", "active, paused, revoked or expired", KeyState::from_name),
        name: parameters.text("name", "a part of a name"),
        created_after: parameters.time("created_after"),
        created_before: parameters.time("created_before"),
        expires_before: parameters.time("expires_before"),
        expires_after: parameters.time("expires_after"),
        used_after: parameters.time("used_after"),
        unused_since: parameters.time("unused_since"),
        was_used: parameters.boolean("used"),
        leaked: parameters.boolean("leaked"),
        in_rotation: parameters.boolean("in_rotation"),
        low_credits: parameters.boolean("low_credits"),
        search: parameters.text("search", "the beginning of an id or a hint"),
        sort: parameters.take("sort", &sorts, KeySort::from_name).unwrap_or_default(),
    };
    parameters.finish()?;
    let now = (app.clock)();
    let page = app.store.keys(&query, now).await?;
    let page = page.ok_or_else(|| ApiError::InvalidQuery(Problems(vec![problem("after", "key not found")])))?;
    let keys = page.items.iter().map(|key| resource(key, None, now)).collect();
    json(StatusCode::OK, &ListResource { keys, next: page.next.as_deref() })
}

schema!(SortName, "An order of keys", text("-?(created|name|last_used|expires)"));

/// Count the keys by state, and those that need attention
///
/// The counts of a large database can be some seconds old, see `counted_at`.
#[utoipa::path(
    get,
    path = "/v1/keys/counts",
    operation_id = "countKeys",
    tag = "keys",
    params(("expiring_within_s" = inline(Option<Seconds>), Query, description = "Within how many seconds a key expires to be counted as expiring; 30 days by default"), ("unused_for_s" = inline(Option<Seconds>), Query, description = "For how many seconds a key was not used to be counted as unused; 90 days by default")),
    responses((status = OK, description = "The counts", body = CountsResource))
)]
pub(super) async fn counts(State(app): State<App>, mut parameters: Parameters) -> Result<Response, ApiError> {
    let mut seconds =
        |name: &str, default: u64| Duration::from_secs(parameters.number(name, 1..=MAX_SPAN_S).unwrap_or(default));
    let query = CountQuery {
        expiring_within: seconds("expiring_within_s", 30 * DAY_S),
        unused_for: seconds("unused_for_s", 90 * DAY_S),
    };
    parameters.finish()?;
    let counts = app.store.key_counts(query, (app.clock)()).await?;
    json(StatusCode::OK, &CountsResource::from(counts))
}

const DAY_S: u64 = 86_400;
const MAX_SPAN_S: u64 = 100 * 365 * DAY_S;
schema!(Seconds, "A number of seconds", number(1, MAX_SPAN_S));

/// Show a key
#[utoipa::path(
    get,
    path = "/v1/keys/{id}",
    operation_id = "showKey",
    tag = "keys",
    params(("id" = KeyId, Path, description = "The key's id"), Known),
    responses((status = OK, description = "The key", body = KeyResource))
)]
pub(super) async fn show(State(app): State<App>, known: Known, Id(id): Id) -> Result<Response, ApiError> {
    let key = app.store.key(&id).await?.ok_or(NO_KEY)?;
    unless_known(&known, key.version, &resource(&key, None, (app.clock)()))
}

/// Change a key
///
/// Fields that are not named stay. Kind, owner and environment cannot be changed.
#[utoipa::path(
    patch,
    path = "/v1/keys/{id}",
    operation_id = "changeKey",
    tag = "keys",
    params(("id" = KeyId, Path, description = "The key's id"), IfMatch),
    request_body(content = ref("#/components/schemas/KeyChange"), content_type = "application/json"),
    responses((status = OK, description = "The key after the change", body = KeyResource), Refused<409>)
)]
pub(super) async fn change(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    IfMatch(expected): IfMatch,
    Id(id): Id,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let created_at = app.store.key(&id).await?.ok_or(NO_KEY)?.created_at;
    let no_plan = plan_problem(&app, &document).await?;
    let change = with_further(KeyChange::read(&document, &app.dialect, created_at, now), no_plan)?;
    let key = app.store.change_key(by, Target { id, expected }, change, now).await?;
    tracing::info!(key = key.id, owner = key.owner, version = key.version, "key changed");
    versioned(StatusCode::OK, key.version, &resource(&key, None, now))
}

/// Revoke a key immediately and permanently
///
/// A revoked key stays listed. Revoking it again changes nothing.
#[utoipa::path(
    delete,
    path = "/v1/keys/{id}",
    operation_id = "revokeKey",
    tag = "keys",
    params(("id" = KeyId, Path, description = "The key's id"), IfMatch),
    responses((status = OK, description = "The key after the change", body = KeyResource))
)]
pub(super) async fn revoke(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    IfMatch(expected): IfMatch,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let key = app.store.revoke_key(by, Target { id, expected }, now).await?.ok_or(NO_KEY)?;
    tracing::info!(key = key.id, owner = key.owner, "key revoked");
    versioned(StatusCode::OK, key.version, &resource(&key, None, now))
}

/// Pause a key: it is refused until it is resumed
///
/// Pausing it again changes nothing. A pause does not invalidate anything: rotate or revoke a key whose secret is known to others.
#[utoipa::path(
    post,
    path = "/v1/keys/{id}/pause",
    operation_id = "pauseKey",
    tag = "keys",
    params(("id" = KeyId, Path, description = "The key's id"), IfMatch),
    responses((status = OK, description = "The key after the change", body = KeyResource), Refused<409>)
)]
pub(super) async fn pause(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    IfMatch(expected): IfMatch,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let key = app.store.pause_key(by, Target { id, expected }, now).await?;
    tracing::info!(key = key.id, owner = key.owner, "key paused");
    versioned(StatusCode::OK, key.version, &resource(&key, None, now))
}

/// Resume a paused key
///
/// Resuming a key that is not paused changes nothing. A revoked or expired key cannot be resumed.
#[utoipa::path(
    post,
    path = "/v1/keys/{id}/resume",
    operation_id = "resumeKey",
    tag = "keys",
    params(("id" = KeyId, Path, description = "The key's id"), IfMatch),
    responses((status = OK, description = "The key after the change", body = KeyResource), Refused<409>)
)]
pub(super) async fn resume(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    IfMatch(expected): IfMatch,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let key = app.store.resume_key(by, Target { id, expected }, now).await?;
    tracing::info!(key = key.id, owner = key.owner, "key resumed");
    versioned(StatusCode::OK, key.version, &resource(&key, None, now))
}

/// Invalidate a secret of a key before its grace period is over
///
/// The last valid secret cannot be invalidated: revoke the key instead.
#[utoipa::path(
    delete,
    path = "/v1/keys/{id}/secrets/{secret_id}",
    operation_id = "invalidateSecret",
    tag = "keys",
    params(("id" = KeyId, Path, description = "The key's id"), ("secret_id" = String, Path, description = "The secret's id"), IfMatch),
    responses((status = OK, description = "The key after the change", body = KeyResource), Refused<409>)
)]
pub(super) async fn end_secret(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    IfMatch(expected): IfMatch,
    TwoIds(id, secret): TwoIds,
) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let key = app.store.end_secret(by, Target { id, expected }, secret, now).await?;
    tracing::info!(key = key.id, owner = key.owner, "secret invalidated");
    versioned(StatusCode::OK, key.version, &resource(&key, None, now))
}

pub(super) const NO_KEY: ApiError = ApiError::NotFound("key");

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Store(error) => error.into(),
            KeyError::NotFound => NO_KEY,
            KeyError::NoSuchSecret => Self::NotFound("secret of this key"),
            KeyError::NotActive { state, operation } => Self::NotActive { state, operation },
            KeyError::PausedByOperator => Self::PausedByOperator,
            KeyError::LastSecret => Self::LastSecret,
            KeyError::TooManySecrets => Self::TooManySecrets,
            KeyError::TooManyKnownSecrets { most } => Self::TooManyKnownSecrets { most },
            KeyError::TooMuchMetadata => {
                let message = format!("the key would have more than {MAX_METADATA} entries");
                Self::Invalid(Problems(vec![problem("metadata", &message)]))
            }
            KeyError::HasCredits => Self::CreditsNotInheritable,
            KeyError::TooManyKeys => Self::TooManyKeys,
            KeyError::TooSoon { retry_after } => {
                let retry_after_s = u64::try_from(retry_after.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
                Self::IssuanceLimitReached { retry_after_s }
            }
        }
    }
}

/// The problem with the `plan` of a request, if no plan has that id. An id that no plan can have is reported by the reader of
/// the request.
async fn plan_problem(app: &App, document: &Value) -> Result<Option<Problem>, ApiError> {
    let plan = document.get("plan").and_then(Value::as_str);
    let Some(plan) = plan.filter(|plan| plan.bytes().all(|c| c.is_ascii_graphic()) && !plan.is_empty()) else {
        return Ok(None);
    };
    let missing = app.store.plan(plan).await?.is_none();
    Ok(missing.then(|| problem("plan", super::problem::PLAN_NOT_FOUND)))
}

/// The result of reading a request, with a further problem reported together with those of the request.
fn with_further<T>(read: Result<T, Problems>, further: Option<Problem>) -> Result<T, ApiError> {
    match (read, further) {
        (Ok(read), None) => Ok(read),
        (Ok(_), Some(problem)) => Err(ApiError::Invalid(Problems(vec![problem]))),
        (Err(Problems(mut problems)), further) => {
            let is_reported = |further: &Problem| problems.iter().any(|problem| problem.path == further.path);
            problems.extend(further.filter(|further| !is_reported(further)));
            Err(ApiError::Invalid(Problems(problems)))
        }
    }
}
