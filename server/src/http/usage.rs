//! The use of keys: told by edges, read by operators.

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

schema!(ReceiptSchema, "After how long to send the next batch", receipt());

fn receipt() -> Value {
    let interval = number(*INTERVAL_MS.start(), *INTERVAL_MS.end());
    json!({"type": "object", "properties": {"interval_ms": interval}, "required": ["interval_ms"]})
}

/// How many requests ended in which verdict.
type Verdicts = BTreeMap<String, u64>;

/// The use of one key.
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

/// The use of all keys.
#[derive(Serialize, ToSchema)]
#[schema(as = UsageOfAll)]
struct AllResource {
    #[serde(flatten)]
    span: Span,
    keys: Usage,
    /// Requests for which no key was found.
    others: Usage,
}

/// The whole hours that are told of.
#[derive(Clone, Copy, Serialize, ToSchema)]
struct Span {
    from: Timestamp,
    to: Timestamp,
}

/// How many requests ended how.
#[derive(Serialize, Default, ToSchema)]
struct Usage {
    /// By verdict.
    #[schema(value_type = BTreeMap<String, u64>)]
    totals: Verdicts,
    /// Only those with any requests.
    hours: Vec<Hour>,
}

/// How many requests of one hour ended how.
#[derive(Serialize, ToSchema)]
struct Hour {
    /// When it began.
    hour: Timestamp,
    /// By verdict.
    #[schema(value_type = BTreeMap<String, u64>)]
    verdicts: Verdicts,
}

/// What was reported with each edge token.
#[derive(Serialize, ToSchema)]
#[schema(as = UsageReports)]
struct ReportsResource {
    #[serde(flatten)]
    span: Span,
    /// The most credits first.
    tokens: Vec<ReportsOfToken>,
}

/// What was reported with one edge token.
#[derive(Serialize, ToSchema)]
#[schema(as = UsageReportsOfToken)]
struct ReportsOfToken {
    /// The id of the token; `token-file` for those of the data directory's file.
    token: String,
    /// Of how many keys.
    keys: u64,
    /// How many requests.
    requests: u64,
    /// How much it added to what the keys have spent.
    credits: u64,
    /// In which hour it last reported.
    last_reported_at: Timestamp,
}

/// What was undone.
#[derive(Serialize, ToSchema)]
#[schema(as = UsageUndone)]
struct UndoneResource {
    token: String,
    /// The hour with which it began.
    since: Timestamp,
    /// How many requests are counted no more.
    requests: u64,
    /// How many credits are spent no more.
    credits: u64,
}

/// Takes what an edge has counted
///
/// A batch that comes again counts once. Fields that are not known are no mistake, and verdicts that are not known are counted as
/// `other`. It is kept which token has reported what, see `listUsageReports`.
#[utoipa::path(
    post,
    path = USAGE_PATH,
    operation_id = "tellUsage",
    tag = "edges",
    request_body(content = ref("#/components/schemas/UsageBatch"), content_type = "application/json"),
    responses((status = OK, description = "When to send the next one", body = inline(ReceiptSchema)), Refused<400>, Refused<413>)
)]
pub(super) async fn take(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    Body(body): Body,
) -> Result<impl IntoResponse, ApiError> {
    let batch = Batch::decode(&body).map_err(ApiError::BadUsage)?;
    app.store.take_usage(by, batch, (app.clock)()).await?;
    let interval = u64::try_from(app.usage_interval.as_millis()).unwrap_or(u64::MAX);
    let receipt = Receipt { interval_ms: interval.clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end()) };
    Ok(([(CONTENT_TYPE, "application/json")], receipt.encode()))
}

/// How often a key was used
///
/// By verdict, altogether and by hour.
#[utoipa::path(
    get,
    path = "/v1/keys/{id}/usage",
    operation_id = "showUsageOfKey",
    tag = "usage",
    params(("id" = KeyId, Path, description = "The key's id"), ("from" = inline(Option<Timestamp>), Query, description = "The first hour; a day before `to` unless it is said"), ("to" = inline(Option<Timestamp>), Query, description = "Before which hour to end, at most 31 days later; now unless it is said")),
    responses((status = OK, description = "The use of the key", body = KeyResource))
)]
pub(super) async fn of_key(State(app): State<App>, Id(id): Id, parameters: Parameters) -> Result<Response, ApiError> {
    let span = Span::read(parameters, (app.clock)())?;
    let key = app.store.key(&id).await?.ok_or(ApiError::NotFound("key"))?;
    let usage = usage(&app, UsageFilter::Key(id), span).await?;
    answer::json(StatusCode::OK, &KeyResource { key_id: &key.id, span, usage })
}

/// How often all keys were used
///
/// By verdict, altogether and by hour; beside it, the requests for which no key was found.
#[utoipa::path(
    get,
    path = "/v1/usage",
    operation_id = "showUsage",
    tag = "usage",
    params(("from" = inline(Option<Timestamp>), Query, description = "The first hour; a day before `to` unless it is said"), ("to" = inline(Option<Timestamp>), Query, description = "Before which hour to end, at most 31 days later; now unless it is said")),
    responses((status = OK, description = "The use of all keys", body = AllResource))
)]
pub(super) async fn of_all(State(app): State<App>, parameters: Parameters) -> Result<Response, ApiError> {
    let span = Span::read(parameters, (app.clock)())?;
    let (keys, others) =
        (usage(&app, UsageFilter::AllKeys, span).await?, usage(&app, UsageFilter::Nobody, span).await?);
    answer::json(StatusCode::OK, &AllResource { span, keys, others })
}

/// Which edge token has reported how much
///
/// By the time of the reports, of all keys or of one; kept for 31 days.
#[utoipa::path(
    get,
    path = "/v1/usage/reports",
    operation_id = "listUsageReports",
    tag = "usage",
    params(("from" = inline(Option<Timestamp>), Query, description = "The first hour; a day before `to` unless it is said"), ("to" = inline(Option<Timestamp>), Query, description = "Before which hour to end, at most 31 days later; now unless it is said"), ("key" = Option<KeyId>, Query, description = "Only what was reported of this key")),
    responses((status = OK, description = "What was reported with each token", body = ReportsResource))
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

/// Undoes what was reported with an edge token
///
/// Its requests are counted no more, and what they cost is no more spent. When keys were used last stays as it was told. What was
/// reported more than 31 days ago cannot be undone.
#[utoipa::path(
    post,
    path = "/v1/usage/undo",
    operation_id = "undoUsage",
    tag = "usage",
    request_body(content = ref("#/components/schemas/UsageToUndo"), content_type = "application/json"),
    responses((status = OK, description = "What was undone", body = UndoneResource))
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
    /// Reads the times that are asked for, and makes whole hours of them.
    fn read(mut parameters: Parameters, now: Timestamp) -> Result<Self, ApiError> {
        const TIME: &str = "a time such as 2030-01-31T08:00:00Z";
        let from = parameters.take("from", TIME, Timestamp::parse_rfc3339);
        let to = parameters.take("to", TIME, Timestamp::parse_rfc3339);
        parameters.finish()?;
        let hour = |number: u64| Timestamp::from_ms(number.saturating_mul(HOUR_MS));
        let to = to.unwrap_or(hour(now.as_ms() / HOUR_MS + 1));
        let from = from.unwrap_or(to.minus(DEFAULT_SPAN));
        let wrong = |field, message: &str| Err(ApiError::BadQuery(Problems(vec![problem(field, message)])));
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
