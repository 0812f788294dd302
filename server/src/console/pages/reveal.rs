//! The page with a new secret, which is the answer to the form that issued it and is nowhere else.

use crate::console::api::{Failure, Reply, read};
use crate::console::commands::Commands;
use crate::console::page::{self, Shell};
use crate::console::session::{Session, see_other};
use crate::console::view::KeyView;
use crate::http::IDEMPOTENT_REPLAYED;
use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;
use keyward_core::dialect::{BasicPart, Source};

#[derive(Template)]
#[template(path = "reveal.html")]
struct RevealPage {
    shell: Shell,
    title: &'static str,
    key: KeyView,
    plaintext: String,
    /// The request with the key, up to the key and after it.
    curl: (String, String),
    commands: Commands,
}

/// Shows the secret of the answer. A form that is sent again, as by a reload, is answered without it.
pub(in crate::console) async fn created(
    session: &Session,
    reply: Reply,
    title: &'static str,
    commands: Commands,
) -> Result<Response, Failure> {
    let mut key: KeyView = read(reply.document)?;
    let plaintext = key.key.take().unwrap_or_default();
    if reply.headers.contains_key(IDEMPOTENT_REPLAYED) || plaintext.is_empty() {
        return Ok(see_other(&format!("/console/keys/{}", key.id)));
    }
    let console = session.console();
    let curl = curl(console.app.dialect.sources.first(), &console.gateway_url);
    let page = RevealPage { shell: session.shell("keys"), title, key, plaintext, curl, commands };
    Ok(page::render(StatusCode::CREATED, &page))
}

/// The request that sends a key in that place of a request.
fn curl(source: Option<&Source>, gateway_url: &str) -> (String, String) {
    match source {
        Some(Source::Header { written, scheme, .. }) => {
            let scheme = scheme.as_ref().map(|scheme| format!("{scheme} ")).unwrap_or_default();
            (format!("curl {gateway_url}/ -H '{written}: {scheme}"), "'".to_owned())
        }
        Some(Source::Basic(BasicPart::Username)) => (format!("curl {gateway_url}/ -u '"), ":'".to_owned()),
        Some(Source::Basic(BasicPart::Password)) => (format!("curl {gateway_url}/ -u ':"), "'".to_owned()),
        Some(Source::Query(name)) => (format!("curl '{gateway_url}/?{name}="), "'".to_owned()),
        Some(Source::Cookie(name)) => (format!("curl {gateway_url}/ -b '{name}="), "'".to_owned()),
        None => (format!("curl {gateway_url}/ -H 'Authorization: Bearer "), "'".to_owned()),
    }
}
