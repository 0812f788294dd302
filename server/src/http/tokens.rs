//! Tokens of operators and edges, for operators. A plaintext token exists only here: issued, shown once.

use super::answer::json;
use super::app::App;
use super::extract::{Document, Id};
use super::openapi::{schema, text};
use super::parameters::{PageSize, Parameters};
use super::problem::{ApiError, problem};
use crate::auth::tokens::db;
use crate::clock::Timestamp;
use crate::model::{NewToken, Role, Token};
use crate::random;
use crate::store::Authorization;
use crate::store::TokenQuery;
use axum::Extension;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use keyward_core::document::Problems;
use serde::Serialize;
use utoipa::ToSchema;

/// A token.
#[derive(Serialize, ToSchema)]
#[schema(as = Token)]
struct TokenResource<'a> {
    #[schema(value_type = TokenId)]
    id: &'a str,
    /// The plaintext, only in the response to the request that issued it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    token: Option<&'a str>,
    /// The display name.
    name: &'a str,
    #[schema(value_type = Role)]
    role: &'static str,
    /// `active`, `revoked` or `expired`.
    #[schema(pattern = "^(active|revoked|expired)$")]
    state: &'static str,
    created_at: Timestamp,
    #[schema(required)]
    expires_at: Option<Timestamp>,
    #[schema(required)]
    revoked_at: Option<Timestamp>,
    /// The last use, to the minute.
    #[schema(required)]
    last_used_at: Option<Timestamp>,
}

/// A page of tokens, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = Tokens)]
struct ListResource<'a> {
    tokens: Vec<TokenResource<'a>>,
    /// The `after` of the next page; null on the last page.
    #[schema(required)]
    next: Option<&'a str>,
}

schema!(TokenId, "The id of a token", text(&format!("tok_[0-9A-Za-z]{{{}}}", random::ID_LENGTH)));

/// Create a token of an operator or edge
///
/// The plaintext is in the response, and is shown only once.
#[utoipa::path(
    post,
    path = "/v1/tokens",
    operation_id = "createToken",
    tag = "tokens",
    request_body(content = ref("#/components/schemas/TokenCreate"), content_type = "application/json"),
    responses((status = CREATED, description = "The token, with its plaintext", body = TokenResource, headers(("Location" = String, description = "The path of the token"))))
)]
pub(super) async fn create(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    Document(document): Document,
) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let new = NewToken::read(document, now).map_err(ApiError::Invalid)?;
    let (plaintext, digest, token) = db::issue(new, now)?;
    let token = app.store.create_token(by, token, digest).await?;
    app.issued_tokens.forget_known().await;
    tracing::info!(token = token.id, role = token.role.name(), "token created");
    let mut response = json(StatusCode::CREATED, &resource(&token, Some(plaintext.expose()), now))?;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(location) = HeaderValue::try_from(format!("/v1/tokens/{}", token.id)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// List tokens, newest first
#[utoipa::path(
    get,
    path = "/v1/tokens",
    operation_id = "listTokens",
    tag = "tokens",
    params(("limit" = inline(Option<PageSize>), Query, description = "The maximum number of results; 100 by default"), ("after" = Option<TokenId>, Query, description = "Continue after this: the `next` of the previous page")),
    responses((status = OK, description = "The tokens", body = ListResource))
)]
pub(super) async fn list(State(app): State<App>, mut parameters: Parameters) -> Result<Response, ApiError> {
    let query = TokenQuery { limit: parameters.limit(), after: parameters.text("after", "the id of a token") };
    parameters.finish()?;
    let page = app.store.tokens(&query).await?;
    let page = page.ok_or_else(|| ApiError::InvalidQuery(Problems(vec![problem("after", "token not found")])))?;
    let now = (app.clock)();
    let tokens = page.items.iter().map(|token| resource(token, None, now)).collect();
    json(StatusCode::OK, &ListResource { tokens, next: page.next.as_deref() })
}

/// Show a token
#[utoipa::path(
    get,
    path = "/v1/tokens/{id}",
    operation_id = "showToken",
    tag = "tokens",
    params(("id" = TokenId, Path, description = "The token's id")),
    responses((status = OK, description = "The token", body = TokenResource))
)]
pub(super) async fn show(State(app): State<App>, Id(id): Id) -> Result<Response, ApiError> {
    let token = app.store.token(&id).await?.ok_or(NO_TOKEN)?;
    json(StatusCode::OK, &resource(&token, None, (app.clock)()))
}

/// Revoke a token immediately and permanently
///
/// A revoked token stays listed. Revoking it again changes nothing.
#[utoipa::path(
    delete,
    path = "/v1/tokens/{id}",
    operation_id = "revokeToken",
    tag = "tokens",
    params(("id" = TokenId, Path, description = "The token's id")),
    responses((status = OK, description = "The token after the change", body = TokenResource))
)]
pub(super) async fn revoke(
    State(app): State<App>,
    Extension(by): Extension<Authorization>,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let now = (app.clock)();
    let token = app.store.revoke_token(by, id, now).await?.ok_or(NO_TOKEN)?;
    tracing::info!(token = token.id, role = token.role.name(), "token revoked");
    json(StatusCode::OK, &resource(&token, None, now))
}

const NO_TOKEN: ApiError = ApiError::NotFound("token");

fn resource<'a>(token: &'a Token, plaintext: Option<&'a str>, now: Timestamp) -> TokenResource<'a> {
    TokenResource {
        id: &token.id,
        token: plaintext,
        name: &token.name,
        role: token.role.name(),
        state: token.state(now),
        created_at: token.created_at,
        expires_at: token.expires_at,
        revoked_at: token.revoked_at,
        last_used_at: token.last_used_at,
    }
}
