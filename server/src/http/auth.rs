//! Authentication by bearer token: middleware that refuses requests without a valid token of the required role.
//!
//! File tokens are compared first. They need no database, so operators and edges with one are admitted while it is unavailable.

use super::app::App;
use super::problem::ApiError;
use super::roles;
use crate::auth::tokens::file::{self, Audience, TokenDigest};
use crate::clock::Timestamp;
use crate::model::{Role, Token};
use crate::store::Authorization;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;
use keyward_core::dialect::Dialect;
use tokio::sync::watch;

/// Notifies when the token of the request may have been revoked.
#[derive(Clone)]
pub(super) struct TokenReloads(pub(super) watch::Receiver<()>);

/// The role of the token of the request.
#[derive(Clone, Copy)]
pub(super) struct HeldRole(pub(super) Role);

/// When the token of the request expires.
#[derive(Clone, Copy)]
pub(super) struct TokenEnd(pub(super) Option<Timestamp>);

pub(super) async fn require_admin(State(app): State<App>, request: Request, next: Next) -> Result<Response, ApiError> {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let required = roles::required(request.method(), route);
    require(&app, required, request, next).await
}

pub(super) async fn require_edge(State(app): State<App>, request: Request, next: Next) -> Result<Response, ApiError> {
    require(&app, Role::Edge, request, next).await
}

async fn require(app: &App, required: Role, request: Request, next: Next) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let token_reloads = TokenReloads(app.tokens.reloads());
    let credential = match parts.extensions.remove::<Credential>() {
        Some(signed_in) => signed_in,
        None => credential(app, required.audience(), &parts).await?,
    };
    let by = credential.authorization(app, required)?;
    let role = if required == Role::Edge { Role::Edge } else { credential.role() };
    parts.extensions.insert(token_reloads);
    // Held until the response is there. Exports continue in the background, and are bounded separately.
    let reads = required.audience() == Audience::Admin && matches!(parts.method, Method::GET | Method::HEAD);
    let _permit = if reads { Some(app.store.operator_read_permit(by.actor()).await?) } else { None };
    parts.extensions.insert(HeldRole(role));
    parts.extensions.insert(TokenEnd(by.expires_at()));
    parts.extensions.insert(by.actor().clone());
    parts.extensions.insert(by);
    Ok(next.run(Request::from_parts(parts, body)).await)
}

/// A valid token. The console puts that of a session into the extensions of the requests that it makes; a client cannot.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    /// A line of a token file, by its digest.
    FileToken(TokenDigest),
    /// A token of the database.
    Issued(Token),
}

impl Credential {
    /// The authorization for a request that requires this role. Transactions that write check it again.
    pub(crate) fn authorization(&self, app: &App, required: Role) -> Result<Authorization, ApiError> {
        let audience = required.audience();
        let token = match self {
            Self::FileToken(digest) => {
                let by = Authorization::of_file_token_digest(&app.tokens, audience, *digest, &app.clock);
                return by.ok_or(ApiError::Unauthorized { shown: true });
            }
            Self::Issued(token) => token,
        };
        if token.role.audience() != audience {
            let (expected, found) = (token_name(audience), token_name(token.role.audience()));
            return Err(ApiError::WrongCredential { expected, found });
        }
        if !token.role.includes(required) {
            return Err(ApiError::InsufficientRole { role: token.role, required });
        }
        app.issued_tokens.note_use(token);
        Ok(Authorization::of_issued_token(&app.tokens, required, token, &app.clock))
    }

    /// The role of the token.
    pub(crate) fn role(&self) -> Role {
        match self {
            Self::FileToken(_) => Role::Admin,
            Self::Issued(token) => token.role,
        }
    }
}

/// Authenticates the bearer token.
async fn credential(app: &App, audience: Audience, request: &Parts) -> Result<Credential, ApiError> {
    let shown = request.headers.contains_key(AUTHORIZATION);
    let Some(token) = bearer(&request.headers) else { return Err(ApiError::Unauthorized { shown }) };
    authenticate(app, audience, token, &request.extensions, &request.headers).await
}

