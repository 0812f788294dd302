//! HTTP requests of a client, well-formed or not.

use crate::failure::Context as _;
use crate::{Failure, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper::header::{HeaderName, HeaderValue};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The timeout of an exchange.
const LIMIT: Duration = Duration::from_secs(30);

/// A request to send.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Bytes,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header fields in the order of arrival, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

/// A kept-alive connection: all its requests are served by the same Envoy worker.
#[derive(Debug)]
pub struct Connection {
    authority: SocketAddr,
    sender: Sender,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Request {
    /// A request with this method and path.
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), headers: Vec::new(), body: Bytes::new() }
    }

    /// A GET request of this path.
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// Adds a header field; names may repeat.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Adds `Authorization: Bearer` with this credential.
    #[must_use]
    pub fn bearer(self, credential: &str) -> Self {
        self.header("authorization", format!("Bearer {credential}"))
    }

    /// Sets a JSON body.
    #[must_use]
    pub fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into();
        self.header("content-type", "application/json")
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body.into();
        self
    }

    /// The method.
    pub fn method(&self) -> &str {
        &self.method
    }

    fn build(&self, uri: &str, authority: Option<&SocketAddr>) -> Result<hyper::Request<Full<Bytes>>> {
        let describe = || format!("{} {}", self.method, self.path);
        let mut request =
            hyper::Request::builder().method(self.method.as_str()).uri(uri).body(Full::new(self.body.clone()));
        if let Ok(request) = &mut request {
            let headers = request.headers_mut();
            if let Some(authority) = authority {
                headers.insert("host", HeaderValue::from_str(&authority.to_string()).context(describe)?);
            }
            for (name, value) in &self.headers {
                let name = HeaderName::from_bytes(name.as_bytes()).context(describe)?;
                headers.append(name, HeaderValue::from_bytes(value).context(describe)?);
            }
        }
        request.context(describe)
    }
}

impl Response {
    /// The value of a header field as text; the first, if repeated.
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(known, _)| known == name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If the body is not JSON; shows the whole response.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the body of {} {:?}", self.status, self.text()))
    }
}

impl Connection {
    /// Opens a connection for HTTP/1.1.
    pub async fn open(to: SocketAddr) -> Result<Self> {
        let io = TokioIo::new(connect(to).await?);
        let (sender, connection) = http1::handshake(io).await.context(|| to.to_string())?;
        tokio::spawn(connection);
        Ok(Self { authority: to, sender: Sender::Http1(sender) })
    }

    /// Opens a connection for cleartext HTTP/2 with prior knowledge (RFC 9113, section 3.3).
    pub async fn open_http2(to: SocketAddr) -> Result<Self> {
        let io = TokioIo::new(connect(to).await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.context(|| to.to_string())?;
        tokio::spawn(connection);
        Ok(Self { authority: to, sender: Sender::Http2(sender) })
    }

    /// Sends a request and waits for the complete response, for at most half a minute.
    pub async fn send(&mut self, request: &Request) -> Result<Response> {
        let context = format!("{} http://{}{}", request.method, self.authority, request.path);
        let exchange = async {
            let response = match &mut self.sender {
                Sender::Http1(sender) => {
                    sender.ready().await.context(|| "the connection is closed".into())?;
                    sender.send_request(request.build(&request.path, Some(&self.authority))?).await
                }
                Sender::Http2(sender) => {
                    sender.ready().await.context(|| "the connection is closed".into())?;
                    let uri = format!("http://{}{}", self.authority, request.path);
                    sender.send_request(request.build(&uri, None)?).await
                }
            };
            let (head, body) = response.context(|| "no response".into())?.into_parts();
            let body = body.collect().await.context(|| "incomplete response".into())?;
            let headers =
                head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_owned()));
            Ok::<_, Failure>(Response {
                status: head.status.as_u16(),
                headers: headers.collect(),
                body: body.to_bytes().into(),
            })
        };
        match timeout(LIMIT, exchange).await {
            Ok(answer) => answer.context(|| context),
            Err(_) => Err(Failure::new(format!("{context}: no response within {LIMIT:?}"))),
        }
    }
}

/// A body without data that never ends.
#[derive(Debug)]
struct Endless;

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<std::result::Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

/// Starts requests with endless bodies over one HTTP/2 connection. Each task returns the status of the response, or
/// `None` without one; dropping the set ends all.
pub async fn send_endless(to: SocketAddr, request: &Request, streams: usize) -> Result<JoinSet<Option<u16>>> {
    let io = TokioIo::new(connect(to).await?);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.context(|| to.to_string())?;
    tokio::spawn(connection);
    let mut tasks = JoinSet::new();
    for _ in 0..streams {
        let mut sender: http2::SendRequest<Endless> = sender.clone();
        let request = request.build(&format!("http://{to}{}", request.path), None)?.map(|_| Endless);
        tasks.spawn(async move {
            sender.ready().await.ok()?;
            Some(sender.send_request(request).await.ok()?.status().as_u16())
        });
    }
    Ok(tasks)
}

