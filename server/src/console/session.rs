//! Sessions: signing in with a token, signing out, and who makes a request.
//!
//! The token that was shown lies nowhere: the cookie is a random value, of which the database has a digest, beside which token the
//! session is of. Each request looks both up, so that a session ends with its token, at every server.

use super::Console;
use super::api::{Api, Failure};
use super::cookie::Cookie;
use super::form::{Fields, SignedForm};
use super::guard::form_token;
use super::page::{self, Shell};
use crate::auth::tokens::file::{Audience, RANDOM_LENGTH};
use crate::clock::Timestamp;
use crate::http::{ApiError, Credential, authenticate};
use crate::model::{Actor, Role, Session as Stored, SessionCredential};
use crate::random;
use askama::Template;
use axum::extract::{FromRequestParts, State};
use axum::http::header::{HeaderName, LOCATION, RETRY_AFTER, SET_COOKIE, USER_AGENT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use keyward_core::key::secret::Secret;
use sha2::{Digest, Sha256};

/// The session of a request.
pub(super) struct Session {
    console: Console,
    cookie: Secret,
    stored: Stored,
    credential: Credential,
    /// The name of the token, for people.
    token_name: String,
    now: Timestamp,
}

#[derive(Template)]
#[template(path = "sign-in.html")]
struct SignInPage<'a> {
    form_token: String,
    next: &'a str,
    error: Option<String>,
}

#[derive(Template)]
#[template(path = "returning.html")]
struct ReturningPage<'a> {
    path: &'a str,
}

/// The page after the sign-in, if none was asked for.
const HOME: &str = "/console";
const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

impl Session {
    /// The value of the cookie.
    pub(super) fn cookie(&self) -> &str {
        self.cookie.expose()
    }

    /// The API, with the token of the session.
    pub(super) fn api(&self) -> Api {
        Api::new(self.console.api.clone(), self.credential.clone())
    }

    pub(super) fn console(&self) -> &Console {
        &self.console
    }

    /// The time of the request.
    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    /// The public id of the session.
    pub(super) fn id(&self) -> &str {
        &self.stored.id
    }

    /// What all pages show, for a page in that part of the navigation.
    pub(super) fn shell(&self, active: &'static str) -> Shell {
        let role = self.credential.role();
        Shell {
            active,
            form_token: form_token(self.cookie()),
            token_name: self.token_name.clone(),
            // The API decides; pages only leave out what it would refuse.
            may_write: role.includes(Role::Operator),
            may_administer: role.includes(Role::Admin),
            role: role.name(),
            now: self.now,
            notice: None,
        }
    }

    fn actor(&self) -> Actor {
        match &self.credential {
            Credential::FileToken(_) => Actor::token_file(),
            Credential::Issued(token) => Actor::token(&token.id),
        }
    }
}

impl FromRequestParts<Console> for Session {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, console: &Console) -> Result<Self, Response> {
        match find(parts, console).await {
            Ok(Some(session)) => Ok(session),
            Ok(None) => Err(sign_in_first(parts)),
            Err(failure) => Err(failure.into_response()),
        }
    }
}

async fn find(parts: &Parts, console: &Console) -> Result<Option<Session>, Failure> {
    let app = &console.app;
    let Some(cookie) = Cookie::Session.read(&parts.headers, &parts.uri) else { return Ok(None) };
    if cookie.len() != RANDOM_LENGTH || !cookie.bytes().all(|c| c.is_ascii_alphanumeric()) {
        return Ok(None);
    }
    let now = (app.clock)();
    // Guessed cookies are throttled as keys are: of a client with many failures, a cookie that was bad a moment ago is not looked
    // up, and one that is not known as good waits for a permit.
    let (throttle, client) = (&app.auth_throttle, app.proxies.counted(&parts.extensions, &parts.headers));
    if throttle.was_bad(cookie.as_bytes(), now) {
        return Ok(None);
    }
    let Ok(_permit) = throttle.admit(client, cookie.as_bytes(), now).await else { return Ok(None) };
    let found = app.store.session_by_digest(&digest(cookie), now).await.map_err(|error| failed(error.into()))?;
    throttle.note(cookie.as_bytes(), found.is_some(), now);
    let Some((stored, token)) = found else {
        client.and_then(|client| throttle.failed(client, now));
        return Ok(None);
    };
    let (credential, token_name) = match (&stored.credential, token) {
        (SessionCredential::FileToken(digest), _) if app.tokens.accept_digest(Audience::Admin, digest) => {
            (Credential::FileToken(*digest), "admin-token".to_owned())
        }
        (SessionCredential::Token(_), Some(token)) => {
            let name = token.name.clone();
            (Credential::Issued(token), name)
        }
        _ => return Ok(None),
    };
    let (store, noted) = (app.store.clone(), stored.clone());
    tokio::spawn(async move {
        if let Err(error) = store.note_session_use(&noted, now).await {
            tracing::debug!(%error, session = noted.id, "failed to note session use");
        }
    });
    let cookie = Secret::new(cookie.to_owned());
    Ok(Some(Session { console: console.clone(), cookie, stored, credential, token_name, now }))
}

