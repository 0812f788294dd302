//! Keys, for operators. A plaintext key passes through this room only: made, shown once, gone.

use super::App;
use super::extract::{Document, Id, Parameters, problem};
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::issue::issue;
use crate::model::{Actor, Key, NewKey, Rotation, State as KeyState};
use crate::random;
use crate::store::{KeyQuery, Rotated};
use axum::Extension;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use keyward_contract::document::Problems;
use keyward_contract::entry::Environment;
use keyward_contract::secret::Secret as Plaintext;
use serde::Serialize;

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

#[derive(Serialize)]
struct KeyResource<'a> {
    id: &'a str,
    /// The plaintext, in the answer to the request that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    name: &'a str,
    owner: Option<&'a str>,
    kind: &'a str,
    environment: Option<&'static str>,
    scopes: &'a [String],
    allow_ip: Vec<String>,
    /// Absent limits are the dialect's.
    limits: Option<Vec<String>>,
    state: &'static str,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    credits: Option<u64>,
    spent: u64,
    last_used_at: Option<Timestamp>,
    secrets: Vec<SecretResource<'a>>,
}

#[derive(Serialize)]
struct SecretResource<'a> {
    id: &'a str,
    hint: &'a str,
    created_at: Timestamp,
    not_after: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct ListResource<'a> {
    keys: Vec<KeyResource<'a>>,
    next: Option<&'a str>,
}

pub(super) async fn create(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let new = NewKey::read(document, &app.dialect, now).map_err(ApiError::Invalid)?;
    let (plaintext, secret) = issue(&app.store, &app.verifier, &new.format, now, random::fill).await?;
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

pub(super) async fn list(State(app): State<App>, mut parameters: Parameters) -> Result<Response, ApiError> {
    let limit = parameters.take("limit", &format!("a number from 1 to {MAX_LIMIT}"), |text| {
        text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit))
    });
    let text = |text: &str| Some(text.to_owned());
    let query = KeyQuery {
        limit: limit.unwrap_or(DEFAULT_LIMIT),
        after: parameters.take("after", "the id of a key", text),
        owner: parameters.take("owner", "the id of an owner", text),
        state: parameters.take("state", "active, revoked or expired", KeyState::from_name),
        environment: None,
    };
    parameters.finish()?;
    let now = (app.clock)();
    let page = app.store.keys(&query, now).await?;
    let page = page.ok_or_else(|| ApiError::BadQuery(Problems(vec![problem("after", "there is no such key")])))?;
    let keys = page.keys.iter().map(|key| resource(key, None, now)).collect();
    json(StatusCode::OK, &ListResource { keys, next: page.next.as_deref() })
}

pub(super) async fn show(State(app): State<App>, Id(id): Id) -> Result<Response, ApiError> {
    let key = app.store.key(&id).await?.ok_or(NO_KEY)?;
    json(StatusCode::OK, &resource(&key, None, (app.clock)()))
}

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
    let (plaintext, secret) = issue(&app.store, &app.verifier, format, now, random::fill).await?;
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
        last_used_at: secret.last_used_at,
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
        credits: key.credits,
        spent: key.spent,
        last_used_at: key.last_used_at,
        secrets: secrets.collect(),
    }
}

pub(super) fn json(status: StatusCode, resource: &impl Serialize) -> Result<Response, ApiError> {
    let body = serde_json::to_string(resource).map_err(|error| ApiError::Internal(error.into()))?;
    Ok((status, [(CONTENT_TYPE, "application/json")], body).into_response())
}
