//! The audit log.

use crate::console::api::{Failure, query};
use crate::console::form::Fields;
use crate::console::page::{self, Shell};
use crate::console::session::Session;
use crate::console::view::Audit;
use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

/// The filters, which are parameters of the API.
const FILTERS: [&str; 1] = ["subject"];

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    shell: Shell,
    fields: Fields,
    audit: Audit,
    is_filtered: bool,
    first: String,
    next: Option<String>,
    failure: Option<Failure>,
}

pub(in crate::console) async fn list(session: Session, fields: Fields) -> Result<Response, Failure> {
    let filters: Vec<_> = FILTERS.iter().map(|name| (*name, fields.get(name))).collect();
    let with = |further: &[(&'static str, &str)]| query(filters.iter().chain(further).copied());
    let path = format!("/v1/audit{}", with(&[("limit", "100"), ("before", fields.get("before"))]));
    let (audit, failure): (Audit, _) = match session.api().read(&path).await {
        Ok(audit) => (audit, None),
        Err(failure) if failure.status == StatusCode::BAD_REQUEST => (Audit::default(), Some(failure)),
        Err(failure) => return Err(failure),
    };
    let page = AuditPage {
        shell: session.shell("audit"),
        is_filtered: filters.iter().any(|(_, value)| !value.is_empty()),
        first: with(&[]),
        next: audit.next.map(|next| with(&[("before", next.to_string().as_str())])),
        audit,
        fields: fields.clone(),
        failure,
    };
    let status = page.failure.as_ref().map_or(StatusCode::OK, Failure::status);
    Ok(page::render(status, &page))
}