/// Asks to sign in, and returns to the page afterwards. A link from another site comes without the cookie, which is `SameSite=Strict`:
/// then the page is loaded again, by itself.
fn sign_in_first(parts: &Parts) -> Response {
    let path = parts.uri.path_and_query().map_or(HOME, |path| path.as_str());
    let is_read = matches!(parts.method, Method::GET | Method::HEAD);
    let is_from_elsewhere = parts.headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    if is_read && is_from_elsewhere {
        return page::render(StatusCode::OK, &ReturningPage { path: next_page(path) });
    }
    let next = if is_read { next_page(path) } else { HOME };
    see_other(&format!("/console/sign-in{}", super::api::query([("next", next)])))
}

/// The page to sign in.
pub(super) async fn form(parts: Parts, fields: Fields) -> Response {
    // Browsers send this over TLS and to this machine alone. Without it the form would be refused, but after the token was sent.
    if !parts.headers.contains_key("sec-fetch-site") {
        let detail = "Open the console over HTTPS, or on this machine at localhost, in a current browser.";
        return Failure::forbidden(detail).into_response();
    }
    sign_in_page(&parts, fields.get("next"), None, StatusCode::OK)
}

/// The page with a new token of its form, which is tied to a cookie of its own.
fn sign_in_page(parts: &Parts, next: &str, error: Option<String>, status: StatusCode) -> Response {
    let Ok(cookie) = random::base62(RANDOM_LENGTH) else { return Failure::internal("no randomness").into_response() };
    let page = SignInPage { form_token: form_token(&cookie), next: next_page(next), error };
    let mut response = page::render(status, &page);
    append(response.headers_mut(), Cookie::SignIn.set(&cookie, &parts.headers, &parts.uri));
    response
}

/// Begins a session. What is wrong with a token is not said.
pub(super) async fn sign_in(State(console): State<Console>, parts: Parts, fields: Fields) -> Response {
    let (app, next) = (&console.app, fields.get("next"));
    let refused = |message: &str, status| sign_in_page(&parts, next, Some(message.to_owned()), status);
    let cookie = Cookie::SignIn.read(&parts.headers, &parts.uri).unwrap_or_default();
    if cookie.is_empty() || fields.check(cookie).is_err() {
        return refused("The form has expired, or the browser refuses cookies. Try again.", StatusCode::FORBIDDEN);
    }
    let token = fields.get("token").as_bytes();
    let found = authenticate(app, Audience::Admin, token, &parts.extensions, &parts.headers).await;
    // An edge token of the database is found, and opens nothing here.
    let found = found.and_then(|found| found.authorization(app, Role::Viewer).map(|by| (found, by)));
    let (credential, by) = match found {
        Ok(found) => found,
        Err(ApiError::TooManyFailures { retry_after_s }) => {
            let message = format!("Too many failed attempts from this address. Try again in {retry_after_s} s.");
            let mut response = refused(&message, StatusCode::TOO_MANY_REQUESTS);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after_s));
            return response;
        }
        Err(ApiError::Unauthorized { .. } | ApiError::WrongCredential { .. }) => {
            return refused("This token cannot be used to sign in.", StatusCode::UNAUTHORIZED);
        }
        Err(error) => return failed(error).into_response(),
    };
    match begin(&console, &parts, credential, by.actor()).await {
        Ok(cookie) => {
            end_previous(&parts, &console).await;
            let mut response = see_other(next_page(next));
            append(response.headers_mut(), Cookie::Session.set(cookie.expose(), &parts.headers, &parts.uri));
            append(response.headers_mut(), Cookie::SignIn.removed(&parts.headers, &parts.uri));
            response
        }
        Err(failure) => failure.into_response(),
    }
}

