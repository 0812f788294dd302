//! Idempotent requests: a request that issues a secret can be repeated when its response was lost
//! (draft-ietf-httpapi-idempotency-key-header).

use super::app::App;
use super::problem::ApiError;
use crate::clock::Timestamp;
use crate::keys::replay_seed::{ReplaySeed, Stream};
use crate::model::Actor;
use crate::model::schema::text;
use crate::random;
use crate::store::{Authorization, Before, Once};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use keyward_core::key::secret::Secret;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The Idempotency-Key of the request, if any. With the pepper and the database it yields a plaintext, so it is a secret.
pub(super) struct IdempotencyKey(pub(super) Option<Secret>);

/// A request that can be repeated.
pub(super) struct Repeatable {
    pub(super) once: Once,
    idempotency_key: Secret,
    pepper: Arc<ReplaySeed>,
}

const MIN_LENGTH: usize = 16;
const MAX_LENGTH: usize = 255;

impl FromRequestParts<App> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let mut fields = parts.headers.get_all("idempotency-key").iter();
        match (fields.next(), fields.next()) {
            (None, _) => Ok(Self(None)),
            (Some(field), None) => {
                let key = read(field.as_bytes()).ok_or(ApiError::InvalidIdempotencyKey)?;
                if app.secrets.is_in(key.as_bytes()) {
                    return Err(ApiError::SecretInHeader("Idempotency-Key"));
                }
                Ok(Self(Some(Secret::new(key))))
            }
            _ => Err(ApiError::InvalidIdempotencyKey),
        }
    }
}

impl IdempotencyKey {
    /// The accepted header, as JSON Schema.
    pub(super) fn schema() -> Value {
        let length = format!("{{{MIN_LENGTH},{MAX_LENGTH}}}");
        text(&format!(r#"([!#-+.-:<-\[\]-~-]{length}|"([!#-\[\]-~]|\\["\\]){length}")"#))
    }
}

/// The value of a string (RFC 9651, section 3.3.3), or the field as it is.
fn read(field: &[u8]) -> Option<String> {
    let field = std::str::from_utf8(field).ok()?.trim_ascii();
    let key = match field.strip_prefix('"') {
        Some(rest) => unescaped(rest.strip_suffix('"')?)?,
        None if field.contains(['"', '\\', ',', ';']) => return None,
        None => field.to_owned(),
    };
    let length = (MIN_LENGTH..=MAX_LENGTH).contains(&key.len());
    (length && key.bytes().all(|c| c.is_ascii_graphic())).then_some(key)
}

fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            '"' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

impl Repeatable {
    /// A request of that actor for `operation`, a method and path, with that document.
    pub(super) fn new(
        app: &App,
        idempotency_key: Secret,
        actor: &Actor,
        operation: &str,
        document: &Value,
    ) -> Result<Self, ApiError> {
        let mut salt = [0; 32];
        random::fill(&mut salt)?;
        let mut canonical = document.clone();
        canonical.sort_all_objects();
        let once = Once {
            digest: digest(&[&actor.to_string(), idempotency_key.expose()]),
            fingerprint: digest(&[operation, &canonical.to_string()]),
            salt,
        };
        Ok(Self { once, idempotency_key, pepper: Arc::clone(&app.pepper) })
    }

    /// The random bytes from which the plaintext is derived.
    pub(super) fn stream(&self, salt: &[u8; 32]) -> Stream {
        self.pepper.stream(&self.idempotency_key, salt)
    }

    /// What the request issued when it was first sent, if it was.
    pub(super) async fn before(
        &self,
        app: &App,
        by: &Authorization,
        now: Timestamp,
    ) -> Result<Option<Before>, ApiError> {
        Ok(app.store.made_before(by, &self.once, now).await?)
    }
}

/// SHA-256 of the parts. Only the last can contain a NUL.
fn digest(parts: &[&str]) -> [u8; 32] {
    Sha256::digest(parts.join("\0")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex::Regex;
    use std::sync::LazyLock;

    static DESCRIBED: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(IdempotencyKey::schema()["pattern"].as_str().unwrap()).unwrap());

    proptest! {
        #[test]
        fn what_is_almost_a_key_is_described_as_it_is_read(
            bare in "[ -~]{14,18}",
            quoted in "\"([ !#-~]|\\\\[ -~]){14,18}\"",
            long in "[a-z]{254,257}",
        ) {
            for field in [bare, quoted, long] {
                // Spaces around it are no part of the field.
                let field = field.trim();
                prop_assert_eq!(DESCRIBED.is_match(field), read(field.as_bytes()).is_some(), "{:?}", field);
            }
        }
    }

    #[test]
    fn a_key_is_a_string_or_stands_bare() {
        let bare = "8e03978e-40d5-43dd-bc93-6894a57f9324";
        assert_eq!(read(bare.as_bytes()).as_deref(), Some(bare));
        assert_eq!(read(format!(" \"{bare}\" ").as_bytes()).as_deref(), Some(bare));
        assert_eq!(read(br#""0123456789abc\"\\,;""#).as_deref(), Some(r#"0123456789abc"\,;"#));
        assert!(read(&[b'k'; 16]).is_some() && read(&[b'k'; 255]).is_some());
    }

    #[test]
    fn what_is_too_short_too_long_or_not_visible_ascii_is_refused() {
        let long = "k".repeat(256);
        for bad in [
            "",
            "\"\"",
            "kkkkkkkkkkkkkkk",
            &long,
            "\"0123456789abcdef",
            "0123456789abcdef\"",
            "\"0123456789abcdef\";a=1",
            "0123456789abcdef, 0123456789abcdef",
            "0123456789 abcdef",
            "\"0123456789 abcdef\"",
            "\"0123456789\\abcdef\"",
            "\"0123456789\"abcdef\"",
            "0123456789abcdefé",
        ] {
            assert_eq!(read(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(read(&[0xff; 20]), None);
    }
}
