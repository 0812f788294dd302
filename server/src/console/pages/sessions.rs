//! Sessions of the console.

use crate::console::api::{ApiRequest, Failure, escape, query};
use crate::console::form::{Fields, SignedForm};
use crate::console::page::{self, Shell};
use crate::console::session::{Session, see_other};
use crate::console::view::Sessions;
use askama::Template;
use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::response::Response;

#[derive(Template)]
#[template(path = "sessions.html")]
struct SessionsPage {
    shell: Shell,
    sessions: Sessions,
    /// The id of the session that looks at them.
    own: String,
    next: Option<String>,
}

pub(in crate::console) async fn list(session: Session, fields: Fields) -> Result<Response, Failure> {
    let path = format!("/v1/sessions{}", query([("limit", "100"), ("after", fields.get("after"))]));
    let sessions: Sessions = session.api().read(&path).await?;
    let next = sessions.next.as_ref().map(|next| query([("after", next.as_str())]));
    let shell = session.shell("sessions").with_notice(fields.get("done"));
    let page = SessionsPage { shell, sessions, own: session.id().to_owned(), next };
    Ok(page::render(StatusCode::OK, &page))
}

/// Ends a session.
pub(in crate::console) async fn end(
    Path(id): Path<String>,
    SignedForm { session, .. }: SignedForm,
) -> Result<Response, Failure> {
    session.api().call(ApiRequest::new(Method::DELETE, format!("/v1/sessions/{}", escape(&id)))).await?;
    Ok(see_other("/console/sessions?done=session-ended"))
}
