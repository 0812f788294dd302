//! The forms to revoke a key, to pause and resume it, and to invalidate one of its secrets.

use super::Mistakes;
use super::key::key;
use crate::clock::Timestamp;
use crate::console::api::{ApiRequest, Failure, escape, query};
use crate::console::commands::{Cli, Commands};
use crate::console::form::SignedForm;
use crate::console::page::{self, Shell};
use crate::console::session::{Session, see_other};
use crate::console::view::{KeyView, SecretView, UsageOfKey, thousands};
use askama::Template;
use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use std::time::Duration;

#[derive(Template)]
#[template(path = "revoke.html")]
struct RevokePage {
    shell: Shell,
    key: KeyView,
    /// The requests of this hour and the last one.
    requests: u64,
    mistakes: Mistakes,
    commands: Commands,
}

#[derive(Template)]
#[template(path = "end-secret.html")]
struct EndSecretPage {
    shell: Shell,
    key: KeyView,
    secret: SecretView,
    mistakes: Mistakes,
    commands: Commands,
}

pub(in crate::console) async fn form(session: Session, Path(id): Path<String>) -> Result<Response, Failure> {
    let page = page(&session, &id, Mistakes::default()).await?;
    Ok(page::render(StatusCode::OK, &page))
}

async fn page(session: &Session, id: &str, mistakes: Mistakes) -> Result<RevokePage, Failure> {
    let (key, _) = key(session, id).await?;
    let from = hour_before(session.now()).to_string();
    let path = format!("/v1/keys/{}/usage{}", escape(id), query([("from", from.as_str())]));
    let usage: UsageOfKey = session.api().read(&path).await?;
    let commands = Commands::new(Cli::new("keys revoke").argument(id), &request(id));
    Ok(RevokePage { shell: session.shell("keys"), key, requests: usage.usage.allowed(), mistakes, commands })
}

fn hour_before(now: Timestamp) -> Timestamp {
    now.minus(Duration::from_secs(3600))
}

fn request(id: &str) -> ApiRequest {
    ApiRequest::new(Method::DELETE, format!("/v1/keys/{}", escape(id)))
}

/// Revokes the key, if its name was typed.
pub(in crate::console) async fn revoke(
    Path(id): Path<String>,
    SignedForm { session, fields }: SignedForm,
) -> Result<Response, Failure> {
    let (key, _) = key(&session, &id).await?;
    let failure = if fields.get("confirmation") == key.name.trim() {
        match session.api().call(request(&id)).await {
            Ok(_) => return Ok(see_other(&format!("/console/keys/{}?done=revoked", escape(&id)))),
            Err(failure) => failure,
        }
    } else {
        Failure::invalid("confirmation", "expected the name of the key")
    };
    let page = page(&session, &id, Mistakes::of(failure)?).await?;
    Ok(page::render(StatusCode::UNPROCESSABLE_ENTITY, &page))
}

/// Pauses the key.
pub(in crate::console) async fn pause(
    Path(id): Path<String>,
    SignedForm { session, .. }: SignedForm,
) -> Result<Response, Failure> {
    let request = ApiRequest::new(Method::POST, format!("/v1/keys/{}/pause", escape(&id)));
    session.api().call(request).await?;
    Ok(see_other(&format!("/console/keys/{}?done=paused", escape(&id))))
}

/// Resumes the key.
pub(in crate::console) async fn resume(
    Path(id): Path<String>,
    SignedForm { session, .. }: SignedForm,
) -> Result<Response, Failure> {
    let request = ApiRequest::new(Method::POST, format!("/v1/keys/{}/resume", escape(&id)));
    session.api().call(request).await?;
    Ok(see_other(&format!("/console/keys/{}?done=resumed", escape(&id))))
}

pub(in crate::console) async fn secret_form(
    session: Session,
    Path((id, secret)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let page = secret_page(&session, &id, &secret, Mistakes::default()).await?;
    Ok(page::render(StatusCode::OK, &page))
}

async fn secret_page(session: &Session, id: &str, secret: &str, mistakes: Mistakes) -> Result<EndSecretPage, Failure> {
    let (key, _) = key(session, id).await?;
    let secret = key.secrets.iter().find(|found| found.id == secret).cloned().ok_or_else(Failure::not_found)?;
    let cli = Cli::new("keys end-secret").argument(id).argument(&secret.id);
    let commands = Commands::new(cli, &secret_request(id, &secret.id));
    Ok(EndSecretPage { shell: session.shell("keys"), key, secret, mistakes, commands })
}

fn secret_request(id: &str, secret: &str) -> ApiRequest {
    ApiRequest::new(Method::DELETE, format!("/v1/keys/{}/secrets/{}", escape(id), escape(secret)))
}

/// Invalidates the secret.
pub(in crate::console) async fn end_secret(
    Path((id, secret)): Path<(String, String)>,
    SignedForm { session, .. }: SignedForm,
) -> Result<Response, Failure> {
    match session.api().call(secret_request(&id, &secret)).await {
        Ok(_) => Ok(see_other(&format!("/console/keys/{}?tab=secrets&done=secret-ended", escape(&id)))),
        Err(failure) => {
            let page = secret_page(&session, &id, &secret, Mistakes::of(failure)?).await?;
            Ok(page::render(StatusCode::CONFLICT, &page))
        }
    }
}
