//! The HTTP API: for operators, for edges, and for whoever asks whether the process lives.
//!
//! Every error is a problem document, and [`problem`] is the only room that writes one.

mod answer;
mod audit;
mod auth;
mod conditional;
mod extract;
mod feed;
mod health;
mod idempotency;
mod keys;
mod owners;
mod plans;
mod problem;
mod request_log;

use crate::clock::Clock;
use crate::feed::Feed;
use crate::pepper::Pepper;
use crate::store::Store;
use crate::tokens::Tokens;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, post};
use keyward_contract::FEED_PATH;
use keyward_contract::dialect::Dialect;
use problem::ApiError;
use std::sync::Arc;

/// What the handlers work with.
#[derive(Clone)]
pub struct App {
    /// The state.
    pub store: Store,
    /// The feed of changes to it.
    pub feed: Feed,
    /// What keys look like.
    pub dialect: Arc<Dialect>,
    /// Who may call.
    pub tokens: Arc<Tokens>,
    /// From what plaintexts can be drawn again.
    pub pepper: Arc<Pepper>,
    /// The time.
    pub clock: Clock,
}

/// The longest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Every route there is.
pub fn router(app: App) -> Router {
    let for_admins = Router::new()
        .route("/v1/keys", get(keys::list).post(keys::create))
        .route("/v1/keys/{id}", get(keys::show).patch(keys::change).delete(keys::revoke))
        .route("/v1/keys/{id}/rotate", post(keys::rotate))
        .route("/v1/keys/{id}/secrets/{secret_id}", delete(keys::end_secret))
        .route("/v1/owners", get(owners::list))
        .route("/v1/owners/{id}", get(owners::show).put(owners::put).patch(owners::change))
        .route("/v1/owners/{id}/revoke-keys", post(owners::revoke_keys))
        .route("/v1/plans", get(plans::list))
        .route("/v1/plans/{id}", get(plans::show).put(plans::put).delete(plans::delete))
        .route("/v1/audit", get(audit::list))
        .route_layer(from_fn_with_state(app.clone(), auth::require_admin));
    let for_edges = Router::new()
        .route(FEED_PATH, get(feed::page))
        .route_layer(from_fn_with_state(app.clone(), auth::require_edge));
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .merge(for_admins)
        .merge(for_edges)
        .fallback(async |uri: Uri| ApiError::NoSuchPath { path: uri.path().to_owned() })
        .method_not_allowed_fallback(async |method: Method| ApiError::MethodNotAllowed { method })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(request_log::log))
        .with_state(app)
}
