//! Serves connections, with timeouts for dead and idle ones.
//!
//! Without them an edge that vanished would keep its connection, and with it a file descriptor, forever; and so would a client
//! that sends a byte and no request.

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Version};
use axum::serve::Listener;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

/// The timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// From connecting until the header of the first request is complete; in HTTP/1 also for the header of each further request,
    /// from the end of the one before.
    pub(crate) header: Duration,
    /// In HTTP/2, from the end of the last request until GOAWAY. A long poll is a request.
    pub(crate) idle: Duration,
    /// From the last received data until a keepalive probe.
    pub(crate) keepalive: Duration,
    /// From a keepalive probe until the connection counts as dead.
    pub(crate) keepalive_answer: Duration,
    /// From the start of a shutdown until an idle HTTP/1 connection is closed. Requests sent before it are read meanwhile; an
    /// immediate close would reset them.
    pub(crate) linger: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let [header, idle, keepalive, keepalive_answer] = [30, 120, 30, 20].map(Duration::from_secs);
        Self { header, idle, keepalive, keepalive_answer, linger: Duration::from_millis(250) }
    }
}

/// In the extensions of a request: the address of the other end of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// In the extensions of a response: closes the connection after it, so that a load balancer can choose another server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CloseConnection;

/// Serves until `stopping` is true, then answers every request that was sent by then and closes the connections.
pub(crate) async fn serve(mut listener: TcpListener, app: Router, stopping: watch::Receiver<bool>, timeouts: Timeouts) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(timeouts.header);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(timeouts.keepalive)
        .keep_alive_timeout(timeouts.keepalive_answer);
    // Closed once every connection has dropped its receiver.
    let (connections, open) = watch::channel(());
    let begin = |connection: TcpStream, peer: SocketAddr| {
        if let Err(error) = prepare(&connection, timeouts) {
            tracing::debug!(%error, "failed to set socket options");
        }
        let (builder, app) = (builder.clone(), TowerToHyperService::new(app.clone()));
        let (stopping, open) = (stopping.clone(), open.clone());
        tokio::spawn(async move {
            serve_one(connection, peer, &builder, app, stopping, timeouts).await;
            drop(open);
        });
    };
    let mut stop = stopping.clone();
    loop {
        let (connection, peer) = tokio::select! {
            _ = stop.wait_for(|is_stopping| *is_stopping) => break,
            // Unlike the listener's own, this waits when file descriptors run out.
            accepted = Listener::accept(&mut listener) => accepted,
        };
        begin(connection, peer);
    }
    if let Err(error) = take_backlog(listener, begin) {
        tracing::warn!(%error, "failed to accept waiting connections");
    }
    drop(open);
    connections.closed().await;
}