/// Sends a request on a new connection.
pub async fn send(to: SocketAddr, request: &Request) -> Result<Response> {
    Connection::open(to).await?.send(request).await
}

/// Sends raw bytes and reads one response: until it is complete, or the server closes the connection.
pub async fn send_bytes(to: SocketAddr, bytes: &[u8]) -> Result<Response> {
    let (mut reader, mut writer) = connect(to).await?.into_split();
    // A server that responds early stops reading early: only the response matters.
    let bytes = bytes.to_owned();
    let writing = tokio::spawn(async move {
        let _ = writer.write_all(&bytes).await;
        writer
    });
    let mut received = Vec::new();
    let reading = async {
        loop {
            if let Some(response) = parse(&received, false) {
                return Some(response);
            }
            if !matches!(reader.read_buf(&mut received).await, Ok(1..)) {
                return parse(&received, true);
            }
        }
    };
    let response = timeout(LIMIT, reading).await;
    writing.abort();
    match response {
        Ok(Some(response)) => Ok(response),
        Ok(None) => {
            Err(Failure::new(format!("{to}: expected a response, got {:?}", String::from_utf8_lossy(&received))))
        }
        Err(_) => Err(Failure::new(format!(
            "{to}: incomplete response within {LIMIT:?}: {:?}",
            String::from_utf8_lossy(&received)
        ))),
    }
}

/// Requests a WebSocket (RFC 6455, section 4.1) and, if accepted, sends these bytes; the response's body is what came
/// back through the WebSocket, or the body of the refusal.
pub async fn send_websocket(to: SocketAddr, request: &Request, bytes: &[u8]) -> Result<Response> {
    let mut head = format!(
        "GET {} HTTP/1.1\r\nhost: {to}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        request.path
    )
    .into_bytes();
    for (name, value) in &request.headers {
        head.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    head.extend_from_slice(b"\r\n");
    let mut stream = connect(to).await?;
    let exchange = async {
        stream.write_all(&head).await.ok()?;
        let mut received = Vec::new();
        loop {
            if received.starts_with(b"HTTP/1.1 101") && received.ends_with(b"\r\n\r\n") {
                let mut response = parse(&received, true)?;
                stream.write_all(bytes).await.ok()?;
                response.body = vec![0; bytes.len()];
                stream.read_exact(&mut response.body).await.ok()?;
                return Some(response);
            }
            let closed = !matches!(stream.read_buf(&mut received).await, Ok(1..));
            match parse(&received, closed) {
                Some(response) if response.status != 101 => return Some(response),
                None if closed => return None,
                _ => {}
            }
        }
    };
    match timeout(LIMIT, exchange).await {
        Ok(Some(response)) => Ok(response),
        _ => Err(Failure::new(format!("{to}: no response to the WebSocket handshake"))),
    }
}

async fn connect(to: SocketAddr) -> Result<TcpStream> {
    match timeout(LIMIT, TcpStream::connect(to)).await {
        Ok(stream) => {
            let stream = stream.context(|| format!("connecting to {to}"))?;
            stream.set_nodelay(true).context(|| to.to_string())?;
            Ok(stream)
        }
        Err(_) => Err(Failure::new(format!("{to}: no connection within {LIMIT:?}"))),
    }
}

/// Parses an HTTP/1.1 response (RFC 9112); `None` if malformed, or incomplete and the connection not `closed`.
fn parse(received: &[u8], closed: bool) -> Option<Response> {
    let head_length = received.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&received[..head_length]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().as_bytes().to_owned()))
        .collect();
    let rest = &received[head_length + 4..];
    let value = |name| headers.iter().find(|(known, _)| known == name).map(|(_, value)| String::from_utf8_lossy(value));
    let body = if value("transfer-encoding").as_deref() == Some("chunked") {
        unchunked(rest)?
    } else if let Some(length) = value("content-length") {
        rest.get(..length.parse().ok()?)?.to_owned()
    } else if closed {
        rest.to_owned()
    } else {
        return None;
    };
    Some(Response { status, headers, body })
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?.trim(), 16).ok()?;
        rest = &rest[line + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_parsed_with_a_length_or_in_chunks() {
        let response = parse(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nX: a: b\r\n\r\n{}", false).unwrap();
        assert_eq!((response.status, response.text().as_str()), (401, "{}"));
        assert_eq!(response.header("x").as_deref(), Some("a: b"));
        let response =
            parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", false)
                .unwrap();
        assert_eq!(response.text(), "abcd");
        assert!(parse(b"nonsense", true).is_none());
    }

    #[test]
    fn incomplete_response_is_waited_for() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        for length in 0..whole.len() {
            assert!(parse(&whole[..length], false).is_none(), "{length}");
        }
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n{", false).is_none());
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n{", true).unwrap().text(), "{");
    }
}
