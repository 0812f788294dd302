//! Self-service: users list, create, revoke and rotate the keys of their owner by sending a key.
//!
//! The key alone identifies the caller. It is sent as to an edge and verified here; no other header is trusted. A refused key is
//! answered in the format of the dialect; all other errors are problem documents.

use super::answer::json;
use super::app::App;
use super::extract::{Document, Id};
use super::keys::NO_KEY;
use super::keys::issue::format_of;
use super::openapi::Refused as Refuses;
use super::parameters::{KeyId, PageSize, Parameters};
use super::problem::{ApiError, problem};
use crate::auth::auth_throttle::{self, TooManyWaiting};
use crate::auth::key_auth::{Refused, Verified, counts_as_failure, verify_key};
use crate::clock::Timestamp;
use crate::keys::issue::issue;
use crate::model::{Delegator, FieldSpec, Key, PausedBy, Rotation, State as KeyState};
use crate::random;
use crate::store::{Asking, Authorization, KeyQuery, QueuePermit};
use axum::extract::{FromRequestParts, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use keyward_core::dialect::Source;
use keyward_core::dialect::credential::{self, Credential, Header};
use keyward_core::dialect::error_shape::Facts;
use keyward_core::document::Problems;
use keyward_core::key::secret::Secret as Plaintext;
use keyward_core::refusal::Refusal;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// The path of self-service.
pub(super) const OWN_KEYS_PATH: &str = "/api-keys";

/// `Retry-After` when the key could not be verified.
const UNAVAILABLE_RETRY_S: u64 = 1;

/// A key as its users see it: without metadata and credits.
#[derive(Serialize, ToSchema)]
#[schema(as = OwnKey)]
struct KeyResource<'a> {
    #[schema(value_type = KeyId)]
    id: &'a str,
    /// The plaintext, only in the response to the request that issued it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key: Option<&'a str>,
    /// The hint of the newest secret.
    hint: &'a str,
    #[serde(flatten)]
    #[schema(ignore)]
    fields: Map<String, Value>,
    #[schema(value_type = KeyState)]
    state: &'static str,
    created_at: Timestamp,
    #[schema(required)]
    revoked_at: Option<Timestamp>,
    /// Since when the key is paused.
    #[schema(required)]
    paused_at: Option<Timestamp>,
    /// Who paused the key; only an operator can resume what an operator paused.
    #[schema(required, value_type = Option<PausedBy>)]
    paused_by: Option<&'static str>,
    #[schema(required)]
    last_used_at: Option<Timestamp>,
    secrets: Vec<SecretResource<'a>>,
}

/// A secret of a key, as its users see it.
#[derive(Serialize, ToSchema)]
#[schema(as = OwnSecret)]
struct SecretResource<'a> {
    /// The part of the plaintext that is shown in lists.
    hint: &'a str,
    created_at: Timestamp,
    /// The end of the grace period; null for a current secret.
    #[schema(required)]
    not_after: Option<Timestamp>,
}

/// A page of keys of an owner, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = OwnKeys)]
struct ListResource<'a> {
    keys: Vec<KeyResource<'a>>,
    /// The `after` of the next page; null on the last page.
    #[schema(required)]
    next: Option<&'a str>,
}

/// The authenticated caller.
pub(super) struct Caller {
    verified: Verified,
    asking: Asking,
}

/// Why a caller is not authenticated.
enum AuthRejection {
    /// The key is refused, in the format of the dialect.
    Refused { refused: Refused, scope: String, retry_after_s: u64 },
    /// A reason that no dialect has.
    Other(ApiError),
}

