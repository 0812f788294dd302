//! Keys, for operators. A plaintext key lives in this room only: made, digested, shown once, gone.

use super::App;
use super::extract::{Document, Id, Parameters, problem};
use super::openapi::{Refused, number, schema, text};
use super::owners::OwnerId;
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::model::{Actor, Key, NewKey, Rotation, Secret, State as KeyState, is_owner_id};
use crate::random;
use crate::store::{KeyQuery, Rotated};
use axum::Extension;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use keyward_contract::digest::Digest;
use keyward_contract::document::Problems;
use keyward_contract::entry::Environment;
use keyward_contract::key_format::KeyFormat;
use keyward_contract::secret::Secret as Plaintext;
use serde::Serialize;
use utoipa::ToSchema;

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

/// A key.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
struct KeyResource<'a> {
    #[schema(value_type = KeyId)]
    id: &'a str,
    /// The plaintext, in the answer to the request that made it and nowhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key: Option<&'a str>,
    /// What its users call it.
    name: &'a str,
    /// The id of its owner.
    #[schema(required)]
    owner: Option<&'a str>,
    /// What sort of key it is, in the dialect's words.
    kind: &'a str,
    /// Whether its requests are real: `live` or `test`.
    #[schema(required, pattern = "^(live|test)$")]
    environment: Option<&'static str>,
    /// What it may do.
    scopes: &'a [String],
    /// The networks that it may be used from; none means anywhere.
    allow_ip: Vec<String>,
    /// What it may use; null stands for the dialect's limits.
    #[schema(required)]
    limits: Option<Vec<String>>,
    #[schema(value_type = KeyState)]
    state: &'static str,
    created_at: Timestamp,
    #[schema(required)]
    expires_at: Option<Timestamp>,
    #[schema(required)]
    revoked_at: Option<Timestamp>,
    /// What it is known by, oldest first.
    secrets: Vec<SecretResource<'a>>,
}

/// One secret of a key; a key in rotation has several.
#[derive(Serialize, ToSchema)]
#[schema(as = Secret)]
struct SecretResource<'a> {
    id: &'a str,
    /// What it may be recognised by.
    hint: &'a str,
    created_at: Timestamp,
    /// When it ends though the key goes on.
    #[schema(required)]
    not_after: Option<Timestamp>,
}

/// Some keys, the newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = Keys)]
struct ListResource<'a> {
    keys: Vec<KeyResource<'a>>,
    /// What to ask for with `after`, where there are more.
    #[schema(required)]
    next: Option<&'a str>,
}

schema!(KeyId, "The id of a key", text(&format!("key_[0-9A-Za-z]{{{}}}", random::ID_LENGTH)));
schema!(PageSize, "How many of a list", number(1, MAX_LIMIT.into()));

/// Makes a key
///
/// The plaintext is in the answer, and is shown only this once.
#[utoipa::path(
    post,
    path = "/v1/keys",
    operation_id = "createKey",
    tag = "keys",
    request_body(content = ref("#/components/schemas/NewKey"), content_type = "application/json"),
    responses((
        status = CREATED,
        description = "The key, with its plaintext",
        body = KeyResource,
        headers(("Location" = String, description = "Its path"))
    ))
)]
pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let new = NewKey::read(document, &app.dialect, now).map_err(ApiError::Invalid)?;
    let (plaintext, secret) = issue(&new.format, now)?;
    let key = Key {
        owner: new.owner,
        environment: new.format.environment,
        scopes: new.scopes,
        allow_ip: new.allow_ip,
        limits: new.limits,
        expires_at: new.expires_at,
        secrets: vec![secret],
        ..Key::new(random::id("key_")?, new.name, new.format.kind, now)
    };
    let key = app.store.create_key(actor, key).await?;
    tracing::info!(key = key.id, owner = key.owner, "key created");
    show_once(&key, &plaintext, now)
}

/// Lists keys, the newest first
#[utoipa::path(
    get,
    path = "/v1/keys",
    operation_id = "listKeys",
    tag = "keys",
    params(
        ("limit" = inline(Option<PageSize>), Query, description = "How many at most; 100 unless it is said"),
        ("after" = Option<KeyId>, Query, description = "The `next` of the list before"),
        ("owner" = Option<OwnerId>, Query, description = "Only those of this owner"),
        ("state" = Option<KeyState>, Query, description = "Only those in this state"),
    ),
    responses((status = OK, description = "The keys", body = ListResource))
)]
pub(super) async fn list(State(app): State<App>, mut parameters: Parameters) -> Result<Response, ApiError> {
    let limit = parameters.number("limit", 1..=MAX_LIMIT);
    let key_id = |text: &str| Some(text.to_owned());
    let owner_id = |text: &str| is_owner_id(text).then(|| text.to_owned());
    let query = KeyQuery {
        limit: limit.unwrap_or(DEFAULT_LIMIT),
        after: parameters.take("after", "the id of a key", key_id),
        owner: parameters.take("owner", "the id of an owner", owner_id),
        state: parameters.take("state", "active, revoked or expired", KeyState::from_name),
    };
    parameters.finish()?;
    let now = (app.clock)();
    let page = app.store.keys(&query, now).await?;
    let page = page.ok_or_else(|| ApiError::BadQuery(Problems(vec![problem("after", "there is no such key")])))?;
    let keys = page.keys.iter().map(|key| resource(key, None, now)).collect();
    json(StatusCode::OK, &ListResource { keys, next: page.next.as_deref() })
}

