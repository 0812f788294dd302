//! The HTTP API: for operators, for edges, and for whoever asks whether the process lives.
//!
//! Every error is a problem document, and [`problem`] is the only room that writes one.

mod auth;
mod extract;
mod feed;
mod health;
mod keys;
mod openapi;
mod owners;
mod problem;
mod request_log;

use crate::clock::Clock;
use crate::feed::Feed;
use crate::store::Store;
use crate::tokens::Tokens;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Extension, Router};
use keyward_contract::dialect::Dialect;
use openapi::{Caller, Description, called_by};
use problem::ApiError;
use serde_json::Value;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

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
}

/// The longest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Every route there is.
pub fn router(app: App) -> Router {
    let Routes { for_all, for_operators, for_edges } = Routes::new();
    let for_operators = for_operators.route_layer(from_fn_with_state(app.clone(), auth::require_admin));
    let for_edges = for_edges.route_layer(from_fn_with_state(app.clone(), auth::require_edge));
    let (routes, described) = for_all.merge(for_operators).merge(for_edges).split_for_parts();
    let description = Description(openapi::document(described, &app.dialect).to_string().into());
    routes
        .fallback(async |uri: Uri| ApiError::NoSuchPath { path: uri.path().to_owned() })
        .method_not_allowed_fallback(async |method: Method| ApiError::MethodNotAllowed { method })
        .layer(Extension(description))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(request_log::log))
        .with_state(app)
}

/// The OpenAPI document about the API of a server of that dialect.
pub fn description(dialect: &Dialect) -> Value {
    let Routes { for_all, for_operators, for_edges } = Routes::new();
    openapi::document(for_all.merge(for_operators).merge(for_edges).into_openapi(), dialect)
}

/// The routes by who may call them. `routes!` takes what stands on a handler, so that none can be had without its
/// description; `clippy.toml` forbids the other ways to make one.
struct Routes {
    for_all: OpenApiRouter<App>,
    for_operators: OpenApiRouter<App>,
    for_edges: OpenApiRouter<App>,
}

impl Routes {
    fn new() -> Self {
        let for_all = OpenApiRouter::default()
            .routes(routes!(health::alive))
            .routes(routes!(health::ready))
            .routes(routes!(openapi::show));
        let for_operators = OpenApiRouter::default()
            .routes(routes!(keys::list, keys::create))
            .routes(routes!(keys::show, keys::revoke))
            .routes(routes!(keys::rotate))
            .routes(routes!(owners::show, owners::change));
        let for_edges = OpenApiRouter::default().routes(routes!(feed::page));
        Self {
            for_all,
            for_operators: called_by(Caller::Operator, for_operators),
            for_edges: called_by(Caller::Edge, for_edges),
        }
    }
}