/// List the keys of the owner, newest first
///
/// As everywhere in self-service: keys of the calling key's kind, and of the kinds that it manages.
#[utoipa::path(
    get,
    path = "/api-keys",
    operation_id = "listOwnKeys",
    tag = "self-service",
    params(("limit" = inline(Option<PageSize>), Query, description = "The maximum number of results; 100 by default"), ("after" = Option<KeyId>, Query, description = "Continue after this: the `next` of the previous page"), ("state" = Option<KeyState>, Query, description = "Only keys in this state")),
    responses((status = OK, description = "The keys", body = ListResource), Refuses<404>)
)]
pub(super) async fn list(
    caller: Caller,
    State(app): State<App>,
    mut parameters: Parameters,
) -> Result<Response, ApiError> {
    // Read by the extractor of the caller.
    for source in &app.dialect.sources {
        if let Source::Query(name) = source {
            parameters.ignore(name);
        }
    }
    let query = KeyQuery {
        limit: parameters.limit(),
        after: parameters.text("after", "the id of a key"),
        owner: Some(caller.asking.owner().to_owned()),
        state: parameters.take("state", "active, paused, revoked or expired", KeyState::from_name),
        environment: caller.asking.environment(),
        kinds: caller.asking.kinds().to_vec(),
        ..KeyQuery::default()
    };
    parameters.finish()?;
    let permit = app.store.user_read_permit(caller.asking.owner()).await?;
    let no_such_key = || ApiError::InvalidQuery(Problems(vec![problem("after", "key not found")]));
    if let Some(after) = &query.after {
        // Does not reveal whether another owner has a key of that id.
        caller.visible(&app, &permit, after).await?.ok_or_else(no_such_key)?;
    }
    let now = (app.clock)();
    let page = app.store.keys_for_user(&permit, &query, now).await?.ok_or_else(no_such_key)?;
    let keys = page.items.iter().map(|key| resource(key, None, now)).collect();
    json(StatusCode::OK, &ListResource { keys, next: page.next.as_deref() })
}

/// Create a key with at most the permissions of the calling key
///
/// The plaintext is in the response, and is shown only once.
#[utoipa::path(
    post,
    path = "/api-keys",
    operation_id = "createOwnKey",
    tag = "self-service",
    request_body(content = ref("#/components/schemas/OwnKeyCreate"), content_type = "application/json"),
    responses((status = CREATED, description = "The key, with its plaintext", body = KeyResource), Refuses<404>, Refuses<409>)
)]
pub(super) async fn create(
    caller: Caller,
    State(app): State<App>,
    Document(document): Document,
) -> Result<Response, ApiError> {
    caller.check_again(&app).await?;
    let now = (app.clock)();
    let asks = &caller.verified.key;
    let new = caller.delegator(&app, |asks| asks.read(document, &app.dialect, now)).map_err(ApiError::Invalid)?;
    caller.may_issue()?;
    if asks.credits.is_some() {
        return Err(ApiError::CreditsNotInheritable);
    }
    caller.check_issuance(&app, now).await?;
    let _permit = app.store.user_permit(caller.asking.owner()).await?;
    let (plaintext, secret) = issue(&app.store, &app.verifier, &new.format, now, random::fill).await?;
    let key = Key { secrets: vec![secret], ..Key::with_fields(random::id("key_")?, new.fields, now) };
    caller.check_within(&key, &app)?;
    let by = asks.id.clone();
    let key = app.store.create_key_by(caller.asking, key, &app.clock).await?;
    tracing::info!(key = key.id, owner = key.owner, by, "key created");
    json(StatusCode::CREATED, &resource(&key, Some(&plaintext), now))
}

/// Revoke a key of the owner immediately and permanently
#[utoipa::path(
    delete,
    path = "/api-keys/{id}",
    operation_id = "revokeOwnKey",
    tag = "self-service",
    params(("id" = KeyId, Path, description = "The key's id")),
    responses((status = OK, description = "The key after the change", body = KeyResource))
)]
pub(super) async fn revoke(caller: Caller, State(app): State<App>, Id(id): Id) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let _permit = app.store.user_permit(caller.asking.owner()).await?;
    let key = app.store.revoke_key_by(caller.asking, id, &app.clock).await?.ok_or(NO_KEY)?;
    tracing::info!(key = key.id, owner = key.owner, by = caller.verified.key.id, "key revoked");
    json(StatusCode::OK, &resource(&key, None, now))
}

