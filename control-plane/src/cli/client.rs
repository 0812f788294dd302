//! Asks the control plane, and says what it said when it refuses.

use super::arguments::ControlPlane;
use super::{CliError, output};
use crate::random;
use crate::tokens::Audience;
use keyward_contract::secret::Secret;
use serde_json::Value;
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::request::Builder;
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::{Body, SendBody};

/// A control plane that can be asked.
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    token: Secret,
}

/// The control plane was not asked, did not answer, or refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL cannot be used.
    #[error("{0}")]
    Url(&'static str),
    /// There is no token to show.
    #[error("no token: KEYWARD_ADMIN_TOKEN is not set, and {}: {source}", path.display())]
    NoToken {
        /// The file that was looked for.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// There was no answer.
    #[error("no answer from {url}: {source}")]
    Unreachable {
        /// The server.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// The answer is not one of a control plane.
    #[error("{url} answered {status} with something that is not of this API")]
    NotTheApi {
        /// The server.
        url: String,
        /// The status.
        status: u16,
    },
    /// The control plane refused.
    #[error("{url} refused ({status}): {refusal}")]
    Refused {
        /// The server.
        url: String,
        /// The status.
        status: u16,
        /// What it said.
        refusal: Refusal,
    },
}

/// A problem document (RFC 9457), as far as it is shown.
#[derive(Debug)]
pub struct Refusal {
    detail: String,
    errors: Vec<(String, String)>,
}

/// 190 bits.
const IDEMPOTENCY_KEY_LENGTH: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ANSWER_BYTES: u64 = 64 << 20;

impl Client {
    /// A client that shows the token of the environment, or of the data directory.
    pub(super) fn new(server: &ControlPlane) -> Result<Self, ClientError> {
        Self::with_patience(server, Some(TIMEOUT))
    }

    /// The same, for what takes as long as there is to send or to receive.
    pub(super) fn patient(server: &ControlPlane) -> Result<Self, ClientError> {
        Self::with_patience(server, None)
    }

    fn with_patience(server: &ControlPlane, timeout: Option<Duration>) -> Result<Self, ClientError> {
        let config = ureq::Agent::config_builder()
            .timeout_global(timeout)
            .timeout_connect(Some(TIMEOUT))
            .http_status_as_error(false)
            // The token is for this server, not for one that it points to, nor for a proxy.
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("keyward/", env!("CARGO_PKG_VERSION")));
        let url = server.url().map_err(ClientError::Url)?;
        Ok(Self { agent: config.build().new_agent(), url, token: token(server)? })
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.ask(Method::GET, path, None, None)
    }

    pub(super) fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.ask(Method::DELETE, path, None, None)
    }

    pub(super) fn post(&self, path: &str, document: &Value) -> Result<Value, ClientError> {
        self.ask(Method::POST, path, Some(document), None)
    }

    /// Posts what must happen once, under an Idempotency-Key, so that it can be asked for again where the connection broke.
    pub(super) fn post_once(&self, path: &str, document: &Value) -> Result<Value, CliError> {
        let idempotency_key = Secret::new(random::base62(IDEMPOTENCY_KEY_LENGTH)?);
        let ask = || self.ask(Method::POST, path, Some(document), Some(&idempotency_key));
        let answer = match ask() {
            Err(error) if error.is_a_broken_connection() => ask(),
            answer => answer,
        };
        Ok(answer?)
    }

    pub(super) fn put(&self, path: &str, document: &Value) -> Result<Value, ClientError> {
        self.ask(Method::PUT, path, Some(document), None)
    }

    pub(super) fn patch(&self, path: &str, document: &Value) -> Result<Value, ClientError> {
        self.ask(Method::PATCH, path, Some(document), None)
    }

    /// Sends what can be read, however much it is.
    pub(super) fn upload(
        &self,
        path: &str,
        media_type: &str,
        body: impl io::Read + 'static,
    ) -> Result<Value, ClientError> {
        let request = self.request(Method::POST, path).header("content-type", media_type);
        let request =
            request.body(SendBody::from_owned_reader(body)).map_err(|error| self.unreachable(error.into()))?;
        self.read(self.agent.run(request))
    }

    /// Copies what the server says, however much it is; how much it was.
    pub(super) fn download(&self, path: &str, out: &mut impl io::Write) -> Result<u64, DownloadError> {
        let request = self.request(Method::GET, path).body(()).map_err(|error| self.unreachable(error.into()))?;
        let answer = self.agent.run(request).map_err(|error| self.unreachable(error))?;
        if !answer.status().is_success() {
            let status = answer.status().as_u16();
            let not_the_api = || ClientError::NotTheApi { url: self.url.clone(), status };
            return Err(self.read(Ok(answer)).err().unwrap_or_else(not_the_api).into());
        }
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; 64 << 10];
        let mut copied = 0;
        loop {
            let read = body.read(&mut buffer).map_err(|error| self.unreachable(error.into()))?;
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
            out.write_all(piece).map_err(DownloadError::Write)?;
            copied += piece.len() as u64;
        }
        out.flush().map_err(DownloadError::Write)?;
        Ok(copied)
    }

    fn ask(
        &self,
        method: Method,
        path: &str,
        document: Option<&Value>,
        idempotency_key: Option<&Secret>,
    ) -> Result<Value, ClientError> {
        let mut request = self.request(method, path);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", format!("\"{}\"", key.expose()));
        }
        let answer = match document {
            Some(document) => {
                let request = request.header("content-type", "application/json").body(document.to_string());
                self.agent.run(request.map_err(|error| self.unreachable(error.into()))?)
            }
            None => self.agent.run(request.body(()).map_err(|error| self.unreachable(error.into()))?),
        };
        self.read(answer)
    }

    fn request(&self, method: Method, path: &str) -> Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {}", self.token.expose()))
    }

    fn unreachable(&self, source: ureq::Error) -> ClientError {
        ClientError::Unreachable { url: self.url.clone(), source: Box::new(source) }
    }

    /// The document of an answer, or what the control plane said against it.
    fn read(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Value, ClientError> {
        let unreachable = |source| self.unreachable(source);
        let mut answer = answer.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string().map_err(unreachable)?;
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let not_the_api = || ClientError::NotTheApi { url: self.url.clone(), status: status.as_u16() };
        let document: Value = serde_json::from_str(&body).map_err(|_| not_the_api())?;
        if status.is_success() {
            return Ok(document);
        }
        let refusal = Refusal::read(&document).ok_or_else(not_the_api)?;
        Err(ClientError::Refused { url: self.url.clone(), status: status.as_u16(), refusal })
    }
}