/// Closes the listener, and accepts the connections in its backlog, which the system would reset.
fn take_backlog(listener: TcpListener, begin: impl Fn(TcpStream, SocketAddr)) -> io::Result<()> {
    // Without the runtime, which may not know all of them yet.
    let listener = listener.into_std()?;
    loop {
        match listener.accept() {
            Ok((connection, peer)) => {
                connection.set_nonblocking(true)?;
                begin(TcpStream::from_std(connection)?, peer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

async fn serve_one(
    connection: TcpStream,
    peer: SocketAddr,
    builder: &Builder<TokioExecutor>,
    app: TowerToHyperService<Router>,
    mut stopping: watch::Receiver<bool>,
    timeouts: Timeouts,
) {
    let requests = Arc::new(Requests::default());
    let stop = stopping.clone();
    let service = service_fn(|mut request: hyper::Request<_>| {
        request.extensions_mut().insert(Peer(peer.ip()));
        let is_http_1 = request.version() < Version::HTTP_2;
        requests.is_http_2.fetch_or(!is_http_1, Ordering::Relaxed);
        let (open, answering) = (OpenRequest::begin(&requests), app.call(request));
        let stop = stop.clone();
        async move {
            let mut response = answering.await?;
            if response.extensions_mut().remove::<CloseConnection>().is_some() {
                open.0.close.notify_one();
            }
            // HTTP/2 sends GOAWAY instead.
            if is_http_1 && *stop.borrow() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| ResponseBody { body, _open: open }))
        }
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(connection), service));
    // hyper has no timeout while it reads the version, and in HTTP/2 none for requests.
    let begun = Instant::now();
    let mut timer = pin!(sleep_until(begun + timeouts.header.min(timeouts.idle)));
    let (mut is_stopping, mut is_closing) = (false, false);
    loop {
        tokio::select! {
            biased;
            served = serving.as_mut() => {
                if let Err(error) = served {
                    tracing::trace!(error, "connection failed");
                }
                return;
            }
            _ = stopping.wait_for(|stop| *stop), if !is_stopping => {
                is_stopping = true;
                if requests.is_http_2.load(Ordering::Relaxed) {
                    is_closing = true;
                    serving.as_mut().graceful_shutdown();
                } else {
                    timer.as_mut().reset(Instant::now() + timeouts.linger);
                }
            }
            () = requests.close.notified() => serving.as_mut().graceful_shutdown(),
            () = timer.as_mut() => {
                let now = Instant::now();
                let next = match requests.activity() {
                    // What the client has sent until now was read.
                    _ if is_stopping && !is_closing => {
                        is_closing = true;
                        serving.as_mut().graceful_shutdown();
                        now + timeouts.header
                    }
                    Activity::None if begun + timeouts.header > now => {
                        (begun + timeouts.header).min(now + timeouts.idle)
                    }
                    Activity::None => return,
                    Activity::Open(_) => now + timeouts.idle,
                    Activity::IdleSince(since) if since + timeouts.idle > now => since + timeouts.idle,
                    Activity::IdleSince(_) if is_closing => return,
                    Activity::IdleSince(_) => {
                        is_closing = true;
                        serving.as_mut().graceful_shutdown();
                        now + timeouts.header
                    }
                };
                timer.as_mut().reset(next);
            }
        }
    }
}

/// The requests of a connection.
#[derive(Debug, Default)]
struct Requests {
    activity: Mutex<Activity>,
    is_http_2: AtomicBool,
    /// Notified after a response that closes the connection.
    close: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
enum Activity {
    /// There was no request yet.
    #[default]
    None,
    /// That many requests are in progress.
    Open(usize),
    /// The last response was sent then.
    IdleSince(Instant),
}

/// A request in progress.
#[derive(Debug)]
struct OpenRequest(Arc<Requests>);

/// The body of a response, with whose end the request ends.
struct ResponseBody {
    body: Body,
    _open: OpenRequest,
}

impl Requests {
    fn activity(&self) -> Activity {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenRequest {
    fn begin(requests: &Arc<Requests>) -> Self {
        let mut activity = requests.lock();
        *activity = match *activity {
            Activity::Open(open) => Activity::Open(open + 1),
            Activity::None | Activity::IdleSince(_) => Activity::Open(1),
        };
        drop(activity);
        Self(Arc::clone(requests))
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut activity = self.0.lock();
        *activity = match *activity {
            Activity::Open(open) if open > 1 => Activity::Open(open - 1),
            _ => Activity::IdleSince(Instant::now()),
        };
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn prepare(connection: &TcpStream, timeouts: Timeouts) -> io::Result<()> {
    // A page of the feed is one small write that must not wait for an acknowledgement.
    connection.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(timeouts.keepalive).with_interval(timeouts.keepalive_answer);
    SockRef::from(connection).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Extension;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    /// A server of this router, and what ends it.
    async fn started(app: Router, timeouts: Timeouts) -> (SocketAddr, watch::Sender<bool>, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ending) = watch::channel(false);
        (address, end, tokio::spawn(serve(listener, app, ending, timeouts)))
    }

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(10), what).await.expect("it takes too long")
    }

    #[tokio::test]
    async fn a_connection_whose_request_is_never_complete_is_closed() {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
        let timeouts = Timeouts { header: Duration::from_millis(50), ..Timeouts::default() };
        let (address, end, serving) = started(Router::new(), timeouts).await;
        let begun = [PREFACE, SETTINGS].concat();
        for begin in [b"", &b"P"[..], b"PRI * HTTP/2.0\r\n", PREFACE, &begun, b"GET / HTTP/1.1\r\nHost: a"] {
            let mut connection = TcpStream::connect(address).await.unwrap();
            connection.write_all(begin).await.unwrap();
            // It may be closed by a reset.
            let _closed = soon(connection.read_to_end(&mut Vec::new())).await;
        }
        end.send_replace(true);
        soon(serving).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_sent_before_the_end_is_answered_though_nobody_has_read_or_accepted_it() {
        use std::io::Write;
        const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let app = Router::new().fallback(async || "answered");
        let (address, end, serving) = started(app, Timeouts::default()).await;
        let mut kept = TcpStream::connect(address).await.unwrap();
        kept.write_all(REQUEST).await.unwrap();
        let mut first = [0; 1024];
        let read = soon(kept.read(&mut first)).await.unwrap();
        assert!(first[..read].ends_with(b"answered"));
        // From here to the end nothing else runs on this thread, which is all that this runtime has.
        let kept = kept.into_std().unwrap();
        (&kept).write_all(REQUEST).unwrap();
        let new = std::net::TcpStream::connect(address).unwrap();
        (&new).write_all(REQUEST).unwrap();
        end.send_replace(true);
        for connection in [kept, new] {
            connection.set_nonblocking(true).unwrap();
            let mut answer = String::new();
            soon(TcpStream::from_std(connection).unwrap().read_to_string(&mut answer)).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("answered"), "{answer}");
            assert!(answer.contains("connection: close"), "{answer}");
        }
        soon(serving).await.unwrap();
        assert!(std::net::TcpStream::connect(address).is_err());
    }

    type Sender = hyper::client::conn::http2::SendRequest<Body>;

    /// A client of HTTP/2, and what ends with its connection.
    async fn connect(address: SocketAddr) -> (Sender, JoinHandle<()>) {
        let connection = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), connection).await.unwrap();
        (sender, tokio::spawn(async move { drop(connection.await) }))
    }

    fn request(path: &str) -> hyper::Request<Body> {
        hyper::Request::get(format!("http://a{path}")).body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn a_connection_of_http_2_without_a_request_is_closed_and_one_with_a_request_that_waits_is_not() {
        let (release, released) = watch::channel(false);
        let app = Router::new().fallback(async move |request: axum::extract::Request| {
            if request.uri().path() == "/waits" {
                let _ = released.clone().wait_for(|released| *released).await;
            }
            "answered"
        });
        let timeouts = Timeouts { idle: Duration::from_millis(50), ..Timeouts::default() };
        let (address, end, serving) = started(app, timeouts).await;
        let (mut waiting, _connection) = connect(address).await;
        let answer = tokio::spawn(waiting.send_request(request("/waits")));
        for _ in 0..3 {
            let (mut idle, connection) = connect(address).await;
            assert_eq!(soon(idle.send_request(request("/"))).await.unwrap().status(), 200);
            soon(connection).await.unwrap();
        }
        assert!(!answer.is_finished());
        release.send_replace(true);
        assert_eq!(soon(answer).await.unwrap().unwrap().status(), 200);
        end.send_replace(true);
        soon(serving).await.unwrap();
    }

    #[tokio::test]
    async fn after_a_close_the_connection_is_closed() {
        let app = Router::new().fallback(async || (Extension(CloseConnection), "ask another"));
        let (address, _end, _serving) = started(app, Timeouts::default()).await;
        let (mut sender, connection) = connect(address).await;
        assert_eq!(soon(sender.send_request(request("/"))).await.unwrap().status(), 200);
        soon(connection).await.unwrap();
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        soon(connection.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
}
