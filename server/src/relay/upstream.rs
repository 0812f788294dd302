//! The HTTP client of the upstream: one pool of connections, HTTP/2 over TLS where the server offers it, and the token of a private
//! file.

use crate::auth::tokens::file::Audience;
use crate::private_file;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;
use std::{fs, io};
use tokio::time::timeout;

/// The upstream of a relay.
#[derive(Debug)]
pub struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    token_file: PathBuf,
    /// The value of `Authorization`, marked as sensitive so that it is not printed.
    authorization: RwLock<HeaderValue>,
}

/// The upstream is misconfigured. No message repeats the token.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The URL is invalid.
    #[error("invalid upstream {0:?}: expected a URL such as https://keyward.example")]
    Url(String),
    /// The file with the token cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read the file.
    #[error("{} can be read by others (mode {mode:o}); replace the token and make the file mode 600", path.display())]
    ReadableByOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file contains an operator token.
    #[error(
        "expected an edge token ({2}…) in {0}, got an operator token ({1}…); create one with `keyward tokens create --role edge`",
        path.display(),
        Audience::Admin.prefix(),
        Audience::Edge.prefix()
    )]
    OperatorToken {
        /// The file.
        path: PathBuf,
    },
    /// The file contains no token.
    #[error("expected a token of visible ASCII characters in the first line of {}", path.display())]
    NoToken {
        /// The file.
        path: PathBuf,
    },
}

/// A response of the upstream.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// The upstream returned no usable response.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The upstream is unreachable, or the connection broke.
    #[error("request failed: {0}")]
    Unreachable(String),
    /// The response took too long.
    #[error("request timed out")]
    Timeout,
    /// The response exceeds the maximum size.
    #[error("response too large")]
    TooLarge,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval of TCP keepalives.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// The interval and timeout of HTTP/2 keepalives.
const HTTP2_KEEPALIVE: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_secs(60);

impl Upstream {
    /// Reads the token; sends no request yet.
    pub fn new(url: &str, token_file: &Path) -> Result<Self, UpstreamError> {
        let bad = || UpstreamError::Url(url.to_owned());
        let parsed: Uri = url.parse().map_err(|_| bad())?;
        if !matches!(parsed.scheme_str(), Some("http" | "https")) || parsed.query().is_some() {
            return Err(bad());
        }
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(KEEPALIVE));
        let connector = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http2_keep_alive_interval(HTTP2_KEEPALIVE)
            .http2_keep_alive_timeout(HTTP2_KEEPALIVE)
            .build(connector);
        let authorization = RwLock::new(read_token(token_file)?);
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { client, url, token_file: token_file.to_owned(), authorization })
    }

    /// The URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Reloads the token; on an error the previous one stays.
    pub fn reload(&self) -> Result<(), UpstreamError> {
        let token = read_token(&self.token_file)?;
        *self.authorization.write().unwrap_or_else(PoisonError::into_inner) = token;
        Ok(())
    }

    /// Sends a `GET` for a path and query.
    pub(crate) async fn get(&self, path: &str, limit: Duration, max_bytes: usize) -> Result<Response, RequestError> {
        self.send(Method::GET, path, None, Bytes::new(), limit, max_bytes).await
    }

    /// Sends a `POST`.
    pub(crate) async fn post(
        &self,
        path: &str,
        media_type: Option<&HeaderValue>,
        body: Bytes,
        limit: Duration,
        max_bytes: usize,
    ) -> Result<Response, RequestError> {
        self.send(Method::POST, path, media_type, body, limit, max_bytes).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        media_type: Option<&HeaderValue>,
        body: Bytes,
        limit: Duration,
        max_bytes: usize,
    ) -> Result<Response, RequestError> {
        let authorization = self.authorization.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(AUTHORIZATION, authorization)
            .header(USER_AGENT, concat!("keyward-relay/", env!("CARGO_PKG_VERSION")));
        if let Some(media_type) = media_type {
            request = request.header(CONTENT_TYPE, media_type);
        }
        let request =
            request.body(Full::new(body)).map_err(|error| RequestError::Unreachable(describe_error(&error)))?;
        let response = async {
            let response = self
                .client
                .request(request)
                .await
                .map_err(|error| RequestError::Unreachable(describe_error(&error)))?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, max_bytes).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    RequestError::TooLarge
                } else {
                    RequestError::Unreachable(describe_error(&*error))
                }
            })?;
            Ok(Response { status: parts.status, headers: parts.headers, body: body.to_bytes() })
        };
        timeout(limit, response).await.unwrap_or(Err(RequestError::Timeout))
    }
}

fn read_token(path: &Path) -> Result<HeaderValue, UpstreamError> {
    let file = |source| UpstreamError::File { path: path.to_owned(), source };
    if let Some(mode) = private_file::open_to_others(path).map_err(file)? {
        return Err(UpstreamError::ReadableByOthers { path: path.to_owned(), mode });
    }
    let text = fs::read_to_string(path).map_err(file)?;
    let token = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let no_token = || UpstreamError::NoToken { path: path.to_owned() };
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(no_token());
    }
    if token.starts_with(Audience::Admin.prefix()) {
        return Err(UpstreamError::OperatorToken { path: path.to_owned() });
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| no_token())?;
    value.set_sensitive(true);
    Ok(value)
}

/// The error with all its sources, as the client's own message names only the step that failed.
fn describe_error(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_read_from_a_private_file_and_shown_by_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let upstream = |url: &str| Upstream::new(url, &path);
        assert!(matches!(upstream("http://127.0.0.1:1").unwrap_err(), UpstreamError::File { .. }));
        fs::write(&path, "\n kwe_very_secret \nkwe_another\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(upstream("http://127.0.0.1:1").unwrap_err(), UpstreamError::ReadableByOthers { .. }));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let found = upstream("https://keyward.example/").unwrap();
        assert_eq!(found.url(), "https://keyward.example");
        assert_eq!(*found.authorization.read().unwrap(), "Bearer kwe_very_secret");
        assert!(!format!("{found:?}").contains("secret"));
        for bad in ["keyward.example", "ftp://keyward.example", "", "http://x?y"] {
            assert!(matches!(upstream(bad).unwrap_err(), UpstreamError::Url(_)), "{bad}");
        }
        fs::write(&path, "kwa_very_secret\n").unwrap();
        let error = found.reload().unwrap_err();
        assert!(matches!(error, UpstreamError::OperatorToken { .. }) && !error.to_string().contains("secret"));
        for bad in ["", "\n\n", "kwe secret\n", "kwe_s\u{e9}cret\n"] {
            fs::write(&path, bad).unwrap();
            let error = found.reload().unwrap_err();
            assert!(matches!(error, UpstreamError::NoToken { .. }) && !error.to_string().contains("cret"));
            assert_eq!(*found.authorization.read().unwrap(), "Bearer kwe_very_secret");
        }
    }
}
