//! An upstream that reports the requests that it receives.

use crate::Result;
use crate::failure::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// A server for HTTP/1.1 and cleartext HTTP/2 that answers each request with 200 and the request as JSON, until
/// dropped. Upgrades (RFC 9110, section 7.8) are accepted, and their bytes echoed.
#[derive(Debug)]
pub struct Echo {
    name: String,
    address: SocketAddr,
    seen: Seen,
    task: JoinHandle<()>,
}

/// A request received by an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenRequest {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The received part of the body.
    pub body: Vec<u8>,
}

type Seen = Arc<Mutex<Vec<SeenRequest>>>;

/// A status, a media type and a body.
pub type Answer = (u16, &'static str, Vec<u8>);

/// Closes the connection after the request instead of answering.
pub const CLOSE: Answer = (0, "", Vec::new());

/// An answer, optionally with an additional header field.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The answer.
    pub answer: Answer,
    /// The field: its lower-case name, and its value.
    pub header: Option<(&'static str, &'static str)>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self { answer, header: None }
    }
}

impl Echo {
    /// Starts an upstream on this address; port 0 selects a free one. The name is part of its answers.
    pub async fn start(name: &str, address: SocketAddr) -> Result<Self> {
        let own_name = name.to_owned();
        Self::start_with(name, address, move |request| std::future::ready(echo(&own_name, &request))).await
    }

    /// Starts an upstream whose answers come from `script`.
    pub async fn start_with<F>(
        name: &str,
        address: SocketAddr,
        answer: impl Fn(SeenRequest) -> F + Send + Sync + 'static,
    ) -> Result<Self>
    where
        F: Future<Output: Into<Reply>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.context(|| format!("the upstream {name} on {address}"))?;
        let address = listener.local_addr().context(|| format!("the upstream {name}"))?;
        let seen = Seen::default();
        let task = tokio::spawn(accept(listener, Arc::new(answer), Arc::clone(&seen)));
        Ok(Self { name: name.to_owned(), address, seen, task })
    }

    /// The upstream's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The listening address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests received since the last call.
    pub fn take_seen(&self) -> Vec<SeenRequest> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl SeenRequest {
    /// All values of a header field.
    pub fn header(&self, name: &str) -> Vec<String> {
        let of_name = self.headers.iter().filter(|(known, _)| known == name);
        of_name.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept<F>(listener: TcpListener, script: Arc<impl Fn(SeenRequest) -> F + Send + Sync + 'static>, seen: Seen)
where
    F: Future<Output: Into<Reply>> + Send + 'static,
{
    // Connections belong to this task, and are closed with it.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
        connections.spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&script), Arc::clone(&seen), request));
            let server = auto::Builder::new(TokioExecutor::new());
            // Disconnecting clients are ignored.
            let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer<F>(
    script: Arc<impl Fn(SeenRequest) -> F>,
    seen: Seen,
    request: hyper::Request<Incoming>,
) -> std::io::Result<hyper::Response<Full<Bytes>>>
where
    F: Future<Output: Into<Reply>>,
{
    let mut request = request;
    let protocol = request.headers().get("upgrade").cloned();
    let upgrade = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
    let (head, body) = request.into_parts();
    // The body is read so that the connection can be reused.
    let body = body.collect().await.map(|body| body.to_bytes().into()).unwrap_or_default();
    let request = SeenRequest {
        method: head.method.to_string(),
        path: head.uri.path_and_query().map_or_else(|| "*".to_owned(), ToString::to_string),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_owned()))
            .collect(),
        body,
    };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    if let (Some(protocol), Some(upgrade)) = (protocol, upgrade) {
        return Ok(upgraded(protocol, upgrade));
    }
    let Reply { answer: (status, media_type, body), header } = script(request).await.into();
    if status == CLOSE.0 {
        return Err(std::io::ErrorKind::ConnectionAborted.into());
    }
    let mut response = hyper::Response::new(Full::from(body));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    response.headers_mut().insert("content-type", HeaderValue::from_static(media_type));
    if let Some((name, value)) = header {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Accepts an upgrade, after which all bytes are echoed.
fn upgraded(protocol: HeaderValue, upgrade: hyper::upgrade::OnUpgrade) -> hyper::Response<Full<Bytes>> {
    tokio::spawn(async move {
        if let Ok(stream) = upgrade.await {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(stream));
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        }
    });
    let mut response = hyper::Response::new(Full::default());
    *response.status_mut() = hyper::StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
    response.headers_mut().insert("upgrade", protocol);
    response
}

/// The request as JSON.
fn echo(name: &str, request: &SeenRequest) -> Answer {
    let mut headers = Map::new();
    for (name, _) in &request.headers {
        headers.insert(name.clone(), request.header(name).into());
    }
    let answer = json!({
        "upstream": name,
        "method": request.method,
        "path": request.path,
        "headers": Value::Object(headers),
    });
    (200, "application/json", format!("{answer}\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Connection, Request};
    use crate::ports::loopback;

    #[tokio::test]
    async fn echo_reports_requests_over_either_protocol() {
        let echo = Echo::start("one", loopback(0)).await.unwrap();
        let request = Request::get("/a?b=c").header("x-twice", "1").header("x-twice", b"\xff");
        for http2 in [false, true] {
            let open = if http2 {
                Connection::open_http2(echo.address()).await
            } else {
                Connection::open(echo.address()).await
            };
            let echoed = open.unwrap().send(&request).await.unwrap().json();
            assert_eq!(echoed["upstream"], "one");
            assert_eq!(echoed["method"], "GET");
            assert_eq!(echoed["path"], "/a?b=c");
            assert_eq!(echoed["headers"]["x-twice"], json!(["1", "\u{fffd}"]));
            let seen = echo.take_seen();
            assert_eq!(seen.len(), 1);
            assert_eq!(seen[0].headers.iter().filter(|(name, _)| name == "x-twice").count(), 2);
        }
    }
}
