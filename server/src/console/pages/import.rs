//! The form to import keys of another system: first a dry run, then the import of the same rows.

use super::Mistakes;
use crate::console::api::{ApiRequest, Failure, query, read};
use crate::console::form::{Fields, SignedForm};
use crate::console::page::{self, Shell};
use crate::console::session::Session;
use crate::console::view::{ImportReport, thousands};
use askama::Template;
use axum::http::{Method, StatusCode};
use axum::response::Response;

#[derive(Template)]
#[template(path = "import.html")]
struct ImportPage {
    shell: Shell,
    report: Option<ImportReport>,
    /// The rows that were sent, after a dry run that can be followed by the import.
    rows: String,
    skips_known: bool,
    mistakes: Mistakes,
}

pub(in crate::console) async fn form(session: Session) -> Result<Response, Failure> {
    let (report, rows, mistakes) = (None, String::new(), Mistakes::default());
    let page = ImportPage { shell: session.shell("import"), report, rows, skips_known: false, mistakes };
    Ok(page::render(StatusCode::OK, &page))
}

/// Sends the rows, as a dry run or to import them.
pub(in crate::console) async fn send(SignedForm { session, fields }: SignedForm) -> Result<Response, Failure> {
    let rows = fields.get("rows").to_owned();
    let skips_known = fields.get("on_conflict") == "skip";
    let (status, report, mistakes): (_, Option<ImportReport>, _) =
        match session.api().call(request(&fields, &rows)).await {
            Ok(reply) => (StatusCode::OK, Some(read(reply.document)?), Mistakes::default()),
            Err(failure) => (StatusCode::UNPROCESSABLE_ENTITY, None, Mistakes::of(failure)?),
        };
    // Rows may hold plaintext keys, so they are shown again only as long as they are needed.
    let rows = if report.as_ref().is_some_and(|report| !report.dry_run) { String::new() } else { rows };
    let page = ImportPage { shell: session.shell("import"), report, rows, skips_known, mistakes };
    Ok(page::render(status, &page))
}

fn request(fields: &Fields, rows: &str) -> ApiRequest {
    let is_json = rows.starts_with(['{', '[']);
    let dry_run = if fields.get("action") == "import" { "false" } else { "true" };
    let path = format!("/v1/keys/import{}", query([("dry_run", dry_run), ("on_conflict", fields.get("on_conflict"))]));
    let media_type = if is_json { "application/x-ndjson" } else { "text/csv" };
    ApiRequest::new(Method::POST, path).with_text(media_type, rows.to_owned())
}
