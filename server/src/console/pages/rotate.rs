//! The form to rotate a key.

use super::key::key;
use super::{Mistakes, reveal};
use crate::console::api::{ApiRequest, Failure, escape};
use crate::console::commands::{Cli, Commands};
use crate::console::form::{Fields, SignedForm};
use crate::console::page::{self, Shell};
use crate::console::session::Session;
use crate::console::view::KeyView;
use crate::random;
use askama::Template;
use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::json;

/// The grace periods to choose from, in seconds.
const GRACES: [(&str, &str); 4] = [
    ("86400", "24 hours"),
    ("3600", "1 hour"),
    ("604800", "7 days"),
    ("0", "None: invalidate the current secrets immediately"),
];

#[derive(Template)]
#[template(path = "rotate.html")]
struct RotatePage {
    shell: Shell,
    key: KeyView,
    once: String,
    fields: Fields,
    mistakes: Mistakes,
    commands: Commands,
}

impl RotatePage {
    fn graces(&self) -> [(&'static str, &'static str); 4] {
        GRACES
    }
}

pub(in crate::console) async fn form(
    session: Session,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let page = page(&session, &id, fields, Mistakes::default()).await?;
    Ok(page::render(StatusCode::OK, &page))
}

async fn page(session: &Session, id: &str, fields: Fields, mistakes: Mistakes) -> Result<RotatePage, Failure> {
    let (key, _) = key(session, id).await?;
    let once = random::base62(32).map_err(|error| Failure::internal(&error.to_string()))?;
    let commands = commands(id, 86_400).0;
    Ok(RotatePage { shell: session.shell("keys"), key, once, fields, mistakes, commands })
}

fn commands(id: &str, grace_s: u64) -> (Commands, ApiRequest) {
    let path = format!("/v1/keys/{}/rotate", escape(id));
    let request = ApiRequest::new(Method::POST, path).with_document(json!({"grace_s": grace_s}));
    let cli = Cli::new("keys rotate").argument(id).option("--grace", &format!("{grace_s}s"));
    (Commands::new(cli, &request), request)
}

/// Rotates the key, and shows its new secret once.
pub(in crate::console) async fn rotate(
    Path(id): Path<String>,
    SignedForm { session, fields }: SignedForm,
) -> Result<Response, Failure> {
    let hours = || fields.get("hours").parse::<u64>().ok().and_then(|hours| hours.checked_mul(3600));
    let grace_s = if fields.get("grace") == "other" { hours() } else { fields.get("grace").parse().ok() };
    let failure = match grace_s {
        Some(grace_s) => {
            let (commands, request) = commands(&id, grace_s);
            match session.api().call(request.once(fields.get("once"))).await {
                Ok(reply) => return reveal::created(&session, reply, "Key rotated", commands).await,
                Err(failure) => failure,
            }
        }
        None => Failure::invalid("grace_s", "expected a whole number of hours"),
    };
    let mistakes = Mistakes::of(failure)?;
    let page = page(&session, &id, fields, mistakes).await?;
    Ok(page::render(StatusCode::UNPROCESSABLE_ENTITY, &page))
}
