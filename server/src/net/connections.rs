//! Accepts connections and serves them, and lets go of those whose other end is gone or never says what it wants.
//!
//! An edge that vanishes without a word would otherwise keep its connection, and with it a file descriptor, for good; and so
//! would anybody who sends a byte and no request.

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

/// How long the other end may be silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// From when it connects until the header of its first request is complete; in HTTP/1 also until that of each further
    /// request is, beginning with the end of the one before.
    pub(crate) header: Duration,
    /// In HTTP/2, from the end of its last request until it is sent away. An edge that waits for news has a request.
    pub(crate) idle: Duration,
    /// Until it is asked whether it is still there.
    pub(crate) keepalive: Duration,
    /// Until it has to answer that.
    pub(crate) keepalive_answer: Duration,
    /// From when the server ends until a connection of HTTP/1 without a request is closed. What was sent before the end is
    /// read meanwhile; closed at once, the connection would be reset with it.
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

/// In the extensions of an answer: the client does better to connect anew, as somebody else may answer it then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastAnswer;

/// Serves until `ending` is true, then finishes what was begun: every request that was sent by then is answered, and its
/// connection closed.
pub(crate) async fn serve(mut listener: TcpListener, app: Router, ending: watch::Receiver<bool>, timeouts: Timeouts) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(timeouts.header);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(timeouts.keepalive)
        .keep_alive_timeout(timeouts.keepalive_answer);
    // Closed once every connection has let go of its part.
    let (connections, part) = watch::channel(());
    let begin = |connection: TcpStream, peer: SocketAddr| {
        if let Err(error) = prepare(&connection, timeouts) {
            tracing::debug!(%error, "a connection keeps the system's options");
        }
        let (builder, app) = (builder.clone(), TowerToHyperService::new(app.clone()));
        let (ending, part) = (ending.clone(), part.clone());
        tokio::spawn(async move {
            serve_one(connection, peer, &builder, app, ending, timeouts).await;
            drop(part);
        });
    };
    let mut end = ending.clone();
    loop {
        let (connection, peer) = tokio::select! {
            _ = end.wait_for(|ending| *ending) => break,
            // Unlike the listener's own, this waits where file descriptors are short.
            accepted = Listener::accept(&mut listener) => accepted,
        };
        begin(connection, peer);
    }
    if let Err(error) = take_backlog(listener, begin) {
        tracing::warn!(%error, "connections that were waiting to be accepted are lost");
    }
    drop(part);
    connections.closed().await;
}

/// Closes the listener, and takes the connections that have waited there: the system would reset them with whatever they have
/// sent.
fn take_backlog(listener: TcpListener, begin: impl Fn(TcpStream, SocketAddr)) -> io::Result<()> {
    // Without the runtime, which may not have heard of all of them.
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
    mut ending: watch::Receiver<bool>,
    timeouts: Timeouts,
) {
    let requests = Arc::new(Requests::default());
    let is_ending = ending.clone();
    let service = service_fn(|mut request: hyper::Request<_>| {
        request.extensions_mut().insert(Peer(peer.ip()));
        let is_http_1 = request.version() < Version::HTTP_2;
        requests.is_http_2.fetch_or(!is_http_1, Ordering::Relaxed);
        let (open, answering) = (OpenRequest::begin(&requests), app.call(request));
        let is_ending = is_ending.clone();
        async move {
            let mut response = answering.await?;
            if response.extensions_mut().remove::<LastAnswer>().is_some() {
                open.0.last_answer.notify_one();
            }
            // HTTP/2 says so by a frame of its own.
            if is_http_1 && *is_ending.borrow() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| Answering { body, _open: open }))
        }
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(connection), service));
    // While the version is read, hyper has no time limit of its own, and in HTTP/2 none at all for requests.
    let begun = Instant::now();
    let mut timer = pin!(sleep_until(begun + timeouts.header.min(timeouts.idle)));
    let (mut is_ending, mut is_sent_away) = (false, false);
    loop {
        tokio::select! {
            biased;
            served = serving.as_mut() => {
                if let Err(error) = served {
                    tracing::trace!(error, "a connection has failed");
                }
                return;
            }
            _ = ending.wait_for(|ending| *ending), if !is_ending => {
                is_ending = true;
                if requests.is_http_2.load(Ordering::Relaxed) {
                    is_sent_away = true;
                    serving.as_mut().graceful_shutdown();
                } else {
                    timer.as_mut().reset(Instant::now() + timeouts.linger);
                }
            }
            () = requests.last_answer.notified() => serving.as_mut().graceful_shutdown(),
            () = timer.as_mut() => {
                let now = Instant::now();
                let next = match requests.activity() {
                    // Whatever it has sent until now was read.
                    _ if is_ending && !is_sent_away => {
                        is_sent_away = true;
                        serving.as_mut().graceful_shutdown();
                        now + timeouts.header
                    }
                    Activity::None if begun + timeouts.header > now => {
                        (begun + timeouts.header).min(now + timeouts.idle)
                    }
                    Activity::None => return,
                    Activity::Open(_) => now + timeouts.idle,
                    Activity::IdleSince(since) if since + timeouts.idle > now => since + timeouts.idle,
                    Activity::IdleSince(_) if is_sent_away => return,
                    Activity::IdleSince(_) => {
                        is_sent_away = true;
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
    /// Rings after an answer that is to be the last.
    last_answer: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
enum Activity {
    /// There was none yet.
    #[default]
    None,
    /// So many are answered at the moment.
    Open(usize),
    /// The last was answered then.
    IdleSince(Instant),
}

/// A request whose answer was not sent yet.
#[derive(Debug)]
struct OpenRequest(Arc<Requests>);

/// The body of an answer, with which its request ends.
struct Answering {
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

impl HttpBody for Answering {
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
    async fn after_a_last_answer_the_connection_is_closed() {
        let app = Router::new().fallback(async || (Extension(LastAnswer), "ask another"));
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
