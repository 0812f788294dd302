//! Verification of keys that are stored as password hashes, for edges.
//!
//! No hash is computed for a credential that cannot be right, so made-up keys cost a look-up at most.

use super::app::App;
use super::extract::Body;
use super::openapi::{Refused, schema};
use super::problem::ApiError;
use crate::auth::password;
use crate::clock::Timestamp;
use crate::model::{Actor, is_active};
use crate::store::Authorization;
use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use keyward_core::key::digest::Digest;
use keyward_core::wire::verify::{Answer, VERIFY_ANSWER_TYPE, VERIFY_PATH, VERIFY_REQUEST_TYPE};
use serde_json::{Value, json};
use zeroize::{Zeroize, Zeroizing};

schema!(Credential, "The credential as the client sent it", json!({"type": "string", "format": "binary"}));
schema!(AnswerSchema, "The id of the secret, if the credential is right", answer_schema());

fn answer_schema() -> Value {
    let properties = json!({"verified": {"type": "boolean"}, "secret_id": {"type": "string"}});
    json!({"type": "object", "properties": properties, "required": ["verified"]})
}

/// Verify a key that is stored as a password hash
#[utoipa::path(
    post,
    path = VERIFY_PATH,
    operation_id = "verifyKey",
    tag = "edges",
    request_body(content = inline(Credential), content_type = VERIFY_REQUEST_TYPE),
    responses((status = OK, description = "The id of the secret, if the credential is right", body = inline(AnswerSchema), content_type = VERIFY_ANSWER_TYPE), Refused<400>, Refused<413>)
)]
pub(super) async fn verify(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    Body(body): Body,
) -> Result<impl IntoResponse, ApiError> {
    let credential = wiped(body);
    // The token may have expired while the body arrived.
    let permit = app.store.edge_lookup_permit(by.actor()).await?;
    app.store.check_authorization(&by).await?;
    drop(permit);
    let answer = answer(&app, by.actor(), &credential, (app.clock)()).await?;
    Ok(([(CONTENT_TYPE, VERIFY_ANSWER_TYPE), (CACHE_CONTROL, "no-store")], answer.encode()))
}

async fn answer(app: &App, edge: &Actor, credential: &[u8], now: Timestamp) -> Result<Answer, ApiError> {
    let format = app.dialect.format_of(credential);
    let Some(selector) = format.and_then(|format| format.selector_of(credential)) else { return Ok(Answer::Wrong) };
    let permit = app.store.edge_lookup_permit(edge).await?;
    let found = app.store.secret_at(&permit, &Digest::of_selector(selector)).await?;
    // Not held while a password hash is computed.
    drop(permit);
    let Some((key, secret)) = found else { return Ok(Answer::Wrong) };
    let is_usable = is_active(&key, &secret, now);
    let Some(hash) = secret.hash.filter(|_| is_usable) else { return Ok(Answer::Wrong) };
    if let Err(error) = password::check(&hash) {
        tracing::error!(key = key.id, secret = secret.id, %error, "unusable password hash stored");
        return Ok(Answer::Wrong);
    }
    if app.verifier.check(&edge.to_string(), credential, &hash).await? {
        Ok(Answer::Right { secret_id: secret.id })
    } else {
        Ok(Answer::Wrong)
    }
}

/// A copy that is overwritten when dropped. The body is overwritten at once, unless the connection still refers to it.
pub(super) fn wiped(body: Bytes) -> Zeroizing<Vec<u8>> {
    let credential = Zeroizing::new(body.to_vec());
    if let Ok(mut body) = body.try_into_mut() {
        body.as_mut().zeroize();
    }
    credential
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::issue::issue;
    use crate::model::{Key, PasswordHash, Secret};
    use crate::random;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    /// Stores a key, changed, and returns its plaintext.
    async fn stored(app: &App, id: &str, change: impl FnOnce(&mut Key)) -> String {
        let format = &app.dialect.formats[0];
        let (plaintext, secret) = issue(&app.store, &app.verifier, format, NOW, random::fill).await.unwrap();
        let mut key = Key::new(id.to_owned(), "n".into(), format.kind.clone(), NOW);
        key.secrets = vec![secret];
        change(&mut key);
        app.store.create_key(Actor::server(), key).await.unwrap();
        plaintext.expose().to_owned()
    }

    async fn ask(app: &App, credential: &str) -> Answer {
        answer(app, &Actor::token_file(), credential.as_bytes(), NOW).await.unwrap()
    }

    #[tokio::test]
    async fn only_the_whole_key_is_right_and_another_end_of_it_is_computed_and_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let app = App::example(dir.path(), "auxot").await;
        let key = stored(&app, "key_1", |_| {}).await;
        let secret_id = app.store.key("key_1").await.unwrap().unwrap().secrets[0].id.clone();
        assert_eq!(ask(&app, &key).await, Answer::Right { secret_id });
        let last = if key.ends_with('a') { "b" } else { "a" };
        assert_eq!(ask(&app, &format!("{}{last}", &key[..key.len() - 1])).await, Answer::Wrong);
        assert_eq!(app.verifier.computed(), 2);
    }

    #[tokio::test]
    async fn nothing_is_computed_for_what_cannot_be_right() {
        let dir = tempfile::tempdir().unwrap();
        let app = App::example(dir.path(), "auxot").await;
        let revoked = stored(&app, "key_1", |key| key.revoked_at = Some(NOW)).await;
        let expired = stored(&app, "key_2", |key| key.expires_at = Some(NOW)).await;
        let ended = stored(&app, "key_3", |key| key.secrets[0].not_after = Some(NOW)).await;
        let unhashed = stored(&app, "key_4", |key| key.secrets[0].hash = None).await;
        let unusable = PasswordHash::new("$argon2id$".to_owned());
        let unusable = stored(&app, "key_5", |key| key.secrets[0].hash = Some(unusable)).await;
        let unknown = app.dialect.formats[0].issue(random::fill).unwrap();
        let team = revoked.replacen("user.", "team.", 1);
        for credential in
            [&revoked, &expired, &ended, &unhashed, &unusable, unknown.expose(), &team, &revoked[..40], "", "user."]
        {
            assert_eq!(ask(&app, credential).await, Answer::Wrong, "{credential}");
        }
        assert_eq!(answer(&app, &Actor::token_file(), b"\xff\0user", NOW).await.unwrap(), Answer::Wrong);
        assert_eq!(app.verifier.computed(), 0);
    }

    #[tokio::test]
    async fn a_key_that_came_with_a_bcrypt_hash_is_right_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let app = App::example(dir.path(), "auxot").await;
        let plaintext = app.dialect.formats[0].issue(random::fill).unwrap();
        let (selector, _) = plaintext.expose().split_at("user.".len() + 16);
        let hash = bcrypt::hash_with_salt(plaintext.expose(), 4, [7; 16]).unwrap().to_string();
        stored(&app, "key_1", |key| {
            let secret = Secret::new("sec_1".into(), Digest::of_selector(selector.as_bytes()), String::new(), NOW);
            key.secrets = vec![Secret { hash: Some(PasswordHash::new(hash)), ..secret }];
        })
        .await;
        assert_eq!(ask(&app, plaintext.expose()).await, Answer::Right { secret_id: "sec_1".into() });
    }
}
