//! What users may do with a key: list, make, revoke and rotate the keys of its owner.
//!
//! Who asks is known by the key alone, shown as at an edge and verified here; no header says more about it. A key that is
//! refused hears so in the words of the dialect, and everything else is a problem document.

use super::App;
use super::answer::json;
use super::extract::{Document, Id, Parameters, problem};
use super::keys::issue::format_of;
use super::keys::{KeyId, NO_KEY, PageSize};
use super::openapi::Refused as Refuses;
use super::problem::ApiError;
use crate::auth::auth_throttle;
use crate::auth::key_auth::{Refused, Verified, verify_key};
use crate::clock::Timestamp;
use crate::keys::issue::issue;
use crate::model::{Delegator, FieldSpec, Key, Rotation, State as KeyState};
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

/// Where users ask.
pub(super) const OWN_KEYS_PATH: &str = "/api-keys";

/// After how many seconds to come back when nothing could be decided.
const UNAVAILABLE_RETRY_S: u64 = 1;

/// What users see of a key: not what operators note about it, nor what it may spend.
#[derive(Serialize, ToSchema)]
#[schema(as = OwnKey)]
struct KeyResource<'a> {
    #[schema(value_type = KeyId)]
    id: &'a str,
    /// The plaintext, only in the answer to the request that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key: Option<&'a str>,
    /// The hint of its newest secret.
    hint: &'a str,
    #[serde(flatten)]
    #[schema(ignore)]
    fields: Map<String, Value>,
    #[schema(value_type = KeyState)]
    state: &'static str,
    created_at: Timestamp,
    #[schema(required)]
    revoked_at: Option<Timestamp>,
    #[schema(required)]
    last_used_at: Option<Timestamp>,
    secrets: Vec<SecretResource<'a>>,
}

/// One secret of a key, as users see it.
#[derive(Serialize, ToSchema)]
#[schema(as = OwnSecret)]
struct SecretResource<'a> {
    /// What it may be recognised by.
    hint: &'a str,
    created_at: Timestamp,
    /// When it ends though the key goes on.
    #[schema(required)]
    not_after: Option<Timestamp>,
}

/// Some keys of an owner, the newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = OwnKeys)]
struct ListResource<'a> {
    keys: Vec<KeyResource<'a>>,
    /// What to ask for with `after`, where there are more.
    #[schema(required)]
    next: Option<&'a str>,
}

/// Who asks.
pub(super) struct Caller {
    verified: Verified,
    asking: Asking,
}

/// Why somebody who asks is not heard.
enum AuthRejection {
    /// By the key, in the dialect's words.
    Refused { refused: Refused, scope: String, retry_after_s: u64 },
    /// For what the dialect has no words.
    Other(ApiError),
}

/// Lists the keys of the owner, the newest first
///
/// As with all of self-service: those of the kind of the key that asks, and of the kinds that it looks after.
#[utoipa::path(
    get,
    path = "/api-keys",
    operation_id = "listOwnKeys",
    tag = "self-service",
    params(("limit" = inline(Option<PageSize>), Query, description = "How many at most; 100 unless it is said"), ("after" = Option<KeyId>, Query, description = "The `next` of the list before"), ("state" = Option<KeyState>, Query, description = "Only those in this state")),
    responses((status = OK, description = "The keys", body = ListResource), Refuses<404>)
)]
pub(super) async fn list(
    caller: Caller,
    State(app): State<App>,
    mut parameters: Parameters,
) -> Result<Response, ApiError> {
    // The caller has read them.
    for source in &app.dialect.sources {
        if let Source::Query(name) = source {
            parameters.leave_out(name);
        }
    }
    let query = KeyQuery {
        limit: parameters.limit(),
        after: parameters.text("after", "the id of a key"),
        owner: Some(caller.asking.owner().to_owned()),
        state: parameters.take("state", "active, revoked or expired", KeyState::from_name),
        environment: caller.asking.environment(),
        kinds: caller.asking.kinds().to_vec(),
        ..KeyQuery::default()
    };
    parameters.finish()?;
    let turn = app.store.user_read_permit(caller.asking.owner()).await?;
    let no_such_key = || ApiError::BadQuery(Problems(vec![problem("after", "there is no such key")]));
    if let Some(after) = &query.after {
        // Whether somebody else has a key of that id is not told.
        caller.visible(&app, &turn, after).await?.ok_or_else(no_such_key)?;
    }
    let now = (app.clock)();
    let page = app.store.keys_for_user(&turn, &query, now).await?.ok_or_else(no_such_key)?;
    let keys = page.items.iter().map(|key| resource(key, None, now)).collect();
    json(StatusCode::OK, &ListResource { keys, next: page.next.as_deref() })
}

