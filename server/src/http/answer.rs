//! Successful responses: JSON, with an ETag for a single resource.

use super::precondition::{Known, etag};
use super::problem::ApiError;
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

pub(super) fn json(status: StatusCode, resource: &impl Serialize) -> Result<Response, ApiError> {
    let body = serde_json::to_string(resource).map_err(|error| ApiError::Internal(error.into()))?;
    Ok((status, [(CONTENT_TYPE, "application/json")], body).into_response())
}

/// One key, owner or plan, with its version as ETag.
pub(super) fn versioned(status: StatusCode, version: u64, resource: &impl Serialize) -> Result<Response, ApiError> {
    json(status, resource).map(|response| tagged(response, version))
}

/// The same, or 304 if the client has that version.
pub(super) fn unless_known(known: &Known, version: u64, resource: &impl Serialize) -> Result<Response, ApiError> {
    if known.has(version) {
        return Ok(tagged(StatusCode::NOT_MODIFIED.into_response(), version));
    }
    versioned(StatusCode::OK, version, resource)
}

fn tagged(mut response: Response, version: u64) -> Response {
    // Digits in quotes are always a valid header value.
    if let Ok(tag) = HeaderValue::try_from(etag(version)) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}
