//! Tokens of operators and edges.

use super::Mistakes;
use crate::console::api::{ApiRequest, Failure, escape, query, read};
use crate::console::commands::{Cli, Commands};
use crate::console::form::{Fields, SignedForm};
use crate::console::page::{self, Shell};
use crate::console::session::{Session, see_other};
use crate::console::view::{TokenView, Tokens};
use crate::model::Role;
use askama::Template;
use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

#[derive(Template)]
#[template(path = "tokens.html")]
struct TokensPage {
    shell: Shell,
    fields: Fields,
    tokens: Tokens,
    next: Option<String>,
    /// The id of the newest token: a form that was sent before it creates nothing.
    newest: String,
    mistakes: Mistakes,
}

#[derive(Template)]
#[template(path = "reveal-token.html")]
struct RevealPage {
    shell: Shell,
    token: TokenView,
    plaintext: String,
    commands: Commands,
}

#[derive(Template)]
#[template(path = "revoke-token.html")]
struct RevokePage {
    shell: Shell,
    token: TokenView,
    mistakes: Mistakes,
    commands: Commands,
}

impl TokensPage {
    fn roles(&self) -> [&'static str; 4] {
        [Role::Viewer, Role::Operator, Role::Admin, Role::Edge].map(Role::name)
    }
}

pub(in crate::console) async fn list(session: Session, fields: Fields) -> Result<Response, Failure> {
    let page = list_page(&session, fields, Mistakes::default()).await?;
    Ok(page::render(StatusCode::OK, &page))
}

async fn list_page(session: &Session, fields: Fields, mistakes: Mistakes) -> Result<TokensPage, Failure> {
    let path = format!("/v1/tokens{}", query([("limit", "100"), ("after", fields.get("after"))]));
    let tokens: Tokens = session.api().read(&path).await?;
    let next = tokens.next.as_ref().map(|next| query([("after", next.as_str())]));
    let newest = newest(session).await?;
    let shell = session.shell("tokens").with_notice(fields.get("done"));
    Ok(TokensPage { shell, tokens, next, newest, mistakes, fields })
}

async fn newest(session: &Session) -> Result<String, Failure> {
    let tokens: Tokens = session.api().read("/v1/tokens?limit=1").await?;
    Ok(tokens.tokens.first().map(|token| token.id.clone()).unwrap_or_default())
}

/// Creates a token, and shows it once.
pub(in crate::console) async fn create(SignedForm { session, fields }: SignedForm) -> Result<Response, Failure> {
    if fields.get("newest") != newest(&session).await? {
        // A form that is sent again, as by a reload, creates no second token.
        return Ok(see_other("/console/tokens"));
    }
    let failure = match document(&fields) {
        Ok(document) => {
            let request = ApiRequest::new(Method::POST, "/v1/tokens".to_owned()).with_document(document);
            let days = fields.get("days");
            let lifetime = if days.is_empty() { String::new() } else { format!("{days}d") };
            let cli =
                Cli::new("tokens create").option("--name", fields.get("name")).option("--role", fields.get("role"));
            let commands = Commands::new(cli.option("--expires-in", &lifetime), &request);
            match session.api().call(request).await {
                Ok(reply) => {
                    let mut token: TokenView = read(reply.document)?;
                    let plaintext = token.token.take().unwrap_or_default();
                    let page = RevealPage { shell: session.shell("tokens"), token, plaintext, commands };
                    return Ok(page::render(StatusCode::CREATED, &page));
                }
                Err(failure) => failure,
            }
        }
        Err(failure) => failure,
    };
    let page = list_page(&session, fields, Mistakes::of(failure)?).await?;
    Ok(page::render(StatusCode::UNPROCESSABLE_ENTITY, &page))
}

fn document(fields: &Fields) -> Result<Value, Failure> {
    let mut document = Map::new();
    document.insert("name".to_owned(), json!(fields.get("name")));
    document.insert("role".to_owned(), json!(fields.get("role")));
    if !fields.get("days").is_empty() {
        let days: u64 =
            fields.get("days").parse().map_err(|_| Failure::invalid("expires_in_s", "expected a number of days"))?;
        document.insert("expires_in_s".to_owned(), json!(days.saturating_mul(86_400)));
    }
    Ok(Value::Object(document))
}

pub(in crate::console) async fn revoke_form(session: Session, Path(id): Path<String>) -> Result<Response, Failure> {
    let page = revoke_page(&session, &id, Mistakes::default()).await?;
    Ok(page::render(StatusCode::OK, &page))
}

async fn revoke_page(session: &Session, id: &str, mistakes: Mistakes) -> Result<RevokePage, Failure> {
    let token = session.api().read(&format!("/v1/tokens/{}", escape(id))).await?;
    let commands = Commands::new(Cli::new("tokens revoke").argument(id), &revocation(id));
    Ok(RevokePage { shell: session.shell("tokens"), token, mistakes, commands })
}

fn revocation(id: &str) -> ApiRequest {
    ApiRequest::new(Method::DELETE, format!("/v1/tokens/{}", escape(id)))
}

/// Revokes a token, and with it the sessions that were begun with it.
pub(in crate::console) async fn revoke(
    Path(id): Path<String>,
    SignedForm { session, .. }: SignedForm,
) -> Result<Response, Failure> {
    match session.api().call(revocation(&id)).await {
        Ok(_) => Ok(see_other("/console/tokens?done=token-revoked")),
        Err(failure) => {
            let page = revoke_page(&session, &id, Mistakes::of(failure)?).await?;
            Ok(page::render(StatusCode::CONFLICT, &page))
        }
    }
}
