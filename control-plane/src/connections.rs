//! Accepts connections and serves them, and lets go of those whose other end is gone or never says what it wants.
//!
//! An edge that vanishes without a word would otherwise keep its connection, and with it a file descriptor, for good.

use crate::clients::Peer;
use axum::Router;
use axum::serve::Listener;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long the other end may be silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Until the header of a request is complete, in HTTP/1 also while a connection waits for the next one.
    pub(crate) header: Duration,
    /// Until it is asked whether it is still there.
    pub(crate) keepalive: Duration,
    /// Until it has to answer that.
    pub(crate) keepalive_answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let [header, keepalive, keepalive_answer] = [30, 30, 20].map(Duration::from_secs);
        Self { header, keepalive, keepalive_answer }
    }
}

/// How many connections may wait to be accepted, as far as the system lets them (`net.core.somaxconn`): after an outage all
/// edges come at once, and one that finds no room tries again a second later, by when Envoy has given it up.
const BACKLOG: u32 = 65_535;

/// Listens on the first address that `host:port` means and that can be had.
pub(crate) async fn listen(on: &str) -> io::Result<TcpListener> {
    let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "it is no address");
    for address in lookup_host(on).await? {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As the standard library does: connections of a server that has ended keep nobody from its port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `ending` is true, then finishes what was begun.
pub(crate) async fn serve(
    mut listener: TcpListener,
    app: Router,
    mut ending: watch::Receiver<bool>,
    patience: Patience,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience.header);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(patience.keepalive)
        .keep_alive_timeout(patience.keepalive_answer);
    let graceful = GracefulShutdown::new();
    loop {
        let (connection, peer) = tokio::select! {
            _ = ending.wait_for(|ending| *ending) => break,
            // Unlike the listener's own, this waits where file descriptors are short.
            accepted = Listener::accept(&mut listener) => accepted,
        };
        if let Err(error) = prepare(&connection, patience) {
            tracing::debug!(%error, "a connection keeps the system's options");
        }
        let (builder, app) = (builder.clone(), TowerToHyperService::new(app.clone()));
        let service = service_fn(move |mut request: hyper::Request<_>| {
            request.extensions_mut().insert(Peer(peer.ip()));
            app.call(request)
        });
        let (watcher, mut ending) = (graceful.watcher(), ending.clone());
        tokio::spawn(async move {
            // The version is read without a time limit, so silence is noticed before that.
            let mut byte = [0];
            let came = tokio::select! {
                first_byte = timeout(patience.header, connection.peek(&mut byte)) => matches!(first_byte, Ok(Ok(1))),
                _ = ending.wait_for(|ending| *ending) => false,
            };
            if came {
                let serving = builder.serve_connection(TokioIo::new(connection), service);
                if let Err(error) = watcher.watch(serving.into_owned()).await {
                    tracing::trace!(error, "a connection has failed");
                }
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

fn prepare(connection: &TcpStream, patience: Patience) -> io::Result<()> {
    // A page of the feed is one small write that must not wait for an acknowledgement.
    connection.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(patience.keepalive).with_interval(patience.keepalive_answer);
    SockRef::from(connection).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_connection_whose_request_is_never_complete_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ending) = watch::channel(false);
        let patience = Patience { header: Duration::from_millis(50), ..Patience::default() };
        let serving = tokio::spawn(serve(listener, Router::new(), ending, patience));
        for begin in ["", "GET / HTTP/1.1\r\nHost: a"] {
            let mut connection = TcpStream::connect(address).await.unwrap();
            connection.write_all(begin.as_bytes()).await.unwrap();
            let closed = timeout(Duration::from_secs(10), connection.read_to_end(&mut Vec::new())).await;
            assert!(closed.is_ok(), "{begin:?}");
        }
        end.send_replace(true);
        timeout(Duration::from_secs(10), serving).await.unwrap().unwrap();
    }
}
