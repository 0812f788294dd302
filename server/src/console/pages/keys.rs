//! The list of keys.

use crate::console::api::{Failure, query};
use crate::console::form::Fields;
use crate::console::page::{self, Shell};
use crate::console::session::Session;
use crate::console::view::{Keys, Plans, thousands};
use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;
use std::time::Duration;

/// The filters of the list, which are parameters of the API.
const FILTERS: [&str; 9] =
    ["name", "owner", "member", "plan", "kind", "environment", "state", "expires_before", "created_after"];
const PAGE_SIZE: &str = "50";

#[derive(Template)]
#[template(path = "keys.html")]
struct KeysPage {
    shell: Shell,
    fields: Fields,
    keys: Keys,
    plans: Plans,
    kinds: Vec<String>,
    has_environments: bool,
    is_filtered: bool,
    is_continued: bool,
    /// The query of the first page.
    first: String,
    /// The query of the next page.
    next: Option<String>,
    /// The query of keys that expire within 30 days.
    expiring: String,
    failure: Option<Failure>,
}

pub(in crate::console) async fn list(session: Session, fields: Fields) -> Result<Response, Failure> {
    let api = session.api();
    let filters: Vec<_> = FILTERS.iter().map(|name| (*name, fields.get(name))).collect();
    let with =
        |further: &[(&'static str, &str)]| query(filters.iter().chain(further).map(|(name, value)| (*name, *value)));
    let asked = api.read(&format!("/v1/keys{}", with(&[("limit", PAGE_SIZE), ("after", fields.get("after"))]))).await;
    // A filter with a value that the API refuses is shown with what was expected.
    let (keys, failure) = match asked {
        Ok(keys) => (keys, None),
        Err(failure) if failure.status == StatusCode::BAD_REQUEST => {
            (Keys { keys: Vec::new(), next: None }, Some(failure))
        }
        Err(failure) => return Err(failure),
    };
    let plans = api.read("/v1/plans?limit=1000").await?;
    let dialect = &session.console().app.dialect;
    let mut kinds: Vec<String> = dialect.formats.iter().map(|format| format.kind.clone()).collect();
    kinds.dedup();
    let next = keys.next.as_ref().map(|next| with(&[("after", next)]));
    let expires_before = session.now().plus(Duration::from_secs(30 * 86_400)).to_string();
    let page = KeysPage {
        shell: session.shell("keys"),
        plans,
        kinds,
        has_environments: dialect.formats.iter().any(|format| format.environment.is_some()),
        is_filtered: filters.iter().any(|(_, value)| !value.is_empty()),
        is_continued: !fields.get("after").is_empty(),
        first: with(&[]),
        next,
        expiring: query([("state", "active"), ("expires_before", expires_before.as_str())]),
        keys,
        fields: fields.clone(),
        failure,
    };
    let status = page.failure.as_ref().map_or(StatusCode::OK, Failure::status);
    Ok(page::render(status, &page))
}
