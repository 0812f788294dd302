//! The audit log, for operators: who did what, the newest first.

use super::App;
use super::answer::json;
use super::extract::Parameters;
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::model::AuditEntry;
use crate::store::AuditQuery;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};

#[derive(Serialize)]
struct EntryResource<'a> {
    sequence: u64,
    at: Timestamp,
    actor: &'a str,
    action: &'a str,
    subject: &'a str,
    details: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct ListResource<'a> {
    entries: Vec<EntryResource<'a>>,
    /// What to ask for as `before`.
    next: Option<u64>,
}

pub(super) async fn list(State(app): State<App>, mut parameters: Parameters) -> Result<Response, ApiError> {
    let query = AuditQuery {
        limit: parameters.limit(),
        before: parameters.take("before", "the sequence of an entry", |text| text.parse().ok()),
        subject: parameters.text("subject", "the id of a key, an owner or a plan"),
    };
    parameters.finish()?;
    let page = app.store.audit(&query).await?;
    let entries = page.entries.iter().map(resource).collect();
    json(StatusCode::OK, &ListResource { entries, next: page.next })
}

fn resource(entry: &AuditEntry) -> EntryResource<'_> {
    EntryResource {
        sequence: entry.sequence,
        at: entry.at,
        actor: &entry.actor,
        action: &entry.action,
        subject: &entry.subject,
        details: &entry.details,
    }
}