/// Ends the session that the browser had, whose cookie the new one replaces.
async fn end_previous(parts: &Parts, console: &Console) {
    let Ok(Some(before)) = find(parts, console).await else { return };
    let id = before.stored.id.clone();
    if let Err(error) = console.app.store.sign_out(&before.actor(), id, before.now).await {
        tracing::warn!(%error, session = before.stored.id, "failed to end the previous session of a browser");
    }
}

/// Stores a session with a new cookie, whatever cookie the browser had before.
async fn begin(console: &Console, parts: &Parts, credential: Credential, actor: &Actor) -> Result<Secret, Failure> {
    let app = &console.app;
    let credential = match credential {
        Credential::FileToken(digest) => SessionCredential::FileToken(digest),
        Credential::Issued(token) => SessionCredential::Token(token.id),
    };
    let random = |error: random::RngError| Failure::internal(&error.to_string());
    let cookie = Secret::new(random::base62(RANDOM_LENGTH).map_err(random)?);
    let user_agent = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let session = Stored::begin(random::id("sess_").map_err(random)?, credential, user_agent, (app.clock)());
    let id = session.id.clone();
    let begun = app.store.begin_session(actor, session, digest(cookie.expose())).await;
    begun.map_err(|error| failed(error.into()))?;
    tracing::info!(session = id, %actor, "session begun");
    Ok(cookie)
}

/// Ends the session, at all servers.
pub(super) async fn sign_out(parts: Parts, form: SignedForm) -> Result<Response, Failure> {
    let session = form.session;
    let id = session.stored.id.clone();
    let ended = session.console.app.store.sign_out(&session.actor(), id.clone(), session.now).await;
    ended.map_err(|error| failed(error.into()))?;
    tracing::info!(session = id, actor = %session.actor(), "session ended");
    let mut response = see_other("/console/sign-in");
    append(response.headers_mut(), Cookie::Session.removed(&parts.headers, &parts.uri));
    response.headers_mut().insert(CLEAR_SITE_DATA, HeaderValue::from_static("\"cache\", \"storage\""));
    Ok(response)
}

fn append(headers: &mut HeaderMap, cookie: Option<HeaderValue>) {
    if let Some(cookie) = cookie {
        headers.append(SET_COOKIE, cookie);
    }
}

/// Redirects to a page of the console, with GET.
pub(super) fn see_other(path: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    if let Ok(path) = HeaderValue::try_from(path) {
        response.headers_mut().insert(LOCATION, path);
    }
    response
}

/// The path, if it is that of a page of the console, so that no link to the sign-in leads elsewhere.
fn next_page(path: &str) -> &str {
    let rest = path.strip_prefix(HOME);
    let is_own = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    let is_plain =
        path.bytes().all(|c| c.is_ascii_graphic() && c != b'\\') && !path.contains("..") && !path.contains("//");
    let leads_on = !path.starts_with("/console/sign-");
    if is_own && is_plain && leads_on { path } else { HOME }
}

fn digest(cookie: &str) -> [u8; 32] {
    Sha256::digest(cookie.as_bytes()).into()
}

/// The failure of the store, in the words of the API.
fn failed(error: ApiError) -> Failure {
    let detail = error.to_string();
    let status = error.into_response().status();
    Failure {
        status: status.as_u16(),
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        detail,
        errors: Vec::new(),
        retry_after: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_page_is_one_of_the_console() {
        for own in ["/console", "/console/keys", "/console?span=7d", "/console/keys?name=a%2Fb"] {
            assert_eq!(next_page(own), own);
        }
        for other in [
            "",
            "/",
            "//evil.example",
            "https://evil.example",
            "/consoles",
            "/console.evil.example",
            "/console\\@evil.example",
            "/console//evil.example",
            "/console/../..//evil.example",
            "/console/\r\nset-cookie: a=b",
            "/console/sign-in",
            "/console/sign-out",
            "javascript:alert(1)",
        ] {
            assert_eq!(next_page(other), "/console", "{other:?}");
        }
    }
}
