//! Creates and rotates keys. The plaintext exists only here: drawn, hashed, shown once.
//!
//! With an Idempotency-Key the same request yields the same plaintext for 24 hours.

use super::resource::{KeyResource, resource};
use super::{NO_KEY, plan_problem, with_further};
use crate::clock::Timestamp;
use crate::http::answer::versioned;
use crate::http::app::App;
use crate::http::extract::{Document, Id};
use crate::http::idempotency::{IdempotencyKey, Repeatable};
use crate::http::openapi::Refused;
use crate::http::parameters::{KeyId, Parameters};
use crate::http::precondition::IfMatch;
use crate::http::problem::ApiError;
use crate::keys::issue::{self, issue};
use crate::model::{Key, NewKey, Rotation, Secret, Target};
use crate::random::{self, RngError};
use crate::store::{Authorization, Before, Made};
use axum::Extension;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use keyward_core::dialect::Dialect;
use keyward_core::dialect::key_format::KeyFormat;
use keyward_core::key::secret::Secret as Plaintext;
use std::borrow::Cow;

/// In the response to a request that was carried out before.
pub(crate) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Create a key
///
/// The plaintext is in the response, and is shown only once. A key without an owner, a kind or permissions is refused where the
/// dialect requires them, since no gateway accepts it.
#[utoipa::path(
    post,
    path = "/v1/keys",
    operation_id = "createKey",
    tag = "keys",
    params(("force" = Option<bool>, Query, description = "Create the key although it lacks what the dialect requires"), IdempotencyKey),
    request_body(content = ref("#/components/schemas/KeyCreate"), content_type = "application/json"),
    responses((status = CREATED, description = "The key, with its plaintext", body = KeyResource, headers(("Location" = String, description = "The path of the key"), ("ETag" = String, description = "The version of the key"))))
)]
pub(crate) async fn create(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    IdempotencyKey(idempotency_key): IdempotencyKey,
    mut parameters: Parameters,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let is_forced = parameters.boolean("force").unwrap_or(false);
    parameters.finish()?;
    let repeatable =
        idempotency_key.map(|key| Repeatable::new(&app, key, by.actor(), "POST /v1/keys", &document)).transpose()?;
    if let Some(response) = replayed(&app, &by, repeatable.as_ref(), now).await? {
        return Ok(response);
    }
    let no_plan = plan_problem(&app, &document).await?;
    let dialect = if is_forced { Cow::Owned(app.dialect.without_requirements()) } else { Cow::Borrowed(&*app.dialect) };
    let new = with_further(NewKey::read(&document, &dialect, now), no_plan)?;
    let (plaintext, secret) = new_secret(&app, &new.format, repeatable.as_ref(), now).await?;
    let key = Key { secrets: vec![secret], ..Key::with_fields(random::id("key_")?, new.fields, now) };
    let made = match &repeatable {
        Some(repeatable) => app.store.create_key_once(by, key, repeatable.once).await?,
        None => Made::Now(app.store.create_key(by, key).await?),
    };
    match (made, repeatable) {
        (Made::Now(key), _) => {
            tracing::info!(key = key.id, owner = key.owner, "key created");
            show_once(&key, &plaintext, now)
        }
        (Made::Before(before), Some(repeatable)) => show_again(&app, &repeatable, &before, now),
        (Made::Before(_), None) => Err(ApiError::CannotRepeat),
    }
}

