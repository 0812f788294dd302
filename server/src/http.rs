//! The HTTP API: for operators, edges, users of keys (self-service), GitHub's alerts, and health checks.
//!
//! Every error is a problem document (RFC 9457), written by [`problem`] alone.

mod answer;
mod app;
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
mod mcp;
mod openapi;
mod owners;
mod parameters;
mod plans;
mod problem;
mod relay;
mod request_log;
mod roles;
mod secret_in_url;
mod self_service;
mod sessions;
mod tokens;
mod usage;
mod verify;

pub use app::{App, Services};
pub(crate) use auth::{Credential, authenticate};
pub(crate) use keys::issue::IDEMPOTENT_REPLAYED;
pub(crate) use problem::ApiError;
pub use relay::{RelayApp, relay_router};

use crate::model::precondition;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::routing::post;
use axum::{Extension, Router};
use body_budget::BodyBudget;
use extract::MAX_BODY_BYTES;
use keyward_core::dialect::Dialect;
use openapi::{Caller, Description, called_by};
use serde_json::Value;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The body budgets of self-service and of GitHub's alerts, whose senders have shown no token yet.
const USERS_BODY_BYTES: usize = 16 << 20;
const ALERTS_BYTES: usize = 32 << 20;

/// The router of a control plane.
pub fn router(app: App) -> Router {
    let Routes { for_all, for_operators, for_edges, for_users, for_webhooks } = Routes::new();
    let for_operators = for_operators.route_layer(from_fn_with_state(app.clone(), auth::require_admin));
    let for_edges = for_edges.route_layer(from_fn_with_state(app.clone(), auth::require_edge));
    let mut routes = for_all.merge(for_operators).merge(for_edges);
    if app.self_service.is_some() {
        let budget = from_fn_with_state(BodyBudget::new(USERS_BODY_BYTES), body_budget::account);
        routes = routes.merge(for_users.route_layer(map_response(self_service::uncached)).route_layer(budget));
    }
    if app.leaks.github_keys.is_some() {
        let budget = from_fn_with_state(BodyBudget::new(ALERTS_BYTES), body_budget::account);
        routes = routes.merge(for_webhooks.layer(DefaultBodyLimit::max(leaks::MAX_ALERT_BYTES)).route_layer(budget));
    }
    let described = Description(description(&app.dialect).to_string().into());
    let api = finished(Router::from(routes.clone()), described.clone(), &app);
    let mcp = mcp_route(mcp::McpServer::new(api, Arc::clone(&app.dialect)));
    let mcp = mcp.route_layer(from_fn_with_state(app.clone(), auth::require_admin));
    finished(Router::from(routes).merge(mcp), described, &app)
}

/// Not described in OpenAPI: the protocol describes its tools itself.
#[expect(clippy::disallowed_methods, reason = "the route has no description")]
fn mcp_route(server: mcp::McpServer) -> Router<App> {
    Router::new().route(mcp::PATH, post(mcp::serve)).layer(Extension(server))
}

/// The routes with what all of them have in common.
fn finished(routes: Router<App>, described: Description, app: &App) -> Router {
    routes
        .fallback(async |uri: Uri| ApiError::NoSuchPath { path: uri.path().to_owned() })
        .method_not_allowed_fallback(async |method: Method| ApiError::MethodNotAllowed { method })
        .layer(Extension(described))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(app.clone(), secret_in_url::refuse))
        .layer(from_fn(request_log::log))
        .with_state(app.clone())
}

/// The OpenAPI document of a server with that dialect, optional routes included.
pub fn description(dialect: &Dialect) -> Value {
    openapi::document(Routes::new().all().into_openapi(), dialect)
}

/// The routes by caller. `routes!` reads the `#[utoipa::path]` of a handler, so that every route is described; `clippy.toml`
/// forbids the other ways to add one.
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
            .routes(routes!(keys::counts))
            .routes(routes!(keys::show, keys::change, keys::revoke))
            .routes(routes!(import::import))
            .routes(routes!(export::export))
            .routes(routes!(keys::issue::rotate))
            .routes(routes!(keys::why::why))
            .routes(routes!(keys::pause))
            .routes(routes!(keys::resume))
            .routes(routes!(keys::end_secret))
            .routes(routes!(usage::of_key))
            .routes(routes!(owners::list))
            .routes(routes!(owners::show, owners::put, owners::change))
            .routes(routes!(owners::revoke_keys))
            .routes(routes!(plans::list))
            .routes(routes!(plans::show, plans::put, plans::delete))
            .routes(routes!(tokens::list, tokens::create))
            .routes(routes!(tokens::show, tokens::revoke))
            .routes(routes!(sessions::list))
            .routes(routes!(sessions::end))
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
            .routes(routes!(self_service::rotate))
            .routes(routes!(self_service::pause))
            .routes(routes!(self_service::resume));
        let for_webhooks = OpenApiRouter::default().routes(routes!(leaks::github));
        let mut for_operators = for_operators;
        roles::describe(for_operators.get_openapi_mut());
        Self {
            for_all,
            for_operators,
            for_edges: called_by(Caller::Edge, for_edges),
            for_users: called_by(Caller::User, for_users),
            for_webhooks: called_by(Caller::Github, for_webhooks),
        }
    }

    /// All routes, whatever is configured.
    fn all(self) -> OpenApiRouter<App> {
        let Self { for_all, for_operators, for_edges, for_users, for_webhooks } = self;
        for_all.merge(for_operators).merge(for_edges).merge(for_users).merge(for_webhooks)
    }
}
