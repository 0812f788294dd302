//! The HTTP API: for operators, for edges, for users of keys if they are let, and for whoever asks whether the process lives.
//!
//! Every error is a problem document, and [`problem`] is the only room that writes one.

mod answer;
mod audit;
mod auth;
mod body_budget;
mod export;
mod extract;
mod feed;
mod health;
mod idempotency;
mod import;
mod keys;
mod leaks;
mod openapi;
mod owners;
mod plans;
mod problem;
mod relay;
mod request_log;
mod secret_in_url;
mod self_service;
mod tokens;
mod usage;
mod verify;

pub use relay::{RelayApp, relay_router};

use crate::auth::auth_throttle::Failures;
use crate::auth::client_ip::TrustedProxies;
use crate::auth::hash_pool::Verifier;
use crate::auth::tokens::db::IssuedTokens;
use crate::auth::tokens::file::Tokens;
use crate::clock::Clock;
use crate::feed::Feed;
use crate::keys::leaks::Leaks;
use crate::keys::replay_seed::ReplaySeed;
use crate::model::precondition;
use crate::serve::SelfService;
use crate::store::Store;
use axum::extract::{DefaultBodyLimit, FromRef};
use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::{Extension, Router};
use body_budget::BodyBudget;
use keyward_core::dialect::Dialect;
use keyward_core::dialect::secret_recognizer::SecretRecognizer;
use openapi::{Caller, Description, called_by};
use problem::ApiError;
use serde_json::Value;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What the handlers work with, in one piece: on its way through the layers a request takes several copies, and thousands of
/// polls come at once.
#[derive(Clone)]
pub struct App(Arc<Services>);

impl From<Services> for App {
    fn from(services: Services) -> Self {
        Self(Arc::new(services))
    }
}

impl Deref for App {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

/// What the handlers work with.
pub struct Services {
    /// The state.
    pub store: Store,
    /// The feed of changes to it.
    pub feed: Feed,
    /// What keys look like.
    pub dialect: Arc<Dialect>,
    /// What keys and tokens look like, in text that is not meant to hold any.
    pub secrets: Arc<SecretRecognizer>,
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
    pub pepper: Arc<ReplaySeed>,
    /// What is done about keys that are found in public.
    pub leaks: Arc<Leaks>,
    /// The time.
    pub clock: Clock,
    /// Checks what only a password hash is kept of.
    pub verifier: Verifier,
    /// How often the edges are to tell of the use of keys.
    pub usage_interval: Duration,
    /// Whether the server ends, so that nothing long is gone on with.
    pub ending: watch::Receiver<bool>,
}

impl FromRef<App> for Feed {
    fn from_ref(app: &App) -> Self {
        app.feed.clone()
    }
}

impl FromRef<App> for Clock {
    fn from_ref(app: &App) -> Self {
        Arc::clone(&app.clock)
    }
}

#[cfg(test)]
impl App {
    /// An example of what handlers work with.
    async fn example(dir: &std::path::Path, dialect: &str) -> Self {
        Services::example(dir, dialect).await.into()
    }
}

#[cfg(test)]
impl Services {
    /// What handlers work with that keep their state in that directory, at an example's time.
    async fn example(dir: &std::path::Path, dialect: &str) -> Self {
        let location = crate::store::Location::Directory(dir.to_owned());
        let store = Store::open(&location).await.unwrap();
        let clock: Clock = Arc::new(|| crate::clock::Timestamp::EXAMPLE);
        Self {
            feed: Feed::new(store.clone(), tokio::sync::watch::channel(false).1),
            dialect: Arc::new(Dialect::built_in(dialect).unwrap().unwrap()),
            secrets: Arc::new(SecretRecognizer::built_in()),
            tokens: Arc::new(Tokens::open(dir).unwrap()),
            pepper: Arc::new(ReplaySeed::open(dir).unwrap()),
            leaks: Arc::new(Leaks::default()),
            issued_tokens: Arc::new(IssuedTokens::new(store.clone(), Arc::clone(&clock))),
            failures: Arc::new(Failures::default()),
            proxies: Arc::new(TrustedProxies::default()),
            self_service: Some(Arc::new(SelfService { scope: None })),
            clock,
            verifier: Verifier::new(std::num::NonZeroUsize::MIN),
            usage_interval: Duration::from_secs(5),
            ending: watch::channel(false).1,
            store,
        }
    }
}

/// The longest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// What users may hold of bodies altogether, and alerts of GitHub: nobody who sends them has shown a token.
const USERS_BODY_BYTES: usize = 16 << 20;
const ALERTS_BYTES: usize = 32 << 20;

/// Every route there is.
pub fn router(app: App) -> Router {
    let Routes { for_all, for_operators, for_edges, for_users, for_webhooks } = Routes::new();
    let for_operators = for_operators.route_layer(from_fn_with_state(app.clone(), auth::require_admin));
    let for_edges = for_edges.route_layer(from_fn_with_state(app.clone(), auth::require_edge));
    let mut routes = for_all.merge(for_operators).merge(for_edges);
    if app.self_service.is_some() {
        let share = from_fn_with_state(BodyBudget::new(USERS_BODY_BYTES), body_budget::share);
        routes = routes.merge(for_users.route_layer(map_response(self_service::uncached)).route_layer(share));
    }
    if app.leaks.github_keys.is_some() {
        let share = from_fn_with_state(BodyBudget::new(ALERTS_BYTES), body_budget::share);
        routes = routes.merge(for_webhooks.layer(DefaultBodyLimit::max(leaks::MAX_ALERT_BYTES)).route_layer(share));
    }
    let described = Description(description(&app.dialect).to_string().into());
    Router::from(routes)
        .fallback(async |uri: Uri| ApiError::NoSuchPath { path: uri.path().to_owned() })
        .method_not_allowed_fallback(async |method: Method| ApiError::MethodNotAllowed { method })
        .layer(Extension(described))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(app.clone(), secret_in_url::refuse))
        .layer(from_fn(request_log::log))
        .with_state(app)
}