/// Finds the token that a client has shown, and counts a failure.
pub(crate) async fn authenticate(
    app: &App,
    audience: Audience,
    token: &[u8],
    extensions: &Extensions,
    headers: &HeaderMap,
) -> Result<Credential, ApiError> {
    let digest = file::digest(token);
    if app.tokens.accept_digest(audience, &digest) {
        return Ok(Credential::FileToken(digest));
    }
    // Told by its prefix, which reveals nothing that its sender does not know.
    let refused = || match other_credential(audience, token, &app.dialect) {
        Some(found) => ApiError::WrongCredential { expected: token_name(audience), found },
        None => ApiError::Unauthorized { shown: true },
    };
    // A token of the other file does not count as a guess.
    if Audience::ALL.into_iter().any(|other| app.tokens.accept(other, token)) {
        return Err(refused());
    }
    let client = app.proxies.counted(extensions, headers);
    let is_suspect = client.is_some_and(|client| app.auth_throttle.is_suspect(client, (app.clock)()));
    let Some(token) = app.issued_tokens.find(token, is_suspect).await? else {
        let wait = client.and_then(|client| app.auth_throttle.failed(client, (app.clock)()));
        return Err(wait.map_or_else(refused, |retry_after_s| ApiError::TooManyFailures { retry_after_s }));
    };
    Ok(Credential::Issued(token))
}

fn token_name(audience: Audience) -> &'static str {
    match audience {
        Audience::Admin => "an operator token",
        Audience::Edge => "an edge token",
    }
}

/// What the credential looks like, if not like a token of that audience.
fn other_credential(audience: Audience, shown: &[u8], dialect: &Dialect) -> Option<&'static str> {
    match audience {
        Audience::Admin if shown.starts_with(Audience::Edge.prefix().as_bytes()) => Some(token_name(Audience::Edge)),
        Audience::Edge if shown.starts_with(Audience::Admin.prefix().as_bytes()) => Some(token_name(Audience::Admin)),
        // A key without a prefix looks like any other text.
        _ if dialect.format_of(shown).is_some_and(|format| !format.prefix.is_empty()) => Some("an API key"),
        _ => None,
    }
}

/// The token of the `Authorization` field (RFC 6750, section 2.1); `None` if there are several fields.
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
    fn bearer_scheme_is_case_insensitive_and_required() {
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some(&b"abc"[..]));
        assert_eq!(bearer(&headers(&["bEARER  abc"])), Some(&b"abc"[..]));
        for other in ["Basic abc", "Bearer", "abc", "Bearerabc", ""] {
            assert_eq!(bearer(&headers(&[other])), None, "{other:?}");
        }
        assert_eq!(bearer(&headers(&[])), None);
    }

    #[test]
    fn other_credentials_are_recognized_by_their_prefix() {
        let keyward = Dialect::built_in("keyward").unwrap().unwrap();
        let graph8 = Dialect::built_in("graph8").unwrap().unwrap();
        let key = keyward.formats[0].issue(crate::random::fill).unwrap();
        let found = |audience, shown: &str, dialect| other_credential(audience, shown.as_bytes(), dialect);
        assert_eq!(found(Audience::Admin, "kwe_abc", &keyward), Some("an edge token"));
        assert_eq!(found(Audience::Edge, "kwa_abc", &keyward), Some("an operator token"));
        for audience in Audience::ALL {
            assert_eq!(found(audience, key.expose(), &keyward), Some("an API key"));
            assert_eq!(found(audience, key.expose(), &graph8), None);
            assert_eq!(found(audience, "nonsense", &keyward), None);
        }
        assert_eq!(found(Audience::Admin, "kwa_abc", &keyward), None);
        assert_eq!(found(Audience::Edge, "kwe_abc", &keyward), None);
    }

    #[test]
    fn two_authorization_fields_are_rejected() {
        assert_eq!(bearer(&headers(&["Bearer abc", "Bearer abc"])), None);
    }
}
