//! A connection of one edge, configured like Envoy's cluster in `envoy/envoy.yaml`.

use crate::failure::Context as _;
use crate::{Failure, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The cluster's `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The `interval` of the cluster's `connection_keepalive`.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// The keepalive timeout: longer than the cluster's two seconds, since thousands of edges share a few threads here, and
/// a thread that reads a timely response late would blame the control plane.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// The protocol of an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive. Uses less memory per edge on both sides, and has no keepalive pings.
    Http1,
    /// Cleartext HTTP/2 with prior knowledge, as in `envoy/envoy.yaml`.
    Http2,
}

/// A connection with one poll at a time.
pub(super) struct Connection {
    authority: SocketAddr,
    sender: Sender,
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Connection {
    pub(super) async fn open(to: SocketAddr, protocol: Protocol) -> Result<Self> {
        let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(to)).await;
        let stream = connecting
            .map_err(|_| Failure::new(format!("timed out connecting to {to}")))?
            .context(|| to.to_string())?;
        stream.set_nodelay(true).context(|| to.to_string())?;
        let io = TokioIo::new(stream);
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await.context(|| to.to_string())?;
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder
                    .timer(TokioTimer::new())
                    .keep_alive_interval(KEEPALIVE)
                    .keep_alive_timeout(KEEPALIVE_ANSWER)
                    .keep_alive_while_idle(true);
                let (sender, connection) = builder.handshake(io).await.context(|| to.to_string())?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Self { authority: to, sender })
    }

    /// Sends a GET, and waits for the complete response; returns its status and body.
    pub(super) async fn get(&mut self, path: &str, authorization: &str) -> Result<(u16, Bytes)> {
        let request = hyper::Request::get(match self.sender {
            Sender::Http1(_) => path.to_owned(),
            Sender::Http2(_) => format!("http://{}{path}", self.authority),
        });
        let mut request = request.header("authorization", authorization);
        if matches!(self.sender, Sender::Http1(_)) {
            request = request.header("host", self.authority.to_string());
        }
        let request = request.body(Empty::new()).context(|| path.to_owned())?;
        let answer = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.context(|| "the connection is closed".into())?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await.context(|| "the connection is closed".into())?;
                sender.send_request(request).await
            }
        };
        let (head, body) = answer.context(|| "no response".into())?.into_parts();
        let body = body.collect().await.context(|| "incomplete response".into())?;
        Ok((head.status.as_u16(), body.to_bytes()))
    }
}