/// Rotate a key of the owner: issue a new secret, and invalidate the others after a grace period
///
/// The plaintext is in the response, and is shown only once.
#[utoipa::path(
    post,
    path = "/api-keys/{id}/rotate",
    operation_id = "rotateOwnKey",
    tag = "self-service",
    params(("id" = KeyId, Path, description = "The key's id")),
    request_body(content = ref("#/components/schemas/Rotation"), content_type = "application/json"),
    responses((status = CREATED, description = "The key, with its new plaintext", body = KeyResource), Refuses<409>)
)]
pub(super) async fn rotate(
    caller: Caller,
    State(app): State<App>,
    Id(id): Id,
    Document(document): Document,
) -> Result<Response, ApiError> {
    caller.check_again(&app).await?;
    let now = (app.clock)();
    let rotation = Rotation::read(&document).map_err(ApiError::Invalid)?;
    let read_permit = app.store.user_read_permit(caller.asking.owner()).await?;
    let key = caller.visible(&app, &read_permit, &id).await?.ok_or(NO_KEY)?;
    drop(read_permit);
    caller.may_issue()?;
    // The caller gets a plaintext with the permissions of the rotated key.
    if key.id != caller.verified.key.id {
        caller.check_within(&key, &app)?;
    }
    let format = format_of(&app.dialect, &key)?;
    caller.check_issuance(&app, now).await?;
    let _permit = app.store.user_permit(caller.asking.owner()).await?;
    let (plaintext, secret) = issue(&app.store, &app.verifier, format, now, random::fill).await?;
    let by = caller.verified.key.id.clone();
    let key = app.store.rotate_key_by(caller.asking, key, secret, rotation.grace, &app.clock).await?;
    tracing::info!(key = key.id, owner = key.owner, by, grace_s = rotation.grace.as_secs(), "key rotated");
    json(StatusCode::CREATED, &resource(&key, Some(&plaintext), now))
}

/// Pause a key of the owner: it is refused until it is resumed
///
/// A key that pauses itself is resumed with another key of the owner, or by an operator.
#[utoipa::path(
    post,
    path = "/api-keys/{id}/pause",
    operation_id = "pauseOwnKey",
    tag = "self-service",
    params(("id" = KeyId, Path, description = "The key's id")),
    responses((status = OK, description = "The key after the change", body = KeyResource), Refuses<409>)
)]
pub(super) async fn pause(caller: Caller, State(app): State<App>, Id(id): Id) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let _permit = app.store.user_permit(caller.asking.owner()).await?;
    let key = app.store.pause_key_by(caller.asking, id, &app.clock).await?;
    tracing::info!(key = key.id, owner = key.owner, by = caller.verified.key.id, "key paused");
    json(StatusCode::OK, &resource(&key, None, now))
}

/// Resume a key of the owner that was paused by self-service
///
/// The calling key must be one that may create such a key.
#[utoipa::path(
    post,
    path = "/api-keys/{id}/resume",
    operation_id = "resumeOwnKey",
    tag = "self-service",
    params(("id" = KeyId, Path, description = "The key's id")),
    responses((status = OK, description = "The key after the change", body = KeyResource), Refuses<409>)
)]
pub(super) async fn resume(caller: Caller, State(app): State<App>, Id(id): Id) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let read_permit = app.store.user_read_permit(caller.asking.owner()).await?;
    let key = caller.visible(&app, &read_permit, &id).await?.ok_or(NO_KEY)?;
    drop(read_permit);
    // Others may know the secret of a key that was paused.
    caller.may_issue()?;
    caller.check_within(&key, &app)?;
    let _permit = app.store.user_permit(caller.asking.owner()).await?;
    let by = caller.verified.key.id.clone();
    let key = app.store.resume_key_by(caller.asking, key, &app.clock).await?;
    tracing::info!(key = key.id, owner = key.owner, by, "key resumed");
    json(StatusCode::OK, &resource(&key, None, now))
}

