//! The HTTP API: for operators, for edges, and for whoever asks whether the process lives.
//!
//! Every error is a problem document, and [`problem`] is the only room that writes one.

mod auth;
mod export;
mod extract;
mod feed;
mod health;
mod import;
mod keys;
mod leaks;
mod owners;
mod problem;
mod request_log;

use crate::clock::Clock;
use crate::feed::Feed;
use crate::leaks::Leaks;
use crate::store::Store;
use crate::tokens::Tokens;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
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
    /// What is done about keys that are found in public.
    pub leaks: Arc<Leaks>,
    /// The time.
    pub clock: Clock,
}

/// The longest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Every route there is.
pub fn router(app: App) -> Router {
    let for_admins = Router::new()
        .route("/v1/keys", get(keys::list).post(keys::create))
        .route("/v1/keys/import", post(import::import))
        .route("/v1/keys/export", get(export::export))
        .route("/v1/leaks", post(leaks::report))
        .route("/v1/keys/{id}", get(keys::show).delete(keys::revoke))
        .route("/v1/keys/{id}/rotate", post(keys::rotate))
        .route("/v1/owners/{id}", get(owners::show).patch(owners::change))
        .route_layer(from_fn_with_state(app.clone(), auth::require_admin));
    let for_edges = Router::new()
        .route(FEED_PATH, get(feed::page))
        .route_layer(from_fn_with_state(app.clone(), auth::require_edge));
    let mut for_webhooks = Router::new();
    if app.leaks.github_keys.is_some() {
        let alert = post(leaks::github).layer(DefaultBodyLimit::max(leaks::MAX_ALERT_BYTES));
        for_webhooks = for_webhooks.route(leaks::GITHUB_PATH, alert);
    }
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .merge(for_admins)
        .merge(for_edges)
        .merge(for_webhooks)
        .fallback(async |uri: Uri| ApiError::NoSuchPath { path: uri.path().to_owned() })
        .method_not_allowed_fallback(async |method: Method| ApiError::MethodNotAllowed { method })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(request_log::log))
        .with_state(app)
}
