//! Shared constants and assertions.

use hmac::{Hmac, Mac as _};
use keyward_harness::Response;
use sha2::Sha256;
use std::time::Duration;

/// The deadline for a change at the control plane to reach every worker. Normally milliseconds; longer on a machine
/// that is compiling meanwhile.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Asserts that a response is the default dialect's refusal for this verdict.
#[track_caller]
pub(crate) fn assert_refused(answer: &Response, status: u16, verdict: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type").as_deref(), Some("application/problem+json"), "{answer:?}");
    let body = answer.json();
    assert_eq!(body["code"], verdict, "{body}");
    assert_eq!(body["status"], status, "{body}");
    assert!(body["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{body}");
    let challenge = answer.header("www-authenticate");
    assert_eq!(challenge.is_some(), status == 401, "{challenge:?}");
    assert_eq!(answer.header("retry-after").is_some(), status == 503, "{answer:?}");
}

/// HMAC-SHA-256 (RFC 2104).
pub(crate) fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(message).finalize().into_bytes().to_vec()
}
