//! The HTTP API of a relay: the feed from its own database; usage reports and verifications are forwarded to its upstream.

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

/// The state of a relay's handlers.
#[derive(Clone)]
pub struct RelayApp {
    /// The feed.
    pub feed: Feed,
    /// The database.
    pub store: Store,
    /// The tokens of edges.
    pub tokens: Arc<Tokens>,
    /// The clock.
    pub clock: Clock,
    /// The client of the upstream.
    pub upstream: Arc<Upstream>,
    /// The status of the upstream.
    pub upstream_status: Arc<UpstreamStatus>,
}

/// The timeout of a forwarded request: as long as a control plane needs at most for a verification, and less than an edge
/// waits.
const FORWARD_TIMEOUT: Duration = Duration::from_millis(4800);
/// The maximum size of a forwarded response.
const MAX_RESPONSE_BYTES: usize = 64 << 10;

/// The router of a relay.
pub fn relay_router(app: RelayApp) -> Router {
    let for_edges = OpenApiRouter::default()
        .routes(routes!(feed::page))
        .routes(routes!(forward_usage))
        .routes(routes!(forward_verification))
        .route_layer(from_fn_with_state(app.clone(), require_edge));
    let for_all = OpenApiRouter::default().routes(routes!(health::alive)).routes(routes!(ready));
    Router::from(for_all.merge(for_edges))
        .fallback(async || ApiError::NotAvailableOnRelay)
        .method_not_allowed_fallback(async |method| ApiError::MethodNotAllowed { method })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(request_log::log))
        .with_state(app)
}

/// Admits edges with a token of the file. Tokens that a control plane issues are in its database, which a relay does not have.
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

/// Forwards a usage batch. Its id makes it count once, whichever way it arrives.
#[utoipa::path(post, path = USAGE_PATH, responses((status = OK, description = "The response of the upstream")))]
async fn forward_usage(
    State(app): State<RelayApp>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, ApiError> {
    forward(&app, USAGE_PATH, &headers, body).await
}

/// Forwards a credential, in memory that is overwritten when it is released.
#[utoipa::path(post, path = VERIFY_PATH, responses((status = OK, description = "The response of the upstream")))]
async fn forward_verification(
    State(app): State<RelayApp>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, ApiError> {
    forward(&app, VERIFY_PATH, &headers, Bytes::from_owner(verify::wiped(body))).await
}

async fn forward(app: &RelayApp, path: &str, headers: &HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    // The body may have taken longer than the token was valid.
    if !bearer(headers).is_some_and(|token| app.tokens.accept(Audience::Edge, token)) {
        return Err(ApiError::NotAuthorized);
    }
    let forwarded = app.upstream.post(path, headers.get(CONTENT_TYPE), body, FORWARD_TIMEOUT, MAX_RESPONSE_BYTES).await;
    let answered = forwarded.map_err(|error| {
        tracing::debug!(path, %error, "failed to forward request");
        ApiError::UpstreamUnavailable
    })?;
    match answered.status {
        // The edge can act on these. Others, such as a refusal of the relay's own token, are not its fault, and it retries.
        StatusCode::OK
        | StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY
        | StatusCode::SERVICE_UNAVAILABLE => {}
        status => {
            tracing::warn!(path, %status, "upstream refused forwarded request");
            return Err(ApiError::UpstreamUnavailable);
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
    /// The sequence of the last change that the relay serves.
    sequence: u64,
    /// The sequence of the last change that the upstream is known to have.
    upstream_sequence: u64,
    /// The state of the upstream.
    upstream: &'static str,
    /// How long ago the control plane was known to have nothing newer; absent if unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<u64>,
}

/// Readiness: whether there is a complete state to serve, and its age.
#[utoipa::path(get, path = "/readyz", responses((status = OK, description = "Ready")))]
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
