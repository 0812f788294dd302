//! Extractors for path, body and media type, whose rejections are problem documents.

use super::app::App;
use super::body_budget::Reservation;
use super::problem::ApiError;
use axum::RequestExt;
use axum::body::{Body as RequestBody, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::IntoResponse;
use futures_util::StreamExt;
use http_body_util::LengthLimitError;
use keyward_core::document::Problems;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::timeout;

/// The id in the path.
pub(super) struct Id(pub(super) String);

/// The two ids in the path.
pub(super) struct TwoIds(pub(super) String, pub(super) String);

/// The JSON document in the body; an empty body counts as an empty object. A document with a secret in any field is refused,
/// so that no field needs a check of its own.
pub(super) struct Document(pub(super) serde_json::Value);

/// The document of a leak report, whose `keys` are secrets.
pub(super) struct LeakDocument(pub(super) serde_json::Value);

/// The raw body.
pub(super) struct Body(pub(super) Bytes);

/// The longest body of a request, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 64 << 10;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for a body that is accounted to a budget.
const BUDGETED_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The media type of a merge patch.
pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";
/// The longest media type that is shown; both its parts have at most 127 characters (RFC 6838, section 4.2).
const MAX_MEDIA_TYPE_LENGTH: usize = 255;

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

/// The ids in the path. They are invalid with an escape that is not UTF-8, or a NUL, which PostgreSQL does not accept.
async fn ids<T, S>(parts: &mut Parts, state: &S) -> Result<Path<T>, ApiError>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    let not_found = ApiError::NoSuchPath { path: parts.uri.path().to_owned() };
    if parts.uri.path().contains("%00") {
        return Err(not_found);
    }
    Path::from_request_parts(parts, state).await.map_err(|_| not_found)
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

/// The document of the request; refused if it has a secret in other fields than the named ones.
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
    // Other mistakes are not reported then, as their messages could repeat the secret.
    if secrets.is_empty() { Ok(document) } else { Err(ApiError::Invalid(Problems(secrets))) }
}

/// Whether the media type is JSON (RFC 8259, section 11), with or without parameters.
fn is_json(media_type: &HeaderValue) -> bool {
    essence(media_type).eq_ignore_ascii_case(b"application/json")
}

/// Whether the media type is a JSON merge patch (RFC 7396, section 4).
fn is_merge_patch(media_type: &HeaderValue) -> bool {
    essence(media_type).eq_ignore_ascii_case(MERGE_PATCH.as_bytes())
}

/// The media type without parameters.
fn essence(media_type: &HeaderValue) -> &[u8] {
    media_type.as_bytes().split(|c| *c == b';').next().unwrap_or_default().trim_ascii()
}

/// The error for a body of another media type.
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
            None => received(request, state, BODY_TIMEOUT).await.map(Self),
            Some(reservation) => {
                let body = collected(request.into_limited_body(), &reservation);
                timeout(BUDGETED_BODY_TIMEOUT, body).await.unwrap_or(Err(ApiError::BodyIncomplete)).map(Self)
            }
        }
    }
}

/// The body; an incomplete one is dropped after the timeout, so that it does not stay in memory.
async fn received<S: Send + Sync>(request: Request, state: &S, limit: Duration) -> Result<Bytes, ApiError> {
    let received = timeout(limit, Bytes::from_request(request, state)).await;
    received.map_err(|_| ApiError::BodyIncomplete)?.map_err(body_error)
}

/// The body, accounted to the reservation.
async fn collected(body: RequestBody, reservation: &Reservation) -> Result<Bytes, ApiError> {
    let (mut body, mut collected) = (body.into_data_stream(), Vec::new());
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| match error.into_inner().is::<LengthLimitError>() {
            true => ApiError::BodyTooLarge,
            false => ApiError::BodyIncomplete,
        })?;
        reservation.grow(chunk.len())?;
        collected.extend_from_slice(&chunk);
    }
    Ok(collected.into())
}

fn body_error(rejection: BytesRejection) -> ApiError {
    match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::BodyTooLarge,
        _ => ApiError::BodyIncomplete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};

    #[test]
    fn refused_media_type_is_shown_bounded_and_visible() {
        let said = |given: &[u8]| unsupported("text/csv", Some(&HeaderValue::from_bytes(given).unwrap())).to_string();
        assert!(said(b" text/x ; a=secret").ends_with("got text/x"));
        assert!(said(b"a\tb\xff").ends_with("got a?b?"));
        assert!(said(&[b'a'; 5000]).len() < 400);
        assert!(unsupported("text/csv", None).to_string().ends_with("got none"));
    }

    #[tokio::test]
    async fn endless_body_times_out() {
        let begun = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
        let endless = axum::body::Body::from_stream(begun.chain(stream::pending()));
        let outcome = received(Request::new(endless), &(), Duration::from_millis(1)).await;
        assert!(matches!(outcome, Err(ApiError::BodyIncomplete)));
    }
}
