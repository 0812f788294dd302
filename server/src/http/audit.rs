//! The audit log, for operators.

use super::answer::json;
use super::app::App;
use super::openapi::{number, schema};
use super::parameters::{PageSize, Parameters, Words};
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::model::AuditEntry;
use crate::store::AuditQuery;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// An entry of the audit log.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
struct EntryResource<'a> {
    /// The position in the log.
    sequence: u64,
    at: Timestamp,
    /// Who made the change, such as `token:tok_…`.
    actor: &'a str,
    /// The kind of change, such as `key.revoked`.
    action: &'a str,
    /// The id of the changed resource.
    subject: &'a str,
    /// Details, such as old and new values; never a secret.
    #[schema(value_type = Object)]
    details: &'a Map<String, Value>,
}

/// A page of entries, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntries)]
struct ListResource<'a> {
    entries: Vec<EntryResource<'a>>,
    /// The `before` of the next page; null on the last page.
    #[schema(required)]
    next: Option<u64>,
}

schema!(Sequence, "The position of an entry in the audit log", number(0, u64::MAX));

/// List audit log entries, newest first
#[utoipa::path(
    get,
    path = "/v1/audit",
    operation_id = "listAudit",
    tag = "audit",
    params(("limit" = inline(Option<PageSize>), Query, description = "The maximum number of results; 100 by default"), ("before" = inline(Option<Sequence>), Query, description = "Continue after this: the `next` of the previous page"), ("subject" = inline(Option<Words>), Query, description = "Only entries about the resource with this id"), ("actor" = inline(Option<Words>), Query, description = "Only entries of this actor, such as `token:tok_…`"), ("action" = inline(Option<Words>), Query, description = "Only entries of this action, such as `key.revoked`"), ("since" = inline(Option<Timestamp>), Query, description = "Only entries of this time or later"), ("until" = inline(Option<Timestamp>), Query, description = "Only entries before this time")),
    responses((status = OK, description = "The entries", body = ListResource))
)]
pub(super) async fn list(State(app): State<App>, mut parameters: Parameters) -> Result<Response, ApiError> {
    let query = AuditQuery {
        limit: parameters.limit(),
        before: parameters.number("before", 0..=u64::MAX),
        subject: parameters.text("subject", "the id of a key, an owner or a plan"),
        actor: parameters.text("actor", "the actor of an entry"),
        action: parameters.text("action", "the action of an entry"),
        since: parameters.time("since"),
        until: parameters.time("until"),
    };
    parameters.finish()?;
    let page = app.store.audit(&query).await?;
    let entries = page.items.iter().map(resource).collect();
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
