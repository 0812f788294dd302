//! What a relay answers: the feed as a control plane does, and what edges tell and ask handed on to its upstream.

use super::auth::{TokenEnd, TokenReloads, bearer};
use super::extract::{Body, MAX_BODY_BYTES};
use super::problem::ApiError;
use super::{answer, feed, health, request_log, verify};
use crate::auth::tokens::file::{Audience, Tokens};
use crate::clock::Clock;
use crate::feed::Feed;
use crate::feed::upstream_status::UpstreamStatus;
use crate::model::Actor;
use crate::relay::upstream::Upstream;
use crate::store::{self, Store};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRef, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use keyward_core::USAGE_PATH;
use keyward_core::wire::verify::VERIFY_PATH;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What a relay's handlers work with.
#[derive(Clone)]
pub struct RelayApp {
    /// The feed.
    pub feed: Feed,
    /// The state.
    pub store: Store,
    /// The edges' tokens.
    pub tokens: Arc<Tokens>,
    /// The time.
    pub clock: Clock,
    /// Whom the relay follows.
    pub upstream: Arc<Upstream>,
    /// What it has heard of it.
    pub upstream_status: Arc<UpstreamStatus>,
}

/// How long the upstream may take over what is handed on: as long as a control plane needs at most for a verification, and
/// less than an edge waits.
const PATIENCE: Duration = Duration::from_millis(4800);
/// The longest answer that is handed back.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Every route of a relay.
pub fn relay_router(app: RelayApp) -> Router {
    let for_edges = OpenApiRouter::default()
        .routes(routes!(feed::page))
        .routes(routes!(hand_on_usage))
        .routes(routes!(hand_on_verification))
        .route_layer(from_fn_with_state(app.clone(), require_edge));
    let for_all = OpenApiRouter::default().routes(routes!(health::alive)).routes(routes!(ready));
    Router::from(for_all.merge(for_edges))
        .fallback(async || ApiError::NotARelaysWork)
        .method_not_allowed_fallback(async |method| ApiError::MethodNotAllowed { method })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(request_log::log))
        .with_state(app)
}

/// Only tokens of the file: those that a control plane issues are in its database.
async fn require_edge(State(app): State<RelayApp>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let shown = request.headers().contains_key(AUTHORIZATION);
    let token_reloads = TokenReloads(app.tokens.reloads());
    if !bearer(request.headers()).is_some_and(|token| app.tokens.accept(Audience::Edge, token)) {
        return Err(ApiError::Unauthorized { shown });
    }
    request.extensions_mut().insert(token_reloads);
    request.extensions_mut().insert(TokenEnd(None));
    request.extensions_mut().insert(Actor::edge());
    Ok(next.run(request).await)
}

/// Hands a batch on; its id is what makes it count once, wherever it comes by.
#[utoipa::path(post, path = USAGE_PATH, responses((status = OK, description = "What the upstream answers")))]
async fn hand_on_usage(
    State(app): State<RelayApp>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, ApiError> {
    hand_on(&app, USAGE_PATH, &headers, body).await
}

/// Hands a credential on, in memory that is overwritten when it goes.
#[utoipa::path(post, path = VERIFY_PATH, responses((status = OK, description = "What the upstream answers")))]
async fn hand_on_verification(
    State(app): State<RelayApp>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, ApiError> {
    hand_on(&app, VERIFY_PATH, &headers, Bytes::from_owner(verify::wiped(body))).await
}

async fn hand_on(app: &RelayApp, path: &str, headers: &HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    // The body may have taken longer than the token was valid.
    if !bearer(headers).is_some_and(|token| app.tokens.accept(Audience::Edge, token)) {
        return Err(ApiError::NotAuthorized);
    }
    let asked = app.upstream.post(path, headers.get(CONTENT_TYPE), body, PATIENCE, MAX_ANSWER_BYTES).await;
    let answered = asked.map_err(|error| {
        tracing::debug!(path, %error, "the upstream has not taken what was to be handed on");
        ApiError::UpstreamAway
    })?;
    match answered.status {
        // What the edge can do something about. All else, such as the relay's own token being refused, is no fault of it, and
        // it is to try again.
        StatusCode::OK
        | StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY
        | StatusCode::SERVICE_UNAVAILABLE => {}
        status => {
            tracing::warn!(path, %status, "the upstream refuses what is handed on");
            return Err(ApiError::UpstreamAway);
        }
    }
    let mut response = Response::new(answered.body.into());
    *response.status_mut() = answered.status;
    for name in [CONTENT_TYPE, CACHE_CONTROL, RETRY_AFTER] {
        if let Some(value) = answered.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Ok(response)
}

#[derive(Serialize)]
struct Ready {
    status: &'static str,
    /// The last change that is served.
    sequence: u64,
    /// The last change that the upstream was heard to have.
    upstream_sequence: u64,
    /// How the upstream answers.
    upstream: &'static str,
    /// How long ago the control plane was known to have nothing newer; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<u64>,
}

/// Whether it has a state to serve, and how old that can be.
#[utoipa::path(get, path = "/readyz", responses((status = OK, description = "It can do its work")))]
async fn ready(State(app): State<RelayApp>) -> Result<Response, ApiError> {
    app.store.check().await.map_err(ApiError::Unavailable)?;
    if !app.upstream_status.is_complete() {
        return Err(ApiError::Unavailable(store::Error::NoSnapshot));
    }
    let ready = Ready {
        status: "ready",
        sequence: app.store.hub().head().sequence,
        upstream_sequence: app.upstream_status.upstream_sequence(),
        upstream: app.upstream_status.upstream().name(),
        age_ms: u64::try_from(app.upstream_status.current().age(Instant::now()).as_millis()).ok(),
    };
    answer::json(StatusCode::OK, &ready)
}

impl FromRef<RelayApp> for Feed {
    fn from_ref(app: &RelayApp) -> Self {
        app.feed.clone()
    }
}

impl FromRef<RelayApp> for Clock {
    fn from_ref(app: &RelayApp) -> Self {
        Arc::clone(&app.clock)
    }
}
