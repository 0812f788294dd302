//! What can go wrong in a request, and the one way it is told (RFC 9457).
//!
//! Callers get what they can act on; the cause of what they cannot goes to the log.

use crate::auth::hash_pool::Busy;
use crate::auth::key_auth::Undecided;
use crate::keys::issue::IssueError;
use crate::model::{State, TokenScope};
use crate::net::connections::LastAnswer;
use crate::random::RngError;
use crate::store;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use keyward_core::dialect::secret_recognizer::LOOKS_LIKE_A_SECRET;
use keyward_core::document::{self, Problems};
use keyward_core::wire::usage::UnreadableUsage;
use serde::Serialize;
use utoipa::ToSchema;

/// Why a request was refused or has failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("{}", if *shown { "the token is not valid here" } else { "a token is needed: Authorization: Bearer <token>" })]
    Unauthorized { shown: bool },
    #[error("this is {0}, which is not valid here")]
    OfAnotherKind(&'static str),
    #[error(
        "the credential was revoked or removed, or has expired, while the request was being sent; nothing was changed by it"
    )]
    NotAuthorized,
    #[error("the token may only read; this asks for one of scope {}", .0.name())]
    InsufficientScope(TokenScope),
    #[error("too many bad tokens have come from this address; this one was not accepted either")]
    TooManyFailures { retry_after_s: u64 },
    #[error("this is for keys that belong to somebody, and this one does not")]
    NoOwner,
    #[error("this secret has been replaced, and until it ends it can make no other")]
    Replaced,
    #[error("this secret was found in public, and can make no other")]
    Leaked,
    #[error("the key that asks has credits, and what it made would have them once more")]
    HasCredits,
    #[error("the key that asks may do less than that")]
    Beyond(Problems),
    #[error(
        "the owner has {} keys that can be used, and can make no more: revoke one first",
        store::MAX_KEYS_BY_SELF_SERVICE
    )]
    TooManyKeys,
    #[error("a relay serves edges alone; ask the control plane that it follows")]
    NotARelaysWork,
    #[error("the control plane cannot be reached from this relay; try again")]
    UpstreamAway,
    #[error("there is nothing at {path}")]
    NoSuchPath { path: String },
    #[error("the path {LOOKS_LIKE_A_SECRET}; paths stand in the logs of whatever is in between")]
    SecretInPath,
    #[error("{0} {LOOKS_LIKE_A_SECRET}")]
    SecretInHeader(&'static str),
    #[error("{method} is not known here")]
    MethodNotAllowed { method: Method },
    #[error("there is no {0} of that id")]
    NotFound(&'static str),
    #[error("the body is too long")]
    BodyTooLarge,
    #[error("the body could not be received")]
    BodyLost,
    #[error("the body is not JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("some fields cannot be used")]
    Invalid(Problems),
    #[error("some parameters of the query cannot be used")]
    BadQuery(Problems),
    #[error("the key is {}, and only an active one can {wanted}", state.name())]
    NotActive { state: State, wanted: &'static str },
    #[error("this is the only secret of the key that is valid; revoke the key instead")]
    LastSecret,
    #[error("it has another version than If-Match names; look at it again")]
    PreconditionFailed,
    #[error("this plan has keys that the edges know ({keys} of them): give them another one first")]
    PlanInUse { keys: u64 },
    #[error("an Idempotency-Key is one field of 16 to 255 visible ASCII characters, bare or in quotes")]
    BadIdempotencyKey,
    #[error("this Idempotency-Key came with another request; each needs its own")]
    IdempotencyKeyReused,
    #[error(
        "this request was carried out before, and its plaintext cannot be drawn again: the server's pepper or the format of \
         such keys has changed since. Rotate the key to get a new one"
    )]
    CannotRepeat,
    #[error("the bodies of other requests take all the memory that there is for them; try again")]
    TooManyBodies,
    #[error("the request is not signed by whom it should be")]
    NotSigned,
    #[error("the body is not an alert of secret scanning")]
    NotAnAlert,
    #[error("the body is to be {expected}, and content-type to say so: {}", given.as_deref().map_or_else(|| "it says nothing".to_owned(), |given| format!("it says {given}")))]
    UnsupportedMediaType { expected: &'static str, given: Option<String> },
    #[error(
        "the import stopped behind the {imported} keys that are stored ({source}); send the same file again with \
         on_conflict=skip",
        source = stopped_by(source)
    )]
    ImportStopped { imported: u64, source: store::Error },
    #[error(
        "the rest of the body did not come in time; the import stopped behind the {imported} keys that are stored: send the \
         same file again with on_conflict=skip"
    )]
    ImportTooSlow { imported: u64 },
    #[error(
        "the key has {} secrets that are still valid, and can have no more: wait for one to end, or end them with grace_s 0",
        store::MAX_VALID_SECRETS
    )]
    TooManySecrets,
    #[error(
        "edges know {most} secrets of the key, ended ones among them, and it can have no more: wait until one is forgotten, or \
         make another key"
    )]
    TooManyKnownSecrets { most: usize },
    #[error(
        "the keys of this owner have made {} secrets, and all edges keep each of them for weeks: the next one can be made in \
         {retry_after_s} s; operators can make them at any time",
        store::SHARE
    )]
    TooManyMade { retry_after_s: u64 },
    #[error("the dialect of this server has no keys of kind {kind:?} any more, so none can be made")]
    KindIsGone { kind: String },
    #[error("the body is no batch of usage: {0}")]
    BadUsage(UnreadableUsage),
    #[error("{0}; try again")]
    Busy(Busy),
    #[error("too many requests of this caller are being served; wait for their answers, then try again")]
    TooManyRequests,
    #[error("this cannot be done at the moment{}; try again", storage_cause(.0))]
    Unavailable(#[source] store::Error),
    #[error("whether this was done is not known; look before you try it again")]
    OutcomeUnknown(#[source] store::Error),
    #[error("the request could not be carried out; the log says why")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why an import has stopped, as its sender is told.
fn stopped_by(source: &store::Error) -> String {
    match source {
        store::Error::NotAuthorized => "the token was revoked or removed, or has expired".to_owned(),
        source if source.is_temporary() => format!("this cannot be done at the moment{}", storage_cause(source)),
        _ => "the log says why".to_owned(),
    }
}

/// What is said at the field of a plan.
pub(super) const NO_SUCH_PLAN: &str = "there is no such plan";

/// What the caller is told of a disk that does not do what it should; the rest is in the log.
fn storage_cause(error: &store::Error) -> &'static str {
    match error {
        store::Error::Replaced { .. } => " (a file of the control plane's database was deleted or replaced)",
        error if error.is_disk_full() => " (the control plane's disk is full)",
        store::Error::Storage(_) => " (the control plane cannot store changes)",
        _ => "",
    }
}

/// A problem document.
#[derive(Serialize, ToSchema)]
pub(super) struct Problem {
    /// Which problem it is; the same for every problem of that kind.
    #[schema(examples("urn:keyward:problem:not_found"))]
    r#type: String,
    /// That in words.
    title: &'static str,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong in this case.
    detail: String,
    /// What is wrong with the fields of the body, or with the parameters of the query.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

#[derive(Serialize, ToSchema)]
struct FieldError {
    /// Which field, such as `scopes[1]`; empty for the whole.
    field: String,
    /// What is wrong with it.
    message: String,
}

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        let invalid = |field: &str, message: &str| Self::Invalid(Problems(vec![problem(field, message)]));
        match error {
            store::Error::OtherVersion => Self::PreconditionFailed,
            store::Error::NotAuthorized => Self::NotAuthorized,
            store::Error::OtherRequest => Self::IdempotencyKeyReused,
            store::Error::NoSuchPlan => invalid("plan", NO_SUCH_PLAN),
            store::Error::EntryTooLarge(error) => invalid("", &error.to_string()),
            store::Error::TooManyOfCaller => Self::TooManyRequests,
            error @ store::Error::OutcomeUnknown(_) => Self::OutcomeUnknown(error),
            error if error.is_temporary() => Self::Unavailable(error),
            error => Self::Internal(error.into()),
        }
    }
}

