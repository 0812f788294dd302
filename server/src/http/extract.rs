//! The parts of a request as the handlers want them, with refusals that are problem documents.

use super::App;
use super::body_budget::Reservation;
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::model::is_id;
use axum::RequestExt;
use axum::body::{Body as RequestBody, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::IntoResponse;
use futures_util::StreamExt;
use http_body_util::LengthLimitError;
use keyward_core::document::{Problem, Problems};
use keyward_core::key::id::is_key_id;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;
use tokio::time::timeout;

/// The id in the path.
pub(super) struct Id(pub(super) String);

/// The two ids in the path.
pub(super) struct TwoIds(pub(super) String, pub(super) String);

/// The JSON document in the body; an empty body counts as an empty object. One with a secret anywhere in it is refused, so
/// that no field has to look for itself.
pub(super) struct Document(pub(super) serde_json::Value);

/// The document of a leak report, whose `keys` are secrets.
pub(super) struct LeakDocument(pub(super) serde_json::Value);

/// The body as it came.
pub(super) struct Body(pub(super) Bytes);
/// How long a body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// The same where it is held on an allowance.
const SHARED_BODY_PATIENCE: Duration = Duration::from_secs(10);
const DEFAULT_LIMIT: u32 = 100;
pub(super) const MAX_LIMIT: u32 = 1000;
/// The media type of a merge patch.
pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";
/// How much of a media type is shown; the names of both its parts have 127 characters at most (RFC 6838, section 4.2).
const MAX_MEDIA_TYPE_LENGTH: usize = 255;
/// More than the longest name has, in characters.
pub(super) const MAX_TEXT_LENGTH: usize = 1000;

/// The parameters of the query, each at most once, taken by name.
pub(super) struct Parameters {
    given: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(id): Path<String> = ids(parts, state).await?;
        Ok(Self(id))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for TwoIds {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((first, second)) = ids(parts, state).await?;
        Ok(Self(first, second))
    }
}

/// The ids in the path. What can be wrong is an escape that is not UTF-8, or a NUL, which PostgreSQL does not take; no id
/// has one.
async fn ids<T, S>(parts: &mut Parts, state: &S) -> Result<Path<T>, ApiError>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    let nowhere = ApiError::NoSuchPath { path: parts.uri.path().to_owned() };
    if parts.uri.path().contains("%00") {
        return Err(nowhere);
    }
    Path::from_request_parts(parts, state).await.map_err(|_| nowhere)
}

impl FromRequest<App> for Document {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        document(request, app, &[]).await.map(Self)
    }
}

impl FromRequest<App> for LeakDocument {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        document(request, app, &["keys"]).await.map(Self)
    }
}

/// The document of the request, if there is no secret in it but in the fields that are named.
async fn document(request: Request, app: &App, secret_fields: &[&str]) -> Result<serde_json::Value, ApiError> {
    let is_patch = request.method() == Method::PATCH;
    let media_type = request.headers().get(CONTENT_TYPE).cloned();
    let Body(body) = Body::from_request(request, app).await?;
    let is_read = media_type.as_ref().is_none_or(|given| is_json(given) || is_patch && is_merge_patch(given));
    if !is_read && !body.is_empty() {
        let expected = if is_patch { "application/merge-patch+json or application/json" } else { "application/json" };
        return Err(unsupported(expected, media_type.as_ref()));
    }
    let document = crate::model::document(&body).map_err(ApiError::NotJson)?;
    let secrets = app.secrets.problems(&document, secret_fields);
    // Nothing else is said of it then, as that could repeat one.
    if secrets.is_empty() { Ok(document) } else { Err(ApiError::Invalid(Problems(secrets))) }
}

/// Whether the media type is that of JSON (RFC 8259, section 11), with or without parameters. One that is not told can
/// only be guessed (RFC 9110, section 8.3), and here nothing else is taken.
fn is_json(media_type: &HeaderValue) -> bool {
    essence(media_type).eq_ignore_ascii_case(b"application/json")
}

/// Whether the media type is that of a merge patch (RFC 7396, section 4), as every change is one.
fn is_merge_patch(media_type: &HeaderValue) -> bool {
    essence(media_type).eq_ignore_ascii_case(MERGE_PATCH.as_bytes())
}

/// The media type without parameters.
fn essence(media_type: &HeaderValue) -> &[u8] {
    media_type.as_bytes().split(|c| *c == b';').next().unwrap_or_default().trim_ascii()
}

/// The refusal of a body by another name than was expected.
pub(super) fn unsupported(expected: &'static str, given: Option<&HeaderValue>) -> ApiError {
    let shown = given.map(|given| {
        let visible = essence(given).iter().take(MAX_MEDIA_TYPE_LENGTH);
        visible.map(|c| if c.is_ascii_graphic() { char::from(*c) } else { '?' }).collect()
    });
    ApiError::UnsupportedMediaType { expected, given: shown }
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match request.extensions().get::<Reservation>().cloned() {
            None => received(request, state, BODY_PATIENCE).await.map(Self),
            Some(share) => {
                let body = collected(request.into_limited_body(), &share);
                timeout(SHARED_BODY_PATIENCE, body).await.unwrap_or(Err(ApiError::BodyLost)).map(Self)
            }
        }
    }
}

