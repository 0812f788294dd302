//! Lets nobody pass who does not show a token of the right audience.

use super::App;
use super::problem::ApiError;
use crate::model::Actor;
use crate::tokens::Audience;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::watch;

/// Rings when the token with which the request was let in may have ended.
#[derive(Clone)]
pub(super) struct TokenReloads(pub(super) watch::Receiver<()>);

pub(super) async fn require_admin(State(app): State<App>, request: Request, next: Next) -> Result<Response, ApiError> {
    require(&app, Audience::Admin, request, next).await
}

pub(super) async fn require_edge(State(app): State<App>, request: Request, next: Next) -> Result<Response, ApiError> {
    require(&app, Audience::Edge, request, next).await
}

async fn require(app: &App, audience: Audience, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let shown = request.headers().contains_key(AUTHORIZATION);
    let token_reloads = TokenReloads(app.tokens.reloads());
    match bearer(request.headers()) {
        Some(token) if app.tokens.accept(audience, token) => {
            request.extensions_mut().insert(token_reloads);
            request.extensions_mut().insert(Actor::token_file());
            Ok(next.run(request).await)
        }
        _ => Err(ApiError::Unauthorized { shown }),
    }
}

/// The token of the only `Authorization` field (RFC 6750, section 2.1); of several none is taken.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
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
    fn of_two_fields_none_is_taken() {
        assert_eq!(bearer(&headers(&["Bearer abc", "Bearer abc"])), None);
    }
}
