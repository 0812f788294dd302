//! Usage of keys: reported by edges, read by operators.

use super::answer;
use super::app::App;
use super::extract::{Body, Document, Id};
use super::openapi::{Refused, number, schema};
use super::parameters::{KeyId, Parameters};
use super::problem::{ApiError, problem};
use crate::clock::Timestamp;
use crate::model::UsageToUndo;
use crate::store::{Authorization, HOUR_MS, Hourly, UsageFilter};
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use keyward_core::USAGE_PATH;
use keyward_core::document::Problems;
use keyward_core::wire::usage::{Batch, INTERVAL_MS, Receipt};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use utoipa::ToSchema;

const DEFAULT_SPAN: Duration = Duration::from_secs(86_400);
/// An hour more than 31 days, which can begin and end within one.
const MAX_SPAN: Duration = Duration::from_secs(31 * 86_400 + 3600);

schema!(ReceiptSchema, "When to send the next batch", receipt());

fn receipt() -> Value {
    let interval = number(*INTERVAL_MS.start(), *INTERVAL_MS.end());
    json!({"type": "object", "properties": {"interval_ms": interval}, "required": ["interval_ms"]})
}

/// Requests by verdict.
type Verdicts = BTreeMap<String, u64>;

/// The usage of one key.
#[derive(Serialize, ToSchema)]
#[schema(as = UsageOfKey)]
struct KeyResource<'a> {
    #[schema(value_type = KeyId)]
    key_id: &'a str,
    #[serde(flatten)]
    span: Span,
    #[serde(flatten)]
    usage: Usage,
}

/// The usage of all keys.
#[derive(Serialize, ToSchema)]
#[schema(as = UsageOfAll)]
struct AllResource {
    #[serde(flatten)]
    span: Span,
    keys: Usage,
    /// Requests without a known key.
    others: Usage,
}

/// The whole hours of the response.
#[derive(Clone, Copy, Serialize, ToSchema)]
struct Span {
    from: Timestamp,
    to: Timestamp,
}

/// Requests by verdict, in total and by hour.
#[derive(Serialize, Default, ToSchema)]
struct Usage {
    /// Requests by verdict.
    #[schema(value_type = BTreeMap<String, u64>)]
    totals: Verdicts,
    /// Only hours with requests.
    hours: Vec<Hour>,
}

/// The requests of one hour.
#[derive(Serialize, ToSchema)]
struct Hour {
    /// The start of the hour.
    hour: Timestamp,
    /// Requests by verdict.
    #[schema(value_type = BTreeMap<String, u64>)]
    verdicts: Verdicts,
}

/// The usage reported with each edge token.
#[derive(Serialize, ToSchema)]
#[schema(as = UsageReports)]
struct ReportsResource {
    #[serde(flatten)]
    span: Span,
    /// Sorted by credits, descending.
    tokens: Vec<ReportsOfToken>,
}

/// The usage reported with one edge token.
#[derive(Serialize, ToSchema)]
#[schema(as = UsageReportsOfToken)]
struct ReportsOfToken {
    /// The id of the token; `token-file` for those of the data directory's file.
    token: String,
    /// The number of keys.
    keys: u64,
    /// The number of requests.
    requests: u64,
    /// The credits that the reports added to the keys' spending.
    credits: u64,
    /// The hour of the last report.
    last_reported_at: Timestamp,
}

/// The usage that was undone.
#[derive(Serialize, ToSchema)]
#[schema(as = UsageUndone)]
struct UndoneResource {
    token: String,
    /// The first hour that was undone.
    since: Timestamp,
    /// The number of requests that no longer count.
    requests: u64,
    /// The number of credits that no longer count as spent.
    credits: u64,
}

/// Report usage
///
/// A batch that is sent again counts once. Unknown fields are ignored, and unknown verdicts count as `other`. The reports of each
/// token are recorded, see `listUsageReports`.
#[utoipa::path(
    post,
    path = USAGE_PATH,
    operation_id = "reportUsage",
    tag = "edges",
    request_body(content = ref("#/components/schemas/UsageBatch"), content_type = "application/json"),
    responses((status = OK, description = "When to send the next batch", body = inline(ReceiptSchema)), Refused<400>, Refused<413>)
)]
pub(super) async fn take(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    Body(body): Body,
) -> Result<impl IntoResponse, ApiError> {
    let batch = Batch::decode(&body).map_err(ApiError::InvalidUsage)?;
    app.store.take_usage(by, batch, (app.clock)()).await?;
    let interval = u64::try_from(app.usage_interval.as_millis()).unwrap_or(u64::MAX);
    let receipt = Receipt { interval_ms: interval.clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end()) };
    Ok(([(CONTENT_TYPE, "application/json")], receipt.encode()))
}

/// Show the usage of a key
///
/// By verdict, in total and by hour.
#[utoipa::path(
    get,
    path = "/v1/keys/{id}/usage",
    operation_id = "showUsageOfKey",
    tag = "usage",
    params(("id" = KeyId, Path, description = "The key's id"), ("from" = inline(Option<Timestamp>), Query, description = "The first hour; 24 hours before `to` by default"), ("to" = inline(Option<Timestamp>), Query, description = "The end, exclusive, at most 31 days after `from`; now by default")),
    responses((status = OK, description = "The usage of the key", body = KeyResource))
)]
pub(super) async fn of_key(State(app): State<App>, Id(id): Id, parameters: Parameters) -> Result<Response, ApiError> {
    let span = Span::read(parameters, (app.clock)())?;
    let key = app.store.key(&id).await?.ok_or(ApiError::NotFound("key"))?;
    let usage = usage(&app, UsageFilter::Key(id), span).await?;
    answer::json(StatusCode::OK, &KeyResource { key_id: &key.id, span, usage })
}

