//! What all pages have in common, and how they are rendered.

use super::api::Failure;
use crate::clock::Timestamp;
use askama::Template;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{Html, IntoResponse, Response};

/// What the layout of the pages of a session shows.
#[derive(Clone, Debug)]
pub(super) struct Shell {
    /// The part of the navigation to which the page belongs.
    pub(super) active: &'static str,
    /// The anti-CSRF token of the forms.
    pub(super) form_token: String,
    /// The name of the token with which the session was begun.
    pub(super) token_name: String,
    /// The role of the token.
    pub(super) role: &'static str,
    /// Whether the token may change keys and owners.
    pub(super) may_write: bool,
    /// Whether the token may change plans, tokens and sessions.
    pub(super) may_administer: bool,
    /// The time of the request.
    pub(super) now: Timestamp,
    /// What was just done.
    pub(super) notice: Option<&'static str>,
}

/// A part of the navigation.
pub(super) struct Link {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    /// What [`Shell::active`] calls it.
    pub(super) part: &'static str,
}

const NAVIGATION: [Link; 10] = [
    Link { name: "Overview", path: "/console", part: "overview" },
    Link { name: "Keys", path: "/console/keys", part: "keys" },
    Link { name: "Owners", path: "/console/owners", part: "owners" },
    Link { name: "Plans", path: "/console/plans", part: "plans" },
    Link { name: "Usage", path: "/console/usage", part: "usage" },
    Link { name: "Audit log", path: "/console/audit", part: "audit" },
    Link { name: "Leaks", path: "/console/leaks", part: "leaks" },
    Link { name: "Import", path: "/console/import", part: "import" },
    Link { name: "Tokens", path: "/console/tokens", part: "tokens" },
    Link { name: "Sessions", path: "/console/sessions", part: "sessions" },
];

/// What was done, by the name in the query of the page to which the browser is sent afterwards.
const NOTICES: [(&str, &str); 11] = [
    ("paused", "The key was paused. It is refused until it is resumed."),
    ("resumed", "The key was resumed."),
    ("owner-changed", "The owner was changed."),
    ("keys-revoked", "The keys were revoked."),
    ("plan-saved", "The plan was saved."),
    ("plan-deleted", "The plan was deleted."),
    ("token-revoked", "The token was revoked, and its sessions have ended."),
    ("session-ended", "The session was ended."),
    ("changed", "The key was changed."),
    ("revoked", "The key was revoked. Edges that keep up with the changes refuse it within 100 ms."),
    ("secret-ended", "The secret was invalidated."),
];

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    failure: &'a Failure,
}

impl Shell {
    pub(super) fn navigation(&self) -> &'static [Link] {
        &NAVIGATION
    }

    /// The same with what the query says was done.
    pub(super) fn with_notice(self, done: &str) -> Self {
        let notice = NOTICES.iter().find(|(name, _)| *name == done).map(|(_, words)| *words);
        Self { notice, ..self }
    }
}

/// The page.
pub(super) fn render(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => {
            tracing::error!(%error, "failed to render a page");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = render(self.status(), &ErrorPage { failure: &self });
        if let Some(retry_after) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, retry_after);
        }
        response
    }
}