/// A key
#[utoipa::path(
    get,
    path = "/v1/keys/{id}",
    operation_id = "showKey",
    tag = "keys",
    params(("id" = KeyId, Path, description = "The key's id")),
    responses((status = OK, description = "The key", body = KeyResource))
)]
pub(super) async fn show(State(app): State<App>, Id(id): Id) -> Result<Response, ApiError> {
    let key = app.store.key(&id).await?.ok_or(NO_KEY)?;
    json(StatusCode::OK, &resource(&key, None, (app.clock)()))
}

/// Ends a key at once and for good
///
/// It stays listed, as revoked. A key that was revoked before is answered as it is.
#[utoipa::path(
    delete,
    path = "/v1/keys/{id}",
    operation_id = "revokeKey",
    tag = "keys",
    params(("id" = KeyId, Path, description = "The key's id")),
    responses((status = OK, description = "The key as it is now", body = KeyResource))
)]
pub(super) async fn revoke(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let key = app.store.revoke_key(actor, id, now).await?.ok_or(NO_KEY)?;
    tracing::info!(key = key.id, owner = key.owner, "key revoked");
    json(StatusCode::OK, &resource(&key, None, now))
}

/// Gives a key a new secret, and ends those it has
///
/// The plaintext is in the answer, and is shown only this once.
#[utoipa::path(
    post,
    path = "/v1/keys/{id}/rotate",
    operation_id = "rotateKey",
    tag = "keys",
    params(("id" = KeyId, Path, description = "The key's id")),
    request_body(content = ref("#/components/schemas/Rotation"), content_type = "application/json"),
    responses(
        (
            status = CREATED,
            description = "The key, with its new plaintext",
            body = KeyResource,
            headers(("Location" = String, description = "Its path"))
        ),
        Refused<409>
    )
)]
pub(super) async fn rotate(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Id(id): Id,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let rotation = Rotation::read(&document).map_err(ApiError::Invalid)?;
    let key = app.store.key(&id).await?.ok_or(NO_KEY)?;
    let format =
        app.dialect.formats.iter().find(|format| (&format.kind, format.environment) == (&key.kind, key.environment));
    let format = format.ok_or(ApiError::KindIsGone { kind: key.kind })?;
    let (plaintext, secret) = issue(format, now)?;
    match app.store.rotate_key(actor, id, secret, rotation.grace, now).await? {
        Rotated::Done(key) => {
            tracing::info!(key = key.id, owner = key.owner, grace_s = rotation.grace.as_secs(), "key rotated");
            show_once(&key, &plaintext, now)
        }
        Rotated::NotActive(state) => Err(ApiError::NotActive(state)),
        Rotated::TooManySecrets => Err(ApiError::TooManySecrets),
        Rotated::NotFound => Err(NO_KEY),
    }
}

const NO_KEY: ApiError = ApiError::NotFound("key");

/// A new plaintext, and what is kept of it.
fn issue(format: &KeyFormat, now: Timestamp) -> Result<(Plaintext, Secret), ApiError> {
    let plaintext = format.issue(random::fill)?;
    let digest = Digest::of_key(plaintext.expose().as_bytes());
    let secret = Secret::new(random::id("sec_")?, digest, format.display_hint(&plaintext), now);
    Ok((plaintext, secret))
}

fn show_once(key: &Key, plaintext: &Plaintext, now: Timestamp) -> Result<Response, ApiError> {
    let mut response = json(StatusCode::CREATED, &resource(key, Some(plaintext), now))?;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(location) = HeaderValue::try_from(format!("/v1/keys/{}", key.id)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

fn resource<'a>(key: &'a Key, plaintext: Option<&'a Plaintext>, now: Timestamp) -> KeyResource<'a> {
    let secrets = key.secrets.iter().map(|secret| SecretResource {
        id: &secret.id,
        hint: &secret.hint,
        created_at: secret.created_at,
        not_after: secret.not_after,
    });
    KeyResource {
        id: &key.id,
        key: plaintext.map(Plaintext::expose),
        name: &key.name,
        owner: key.owner.as_deref(),
        kind: &key.kind,
        environment: key.environment.map(Environment::name),
        scopes: &key.scopes,
        allow_ip: key.allow_ip.iter().map(ToString::to_string).collect(),
        limits: key.limits.as_ref().map(|limits| limits.iter().map(ToString::to_string).collect()),
        state: key.state(now).name(),
        created_at: key.created_at,
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
        secrets: secrets.collect(),
    }
}

pub(super) fn json(status: StatusCode, resource: &impl Serialize) -> Result<Response, ApiError> {
    let body = serde_json::to_string(resource).map_err(|error| ApiError::Internal(error.into()))?;
    Ok((status, [(CONTENT_TYPE, "application/json")], body).into_response())
}