/// Show the usage of all keys
///
/// By verdict, in total and by hour, and separately the requests without a known key.
#[utoipa::path(
    get,
    path = "/v1/usage",
    operation_id = "showUsage",
    tag = "usage",
    params(("from" = inline(Option<Timestamp>), Query, description = "The first hour; 24 hours before `to` by default"), ("to" = inline(Option<Timestamp>), Query, description = "The end, exclusive, at most 31 days after `from`; now by default")),
    responses((status = OK, description = "The usage of all keys", body = AllResource))
)]
pub(super) async fn of_all(State(app): State<App>, parameters: Parameters) -> Result<Response, ApiError> {
    let span = Span::read(parameters, (app.clock)())?;
    let (keys, others) = (usage(&app, UsageFilter::AllKeys, span).await?, usage(&app, UsageFilter::NoKey, span).await?);
    answer::json(StatusCode::OK, &AllResource { span, keys, others })
}

/// List the usage reported with each edge token
///
/// By the time of the reports, for all keys or one; kept for 31 days.
#[utoipa::path(
    get,
    path = "/v1/usage/reports",
    operation_id = "listUsageReports",
    tag = "usage",
    params(("from" = inline(Option<Timestamp>), Query, description = "The first hour; 24 hours before `to` by default"), ("to" = inline(Option<Timestamp>), Query, description = "The end, exclusive, at most 31 days after `from`; now by default"), ("key" = Option<KeyId>, Query, description = "Only reports about this key")),
    responses((status = OK, description = "The usage reported with each token", body = ReportsResource))
)]
pub(super) async fn reports(State(app): State<App>, mut parameters: Parameters) -> Result<Response, ApiError> {
    let key = parameters.key_id("key");
    let span = Span::read(parameters, (app.clock)())?;
    let reported = app.store.reported_usage(key.as_deref(), span.hours()).await?;
    let tokens = reported.into_iter().map(|reported| ReportsOfToken {
        token: reported.token,
        keys: reported.keys,
        requests: reported.requests,
        credits: reported.credits,
        last_reported_at: Timestamp::from_ms(reported.last_hour.saturating_mul(HOUR_MS)),
    });
    answer::json(StatusCode::OK, &ReportsResource { span, tokens: tokens.collect() })
}

/// Undo the usage reported with an edge token
///
/// Its requests no longer count, and its credits no longer count as spent. The last use of keys stays as reported. Reports older
/// than 31 days cannot be undone.
#[utoipa::path(
    post,
    path = "/v1/usage/undo",
    operation_id = "undoUsage",
    tag = "usage",
    request_body(content = ref("#/components/schemas/UsageToUndo"), content_type = "application/json"),
    responses((status = OK, description = "The usage that was undone", body = UndoneResource))
)]
pub(super) async fn undo(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let UsageToUndo { token, since } = UsageToUndo::read(&document).map_err(ApiError::Invalid)?;
    let since = Timestamp::from_ms(since.as_ms() / HOUR_MS * HOUR_MS);
    let undone = app.store.undo_usage(by, token.clone(), since, (app.clock)()).await?;
    tracing::info!(token, %since, requests = undone.requests, credits = undone.credits, "reported usage undone");
    let resource = UndoneResource { token, since, requests: undone.requests, credits: undone.credits };
    answer::json(StatusCode::OK, &resource)
}

async fn usage(app: &App, whose: UsageFilter, span: Span) -> Result<Usage, ApiError> {
    let mut usage = Usage::default();
    for Hourly { hour, verdict, requests } in app.store.usage(&whose, span.hours()).await? {
        let total = usage.totals.entry(verdict.clone()).or_default();
        *total = total.saturating_add(requests);
        let hour = Timestamp::from_ms(hour.saturating_mul(HOUR_MS));
        match usage.hours.last_mut() {
            Some(last) if last.hour == hour => drop(last.verdicts.insert(verdict, requests)),
            _ => usage.hours.push(Hour { hour, verdicts: Verdicts::from([(verdict, requests)]) }),
        }
    }
    Ok(usage)
}

impl Span {
    /// Reads the requested times, and extends them to whole hours.
    fn read(mut parameters: Parameters, now: Timestamp) -> Result<Self, ApiError> {
        const TIME: &str = "a time such as 2030-01-31T08:00:00Z";
        let from = parameters.take("from", TIME, Timestamp::parse_rfc3339);
        let to = parameters.take("to", TIME, Timestamp::parse_rfc3339);
        parameters.finish()?;
        let hour = |number: u64| Timestamp::from_ms(number.saturating_mul(HOUR_MS));
        let to = to.unwrap_or(hour(now.as_ms() / HOUR_MS + 1));
        let from = from.unwrap_or(to.minus(DEFAULT_SPAN));
        let wrong = |field, message: &str| Err(ApiError::InvalidQuery(Problems(vec![problem(field, message)])));
        if from >= to {
            return wrong("from", "expected a time before \"to\"");
        }
        let span = Self { from: hour(from.as_ms() / HOUR_MS), to: hour(to.as_ms().div_ceil(HOUR_MS)) };
        if span.to.minus(MAX_SPAN) > span.from {
            return wrong("from", "expected a time at most 31 days before \"to\"");
        }
        Ok(span)
    }

    fn hours(self) -> Range<u64> {
        self.from.as_ms() / HOUR_MS..self.to.as_ms().div_ceil(HOUR_MS)
    }
}
