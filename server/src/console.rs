//! The console: the web pages for operators, at `/console`.
//!
//! It has no way of its own to the keys. Every page is made from answers of the API, which the console calls inside the process
//! ([`api`]), with the token of the session: what the token may not do, the page cannot. A session is a cookie ([`session`]), and
//! what a browser could be tricked into is refused by [`guard`]. The templates are in `console/templates`, styles and scripts in
//! `console/assets`.

mod api;
mod assets;
mod chart;
mod commands;
mod cookie;
mod form;
mod guard;
mod page;
mod pages;
mod session;
mod view;

use crate::http::App;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::response::Redirect;
use axum::routing::{get, post};
use std::ops::Deref;
use std::sync::Arc;

/// The configuration of the console.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsoleConfig {
    /// An address of its own to listen on, `host:port`; `None` for that of the API.
    pub listen: Option<String>,
    /// The URL of the gateway, for examples of requests.
    pub gateway_url: Option<String>,
}

/// The state of the console's handlers.
#[derive(Clone)]
struct Console(Arc<Services>);

struct Services {
    app: App,
    /// The API, for calls inside the process.
    api: Router,
    gateway_url: String,
}

impl Deref for Console {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

/// The gateway of examples where none is configured.
const EXAMPLE_GATEWAY: &str = "https://gateway.example";
/// The longest form, in bytes.
const MAX_FORM_BYTES: usize = 256 << 10;
/// The longest form to sign in, which anybody can send, in bytes.
const MAX_SIGN_IN_BYTES: usize = 8 << 10;

/// The router of a listener for the console alone.
pub(crate) fn router_alone(app: App, api: Router, config: &ConsoleConfig) -> Router {
    router(app, api, config).fallback(async || Redirect::to("/console"))
}

/// The router of the console, over the API of the same server.
#[expect(clippy::disallowed_methods, reason = "pages are not part of the API's description")]
pub(crate) fn router(app: App, api: Router, config: &ConsoleConfig) -> Router {
    let gateway_url = config.gateway_url.clone().unwrap_or_else(|| EXAMPLE_GATEWAY.to_owned());
    let console = Console(Arc::new(Services { app, api, gateway_url }));
    Router::new()
        .route("/console", get(pages::overview::show))
        .route("/console/", get(async || Redirect::permanent("/console")))
        .route(
            "/console/sign-in",
            get(session::form).post(session::sign_in).layer(DefaultBodyLimit::max(MAX_SIGN_IN_BYTES)),
        )
        .route("/console/sign-out", post(session::sign_out))
        .route("/console/keys", get(pages::keys::list))
        .route("/console/keys/new", get(pages::new_key::form).post(pages::new_key::create))
        .route("/console/keys/{id}", get(pages::key::show))
        .route("/console/keys/{id}/usage.csv", get(pages::key::usage_csv))
        .route("/console/keys/{id}/edit", get(pages::edit_key::form).post(pages::edit_key::change))
        .route("/console/keys/{id}/rotate", get(pages::rotate::form).post(pages::rotate::rotate))
        .route("/console/keys/{id}/pause", post(pages::revoke::pause))
        .route("/console/keys/{id}/resume", post(pages::revoke::resume))
        .route("/console/keys/{id}/revoke", get(pages::revoke::form).post(pages::revoke::revoke))
        .route(
            "/console/keys/{id}/secrets/{secret}/end",
            get(pages::revoke::secret_form).post(pages::revoke::end_secret),
        )
        .route("/console/owners", get(pages::owners::list).post(pages::owners::create))
        .route("/console/owners/{id}", get(pages::owners::show).post(pages::owners::change))
        .route("/console/owners/{id}/revoke-keys", get(pages::owners::revoke_form).post(pages::owners::revoke))
        .route("/console/plans", get(pages::plans::list))
        .route("/console/plans/new", get(pages::plans::new).post(pages::plans::create))
        .route("/console/plans/edit/{id}", get(pages::plans::form).post(pages::plans::change))
        .route("/console/usage", get(pages::usage::show))
        .route("/console/usage.csv", get(pages::usage::csv))
        .route("/console/audit", get(pages::audit::list))
        .route("/console/leaks", get(pages::leaks::form).post(pages::leaks::report))
        .route("/console/import", get(pages::import::form).post(pages::import::send))
        .route("/console/tokens", get(pages::tokens::list).post(pages::tokens::create))
        .route("/console/tokens/{id}/revoke", get(pages::tokens::revoke_form).post(pages::tokens::revoke))
        .route("/console/sessions", get(pages::sessions::list))
        .route("/console/sessions/{id}/end", post(pages::sessions::end))
        .route("/console/{*path}", get(pages::not_found).post(pages::not_found))
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
        .layer(from_fn_with_state(console.clone(), guard::protect))
        // Without data: not guarded, and cached.
        .route("/console/assets/{name}", get(assets::serve))
        .with_state(console)
}
