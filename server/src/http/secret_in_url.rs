//! Refuses requests with a key or a token in path or query, which proxies log.

use super::app::App;
use super::problem::{ApiError, problem};
use super::self_service::OWN_KEYS_PATH;
use axum::extract::{Query, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use keyward_core::dialect::Source;
use keyward_core::dialect::secret_recognizer::LOOKS_LIKE_A_SECRET;
use keyward_core::document::Problems;

pub(super) async fn refuse(State(app): State<App>, request: Request, next: Next) -> Result<Response, ApiError> {
    if app.secrets.is_in(request.uri().path().as_bytes()) {
        return Err(ApiError::SecretInPath);
    }
    if request.uri().query().is_some_and(|query| app.secrets.is_in(query.as_bytes())) {
        let found = in_query(&app, &request);
        if !found.is_empty() {
            return Err(ApiError::InvalidQuery(Problems(found)));
        }
    }
    Ok(next.run(request).await)
}

/// The parameters that contain a secret, except the credential of self-service.
fn in_query(app: &App, request: &Request) -> Vec<keyward_core::document::Problem> {
    let whole = || vec![problem("", LOOKS_LIKE_A_SECRET)];
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(request.uri()) else { return whole() };
    let is_credential = |name: &str| {
        let takes_keys = |source: &Source| matches!(source, Source::Query(parameter) if parameter == name);
        request.uri().path().starts_with(OWN_KEYS_PATH) && app.dialect.sources.iter().any(takes_keys)
    };
    let mut found = Vec::new();
    for (name, value) in pairs {
        if app.secrets.is_in(name.as_bytes()) {
            found.extend(whole());
        } else if app.secrets.is_in(value.as_bytes()) && !is_credential(&name) {
            found.push(problem(&name, LOOKS_LIKE_A_SECRET));
        }
    }
    found
}
