//! The HTTP API: for operators, for edges, for users of keys if they are let, and for whoever asks whether the process lives.
//!
//! Every error is a problem document, and [`problem`] is the only room that writes one.

mod answer;
mod audit;
mod auth;
mod conditional;
mod export;
mod extract;
mod feed;
mod health;
mod idempotency;
mod import;
mod keys;
mod leaks;
mod owners;
mod plans;
mod problem;
mod request_log;
mod self_service;
mod tokens;
mod usage;
mod verify;

use crate::clients::TrustedProxies;
use crate::clock::Clock;
use crate::failures::Failures;
use crate::feed::Feed;
use crate::issued_tokens::IssuedTokens;
use crate::leaks::Leaks;
use crate::pepper::Pepper;
use crate::serve::SelfService;
use crate::store::Store;
use crate::tokens::Tokens;
use crate::verifier::Verifier;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::routing::{delete, get, post};
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
    /// Who may call, by the files of the data directory.
    pub tokens: Arc<Tokens>,
    /// Who may call, by the database.
    pub issued_tokens: Arc<IssuedTokens>,
    /// Who has called in vain.
    pub failures: Arc<Failures>,
    /// Who may say from where a request comes.
    pub proxies: Arc<TrustedProxies>,
    /// What users of keys may do with them; `None` if nothing.
    pub self_service: Option<Arc<SelfService>>,
    /// From what plaintexts can be drawn again.
    pub pepper: Arc<Pepper>,
    /// What is done about keys that are found in public.
    pub leaks: Arc<Leaks>,
    /// The time.
    pub clock: Clock,
    /// Checks what only a password hash is kept of.
    pub verifier: Verifier,
    /// How often the edges are to tell of the use of keys.
    pub usage_interval: Duration,
}

#[cfg(test)]
impl App {
    /// What handlers work with that keep their state in that directory, at an example's time.
    async fn example(dir: &std::path::Path, dialect: &str) -> Self {
        let location = crate::store::Location::Directory(dir.to_owned());
        let store = Store::open(&location).await.unwrap();
        let clock: Clock = Arc::new(|| crate::clock::Timestamp::EXAMPLE);
        Self {
            feed: Feed::new(store.clone(), tokio::sync::watch::channel(false).1),
            dialect: Arc::new(Dialect::built_in(dialect).unwrap().unwrap()),
            tokens: Arc::new(Tokens::open(dir).unwrap()),
            pepper: Arc::new(Pepper::open(dir).unwrap()),
            leaks: Arc::new(Leaks::default()),
            issued_tokens: Arc::new(IssuedTokens::new(store.clone(), Arc::clone(&clock))),
            failures: Arc::new(Failures::default()),
            proxies: Arc::new(TrustedProxies::default()),
            self_service: Some(Arc::new(SelfService { scope: None })),
            clock,
            verifier: Verifier::new(std::num::NonZeroUsize::MIN),
            usage_interval: Duration::from_secs(5),
            store,
        }
    }
}

/// The longest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Every route there is.
pub fn router(app: App) -> Router {
    let for_admins = Router::new()
        .route("/v1/keys", get(keys::list).post(keys::create))
        .route("/v1/keys/{id}", get(keys::show).patch(keys::change).delete(keys::revoke))
        .route("/v1/keys/import", post(import::import))
        .route("/v1/keys/export", get(export::export))
        .route("/v1/leaks", post(leaks::report))
        .route("/v1/keys/{id}/rotate", post(keys::rotate))
        .route("/v1/keys/{id}/usage", get(usage::of_key))
        .route("/v1/keys/{id}/secrets/{secret_id}", delete(keys::end_secret))
        .route("/v1/owners", get(owners::list))
        .route("/v1/owners/{id}", get(owners::show).put(owners::put).patch(owners::change))
        .route("/v1/owners/{id}/revoke-keys", post(owners::revoke_keys))
        .route("/v1/plans", get(plans::list))
        .route("/v1/plans/{id}", get(plans::show).put(plans::put).delete(plans::delete))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", get(tokens::show).delete(tokens::revoke))
        .route("/v1/usage", get(usage::of_all))
        .route("/v1/audit", get(audit::list))
        .route_layer(from_fn_with_state(app.clone(), auth::require_admin));
    let for_edges = Router::new()
        .route(FEED_PATH, get(feed::page))
        .route(USAGE_PATH, post(usage::take))
        .route(VERIFY_PATH, post(verify::verify))
        .route_layer(from_fn_with_state(app.clone(), auth::require_edge));
    let for_users = match &app.self_service {
        Some(_) => Router::new()
            .route("/api-keys", get(self_service::list).post(self_service::create))
            .route("/api-keys/{id}", delete(self_service::revoke))
            .route("/api-keys/{id}/rotate", post(self_service::rotate))
            .route_layer(map_response(self_service::uncached)),
        None => Router::new(),
    };
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
        .merge(for_users)
        .merge(for_webhooks)
        .fallback(async |uri: Uri| ApiError::NoSuchPath { path: uri.path().to_owned() })
        .method_not_allowed_fallback(async |method: Method| ApiError::MethodNotAllowed { method })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(request_log::log))
        .with_state(app)
}
