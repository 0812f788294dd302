//! Reports of leaked keys, by operators and by GitHub. Their plaintexts do not leave this module.

use super::answer::json;
use super::app::App;
use super::extract::{Body, LeakDocument};
use super::openapi::Refused;
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::keys::github::Claim;
use crate::model::{LeakReport, MAX_REPORTED_KEYS};
use crate::store::{Authorization, Leak, LeakOutcome};
use axum::Extension;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use keyward_core::key::digest::Digest;
use keyward_core::key::secret::Secret as Plaintext;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;

/// The maximum size of an alert of GitHub, in bytes.
pub(super) const MAX_ALERT_BYTES: usize = 1 << 20;

/// The outcome for each key of a report.
#[derive(Serialize, ToSchema)]
#[schema(as = LeakOutcomes)]
struct OutcomesResource {
    keys: Vec<OutcomeResource>,
}

/// The outcome for one key.
#[derive(Serialize, ToSchema)]
#[schema(as = LeakOutcome)]
struct OutcomeResource {
    /// Whether it is a key of this server.
    known: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key_id: Option<String>,
    #[schema(pattern = "^(revoked|flagged|already_revoked|none)$")]
    action: &'static str,
}

/// A match of GitHub's secret scanning. Unknown fields are ignored.
#[derive(Deserialize, ToSchema)]
#[schema(as = GithubMatch)]
struct Match {
    token: String,
    r#type: String,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    source: Option<String>,
}

/// Feedback to GitHub about a match.
#[derive(Serialize, ToSchema)]
#[schema(as = GithubFeedback)]
struct Feedback {
    /// SHA-256 of the token, in hexadecimal.
    token_hash: String,
    token_type: String,
    #[schema(pattern = "^(true|false)_positive$")]
    label: &'static str,
}

/// Report leaked keys
///
/// Keys of this server are revoked or marked, as `--on-leak` says.
#[utoipa::path(
    post,
    path = "/v1/leaks",
    operation_id = "reportLeaks",
    tag = "leaks",
    request_body(content = ref("#/components/schemas/LeakReport"), content_type = "application/json"),
    responses((status = OK, description = "The outcome for each key, in the order of the request", body = OutcomesResource))
)]
pub(super) async fn report(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    LeakDocument(document): LeakDocument,
) -> Result<Response, ApiError> {
    let report = LeakReport::read(&document).map_err(ApiError::Invalid)?;
    let leaks = app.leaks.identify(&app.store, &app.verifier, &app.dialect, &report.keys).await?;
    let now = (app.clock)();
    let mut known: Vec<Leak> = Vec::new();
    for leak in leaks.iter().flatten() {
        if !known.contains(leak) {
            known.push(leak.clone());
        }
    }
    let outcomes = handle(&app, by, known.clone(), &report, now).await?;
    let keys = leaks.iter().map(|leak| {
        let place = leak.as_ref().and_then(|leak| known.iter().position(|known| known == leak));
        match place.and_then(|place| outcomes.get(place)?.as_ref()) {
            Some(LeakOutcome { key_id, action }) => {
                OutcomeResource { known: true, key_id: Some(key_id.clone()), action: action.name() }
            }
            None => OutcomeResource { known: false, key_id: None, action: "none" },
        }
    });
    json(StatusCode::OK, &OutcomesResource { keys: keys.collect() })
}

/// Receive an alert of GitHub's secret scanning
///
/// Requires GitHub's public keys (`--github-keys`); a server without them answers 404.
#[utoipa::path(
    post,
    path = GITHUB_PATH,
    operation_id = "receiveGithubAlert",
    tag = "leaks",
    params(("Github-Public-Key-Identifier" = Option<String>, Header, description = "The identifier of the signing key")),
    request_body(content = inline(Vec<Match>), content_type = "application/json"),
    responses((status = OK, description = "Feedback for each match", body = inline(Vec<Feedback>)), Refused<400>, Refused<404>, Refused<413>)
)]
pub(super) async fn github(
    State(app): State<App>,
    Signed { claim, by }: Signed,
    Body(body): Body,
) -> Result<Response, ApiError> {
    if !claim.matches(&body) {
        return Err(ApiError::InvalidSignature);
    }
    let matches: Vec<Match> = serde_json::from_slice(&body).map_err(|_| ApiError::InvalidAlert)?;
    let mut feedback = Vec::with_capacity(matches.len());
    for some in matches.chunks(MAX_REPORTED_KEYS) {
        let tokens: Vec<_> = some.iter().map(|found| Plaintext::new(found.token.clone())).collect();
        let leaks = app.leaks.identify(&app.store, &app.verifier, &app.dialect, &tokens).await?;
        for ((found, token), leak) in some.iter().zip(tokens).zip(leaks) {
            let token_hash = hex::encode(Digest::of_key(token.expose().as_bytes()).0);
            let label = if leak.is_some() { "true_positive" } else { "false_positive" };
            if let Some(leak) = leak {
                let report = LeakReport { keys: vec![token], source: found.source.clone(), url: found.url.clone() };
                handle(&app, by.clone(), vec![leak], &report, (app.clock)()).await?;
            }
            feedback.push(Feedback { token_hash, token_type: found.r#type.clone(), label });
        }
    }
    json(StatusCode::OK, &feedback)
}

pub(super) const GITHUB_PATH: &str = "/v1/webhooks/github/secret-scanning";

/// The signature in the headers. Without a plausible one the body is not received.
pub(super) struct Signed {
    claim: Claim,
    /// The authorization of the signature, once it is verified.
    by: Authorization,
}

impl FromRequestParts<App> for Signed {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let keys = app.leaks.github_keys.as_ref();
        let keys = keys.ok_or_else(|| ApiError::NoSuchPath { path: GITHUB_PATH.to_owned() })?;
        let field = |name| parts.headers.get(name).map(|value| value.as_bytes()).unwrap_or_default();
        let key_id = field("github-public-key-identifier");
        let claim = keys.claim(key_id, field("github-public-key-signature")).ok_or(ApiError::InvalidSignature)?;
        let (leaks, key_id) = (Arc::clone(&app.leaks), key_id.to_vec());
        let by = Authorization::of_github(move || leaks.is_signer(&key_id), &app.clock);
        Ok(Self { claim, by })
    }
}

/// Marks or revokes the leaked keys.
async fn handle(
    app: &App,
    by: Authorization,
    leaks: Vec<Leak>,
    report: &LeakReport,
    now: Timestamp,
) -> Result<Vec<Option<LeakOutcome>>, ApiError> {
    if leaks.is_empty() {
        return Ok(Vec::new());
    }
    let details = Map::from_iter([
        ("source".to_owned(), Value::from(report.noted_source(&app.secrets))),
        ("url".to_owned(), Value::from(report.noted_url(&app.secrets))),
    ]);
    let outcomes = app.store.report_leaks(by, leaks, app.leaks.on_leak, details, now).await?;
    for LeakOutcome { key_id, action } in outcomes.iter().flatten() {
        tracing::warn!(key = key_id, action = action.name(), "leaked key reported");
    }
    Ok(outcomes)
}
