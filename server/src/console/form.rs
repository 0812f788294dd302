//! The fields of forms.

use super::Console;
use super::api::Failure;
use super::guard::is_form_token;
use super::session::Session;
use axum::extract::{Form, FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// The fields of a form, or of the query of a page.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

/// The form of a session, with its anti-CSRF token.
pub(super) struct SignedForm {
    pub(super) session: Session,
    pub(super) fields: Fields,
}

/// How long the body of a form may take.
const FORM_TIMEOUT: Duration = Duration::from_secs(30);

/// The name of the field with the anti-CSRF token.
const FORM_TOKEN: &str = "form_token";

impl Fields {
    /// The value of a field, without surrounding white space; empty if it is absent.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.trim()).unwrap_or_default()
    }

    /// The words of a field, between white space or commas.
    pub(super) fn words(&self, name: &str) -> Vec<&str> {
        self.get(name).split([',', ' ', '\t', '\r', '\n', ';']).filter(|word| !word.is_empty()).collect()
    }

    /// The lines `name=value` of a field.
    pub(super) fn notes(&self, name: &str) -> Result<Map<String, Value>, Failure> {
        let lines = self.get(name).lines().map(str::trim).filter(|line| !line.is_empty());
        let pair = |line: &str| match line.split_once('=') {
            Some((name, value)) => Ok((name.trim().to_owned(), json!(value.trim()))),
            None => Err(Failure::invalid(name, "expected lines of name=value")),
        };
        lines.map(pair).collect()
    }

    /// Whether the form was sent with the token of this cookie.
    pub(super) fn check(&self, cookie: &str) -> Result<(), Failure> {
        if is_form_token(cookie, self.get(FORM_TOKEN)) {
            return Ok(());
        }
        Err(Failure::forbidden("The form is not one of this session. Reload the page it was on, and send it again."))
    }
}

impl FromRequest<Console> for Fields {
    type Rejection = Response;

    async fn from_request(request: Request, console: &Console) -> Result<Self, Response> {
        match timeout(FORM_TIMEOUT, Form::<Vec<(String, String)>>::from_request(request, console)).await {
            Ok(Ok(Form(fields))) => Ok(Self(fields)),
            _ => Err(Failure::bad_request("The form is not complete, or too long.").into_response()),
        }
    }
}

impl FromRequest<Console> for SignedForm {
    type Rejection = Response;

    async fn from_request(request: Request, console: &Console) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        // Without a session no body is read.
        Session::from_request_parts(&mut parts, console).await?;
        let mut head = parts.clone();
        let fields = Fields::from_request(Request::from_parts(parts, body), console).await?;
        // The session or its token may have ended while the body was on its way.
        let session = Session::from_request_parts(&mut head, console).await?;
        fields.check(session.cookie()).map_err(IntoResponse::into_response)?;
        Ok(Self { session, fields })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_notes_are_read_from_text() {
        let fields = Fields(vec![
            ("scopes".to_owned(), " a, b\r\nc,".to_owned()),
            ("metadata".to_owned(), "team = x=y \r\n\r\nurl=z".to_owned()),
            ("bad".to_owned(), "nothing".to_owned()),
        ]);
        assert_eq!(fields.words("scopes"), ["a", "b", "c"]);
        assert_eq!(Value::from(fields.notes("metadata").unwrap()), json!({"team": "x=y", "url": "z"}));
        assert_eq!(fields.notes("bad").unwrap_err().status, 422);
    }
}