impl ClientError {
    /// Whether the request may have arrived, and its answer was lost.
    fn is_a_broken_connection(&self) -> bool {
        let Self::Unreachable { source, .. } = self else { return false };
        matches!(**source, ureq::Error::Io(_) | ureq::Error::Protocol(_) | ureq::Error::ConnectionFailed)
    }
}

/// A download did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Write(io::Error),
}

impl Refusal {
    fn read(document: &Value) -> Option<Self> {
        let text = |value: &Value, field| value.get(field).and_then(Value::as_str).map(output::printable);
        let errors = document.get("errors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        Some(Self {
            detail: text(document, "detail").or_else(|| text(document, "title"))?,
            errors: errors.iter().filter_map(|error| Some((text(error, "field")?, text(error, "message")?))).collect(),
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        for (field, message) in &self.errors {
            let separator = if field.is_empty() { "" } else { ": " };
            write!(f, "\n  {field}{separator}{message}")?;
        }
        Ok(())
    }
}

fn token(server: &ControlPlane) -> Result<Secret, ClientError> {
    // Set to nothing is as good as not set.
    if let Some(token) = std::env::var("KEYWARD_ADMIN_TOKEN").ok().as_deref().and_then(first_line) {
        return Ok(Secret::new(token));
    }
    let path = server.data_dir().join(Audience::Admin.file_name());
    let file = std::fs::read_to_string(&path).and_then(|file| {
        first_line(&file).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the file is empty"))
    });
    file.map(Secret::new).map_err(|source| ClientError::NoToken { path, source })
}

/// The first token of a file, or of a variable into which a file was read.
fn first_line(text: &str) -> Option<String> {
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_refusal_is_shown_with_every_field_that_is_wrong() {
        let document = json!({"title": "T", "detail": "some fields cannot be used", "errors": [
            {"field": "name", "message": "is required"}, {"field": "", "message": "too long"},
        ]});
        let refusal = Refusal::read(&document).unwrap();
        assert_eq!(refusal.to_string(), "some fields cannot be used\n  name: is required\n  too long");
        assert!(Refusal::read(&json!("nonsense")).is_none());
    }

    #[test]
    fn a_control_character_of_a_refusal_does_not_reach_the_terminal() {
        let document = json!({"detail": "a\u{1b}[2J", "errors": [{"field": "\r", "message": "\u{7}"}]});
        assert_eq!(Refusal::read(&document).unwrap().to_string(), "a\u{fffd}[2J\n  \u{fffd}: \u{fffd}");
    }

    #[test]
    fn of_several_tokens_the_first_is_shown() {
        assert_eq!(first_line("\n kwa_first\r\nkwa_second\n").as_deref(), Some("kwa_first"));
        assert_eq!(first_line(" \n"), None);
    }
}
