//! What can go wrong in a request, and the one way it is told (RFC 9457).
//!
//! Callers get what they can act on; the cause of what they cannot goes to the log.

use crate::model::State;
use crate::random::NoRandomness;
use crate::store;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use keyward_contract::document::Problems;
use serde::Serialize;

/// Why a request was refused or has failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("{}", if *shown { "the token is not valid here" } else { "a token is needed: Authorization: Bearer <token>" })]
    Unauthorized { shown: bool },
    #[error("there is nothing at {path}")]
    NoSuchPath { path: String },
    #[error("{method} is not known here")]
    MethodNotAllowed { method: Method },
    #[error("there is no {0} of that id")]
    NotFound(&'static str),
    #[error("the body is longer than {} bytes", super::MAX_BODY_BYTES)]
    BodyTooLarge,
    #[error("the body could not be received")]
    BodyLost,
    #[error("the body is not JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("some fields cannot be used")]
    Invalid(Problems),
    #[error("some parameters of the query cannot be used")]
    BadQuery(Problems),
    #[error("the key is {}, and only an active one can be rotated", .0.name())]
    NotActive(State),
    #[error(
        "the key has {} secrets that are still valid, and can have no more: wait for one to end, or end them with grace_s 0",
        store::MAX_VALID_SECRETS
    )]
    TooManySecrets,
    #[error("the dialect of this server has no keys of kind {kind:?} any more, so none can be made")]
    KindIsGone { kind: String },
    #[error("this cannot be done at the moment; try again")]
    Unavailable(#[source] store::Error),
    #[error("whether this was done is not known; look before you try it again")]
    OutcomeUnknown(#[source] store::Error),
    #[error("the request could not be carried out; the log says why")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A problem document.
#[derive(Serialize)]
struct Problem {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

#[derive(Serialize)]
struct FieldError {
    field: String,
    message: String,
}

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::OutcomeUnknown(_) => Self::OutcomeUnknown(error),
            _ if error.is_temporary() => Self::Unavailable(error),
            _ => Self::Internal(error.into()),
        }
    }
}

impl From<NoRandomness> for ApiError {
    fn from(error: NoRandomness) -> Self {
        Self::Internal(error.into())
    }
}

impl ApiError {
    /// The status, and the problem's name and title.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Unauthorized { .. } => (StatusCode::UNAUTHORIZED, "unauthorized", "Token required"),
            Self::NoSuchPath { .. } | Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found", "Not found"),
            Self::MethodNotAllowed { .. } => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed")
            }
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Request too large"),
            Self::BodyLost => (StatusCode::BAD_REQUEST, "incomplete", "Incomplete request"),
            Self::NotJson(_) => (StatusCode::BAD_REQUEST, "not_json", "Not JSON"),
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Invalid request"),
            Self::BadQuery(_) => (StatusCode::BAD_REQUEST, "bad_query", "Invalid query"),
            Self::NotActive(_) => (StatusCode::CONFLICT, "not_active", "Key not active"),
            Self::TooManySecrets => (StatusCode::CONFLICT, "too_many_secrets", "Too many secrets"),
            Self::KindIsGone { .. } => (StatusCode::CONFLICT, "kind_is_gone", "Kind not in the dialect"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable"),
            Self::OutcomeUnknown(_) => (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", "Outcome unknown"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }

    fn field_errors(&self) -> Vec<FieldError> {
        match self {
            Self::Invalid(problems) | Self::BadQuery(problems) => problems
                .0
                .iter()
                .map(|problem| FieldError { field: problem.path.clone(), message: problem.message.clone() })
                .collect(),
            _ => Vec::new(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Self::Unavailable(error) | Self::OutcomeUnknown(error) = &self {
            tracing::warn!(%error, "a request could not be carried out at the moment");
        }
        if let Self::Internal(error) = &self {
            tracing::error!(%error, "a request has failed");
        }
        let (status, name, title) = self.kind();
        let problem = Problem {
            r#type: format!("urn:keyward:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: self.to_string(),
            errors: self.field_errors(),
        };
        // A problem has no map with keys other than strings and nothing that fails to serialize.
        let body = serde_json::to_string(&problem).unwrap_or_default();
        let mut response = (status, [(CONTENT_TYPE, "application/problem+json")], body).into_response();
        match self {
            Self::Unauthorized { shown } => {
                // RFC 6750, section 3.1: no error code where no credential was sent.
                let challenge = if shown {
                    "Bearer realm=\"keyward\", error=\"invalid_token\""
                } else {
                    "Bearer realm=\"keyward\""
                };
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            Self::Unavailable(_) | Self::OutcomeUnknown(_) => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_try_again_is_told_so_and_whether_it_may_be_done_already() {
        for (error, name) in [
            (store::Error::OutcomeUnknown(sqlx::Error::WorkerCrashed), "outcome_unknown"),
            (store::Error::Slow, "unavailable"),
            (store::Error::Database(sqlx::Error::PoolTimedOut), "unavailable"),
        ] {
            let error = ApiError::from(error);
            assert_eq!(error.kind().1, name);
            let response = error.into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[RETRY_AFTER], "1");
        }
    }
}