/// Rotate a key: issue a new secret, and invalidate the others after a grace period
///
/// The plaintext is in the response, and is shown only once.
#[utoipa::path(
    post,
    path = "/v1/keys/{id}/rotate",
    operation_id = "rotateKey",
    tag = "keys",
    params(("id" = KeyId, Path, description = "The key's id"), IfMatch, IdempotencyKey),
    request_body(content = ref("#/components/schemas/Rotation"), content_type = "application/json"),
    responses((status = CREATED, description = "The key, with its new plaintext", body = KeyResource, headers(("Location" = String, description = "The path of the key"))), Refused<409>)
)]
pub(crate) async fn rotate(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    IfMatch(expected): IfMatch,
    IdempotencyKey(idempotency_key): IdempotencyKey,
    Id(id): Id,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let operation = format!("POST /v1/keys/{id}/rotate");
    let repeatable =
        idempotency_key.map(|key| Repeatable::new(&app, key, by.actor(), &operation, &document)).transpose()?;
    if let Some(response) = replayed(&app, &by, repeatable.as_ref(), now).await? {
        return Ok(response);
    }
    let Rotation { grace } = Rotation::read(&document).map_err(ApiError::Invalid)?;
    let key = app.store.key(&id).await?.ok_or(NO_KEY)?;
    let (plaintext, secret) = new_secret(&app, format_of(&app.dialect, &key)?, repeatable.as_ref(), now).await?;
    let target = Target { id, expected };
    let made = match &repeatable {
        Some(repeatable) => app.store.rotate_key_once(by, target, secret, grace, repeatable.once, now).await?,
        None => Made::Now(app.store.rotate_key(by, target, secret, grace, now).await?),
    };
    match (made, repeatable) {
        (Made::Now(key), _) => {
            tracing::info!(key = key.id, owner = key.owner, grace_s = grace.as_secs(), "key rotated");
            show_once(&key, &plaintext, now)
        }
        (Made::Before(before), Some(repeatable)) => show_again(&app, &repeatable, &before, now),
        (Made::Before(_), None) => Err(ApiError::CannotRepeat),
    }
}

/// What the dialect says of keys like this one.
pub(crate) fn format_of<'a>(dialect: &'a Dialect, key: &Key) -> Result<&'a KeyFormat, ApiError> {
    let format =
        dialect.formats.iter().find(|format| (&format.kind, format.environment) == (&key.kind, key.environment));
    format.ok_or_else(|| ApiError::UnknownKind { kind: key.kind.clone() })
}

/// A new plaintext, and the secret that is stored of it.
async fn new_secret(
    app: &App,
    format: &KeyFormat,
    repeatable: Option<&Repeatable>,
    now: Timestamp,
) -> Result<(Plaintext, Secret), ApiError> {
    let issued = match repeatable {
        Some(repeatable) => {
            let mut stream = repeatable.stream(&repeatable.once.salt);
            let fill = |bytes: &mut [u8]| {
                stream.fill(bytes);
                Ok::<(), RngError>(())
            };
            issue(&app.store, &app.verifier, format, now, fill).await
        }
        None => issue(&app.store, &app.verifier, format, now, random::fill).await,
    };
    Ok(issued?)
}

/// The plaintext that is derived from the salt.
fn draw(format: &KeyFormat, repeatable: &Repeatable, salt: &[u8; 32]) -> Result<Plaintext, ApiError> {
    let mut stream = repeatable.stream(salt);
    Ok(format.issue(|bytes| {
        stream.fill(bytes);
        Ok::<(), RngError>(())
    })?)
}

/// The response to a request that was carried out before.
async fn replayed(
    app: &App,
    by: &Authorization,
    repeatable: Option<&Repeatable>,
    now: Timestamp,
) -> Result<Option<Response>, ApiError> {
    let Some(repeatable) = repeatable else { return Ok(None) };
    let before = repeatable.before(app, by, now).await?;
    before.map(|before| show_again(app, repeatable, &before, now)).transpose()
}

/// The current key, with the plaintext that was issued.
fn show_again(app: &App, repeatable: &Repeatable, before: &Before, now: Timestamp) -> Result<Response, ApiError> {
    let format = format_of(&app.dialect, &before.key)?;
    let plaintext = draw(format, repeatable, &before.salt)?;
    let secret = before.key.secrets.iter().find(|secret| secret.id == before.secret_id);
    let is_the_same = secret.is_some_and(|secret| issue::address(format, &plaintext).as_ref() == Some(&secret.digest));
    if !is_the_same {
        return Err(ApiError::CannotRepeat);
    }
    let mut response = show_once(&before.key, &plaintext, now)?;
    response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

fn show_once(key: &Key, plaintext: &Plaintext, now: Timestamp) -> Result<Response, ApiError> {
    let mut response = versioned(StatusCode::CREATED, key.version, &resource(key, Some(plaintext), now))?;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(location) = HeaderValue::try_from(format!("/v1/keys/{}", key.id)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}
