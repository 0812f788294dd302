//! Sessions of the console, for operators.

use super::answer::json;
use super::app::App;
use super::extract::Id;
use super::openapi::{schema, text};
use super::parameters::{PageSize, Parameters};
use super::problem::{ApiError, problem};
use crate::clock::Timestamp;
use crate::model::Session;
use crate::random;
use crate::store::{Authorization, SessionQuery};
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use keyward_core::document::Problems;
use serde::Serialize;
use utoipa::ToSchema;

/// A session of the console.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
struct SessionResource<'a> {
    #[schema(value_type = SessionId)]
    id: &'a str,
    /// The id of the token with which the session was begun; `token-file` for those of the data directory's file.
    token: &'a str,
    /// The `User-Agent` of the browser.
    user_agent: &'a str,
    created_at: Timestamp,
    /// The last use, to the minute.
    last_seen_at: Timestamp,
    /// When the session ends at the latest.
    expires_at: Timestamp,
}

/// A page of sessions, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = Sessions)]
struct ListResource<'a> {
    sessions: Vec<SessionResource<'a>>,
    /// The `after` of the next page; null on the last page.
    #[schema(required)]
    next: Option<&'a str>,
}

schema!(SessionId, "The id of a session", text(&format!("sess_[0-9A-Za-z]{{{}}}", random::ID_LENGTH)));

/// List sessions of the console, newest first
///
/// Only those that have not ended. A session whose token was revoked is listed until its time is over, and cannot be used.
#[utoipa::path(
    get,
    path = "/v1/sessions",
    operation_id = "listSessions",
    tag = "sessions",
    params(("limit" = inline(Option<PageSize>), Query, description = "The maximum number of results; 100 by default"), ("after" = Option<SessionId>, Query, description = "Continue after this: the `next` of the previous page")),
    responses((status = OK, description = "The sessions", body = ListResource))
)]
pub(super) async fn list(State(app): State<App>, mut parameters: Parameters) -> Result<Response, ApiError> {
    let query = SessionQuery {
        limit: parameters.limit(),
        after: parameters.text("after", "the id of a session"),
        now: (app.clock)(),
    };
    parameters.finish()?;
    let page = app.store.sessions(&query).await?;
    let page = page.ok_or_else(|| ApiError::InvalidQuery(Problems(vec![problem("after", "session not found")])))?;
    let sessions = page.items.iter().map(resource).collect();
    json(StatusCode::OK, &ListResource { sessions, next: page.next.as_deref() })
}

/// End a session of the console immediately, at all servers
#[utoipa::path(
    delete,
    path = "/v1/sessions/{id}",
    operation_id = "endSession",
    tag = "sessions",
    params(("id" = SessionId, Path, description = "The session's id")),
    responses((status = OK, description = "The session that was ended", body = SessionResource))
)]
pub(super) async fn end(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let session = app.store.end_session(by, id, (app.clock)()).await?.ok_or(ApiError::NotFound("session"))?;
    tracing::info!(session = session.id, "session ended");
    json(StatusCode::OK, &resource(&session))
}

fn resource(session: &Session) -> SessionResource<'_> {
    SessionResource {
        id: &session.id,
        token: session.token_name(),
        user_agent: &session.user_agent,
        created_at: session.created_at,
        last_seen_at: session.last_seen_at,
        expires_at: session.expires_at,
    }
}