/// Makes a key that may do no more than the one that asks
///
/// The plaintext is in the answer, and is shown only this once.
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
    caller.may_hand_on()?;
    if asks.credits.is_some() {
        return Err(ApiError::HasCredits);
    }
    caller.check_issuance(&app, now).await?;
    let _turn = app.store.user_permit(caller.asking.owner()).await?;
    let (plaintext, secret) = issue(&app.store, &app.verifier, &new.format, now, random::fill).await?;
    let key = Key { secrets: vec![secret], ..Key::with_fields(random::id("key_")?, new.fields, now) };
    caller.check_within(&key, &app)?;
    let by = asks.id.clone();
    let key = app.store.create_key_by(caller.asking, key, &app.clock).await?;
    tracing::info!(key = key.id, owner = key.owner, by, "key created");
    json(StatusCode::CREATED, &resource(&key, Some(&plaintext), now))
}

/// Ends a key of the owner at once and for good
#[utoipa::path(
    delete,
    path = "/api-keys/{id}",
    operation_id = "revokeOwnKey",
    tag = "self-service",
    params(("id" = KeyId, Path, description = "The key's id")),
    responses((status = OK, description = "The key as it is now", body = KeyResource))
)]
pub(super) async fn revoke(caller: Caller, State(app): State<App>, Id(id): Id) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let _turn = app.store.user_permit(caller.asking.owner()).await?;
    let key = app.store.revoke_key_by(caller.asking, id, &app.clock).await?.ok_or(NO_KEY)?;
    tracing::info!(key = key.id, owner = key.owner, by = caller.verified.key.id, "key revoked");
    json(StatusCode::OK, &resource(&key, None, now))
}

/// Gives a key of the owner a new secret, and ends those it has after a grace
///
/// The plaintext is in the answer, and is shown only this once.
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
    let turn_to_read = app.store.user_read_permit(caller.asking.owner()).await?;
    let key = caller.visible(&app, &turn_to_read, &id).await?.ok_or(NO_KEY)?;
    drop(turn_to_read);
    caller.may_hand_on()?;
    // Whoever rotates a key is shown one that does what it does.
    if key.id != caller.verified.key.id {
        caller.check_within(&key, &app)?;
    }
    let format = format_of(&app.dialect, &key)?;
    caller.check_issuance(&app, now).await?;
    let _turn = app.store.user_permit(caller.asking.owner()).await?;
    let (plaintext, secret) = issue(&app.store, &app.verifier, format, now, random::fill).await?;
    let by = caller.verified.key.id.clone();
    let key = app.store.rotate_key_by(caller.asking, key, secret, rotation.grace, &app.clock).await?;
    tracing::info!(key = key.id, owner = key.owner, by, grace_s = rotation.grace.as_secs(), "key rotated");
    json(StatusCode::CREATED, &resource(&key, Some(&plaintext), now))
}

