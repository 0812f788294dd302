//! The form to report leaked keys. What is pasted is compared, and not shown again.

use super::Mistakes;
use crate::console::api::{ApiRequest, Failure, read};
use crate::console::form::SignedForm;
use crate::console::page::{self, Shell};
use crate::console::session::Session;
use crate::console::view::LeakOutcomes;
use askama::Template;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

#[derive(Template)]
#[template(path = "leaks.html")]
struct LeaksPage {
    shell: Shell,
    outcomes: Option<LeakOutcomes>,
    mistakes: Mistakes,
}

pub(in crate::console) async fn form(session: Session) -> Result<Response, Failure> {
    let page = LeaksPage { shell: session.shell("leaks"), outcomes: None, mistakes: Mistakes::default() };
    Ok(page::render(StatusCode::OK, &page))
}

/// Reports the keys.
pub(in crate::console) async fn report(SignedForm { session, fields }: SignedForm) -> Result<Response, Failure> {
    let keys: Vec<_> = fields.get("keys").lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut document = Map::from_iter([("keys".to_owned(), json!(keys))]);
    for name in ["source", "url"] {
        if !fields.get(name).is_empty() {
            document.insert(name.to_owned(), json!(fields.get(name)));
        }
    }
    let request = ApiRequest::new(Method::POST, "/v1/leaks".to_owned()).with_document(Value::Object(document));
    let (status, outcomes, mistakes) = match session.api().call(request).await {
        Ok(reply) => (StatusCode::OK, Some(read(reply.document)?), Mistakes::default()),
        Err(failure) => (StatusCode::UNPROCESSABLE_ENTITY, None, Mistakes::of(failure)?),
    };
    Ok(page::render(status, &LeaksPage { shell: session.shell("leaks"), outcomes, mistakes }))
}
