//! The use of keys: told by edges, read by operators.

use super::App;
use super::answer::json;
use super::extract::{Body, Id, Parameters, problem};
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::store::{HOUR_MS, Hourly, Whose};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use keyward_contract::document::Problems;
use keyward_contract::usage::{Batch, INTERVAL_MS, Receipt};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

const DEFAULT_SPAN: Duration = Duration::from_secs(86_400);
/// An hour more than 31 days, which can begin and end within one.
const MAX_SPAN: Duration = Duration::from_secs(31 * 86_400 + 3600);

/// How many requests ended in which verdict.
type Verdicts = BTreeMap<String, u64>;

#[derive(Serialize)]
struct KeyResource<'a> {
    key_id: &'a str,
    #[serde(flatten)]
    span: Span,
    #[serde(flatten)]
    usage: Usage,
}

#[derive(Serialize)]
struct AllResource {
    #[serde(flatten)]
    span: Span,
    keys: Usage,
    /// Requests for which no key was found.
    others: Usage,
}

/// The whole hours that are told of.
#[derive(Clone, Copy, Serialize)]
struct Span {
    from: Timestamp,
    to: Timestamp,
}

#[derive(Serialize, Default)]
struct Usage {
    totals: Verdicts,
    /// Only those with any requests.
    hours: Vec<Hour>,
}

#[derive(Serialize)]
struct Hour {
    hour: Timestamp,
    verdicts: Verdicts,
}

pub(super) async fn take(State(app): State<App>, Body(body): Body) -> Result<impl IntoResponse, ApiError> {
    let batch = Batch::decode(&body).map_err(ApiError::BadUsage)?;
    app.store.take_usage(batch, (app.clock)()).await?;
    let interval = u64::try_from(app.usage_interval.as_millis()).unwrap_or(u64::MAX);
    let receipt = Receipt { interval_ms: interval.clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end()) };
    Ok(([(CONTENT_TYPE, "application/json")], receipt.encode()))
}

pub(super) async fn of_key(State(app): State<App>, Id(id): Id, parameters: Parameters) -> Result<Response, ApiError> {
    let span = Span::read(parameters, (app.clock)())?;
    let key = app.store.key(&id).await?.ok_or(ApiError::NotFound("key"))?;
    let usage = usage(&app, Whose::Key(id), span).await?;
    json(StatusCode::OK, &KeyResource { key_id: &key.id, span, usage })
}

pub(super) async fn of_all(State(app): State<App>, parameters: Parameters) -> Result<Response, ApiError> {
    let span = Span::read(parameters, (app.clock)())?;
    let (keys, others) = (usage(&app, Whose::AllKeys, span).await?, usage(&app, Whose::Nobody, span).await?);
    json(StatusCode::OK, &AllResource { span, keys, others })
}

async fn usage(app: &App, whose: Whose, span: Span) -> Result<Usage, ApiError> {
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