impl From<Undecided> for ApiError {
    fn from(error: Undecided) -> Self {
        match error {
            Undecided::Store(error) => error.into(),
            Undecided::Busy(error) => error.into(),
        }
    }
}

impl From<RngError> for ApiError {
    fn from(error: RngError) -> Self {
        Self::Internal(error.into())
    }
}

impl From<IssueError> for ApiError {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Store(error) => error.into(),
            other => Self::Internal(other.into()),
        }
    }
}

impl From<Busy> for ApiError {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}

impl ApiError {
    /// The status, and the problem's name and title.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Unauthorized { .. } | Self::OfAnotherKind(_) | Self::NotAuthorized => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "Token required")
            }
            Self::InsufficientScope(_) => {
                (StatusCode::FORBIDDEN, "insufficient_scope", "Token of another scope required")
            }
            Self::TooManyFailures { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many_failures", "Too many bad tokens"),
            Self::NoOwner => (StatusCode::FORBIDDEN, "no_owner", "Key without an owner"),
            Self::Replaced => (StatusCode::FORBIDDEN, "replaced", "Secret replaced"),
            Self::Leaked => (StatusCode::FORBIDDEN, "leaked", "Secret found in public"),
            Self::HasCredits => (StatusCode::FORBIDDEN, "has_credits", "Key with credits"),
            Self::Beyond(_) => (StatusCode::FORBIDDEN, "beyond_the_key", "More than the key may do"),
            Self::TooManyKeys => (StatusCode::CONFLICT, "too_many_keys", "Too many keys"),
            Self::NotARelaysWork => (StatusCode::NOT_FOUND, "not_a_relays_work", "Not served by a relay"),
            Self::UpstreamAway => (StatusCode::SERVICE_UNAVAILABLE, "upstream_away", "Control plane away"),
            Self::NoSuchPath { .. } | Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found", "Not found"),
            Self::SecretInPath => (StatusCode::BAD_REQUEST, "secret_in_path", "Secret in the path"),
            Self::SecretInHeader(_) => (StatusCode::BAD_REQUEST, "secret_in_header", "Secret in a header field"),
            Self::MethodNotAllowed { .. } => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed")
            }
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Request too large"),
            Self::BodyLost => (StatusCode::BAD_REQUEST, "incomplete", "Incomplete request"),
            Self::NotJson(_) => (StatusCode::BAD_REQUEST, "not_json", "Not JSON"),
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Invalid request"),
            Self::BadQuery(_) => (StatusCode::BAD_REQUEST, "bad_query", "Invalid query"),
            Self::LastSecret => (StatusCode::CONFLICT, "last_secret", "Last valid secret"),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "precondition_failed", "Precondition failed"),
            Self::PlanInUse { .. } => (StatusCode::CONFLICT, "plan_in_use", "Plan in use"),
            Self::BadIdempotencyKey => (StatusCode::BAD_REQUEST, "bad_idempotency_key", "Invalid Idempotency-Key"),
            Self::IdempotencyKeyReused => {
                (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", "Idempotency-Key reused")
            }
            Self::CannotRepeat => (StatusCode::CONFLICT, "cannot_repeat", "Answer cannot be repeated"),
            Self::NotActive { .. } => (StatusCode::CONFLICT, "not_active", "Key not active"),
            Self::NotSigned => (StatusCode::UNAUTHORIZED, "not_signed", "Signature required"),
            Self::NotAnAlert => (StatusCode::BAD_REQUEST, "not_an_alert", "Not an alert"),
            Self::UnsupportedMediaType { .. } => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "Unsupported media type")
            }
            Self::ImportStopped { source: store::Error::NotAuthorized, .. } => {
                (StatusCode::UNAUTHORIZED, "import_stopped", "Import stopped")
            }
            Self::ImportStopped { source, .. } if source.is_temporary() => {
                (StatusCode::SERVICE_UNAVAILABLE, "import_stopped", "Import stopped")
            }
            Self::ImportStopped { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "import_stopped", "Import stopped"),
            Self::ImportTooSlow { .. } => (StatusCode::REQUEST_TIMEOUT, "import_too_slow", "Import too slow"),
            Self::TooManySecrets => (StatusCode::CONFLICT, "too_many_secrets", "Too many secrets"),
            Self::TooManyKnownSecrets { .. } => {
                (StatusCode::CONFLICT, "too_many_known_secrets", "Too many secrets known to edges")
            }
            Self::TooManyMade { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many_made", "Too many secrets made"),
            Self::KindIsGone { .. } => (StatusCode::CONFLICT, "kind_is_gone", "Kind not in the dialect"),
            Self::BadUsage(_) => (StatusCode::BAD_REQUEST, "bad_usage", "Invalid batch of usage"),
            Self::Busy(_) | Self::TooManyBodies => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Busy"),
            Self::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable"),
            Self::OutcomeUnknown(_) => (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", "Outcome unknown"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }

    fn field_errors(&self) -> Vec<FieldError> {
        match self {
            Self::Invalid(problems) | Self::BadQuery(problems) | Self::Beyond(problems) => problems
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
        use store::Error::{Behind, NoSnapshot, Stale};
        if let Self::Unavailable(error @ (NoSnapshot | Behind | Stale)) = &self {
            // Why that is so is logged once, where the feed is followed; here every edge would tell it again and again.
            tracing::debug!(%error, "no page of the feed can be served at the moment");
        } else if let Self::Unavailable(error) | Self::OutcomeUnknown(error) = &self {
            tracing::warn!(%error, "a request could not be carried out at the moment");
        }
        if let Self::ImportStopped { imported, source } = &self {
            tracing::error!(%source, imported, "an import has stopped");
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
            Self::Unauthorized { .. }
            | Self::OfAnotherKind(_)
            | Self::NotAuthorized
            | Self::ImportStopped { source: store::Error::NotAuthorized, .. } => {
                // RFC 6750, section 3.1: no error code where no credential was sent.
                let challenge = if !matches!(self, Self::Unauthorized { shown: false }) {
                    "Bearer realm=\"keyward\", error=\"invalid_token\""
                } else {
                    "Bearer realm=\"keyward\""
                };
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            Self::InsufficientScope(scope) => {
                let challenge =
                    format!("Bearer realm=\"keyward\", error=\"insufficient_scope\", scope=\"{}\"", scope.name());
                if let Ok(challenge) = HeaderValue::try_from(challenge) {
                    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
                }
            }
            Self::TooManyFailures { retry_after_s } | Self::TooManyMade { retry_after_s } => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after_s));
            }
            // RFC 9110, section 15.5.2: a challenge there has to be, though it helps nobody who cannot sign.
            Self::NotSigned => {
                let challenge = HeaderValue::from_static("Github-Public-Key-Signature");
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            Self::Unavailable(_)
            | Self::TooManyRequests
            | Self::OutcomeUnknown(_)
            | Self::Busy(_)
            | Self::TooManyBodies
            | Self::UpstreamAway => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::ImportStopped { .. } if status == StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        if let Self::Unavailable(store::Error::Stale) = self {
            // Whoever balances connections between servers has no other chance to lead the edge elsewhere.
            response.extensions_mut().insert(LastAnswer);
        }
        response
    }
}

/// A mistake in that field or parameter.
pub(super) fn problem(field: &str, message: &str) -> document::Problem {
    document::Problem { path: field.to_owned(), message: message.to_owned() }
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
