//! The audit log, for operators: who did what, the newest first.

use super::App;
use super::answer::json;
use super::extract::Parameters;
use super::keys::{PageSize, Words};
use super::openapi::{number, schema};
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

/// Something that was done.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
struct EntryResource<'a> {
    /// Its place in the log.
    sequence: u64,
    at: Timestamp,
    /// In whose name.
    actor: &'a str,
    /// What was done, such as `key.revoked`.
    action: &'a str,
    /// The id of what it was done to.
    subject: &'a str,
    /// What more there is to say of it; never a secret.
    #[schema(value_type = Object)]
    details: &'a Map<String, Value>,
}

/// Some entries, the newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntries)]
struct ListResource<'a> {
    entries: Vec<EntryResource<'a>>,
    /// What to ask for with `before`, where there are more.
    #[schema(required)]
    next: Option<u64>,
}

schema!(Sequence, "The place of an entry in the log", number(0, u64::MAX));

/// Lists what was done, the newest first
#[utoipa::path(
    get,
    path = "/v1/audit",
    operation_id = "listAudit",
    tag = "audit",
    params(("limit" = inline(Option<PageSize>), Query, description = "How many at most; 100 unless it is said"), ("before" = inline(Option<Sequence>), Query, description = "The `next` of the list before"), ("subject" = inline(Option<Words>), Query, description = "Only what was done to what has this id")),
    responses((status = OK, description = "The entries", body = ListResource))
)]
pub(super) async fn list(State(app): State<App>, mut parameters: Parameters) -> Result<Response, ApiError> {
    let query = AuditQuery {
        limit: parameters.limit(),
        before: parameters.number("before", 0..=u64::MAX),
        subject: parameters.text("subject", "the id of a key, an owner or a plan"),
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
