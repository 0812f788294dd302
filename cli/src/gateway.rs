//! A client of a gateway: requests as they are, also ones that no well-behaved client sends, over connections that stay
//! open.
//!
//! It follows no redirect, uses no proxy and repeats nothing: what a request is answered is what is asked for.

use super::CliError;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Uri};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;
use tower_service::Service as _;

/// A gateway, by its URL.
#[derive(Clone, Debug)]
pub(super) struct Gateway {
    root: Uri,
    host: String,
    connector: HttpsConnector<HttpConnector>,
}

/// A connection that stays open: one worker of one Envoy serves all its requests.
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    host: String,
}

/// A request without a body.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) method: String,
    /// The path with its query.
    pub(super) path: String,
    /// The header fields, in this order; names may repeat.
    pub(super) headers: Vec<(String, String)>,
}

/// A response.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

/// There is no response. No message repeats the request, which can hold a key.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// The gateway cannot be reached.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection broke.
    #[error("the connection was closed without a complete response: {0}")]
    Broken(String),
    /// The gateway took too long.
    #[error("no response within {} s", LIMIT.as_secs())]
    Timeout,
    /// The client cannot express the request.
    #[error("the request cannot be expressed: {0}")]
    Request(String),
}

/// How long a connection, and an exchange, may take.
const LIMIT: Duration = Duration::from_secs(10);
const MAX_BODY_BYTES: usize = 1 << 20;

impl Gateway {
    /// The gateway at that root URL. `host` is the host of requests, if not that of the URL;
    /// `ca_file` has the certificates of the authorities to trust instead of the public ones.
    pub(super) fn new(url: &str, host: Option<&str>, ca_file: Option<&Path>) -> Result<Self, CliError> {
        let usage = || {
            CliError::Usage("expected the URL of the gateway as http://HOST:PORT or https://HOST:PORT, without a path")
        };
        // Not where the argument is parsed: clap would repeat the URL, which can hold a password.
        let url = super::arguments::url(url).map_err(CliError::Usage)?;
        let root: Uri = url.parse().map_err(|_| usage())?;
        let authority = root.authority().filter(|_| matches!(root.path(), "" | "/")).ok_or_else(usage)?;
        let host = host.unwrap_or(authority.as_str()).to_owned();
        HeaderValue::from_str(&host).map_err(|_| CliError::Usage("expected a host in visible characters"))?;
        let builder = ClientConfig::builder();
        let tls = match ca_file {
            Some(file) => builder.with_root_certificates(authorities(file)?).with_no_client_auth(),
            None => builder.with_webpki_roots().with_no_client_auth(),
        };
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Self { root, host, connector })
    }

    /// The port, by the scheme if the URL has none.
    pub(super) fn port(&self) -> u16 {
        let default = if self.root.scheme_str() == Some("https") { 443 } else { 80 };
        self.root.port_u16().unwrap_or(default)
    }

    /// Whether the gateway is on this machine, by its URL.
    pub(super) fn is_loopback(&self) -> bool {
        let host = self.root.host().unwrap_or_default().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// The host of requests.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Opens a connection.
    pub(super) async fn connect(&self) -> Result<Connection, ExchangeError> {
        self.open(false).await
    }

    /// Opens a connection that sends the names of header fields with capital letters: `X-Api-Key`.
    pub(super) async fn connect_title_case(&self) -> Result<Connection, ExchangeError> {
        self.open(true).await
    }

    async fn open(&self, title_case: bool) -> Result<Connection, ExchangeError> {
        let mut connector = self.connector.clone();
        let stream = timeout(LIMIT, connector.call(self.root.clone())).await.map_err(|_| ExchangeError::Timeout)?;
        let stream = stream.map_err(|error| ExchangeError::Connect(causes(&*error)))?;
        let handshake = http1::Builder::new().title_case_headers(title_case).handshake(stream).await;
        let (sender, connection) = handshake.map_err(|error| ExchangeError::Connect(causes(&error)))?;
        // An error of the connection is also that of its request.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { sender, host: self.host.clone() })
    }

    /// Sends a request on a new connection.
    pub(super) async fn send(&self, request: &Sent) -> Result<Answer, ExchangeError> {
        self.connect().await?.send(request).await
    }
}

/// The certificates of a file in PEM.
fn authorities(file: &Path) -> Result<RootCertStore, CliError> {
    let unreadable = |error: String| CliError::File { path: file.to_owned(), source: io::Error::other(error) };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unreadable(error.to_string()))? {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.is_empty() { Err(unreadable("expected certificates in PEM, found none".to_owned())) } else { Ok(roots) }
}

/// An error with its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Connection {
    /// Sends a request, and waits for its complete response.
    pub(super) async fn send(&mut self, request: &Sent) -> Result<Answer, ExchangeError> {
        let built = request.build(&self.host)?;
        match timeout(LIMIT, self.exchange(built)).await {
            Ok(answered) => answered,
            Err(_) => Err(ExchangeError::Timeout),
        }
    }

    async fn exchange(&mut self, request: Request<Empty<Bytes>>) -> Result<Answer, ExchangeError> {
        let broken = |error: hyper::Error| ExchangeError::Broken(causes(&error));
        self.sender.ready().await.map_err(broken)?;
        let (head, body) = self.sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
        let body = body.map_err(|error| ExchangeError::Broken(causes(&*error)))?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}

impl Sent {
    /// A request with this method and path.
    pub(super) fn new(method: &str, path: &str) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), headers: Vec::new() }
    }

    /// Adds a header field.
    #[must_use]
    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn build(&self, host: &str) -> Result<Request<Empty<Bytes>>, ExchangeError> {
        let unusable = |what: &dyn std::fmt::Display| ExchangeError::Request(what.to_string());
        let mut request = Request::builder().method(self.method.as_str()).uri(&self.path);
        if let Some(headers) = request.headers_mut() {
            headers.insert("host", HeaderValue::from_str(host).map_err(|error| unusable(&error))?);
            for (name, value) in &self.headers {
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| unusable(&error))?;
                headers.append(name, HeaderValue::from_str(value).map_err(|error| unusable(&error))?);
            }
        }
        request.body(Empty::new()).map_err(|error| unusable(&error))
    }
}

impl Answer {
    /// A header field as text; the first, if repeated.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateway_url_has_no_path() {
        let new = |url| Gateway::new(url, None, None);
        assert_eq!(new("https://api.example").unwrap().port(), 443);
        assert_eq!(new("http://api.example").unwrap().port(), 80);
        let loopback = new("http://127.0.0.1:8080").unwrap();
        assert!(loopback.port() == 8080 && loopback.is_loopback() && loopback.host() == "127.0.0.1:8080");
        assert!(new("http://[::1]:8080").unwrap().is_loopback() && !new("http://10.0.0.1").unwrap().is_loopback());
        for bad in ["http://h/path", "/x", "http://"] {
            assert!(new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn file_without_certificates_is_an_error_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Gateway::new("https://h", None, Some(file.path())).unwrap_err();
        assert!(error.exit_code() == 4 && error.to_string().contains("found none"), "{error}");
    }

    #[test]
    fn spellings_that_no_browser_sends_can_be_expressed() {
        for path in ["/a\\b", "/a%", "/a;x=1", "//a", "/./a", "/a%00", "http://h/a"] {
            assert!(Sent::new("GET", path).build("h").is_ok(), "{path}");
        }
        let repeated = Sent::new("GET", "/").header("x_a", "1").header("x_a", "2").build("h").unwrap();
        assert_eq!(repeated.headers().get_all("x_a").iter().count(), 2);
    }
}