/// Keeps answers out of caches: one may not know that a field beside `authorization` says whose they are.
pub(super) async fn uncached(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Caller {
    /// Looks at the key again once the body has come, since what is said of the body rests on it. Whether it may change
    /// anything is decided in the transaction that does.
    async fn check_again(&self, app: &App) -> Result<(), ApiError> {
        let by = Authorization::of_key(self.asking.clone(), &app.clock);
        let _turn = app.store.user_read_permit(self.asking.owner()).await?;
        Ok(app.store.check_authorization(&by).await?)
    }

    /// The key of that id, if there is one that the caller may know of.
    async fn visible(&self, app: &App, turn: &QueuePermit, id: &str) -> Result<Option<Key>, ApiError> {
        Ok(app.store.key_for_user(turn, id).await?.filter(|key| self.asking.may_see(key)))
    }

    /// Whether the owner can make another secret now, before one is made and hashed.
    async fn check_issuance(&self, app: &App, now: Timestamp) -> Result<(), ApiError> {
        let turn = app.store.user_read_permit(self.asking.owner()).await?;
        Ok(app.store.check_share(&turn, &self.asking, now).await?)
    }

    /// A secret that was replaced may have been so since others know it, and of one that was found in public this is
    /// certain. They would not lose what it makes.
    fn may_hand_on(&self) -> Result<(), ApiError> {
        match &self.verified.secret {
            secret if secret.leaked_at.is_some() => Err(ApiError::Leaked),
            secret if secret.not_after.is_some() => Err(ApiError::Replaced),
            _ => Ok(()),
        }
    }

    fn check_within(&self, key: &Key, app: &App) -> Result<(), ApiError> {
        let found = self.delegator(app, |asks| asks.escalations(key, &app.dialect));
        if found.is_empty() { Ok(()) } else { Err(ApiError::Beyond(Problems(found))) }
    }

    fn delegator<T>(&self, app: &App, ask: impl FnOnce(Delegator<'_>) -> T) -> T {
        ask(Delegator { key: &self.verified.key, may: &|scope| self.verified.may(scope, &app.dialect) })
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let heard = caller(parts, app).await;
        heard.map_err(|not_heard| match not_heard {
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
                .filter(|_| is_bad(refused.refusal))
                .and_then(|client| app.failures.failed(client, (app.clock)()));
            return Err(wait.map_or_else(|| refused.into(), held_back));
        }
    };
    if !verified.may_come_from(app.proxies.client(&parts.extensions, &parts.headers)) {
        return Err(refused(Refusal::ForbiddenIp, verified.key).into());
    }
    let scope = app.self_service.as_ref().and_then(|service| service.scope.clone());
    if let Some(scope) = scope.filter(|scope| !verified.may(scope, &app.dialect)) {
        let refused = refused(Refusal::InsufficientScope, verified.key);
        return Err(AuthRejection::Refused { refused, scope, retry_after_s: UNAVAILABLE_RETRY_S });
    }
    let asking = Asking::new(&verified.key, &verified.secret, verified.owner.as_ref(), &app.dialect);
    let asking = asking.ok_or(AuthRejection::Other(ApiError::NoOwner))?;
    Ok(Caller { verified, asking })
}

/// Whether it counts as a guess.
fn is_bad(refusal: Refusal) -> bool {
    (Refusal::Jwt..=Refusal::Expired).contains(&refusal)
}

/// Looks the credential up. Who has shown many bad ones waits for a turn, if it can be a key at all and was not one when it
/// was last shown; one that was bad a moment ago is not looked up for them.
async fn verify(parts: &Parts, app: &App, credential: &[u8]) -> Result<Result<Verified, Refused>, AuthRejection> {
    let now = (app.clock)();
    let client = app.proxies.counted(&parts.extensions, &parts.headers);
    let can_be_a_key = app.dialect.format_of(credential).is_some();
    let suspect = client.filter(|client| can_be_a_key && app.failures.is_suspect(*client, now));
    let _turn = match suspect {
        Some(_) if app.failures.was_bad(credential, now) => return Ok(Err(Refusal::Unknown.into())),
        Some(client) if !app.failures.was_good(credential) => {
            Some(app.failures.turn(client).await.ok_or_else(|| held_back(UNAVAILABLE_RETRY_S))?)
        }
        _ => None,
    };
    let hmac_pepper = app.leaks.hmac_pepper.as_ref();
    let verified = verify_key(&app.store, &app.verifier, &app.dialect, hmac_pepper, credential, now).await;
    match &verified {
        Ok(_) => app.failures.note(credential, true, now),
        Err(refused) if can_be_a_key && is_bad(refused.refusal) => app.failures.note(credential, false, now),
        Err(_) => {}
    }
    Ok(verified)
}

/// The header as an edge sees it.
fn fields(parts: &Parts) -> Vec<Header<'_>> {
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let headers = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    std::iter::once((":path", path.as_bytes())).chain(headers).collect()
}

fn refused(refusal: Refusal, key: Key) -> Refused {
    Refused { key: Some(Box::new(key)), ..refusal.into() }
}

fn held_back(retry_after_s: u64) -> AuthRejection {
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

/// The answer to a key that is not accepted, as an edge would give it.
fn refusal(app: &App, parts: &Parts, refused: &Refused, scope: &str, retry_after_s: u64) -> Response {
    if let Some(error) = &refused.source {
        tracing::warn!(%error, "a key could not be verified");
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
    // Of secrets that were made at the same time, the one that stays is the newest.
    let newest = key.secrets.iter().rev().max_by_key(|secret| (secret.not_after.is_none(), secret.created_at));
    KeyResource {
        id: &key.id,
        key: plaintext.map(Plaintext::expose),
        hint: newest.map_or("", |secret| &secret.hint),
        fields: key.shown(FieldSpec::is_shown_to_users),
        state: key.state(now).name(),
        created_at: key.created_at,
        revoked_at: key.revoked_at,
        last_used_at: key.last_used_at,
        secrets: secrets.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::auth_throttle::Failures;
    use crate::auth::client_ip::Peer;
    use crate::http::Services;
    use keyward_core::wire::entry::Environment;

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
    async fn a_suspect_with_a_good_key_is_heard_in_its_turn_or_at_once_if_it_was_before_and_nobody_else_waits() {
        const NOW: Timestamp = Timestamp::EXAMPLE;
        let dir = tempfile::tempdir().unwrap();
        let failures = Arc::new(Failures::with_places(1));
        let services = Services::example(dir.path(), "exograph").await;
        let app = App::from(Services { failures: Arc::clone(&failures), ..services });
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
        let turn = failures.turn(suspect).await.unwrap();
        let held_back = ask(suspect, &plaintext).await;
        assert_eq!(
            (held_back.status().as_u16(), &held_back.headers()[RETRY_AFTER]),
            (429, &HeaderValue::from_static("1"))
        );
        assert_eq!(ask(other, &plaintext).await.status(), 200);
        assert_eq!(&ask(suspect, "nonsense").await.headers()[RETRY_AFTER], "60", "it needs no turn");
        let wrong = format!("exo_key_live_{:032}", 2);
        assert_eq!(&ask(suspect, &wrong).await.headers()[RETRY_AFTER], "1", "it could be one");
        assert_eq!(ask(other, &wrong).await.status(), 401);
        assert_eq!(&ask(suspect, &wrong).await.headers()[RETRY_AFTER], "60", "it was none a moment ago");
        assert_eq!(ask(suspect, &plaintext).await.status(), 200, "it was good a moment ago");
        store.revoke_key(Actor::server(), "key_1".to_owned(), NOW).await.unwrap();
        assert_eq!(ask(suspect, &plaintext).await.status(), 429, "it is looked up all the same");
        drop(turn);
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
