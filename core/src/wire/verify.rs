//! How an edge asks whether a credential is right of which only a password hash is stored: the control plane alone can
//! tell, and takes its time over it.
//!
//! The credential is the body of a POST to [`VERIFY_PATH`] and stands nowhere else, so that no URL, header dump or access
//! log shows it. The answer to a question that could be decided is 200 and JSON; 503 with `retry-after` says that too
//! many are being decided.

use serde_json::{Value, json};

/// The path on the control plane, relative to its root.
pub const VERIFY_PATH: &str = "/v1/edge/verify";

/// The media type of the request's body: the credential, byte by byte as the client sent it.
pub const VERIFY_REQUEST_TYPE: &str = "application/octet-stream";

/// The media type of the answer.
pub const VERIFY_ANSWER_TYPE: &str = "application/json";

/// The longest answer that an edge reads, in bytes.
pub const MAX_VERIFY_ANSWER_BYTES: usize = 4096;

/// What the control plane says of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is this secret.
    Right {
        /// The public id of the secret.
        secret_id: String,
    },
    /// It is no secret.
    Wrong,
}

/// The answer is none that can be understood; it says nothing of the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unreadable response to a verification")]
pub struct UnreadableAnswer;

impl Answer {
    /// The body: `{"verified": true, "secret_id": "sec_…"}` or `{"verified": false}`.
    pub fn encode(&self) -> String {
        match self {
            Self::Right { secret_id } => json!({"verified": true, "secret_id": secret_id}),
            Self::Wrong => json!({"verified": false}),
        }
        .to_string()
    }

    /// Reads a body; fields that are not known are left alone.
    ///
    /// # Errors
    /// If it does not say whether the credential is right, or that it is and not what it is.
    pub fn decode(body: &[u8]) -> Result<Self, UnreadableAnswer> {
        let answer: Value = serde_json::from_slice(body).map_err(|_| UnreadableAnswer)?;
        match (answer.get("verified").and_then(Value::as_bool), answer.get("secret_id").and_then(Value::as_str)) {
            (Some(false), _) => Ok(Self::Wrong),
            (Some(true), Some(secret_id)) if !secret_id.is_empty() => {
                Ok(Self::Right { secret_id: secret_id.to_owned() })
            }
            _ => Err(UnreadableAnswer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic_or_say_yes_by_chance(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let answer = Answer::decode(&bytes);
            prop_assert!(matches!(answer, Err(UnreadableAnswer) | Ok(Answer::Wrong)));
        }
    }

    #[test]
    fn an_answer_survives_the_wire() {
        for answer in [Answer::Right { secret_id: "sec_1".into() }, Answer::Wrong] {
            assert_eq!(Answer::decode(answer.encode().as_bytes()), Ok(answer));
        }
        assert_eq!(Answer::Wrong.encode(), r#"{"verified":false}"#);
        let newer = br#"{"verified": true, "secret_id": "sec_1", "more": 1}"#;
        assert_eq!(Answer::decode(newer), Ok(Answer::Right { secret_id: "sec_1".into() }));
    }

    #[test]
    fn what_does_not_say_which_secret_it_is_is_no_yes() {
        for body in [
            "",
            "null",
            "true",
            "[]",
            "{}",
            r#"{"verified": "true", "secret_id": "s"}"#,
            r#"{"verified": true}"#,
            r#"{"verified": true, "secret_id": ""}"#,
            r#"{"verified": true, "secret_id": 1}"#,
            r#"{"secret_id": "s"}"#,
        ] {
            assert_eq!(Answer::decode(body.as_bytes()), Err(UnreadableAnswer), "{body}");
        }
    }
}