/// Keeps responses out of caches, which may not know that a header other than `authorization` identifies the caller.
pub(super) async fn uncached(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Caller {
    /// Checks the key again after the body has arrived, as the response depends on it. The transaction that writes checks again.
    async fn check_again(&self, app: &App) -> Result<(), ApiError> {
        let by = Authorization::of_key(self.asking.clone(), &app.clock);
        let _permit = app.store.user_read_permit(self.asking.owner()).await?;
        Ok(app.store.check_authorization(&by).await?)
    }

    /// The key of that id, if the caller may see it.
    async fn visible(&self, app: &App, permit: &QueuePermit, id: &str) -> Result<Option<Key>, ApiError> {
        Ok(app.store.key_for_user(permit, id).await?.filter(|key| self.asking.may_see(key)))
    }

    /// Checks the issuance quota of the owner, before a secret is drawn and hashed.
    async fn check_issuance(&self, app: &App, now: Timestamp) -> Result<(), ApiError> {
        let permit = app.store.user_read_permit(self.asking.owner()).await?;
        Ok(app.store.check_issuance_quota(&permit, &self.asking, now).await?)
    }

    /// A replaced secret may have been replaced because others know it, and a leaked one is known. Secrets that they issue
    /// would outlive them.
    fn may_issue(&self) -> Result<(), ApiError> {
        match &self.verified.secret {
            secret if secret.leaked_at.is_some() => Err(ApiError::SecretLeaked),
            secret if secret.not_after.is_some() => Err(ApiError::SecretReplaced),
            _ => Ok(()),
        }
    }

    fn check_within(&self, key: &Key, app: &App) -> Result<(), ApiError> {
        let found = self.delegator(app, |asks| asks.escalations(key, &app.dialect));
        if found.is_empty() { Ok(()) } else { Err(ApiError::ExceedsCallerPermissions(Problems(found))) }
    }

    fn delegator<T>(&self, app: &App, ask: impl FnOnce(Delegator<'_>) -> T) -> T {
        ask(Delegator { key: &self.verified.key, may: &|scope| self.verified.may(scope, &app.dialect) })
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let authenticated = caller(parts, app).await;
        authenticated.map_err(|rejection| match rejection {
            AuthRejection::Refused { refused, scope, retry_after_s } => {
                refusal(app, parts, &refused, &scope, retry_after_s)
            }
            AuthRejection::Other(error) => error.into_response(),
        })
    }
}

async fn caller(parts: &Parts, app: &App) -> Result<Caller, AuthRejection> {
    let fields = fields(parts);
    let verified = match credential::find(&app.dialect.sources, &fields) {
        Credential::Missing => return Err(Refusal::Missing.into()),
        Credential::Malformed(malformation) => Err(malformation.into()),
        Credential::One(credential) => verify(parts, app, &credential).await?,
    };
    let verified = match verified {
        Ok(verified) => verified,
        Err(refused) => {
            let client = app.proxies.counted(&parts.extensions, &parts.headers);
            let wait = client
                .filter(|_| counts_as_failure(refused.refusal))
                .and_then(|client| app.auth_throttle.failed(client, (app.clock)()));
            return Err(wait.map_or_else(|| refused.into(), throttled));
        }
    };
    let scopes = app.self_service.as_ref().map_or(&[][..], |service| service.scope.as_slice());
    let client = || app.proxies.client(&parts.extensions, &parts.headers);
    if let Err(denial) = verified.authorize(&app.dialect, (app.clock)(), scopes, client) {
        let refused = Refused { key: Some(Box::new(verified.key)), ..denial.refusal().into() };
        let scope = denial.scope().to_owned();
        return Err(AuthRejection::Refused { refused, scope, retry_after_s: UNAVAILABLE_RETRY_S });
    }
    let owner = verified.owner.as_ref().ok_or(AuthRejection::Other(ApiError::NoOwner))?;
    let asking = Asking::new(&verified.key, &verified.secret, owner, &app.dialect);
    Ok(Caller { verified, asking })
}

/// Looks the credential up. For a suspect, one with many failed authentications, a credential that was bad a moment ago is not
/// looked up, and one that is not known as good waits for a permit.
async fn verify(parts: &Parts, app: &App, credential: &[u8]) -> Result<Result<Verified, Refused>, AuthRejection> {
    let now = (app.clock)();
    let client = app.proxies.counted(&parts.extensions, &parts.headers);
    let can_be_a_key = app.dialect.format_of(credential).is_some();
    let client = client.filter(|_| can_be_a_key);
    let is_suspect = client.is_some_and(|client| app.auth_throttle.is_suspect(client, now));
    if is_suspect && app.auth_throttle.was_bad(credential, now) {
        return Ok(Err(Refusal::Unknown.into()));
    }
    let permit = app.auth_throttle.admit(client, credential, now).await;
    let _permit = permit.map_err(|TooManyWaiting| throttled(UNAVAILABLE_RETRY_S))?;
    let hmac_pepper = app.leaks.hmac_pepper.as_ref();
    let verified = verify_key(&app.store, &app.verifier, &app.dialect, hmac_pepper, credential, now).await;
    match &verified {
        Ok(_) => app.auth_throttle.note(credential, true, now),
        Err(refused) if can_be_a_key && counts_as_failure(refused.refusal) => {
            app.auth_throttle.note(credential, false, now)
        }
        Err(_) => {}
    }
    Ok(verified)
}

/// The header as an edge reads it.
fn fields(parts: &Parts) -> Vec<Header<'_>> {
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let headers = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    std::iter::once((":path", path.as_bytes())).chain(headers).collect()
}

fn throttled(retry_after_s: u64) -> AuthRejection {
    AuthRejection::Refused { refused: Refusal::RateLimited.into(), scope: String::new(), retry_after_s }
}

impl From<Refused> for AuthRejection {
    fn from(refused: Refused) -> Self {
        Self::Refused { refused, scope: String::new(), retry_after_s: UNAVAILABLE_RETRY_S }
    }
}

impl From<Refusal> for AuthRejection {
    fn from(refusal: Refusal) -> Self {
        Refused::from(refusal).into()
    }
}

/// The response to a refused key, as an edge would give it.
fn refusal(app: &App, parts: &Parts, refused: &Refused, scope: &str, retry_after_s: u64) -> Response {
    if let Some(error) = &refused.source {
        tracing::warn!(%error, "failed to verify key");
    }
    let key = refused.key.as_deref();
    let facts = Facts {
        header: app.dialect.sources.first().map_or("", |source| source.written()),
        request_id: parts.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default(),
        key_id: key.map_or("", |key| &key.id),
        expired_at_ms: key.and_then(|key| key.expires_at).map_or(0, Timestamp::as_ms),
        scope,
        retry_after_s,
        limit: auth_throttle::THRESHOLD.into(),
        window_s: auth_throttle::WINDOW.as_secs(),
        malformation: refused.malformation,
        ..Facts::default()
    };
    let rendered = app.dialect.errors.render(refused.refusal, &facts);
    let mut response = rendered.body.into_response();
    *response.status_mut() = StatusCode::from_u16(rendered.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    for (name, value) in rendered.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(&*name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn resource<'a>(key: &'a Key, plaintext: Option<&'a Plaintext>, now: Timestamp) -> KeyResource<'a> {
    let secrets = key.secrets.iter();
    let secrets = secrets.map(|secret| SecretResource {
        hint: &secret.hint,
        created_at: secret.created_at,
        not_after: secret.not_after,
    });
    // Of secrets with the same time, the current one is the newest.
    let newest = key.secrets.iter().rev().max_by_key(|secret| (secret.not_after.is_none(), secret.created_at));
    KeyResource {
        id: &key.id,
        key: plaintext.map(Plaintext::expose),
        hint: newest.map_or("", |secret| &secret.hint),
        fields: key.shown(FieldSpec::is_shown_to_users),
        state: key.state(now).name(),
        created_at: key.created_at,
        revoked_at: key.revoked_at,
        paused_at: key.pause.map(|pause| pause.at),
        paused_by: key.pause.map(|pause| pause.by.name()),
        last_used_at: key.last_used_at,
        secrets: secrets.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::auth_throttle::AuthThrottle;
    use crate::http::Services;
    use crate::net::connections::Peer;
    use keyward_core::key::environment::Environment;

    use crate::model::{Actor, Secret};

    use axum::body::Body;
    use axum::http::Request;
    use axum::http::header::RETRY_AFTER;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use keyward_core::key::digest::Digest;
    use std::net::IpAddr;
    use std::sync::Arc;

    #[tokio::test]
    async fn good_key_of_a_suspect_waits_only_if_not_remembered() {
        const NOW: Timestamp = Timestamp::EXAMPLE;
        let dir = tempfile::tempdir().unwrap();
        let throttle = Arc::new(AuthThrottle::with_max_waiting(1));
        let services = Services::example(dir.path(), "exograph").await;
        let app = App::from(Services { auth_throttle: Arc::clone(&throttle), ..services });
        let store = app.store.clone();
        let plaintext = format!("exo_key_live_{:032}", 1);
        let digest = Digest::of_key(plaintext.as_bytes());
        let mut key = Key::new("key_1".into(), "n".into(), "key".into(), NOW);
        key.owner = Some("acme".into());
        key.secrets = vec![Secret::new("sec_1".into(), digest, String::new(), NOW)];
        store.create_key(Actor::server(), key.clone()).await.unwrap();
        let app = TowerToHyperService::new(crate::http::router(app));
        let [suspect, other] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        let ask = async |from: IpAddr, key: &str| {
            let request = Request::builder().uri("/api-keys").header("x-api-key", key).extension(Peer(from));
            app.call(request.body(Body::empty()).unwrap()).await.unwrap()
        };
        for _ in 0..auth_throttle::THRESHOLD {
            assert_eq!(ask(suspect, "nonsense").await.status(), 401);
        }
        let permit = throttle.permit(suspect).await.unwrap();
        let throttled = ask(suspect, &plaintext).await;
        assert_eq!(
            (throttled.status().as_u16(), &throttled.headers()[RETRY_AFTER]),
            (429, &HeaderValue::from_static("1"))
        );
        assert_eq!(ask(other, &plaintext).await.status(), 200);
        assert_eq!(&ask(suspect, "nonsense").await.headers()[RETRY_AFTER], "60", "it needs no permit");
        let wrong = format!("exo_key_live_{:032}", 2);
        assert_eq!(&ask(suspect, &wrong).await.headers()[RETRY_AFTER], "1", "it could be one");
        assert_eq!(ask(other, &wrong).await.status(), 401);
        assert_eq!(&ask(suspect, &wrong).await.headers()[RETRY_AFTER], "60", "it was none a moment ago");
        assert_eq!(ask(suspect, &plaintext).await.status(), 200, "it was good a moment ago");
        store.revoke_key(Actor::server(), "key_1".to_owned(), NOW).await.unwrap();
        assert_eq!(ask(suspect, &plaintext).await.status(), 429, "it is looked up all the same");
        drop(permit);
        let plaintext = format!("exo_key_live_{:032}", 3);
        let digest = Digest::of_key(plaintext.as_bytes());
        let secrets = vec![Secret::new("sec_2".into(), digest, String::new(), NOW)];
        store.create_key(Actor::server(), Key { id: "key_2".into(), secrets, ..key }).await.unwrap();
        assert_eq!(ask(suspect, &plaintext).await.status(), 200, "it is its turn");
    }

    #[tokio::test]
    async fn users_change_keys_one_at_a_time_and_operators_do_not_wait_for_them() {
        const NOW: Timestamp = Timestamp::EXAMPLE;
        let dir = tempfile::tempdir().unwrap();
        let app = App::example(dir.path(), "exograph").await;
        let store = app.store.clone();
        let plaintext = format!("exo_key_live_{:032}", 1);
        let mut key = Key::new("key_1".into(), "n".into(), "key".into(), NOW);
        (key.owner, key.environment) = (Some("acme".into()), Some(Environment::Live));
        key.secrets = vec![Secret::new("sec_1".into(), Digest::of_key(plaintext.as_bytes()), String::new(), NOW)];
        // Not the asking key itself is rotated: that would be a change under whoever else asks with it.
        let rotated = Key { id: "key_4".into(), secrets: Vec::new(), ..key.clone() };
        store.create_key(Actor::server(), key).await.unwrap();
        store.create_key(Actor::server(), rotated).await.unwrap();
        let service = TowerToHyperService::new(crate::http::router(app));
        let another_user = store.user_permit("acme").await.unwrap();
        let asking = [
            (Request::post("/api-keys"), r#"{"name": "n"}"#),
            (Request::delete("/api-keys/key_2"), ""),
            (Request::post("/api-keys/key_4/rotate"), ""),
        ];
        let asking = asking.map(|(request, body)| {
            tokio::spawn(service.call(request.header("x-api-key", &plaintext).body(Body::from(body)).unwrap()))
        });
        let key = Key::new("key_3".into(), "an operator's".into(), "key".into(), NOW);
        store.create_key(Actor::server(), key).await.unwrap();
        assert!(!asking.iter().any(tokio::task::JoinHandle::is_finished));
        drop(another_user);
        let mut answers = Vec::new();
        for answer in asking {
            answers.push(answer.await.unwrap().unwrap().status().as_u16());
        }
        answers.sort_unstable();
        assert_eq!(answers, [201, 201, 404]);
    }
}
