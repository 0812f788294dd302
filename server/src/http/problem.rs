//! Errors of requests, rendered as problem details (RFC 9457).
//!
//! Clients get a stable type and what they can act on; causes that they cannot act on are logged.

use crate::auth::hash_pool::Busy;
use crate::auth::key_auth::Undecided;
use crate::keys::issue::IssueError;
use crate::model::{Role, State};
use crate::net::connections::CloseConnection;
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

/// Why a request is refused or fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{}", if *shown { "invalid token: unknown, revoked or expired" } else { "expected Authorization: Bearer <token>, got none" })]
    Unauthorized { shown: bool },
    #[error("expected {expected}, got {found}")]
    WrongCredential { expected: &'static str, found: &'static str },
    #[error("the credential was revoked or removed, or expired, while the request was being sent; nothing was changed")]
    NotAuthorized,
    #[error("the token has the role {}; expected a token of role {}", role.name(), required.name())]
    InsufficientRole { role: Role, required: Role },
    #[error("too many failed authentications from this address, this one included; retry after {retry_after_s} s")]
    TooManyFailures { retry_after_s: u64 },
    #[error("self-service requires a key with an owner")]
    NoOwner,
    #[error("the secret was replaced by a rotation and cannot issue secrets; use the new one")]
    SecretReplaced,
    #[error("the secret was reported as leaked and cannot issue secrets; ask an operator to rotate the key")]
    SecretLeaked,
    #[error("the calling key has credits, which a new key would duplicate; ask an operator to create the key")]
    CreditsNotInheritable,
    #[error("an operator paused the key; ask an operator to resume it")]
    PausedByOperator,
    #[error("the requested key exceeds the permissions of the calling key; see errors")]
    ExceedsCallerPermissions(Problems),
    #[error(
        "the owner has {} active keys, the maximum for self-service; revoke one first",
        store::MAX_KEYS_BY_SELF_SERVICE
    )]
    TooManyKeys,
    #[error("a relay serves edges only; send the request to the control plane")]
    NotAvailableOnRelay,
    #[error("the relay cannot reach its upstream; retry")]
    UpstreamUnavailable,
    #[error("path {path} not found")]
    NoSuchPath { path: String },
    #[error("the path {LOOKS_LIKE_A_SECRET}; proxies log paths")]
    SecretInPath,
    #[error("{0} {LOOKS_LIKE_A_SECRET}")]
    SecretInHeader(&'static str),
    #[error("method {method} not allowed for this path")]
    MethodNotAllowed { method: Method },
    #[error("{0} not found")]
    NotFound(&'static str),
    #[error("the request body is too large")]
    BodyTooLarge,
    #[error("the request body was not received in full")]
    BodyIncomplete,
    #[error("expected a JSON body: {0}")]
    NotJson(serde_json::Error),
    #[error("some fields are invalid; see errors")]
    Invalid(Problems),
    #[error("some query parameters are invalid; see errors")]
    InvalidQuery(Problems),
    #[error("the key is {}; only a key that is neither revoked nor expired can {operation}", state.name())]
    NotActive { state: State, operation: &'static str },
    #[error("this is the last valid secret of the key; revoke the key instead")]
    LastSecret,
    #[error("ETag mismatch: the resource has changed; fetch it and retry")]
    PreconditionFailed,
    #[error("the plan is in use: edges know {keys} of its keys; move these to another plan first")]
    PlanInUse { keys: u64 },
    #[error("expected one Idempotency-Key of 16 to 255 visible ASCII characters, bare or in quotes")]
    InvalidIdempotencyKey,
    #[error("this Idempotency-Key was used for another request; send a new one")]
    IdempotencyKeyReused,
    #[error(
        "this request was carried out before, and its plaintext cannot be derived again: the server's pepper or the key \
         format has changed since; rotate the key to get a new plaintext"
    )]
    CannotRepeat,
    #[error("the memory for request bodies is used up; retry")]
    BodyBudgetExhausted,
    #[error("invalid signature")]
    InvalidSignature,
    #[error("expected a secret scanning alert, a JSON array of matches")]
    InvalidAlert,
    #[error("expected content-type {expected}, got {}", given.as_deref().unwrap_or("none"))]
    UnsupportedMediaType { expected: &'static str, given: Option<String> },
    #[error(
        "the import stopped ({source}); stored keys: {imported}; send the same file again with on_conflict=skip",
        source = stopped_by(source)
    )]
    ImportStopped { imported: u64, source: store::Error },
    #[error(
        "the rest of the body did not arrive in time; stored keys: {imported}; send the same file again with \
         on_conflict=skip"
    )]
    ImportTooSlow { imported: u64 },
    #[error(
        "the key has {} valid secrets, the maximum; wait until a grace period is over, or rotate with grace_s 0",
        store::MAX_VALID_SECRETS
    )]
    TooManySecrets,
    #[error(
        "edges know {most} secrets of the key, the maximum, rotated-out ones included; wait until one is purged, or create \
         another key"
    )]
    TooManyKnownSecrets { most: usize },
    #[error(
        "the owner has issued {} secrets by self-service, its quota; retry after {retry_after_s} s, or ask an operator",
        store::ISSUANCE_QUOTA
    )]
    IssuanceLimitReached { retry_after_s: u64 },
    #[error("unknown kind {kind:?}: not in the dialect of this server")]
    UnknownKind { kind: String },
    #[error("invalid usage batch: {0}")]
    InvalidUsage(UnreadableUsage),
    #[error("{0}; retry")]
    Busy(Busy),
    #[error("too many concurrent requests of this caller; wait for their responses, then retry")]
    TooManyRequests,
    #[error("temporarily unavailable{}; retry", storage_cause(.0))]
    Unavailable(#[source] store::Error),
    #[error("outcome unknown; check the current state before retrying")]
    OutcomeUnknown(#[source] store::Error),
    #[error("internal error; the server's log has the cause")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why an import stopped, for its sender.
fn stopped_by(source: &store::Error) -> String {
    match source {
        store::Error::NotAuthorized => "the token was revoked or removed, or expired".to_owned(),
        source if source.is_temporary() => format!("temporarily unavailable{}", storage_cause(source)),
        _ => "the server's log has the cause".to_owned(),
    }
}

/// The message for a `plan` that does not exist.
pub(super) const PLAN_NOT_FOUND: &str = "plan not found";

/// The failure of the storage in words that reveal no path; the log has the rest.
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
    /// The problem type, a stable identifier.
    #[schema(examples("urn:keyward:problem:not_found"))]
    r#type: String,
    /// The problem type in words.
    title: &'static str,
    /// The status of the response.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What went wrong in this request, and what to do next.
    detail: String,
    /// Every invalid field of the body or parameter of the query.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

#[derive(Serialize, ToSchema)]
struct FieldError {
    /// The field, such as `scopes[1]`; empty for the whole body or query.
    field: String,
    /// What was expected of the field.
    message: String,
}

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        let invalid = |field: &str, message: &str| Self::Invalid(Problems(vec![problem(field, message)]));
        match error {
            store::Error::OtherVersion => Self::PreconditionFailed,
            store::Error::NotAuthorized => Self::NotAuthorized,
            store::Error::OtherRequest => Self::IdempotencyKeyReused,
            store::Error::NoSuchPlan => invalid("plan", PLAN_NOT_FOUND),
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
    /// The status, and the problem type's name and title.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Unauthorized { .. } | Self::WrongCredential { .. } | Self::NotAuthorized => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "Valid token required")
            }
            Self::InsufficientRole { .. } => (StatusCode::FORBIDDEN, "insufficient_role", "Insufficient role"),
            Self::TooManyFailures { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "too_many_failures", "Too many failed authentications")
            }
            Self::NoOwner => (StatusCode::FORBIDDEN, "no_owner", "Key without an owner"),
            Self::SecretReplaced => (StatusCode::FORBIDDEN, "secret_replaced", "Secret replaced"),
            Self::SecretLeaked => (StatusCode::FORBIDDEN, "secret_leaked", "Secret leaked"),
            Self::CreditsNotInheritable => {
                (StatusCode::FORBIDDEN, "credits_not_inheritable", "Credits not inheritable")
            }
            Self::ExceedsCallerPermissions(_) => {
                (StatusCode::FORBIDDEN, "exceeds_caller_permissions", "Caller permissions exceeded")
            }
            Self::PausedByOperator => (StatusCode::FORBIDDEN, "paused_by_operator", "Paused by an operator"),
            Self::TooManyKeys => (StatusCode::CONFLICT, "too_many_keys", "Too many keys"),
            Self::NotAvailableOnRelay => (StatusCode::NOT_FOUND, "not_available_on_relay", "Not available on a relay"),
            Self::UpstreamUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "upstream_unavailable", "Upstream unavailable")
            }
            Self::NoSuchPath { .. } | Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found", "Not found"),
            Self::SecretInPath => (StatusCode::BAD_REQUEST, "secret_in_path", "Secret in the path"),
            Self::SecretInHeader(_) => (StatusCode::BAD_REQUEST, "secret_in_header", "Secret in a header field"),
            Self::MethodNotAllowed { .. } => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed")
            }
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Request too large"),
            Self::BodyIncomplete => (StatusCode::BAD_REQUEST, "incomplete", "Incomplete request"),
            Self::NotJson(_) => (StatusCode::BAD_REQUEST, "not_json", "Body not JSON"),
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Invalid request"),
            Self::InvalidQuery(_) => (StatusCode::BAD_REQUEST, "invalid_query", "Invalid query"),
            Self::LastSecret => (StatusCode::CONFLICT, "last_secret", "Last valid secret"),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "precondition_failed", "Precondition failed"),
            Self::PlanInUse { .. } => (StatusCode::CONFLICT, "plan_in_use", "Plan in use"),
            Self::InvalidIdempotencyKey => {
                (StatusCode::BAD_REQUEST, "invalid_idempotency_key", "Invalid Idempotency-Key")
            }
            Self::IdempotencyKeyReused => {
                (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", "Idempotency-Key reused")
            }
            Self::CannotRepeat => (StatusCode::CONFLICT, "cannot_repeat", "Response cannot be repeated"),
            Self::NotActive { .. } => (StatusCode::CONFLICT, "not_active", "Key not active"),
            Self::InvalidSignature => (StatusCode::UNAUTHORIZED, "invalid_signature", "Invalid signature"),
            Self::InvalidAlert => (StatusCode::BAD_REQUEST, "invalid_alert", "Invalid alert"),
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
            Self::IssuanceLimitReached { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "issuance_limit_reached", "Issuance limit reached")
            }
            Self::UnknownKind { .. } => (StatusCode::CONFLICT, "unknown_kind", "Unknown kind"),
            Self::InvalidUsage(_) => (StatusCode::BAD_REQUEST, "invalid_usage", "Invalid usage batch"),
            Self::Busy(_) | Self::BodyBudgetExhausted => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Busy"),
            Self::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable"),
            Self::OutcomeUnknown(_) => (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", "Outcome unknown"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }

    fn field_errors(&self) -> Vec<FieldError> {
        match self {
            Self::Invalid(problems) | Self::InvalidQuery(problems) | Self::ExceedsCallerPermissions(problems) => {
                problems
                    .0
                    .iter()
                    .map(|problem| FieldError { field: problem.path.clone(), message: problem.message.clone() })
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        use store::Error::{Behind, NoSnapshot, Stale};
        if let Self::Unavailable(error @ (NoSnapshot | Behind | Stale)) = &self {
            // The cause is logged once, where the feed is followed; every edge would repeat it here.
            tracing::debug!(%error, "feed page unavailable");
        } else if let Self::Unavailable(error) | Self::OutcomeUnknown(error) = &self {
            tracing::warn!(%error, "request failed; client may retry");
        }
        if let Self::ImportStopped { imported, source } = &self {
            tracing::error!(error = %source, imported, "import stopped");
        }
        if let Self::Internal(error) = &self {
            tracing::error!(%error, "request failed");
        }
        let (status, name, title) = self.kind();
        let problem = Problem {
            r#type: format!("urn:keyward:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: self.to_string(),
            errors: self.field_errors(),
        };
        // Every key of a problem is a string, so serialization cannot fail.
        let body = serde_json::to_string(&problem).unwrap_or_default();
        let mut response = (status, [(CONTENT_TYPE, "application/problem+json")], body).into_response();
        match self {
            Self::Unauthorized { .. }
            | Self::WrongCredential { .. }
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
            // RFC 6750, section 3.1.
            Self::InsufficientRole { required, .. } => {
                let challenge =
                    format!("Bearer realm=\"keyward\", error=\"insufficient_scope\", scope=\"{}\"", required.name());
                if let Ok(challenge) = HeaderValue::try_from(challenge) {
                    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
                }
            }
            Self::TooManyFailures { retry_after_s } | Self::IssuanceLimitReached { retry_after_s } => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after_s));
            }
            // A 401 needs a challenge (RFC 9110, section 15.5.2).
            Self::InvalidSignature => {
                let challenge = HeaderValue::from_static("Github-Public-Key-Signature");
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            Self::Unavailable(_)
            | Self::TooManyRequests
            | Self::OutcomeUnknown(_)
            | Self::Busy(_)
            | Self::BodyBudgetExhausted
            | Self::UpstreamUnavailable => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::ImportStopped { .. } if status == StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        if let Self::Unavailable(store::Error::Stale) = self {
            // A load balancer of connections can choose another server only for a new one.
            response.extensions_mut().insert(CloseConnection);
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
    fn temporary_errors_carry_retry_after() {
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