/// The body, if it is complete by then: whoever never ends it would keep what has come of it in memory.
async fn received<S: Send + Sync>(request: Request, state: &S, patience: Duration) -> Result<Bytes, ApiError> {
    let received = timeout(patience, Bytes::from_request(request, state)).await;
    received.map_err(|_| ApiError::BodyLost)?.map_err(body_error)
}

/// The body, as far as the share goes.
async fn collected(body: RequestBody, share: &Reservation) -> Result<Bytes, ApiError> {
    let (mut body, mut collected) = (body.into_data_stream(), Vec::new());
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| match error.into_inner().is::<LengthLimitError>() {
            true => ApiError::BodyTooLarge,
            false => ApiError::BodyLost,
        })?;
        share.take(chunk.len())?;
        collected.extend_from_slice(&chunk);
    }
    Ok(collected.into())
}

fn body_error(rejection: BytesRejection) -> ApiError {
    match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::BodyTooLarge,
        _ => ApiError::BodyLost,
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let pairs = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Ok(Query(pairs)) = pairs else {
            return Err(ApiError::BadQuery(Problems(vec![problem("", "expected name=value pairs")])));
        };
        let mut parameters = Self { given: BTreeMap::new(), problems: Vec::new() };
        for (name, value) in pairs {
            if parameters.given.insert(name.clone(), value).is_some() {
                parameters.problems.push(problem(&name, "given more than once"));
            }
        }
        Ok(parameters)
    }
}

impl Parameters {
    /// The parameter of that name, read; `None` if it is absent or cannot be read, and in that case this is told.
    pub(super) fn take<T>(&mut self, name: &str, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.given.remove(name)?;
        let read = read(&value);
        if read.is_none() {
            self.problems.push(problem(name, &format!("expected {expected}")));
        }
        read
    }

    /// Leaves out what somebody else reads.
    pub(super) fn leave_out(&mut self, name: &str) {
        self.given.remove(name);
    }

    /// How many are wanted on a page.
    pub(super) fn limit(&mut self) -> u32 {
        self.number("limit", 1..=MAX_LIMIT).unwrap_or(DEFAULT_LIMIT)
    }

    /// A whole number in a range, in digits alone.
    pub(super) fn number<T>(&mut self, name: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.take(name, &expected, |text| {
            let digits = text.bytes().all(|c| c.is_ascii_digit());
            text.parse().ok().filter(|number| digits && range.contains(number))
        })
    }

    /// The id of an owner, a member or a plan.
    pub(super) fn id(&mut self, name: &str, expected: &str) -> Option<String> {
        self.take(name, expected, |text| is_id(text).then(|| text.to_owned()))
    }

    /// A text that is not empty. A control character is in no text of ours, and not every database takes them all.
    pub(super) fn text(&mut self, name: &str, expected: &str) -> Option<String> {
        let usable =
            |text: &str| (1..=MAX_TEXT_LENGTH).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        self.take(name, expected, |text| usable(text).then(|| text.to_owned()))
    }

    /// The id of a key.
    pub(super) fn key_id(&mut self, name: &str) -> Option<String> {
        self.take(name, "the id of a key", |text| is_key_id(text).then(|| text.to_owned()))
    }

    /// A time.
    pub(super) fn time(&mut self, name: &str) -> Option<Timestamp> {
        self.take(name, "a date and time as RFC 3339 writes them", Timestamp::parse_rfc3339)
    }

    /// Tells of everything that was wrong or that nobody has taken.
    pub(super) fn finish(mut self) -> Result<(), ApiError> {
        self.problems.extend(self.given.keys().map(|name| problem(name, "unknown parameter")));
        if self.problems.is_empty() { Ok(()) } else { Err(ApiError::BadQuery(Problems(self.problems))) }
    }
}

pub(super) fn problem(field: &str, message: &str) -> Problem {
    Problem { path: field.to_owned(), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};

    #[test]
    fn of_a_media_type_that_is_refused_no_more_is_shown_than_it_can_have_and_nothing_that_is_not_visible() {
        let said = |given: &[u8]| unsupported("text/csv", Some(&HeaderValue::from_bytes(given).unwrap())).to_string();
        assert!(said(b" text/x ; a=secret").ends_with("it says text/x"));
        assert!(said(b"a\tb\xff").ends_with("it says a?b?"));
        assert!(said(&[b'a'; 5000]).len() < 400);
        assert!(unsupported("text/csv", None).to_string().ends_with("it says nothing"));
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up() {
        let begun = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
        let endless = axum::body::Body::from_stream(begun.chain(stream::pending()));
        let outcome = received(Request::new(endless), &(), Duration::from_millis(1)).await;
        assert!(matches!(outcome, Err(ApiError::BodyLost)));
    }
}
