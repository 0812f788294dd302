//! Lets nobody pass who does not show a token that opens what is asked for.
//!
//! Tokens of the files are compared first and need no database, so that operators and edges get in while it cannot be read.

use super::app::App;
use super::problem::ApiError;
use crate::auth::tokens::file::Audience;
use crate::clock::Timestamp;
use crate::model::TokenScope;
use crate::store::Authorization;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;
use keyward_core::dialect::Dialect;
use tokio::sync::watch;

/// Rings when the token with which the request was let in may have ended.
#[derive(Clone)]
pub(super) struct TokenReloads(pub(super) watch::Receiver<()>);

/// When the token with which the request was let in ends by itself.
#[derive(Clone, Copy)]
pub(super) struct TokenEnd(pub(super) Option<Timestamp>);

pub(super) async fn require_admin(State(app): State<App>, request: Request, next: Next) -> Result<Response, ApiError> {
    require(&app, Audience::Admin, request, next).await
}

pub(super) async fn require_edge(State(app): State<App>, request: Request, next: Next) -> Result<Response, ApiError> {
    require(&app, Audience::Edge, request, next).await
}

async fn require(app: &App, audience: Audience, request: Request, next: Next) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let token_reloads = TokenReloads(app.tokens.reloads());
    let by = authorization(app, audience, &parts).await?;
    parts.extensions.insert(token_reloads);
    // Held until the answer is there. An export goes on by itself, and there are few of them.
    let reads = audience == Audience::Admin && matches!(parts.method, Method::GET | Method::HEAD);
    let _turn = if reads { Some(app.store.operator_read_permit(by.actor()).await?) } else { None };
    parts.extensions.insert(TokenEnd(by.expires_at()));
    parts.extensions.insert(by.actor().clone());
    parts.extensions.insert(by);
    Ok(next.run(Request::from_parts(parts, body)).await)
}

/// The authorization of who has shown the token; it is looked at again before anything is changed by it.
async fn authorization(app: &App, audience: Audience, request: &Parts) -> Result<Authorization, ApiError> {
    let shown = request.headers.contains_key(AUTHORIZATION);
    let Some(token) = bearer(&request.headers) else { return Err(ApiError::Unauthorized { shown }) };
    if let Some(by) = Authorization::of_file_token(&app.tokens, audience, token, &app.clock) {
        return Ok(by);
    }
    // By how it begins, which says nothing that whoever shows it does not know.
    let refused = || match of_another_kind(audience, token, &app.dialect) {
        Some(kind) => ApiError::OfAnotherKind(kind),
        None => ApiError::Unauthorized { shown },
    };
    // A token of the other file is no guess.
    if Audience::ALL.into_iter().any(|other| app.tokens.accept(other, token)) {
        return Err(refused());
    }
    let client = app.proxies.counted(&request.extensions, &request.headers);
    let is_suspect = client.is_some_and(|client| app.failures.is_suspect(client, (app.clock)()));
    let Some(token) = app.issued_tokens.find(token, is_suspect).await? else {
        let wait = client.and_then(|client| app.failures.failed(client, (app.clock)()));
        return Err(wait.map_or_else(refused, |retry_after_s| ApiError::TooManyFailures { retry_after_s }));
    };
    match (audience, token.scope) {
        (Audience::Admin, TokenScope::Write) | (Audience::Edge, TokenScope::Edge) => {}
        (Audience::Admin, TokenScope::Read) if matches!(request.method, Method::GET | Method::HEAD) => {}
        (Audience::Admin, TokenScope::Read) => return Err(ApiError::InsufficientScope(TokenScope::Write)),
        (Audience::Admin, TokenScope::Edge) | (Audience::Edge, TokenScope::Read | TokenScope::Write) => {
            return Err(refused());
        }
    }
    app.issued_tokens.note_use(&token);
    Ok(Authorization::of_issued_token(&app.tokens, audience, &token, &app.clock))
}

/// What it is that was shown for a token of that audience, where it looks like something else.
fn of_another_kind(audience: Audience, shown: &[u8], dialect: &Dialect) -> Option<&'static str> {
    match audience {
        Audience::Admin if shown.starts_with(Audience::Edge.prefix().as_bytes()) => Some("an edge token"),
        Audience::Edge if shown.starts_with(Audience::Admin.prefix().as_bytes()) => Some("an operator's token"),
        // One without a prefix looks like any other text.
        _ if dialect.format_of(shown).is_some_and(|format| !format.prefix.is_empty()) => Some("an API key"),
        _ => None,
    }
}

/// The token of the only `Authorization` field (RFC 6750, section 2.1); of several none is taken.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (field, None) = (fields.next()?, fields.next()) else { return None };
    let (scheme, token) = field.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[&'static str]) -> HeaderMap {
        fields.iter().map(|field| (AUTHORIZATION, field.parse().unwrap())).collect()
    }

    #[test]
    fn the_scheme_is_read_in_any_case_and_nothing_but_bearer_is_taken() {
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some(&b"abc"[..]));
        assert_eq!(bearer(&headers(&["bEARER  abc"])), Some(&b"abc"[..]));
        for other in ["Basic abc", "Bearer", "abc", "Bearerabc", ""] {
            assert_eq!(bearer(&headers(&[other])), None, "{other:?}");
        }
        assert_eq!(bearer(&headers(&[])), None);
    }

    #[test]
    fn what_was_shown_for_a_token_is_told_by_how_it_begins() {
        let keyward = Dialect::built_in("keyward").unwrap().unwrap();
        let graph8 = Dialect::built_in("graph8").unwrap().unwrap();
        let key = keyward.formats[0].issue(crate::random::fill).unwrap();
        let told = |audience, shown: &str, dialect| of_another_kind(audience, shown.as_bytes(), dialect);
        assert_eq!(told(Audience::Admin, "kwe_abc", &keyward), Some("an edge token"));
        assert_eq!(told(Audience::Edge, "kwa_abc", &keyward), Some("an operator's token"));
        for audience in Audience::ALL {
            assert_eq!(told(audience, key.expose(), &keyward), Some("an API key"));
            assert_eq!(told(audience, key.expose(), &graph8), None);
            assert_eq!(told(audience, "nonsense", &keyward), None);
        }
        assert_eq!(told(Audience::Admin, "kwa_abc", &keyward), None);
        assert_eq!(told(Audience::Edge, "kwe_abc", &keyward), None);
    }

    #[test]
    fn of_two_fields_none_is_taken() {
        assert_eq!(bearer(&headers(&["Bearer abc", "Bearer abc"])), None);
    }
}