/// The OpenAPI document about the API of a server of that dialect, with what is there only where it is configured.
pub fn description(dialect: &Dialect) -> Value {
    openapi::document(Routes::new().all().into_openapi(), dialect)
}

/// The routes by who may call them. `routes!` takes what stands on a handler, so that none can be had without its
/// description; `clippy.toml` forbids the other ways to make one.
struct Routes {
    for_all: OpenApiRouter<App>,
    for_operators: OpenApiRouter<App>,
    for_edges: OpenApiRouter<App>,
    for_users: OpenApiRouter<App>,
    for_webhooks: OpenApiRouter<App>,
}

impl Routes {
    fn new() -> Self {
        let for_all = OpenApiRouter::default()
            .routes(routes!(health::alive))
            .routes(routes!(health::ready))
            .routes(routes!(openapi::show));
        let for_operators = OpenApiRouter::default()
            .routes(routes!(keys::list, keys::issue::create))
            .routes(routes!(keys::show, keys::change, keys::revoke))
            .routes(routes!(import::import))
            .routes(routes!(export::export))
            .routes(routes!(keys::issue::rotate))
            .routes(routes!(keys::end_secret))
            .routes(routes!(usage::of_key))
            .routes(routes!(owners::list))
            .routes(routes!(owners::show, owners::put, owners::change))
            .routes(routes!(owners::revoke_keys))
            .routes(routes!(plans::list))
            .routes(routes!(plans::show, plans::put, plans::delete))
            .routes(routes!(tokens::list, tokens::create))
            .routes(routes!(tokens::show, tokens::revoke))
            .routes(routes!(leaks::report))
            .routes(routes!(usage::of_all))
            .routes(routes!(usage::reports))
            .routes(routes!(usage::undo))
            .routes(routes!(audit::list));
        let for_edges = OpenApiRouter::default()
            .routes(routes!(feed::page))
            .routes(routes!(usage::take))
            .routes(routes!(verify::verify));
        let for_users = OpenApiRouter::default()
            .routes(routes!(self_service::list, self_service::create))
            .routes(routes!(self_service::revoke))
            .routes(routes!(self_service::rotate));
        let for_webhooks = OpenApiRouter::default().routes(routes!(leaks::github));
        Self {
            for_all,
            for_operators: called_by(Caller::Operator, for_operators),
            for_edges: called_by(Caller::Edge, for_edges),
            for_users: called_by(Caller::User, for_users),
            for_webhooks: called_by(Caller::Github, for_webhooks),
        }
    }

    /// All of them, whatever is configured.
    fn all(self) -> OpenApiRouter<App> {
        let Self { for_all, for_operators, for_edges, for_users, for_webhooks } = self;
        for_all.merge(for_operators).merge(for_edges).merge(for_users).merge(for_webhooks)
    }
}
