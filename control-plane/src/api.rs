//! The HTTP API: for operators, for edges, and for whoever asks whether the process lives.
//!
//! Every error is a problem document, and [`problem`] is the only room that writes one.

mod auth;
mod extract;
mod feed;
mod health;
mod keys;
mod owners;
mod problem;
mod request_log;
mod usage;
mod verify;

use crate::clock::Clock;
use crate::feed::Feed;
use crate::store::Store;
use crate::tokens::Tokens;
use crate::verifier::Verifier;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use keyward_contract::dialect::Dialect;
use keyward_contract::verify::VERIFY_PATH;
use keyward_contract::{FEED_PATH, USAGE_PATH};
use problem::ApiError;
use std::sync::Arc;
use std::time::Duration;

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
    /// The time.
    pub clock: Clock,
    /// Checks what only a password hash is kept of.
    pub verifier: Verifier,
    /// How often the edges are to tell of the use of keys.
    pub usage_interval: Duration,
}

/// The longest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Every route there is.
pub fn router(app: App) -> Router {
    let for_admins = Router::new()
        .route("/v1/keys", get(keys::list).post(keys::create))
        .route("/v1/keys/{id}", get(keys::show).delete(keys::revoke))
        .route("/v1/keys/{id}/rotate", post(keys::rotate))
        .route("/v1/keys/{id}/usage", get(usage::of_key))
        .route("/v1/usage", get(usage::of_all))
        .route("/v1/owners/{id}", get(owners::show).patch(owners::change))
        .route_layer(from_fn_with_state(app.clone(), auth::require_admin));
    let for_edges = Router::new()
        .route(FEED_PATH, get(feed::page))
        .route(USAGE_PATH, post(usage::take))
        .route(VERIFY_PATH, post(verify::verify))
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
