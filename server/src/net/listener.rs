//! Listens on a port, and serves its connections until the server shuts down.

use super::connections::{self, Timeouts};
use axum::Router;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tokio::sync::watch;
use tokio::time::sleep;

/// How long a shutdown waits for requests in progress.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// The backlog of the listener, as far as the system permits (`net.core.somaxconn`): after an outage all edges connect at once, and
/// a refused connection is retried a second later, when Envoy has given up.
const BACKLOG: u32 = 65_535;

/// Listens on the first available address of `host:port`, and returns it.
pub(crate) async fn listen(on: &str) -> io::Result<(TcpListener, SocketAddr)> {
    let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "the host has no address");
    for address in lookup_host(on).await? {
        match listen_on(address) {
            Ok(listener) => return listener.local_addr().map(|address| (listener, address)),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As the standard library does: old connections in TIME_WAIT do not block the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `end` resolves, then signals `shutdown` and waits for requests in progress, but not longer than
/// [`SHUTDOWN_TIMEOUT`].
pub(crate) async fn serve_until(
    end: impl Future<Output = ()> + Send + 'static,
    shutdown: watch::Sender<bool>,
    listener: TcpListener,
    app: Router,
) {
    let stopping = shutdown.subscribe();
    tokio::spawn(async move {
        end.await;
        shutdown.send_replace(true);
    });
    tokio::select! {
        () = connections::serve(listener, app, stopping.clone(), Timeouts::default()) => {}
        () = overdue(stopping) => tracing::warn!(timeout = ?SHUTDOWN_TIMEOUT, "shutdown timed out; closing open connections"),
    }
}

/// Serves a further listener until the shutdown.
pub(crate) async fn serve_console(listener: TcpListener, app: Router, stopping: watch::Receiver<bool>) {
    tokio::select! {
        () = connections::serve(listener, app, stopping.clone(), Timeouts::default()) => {}
        () = overdue(stopping) => {}
    }
}

/// Resolves when the shutdown has taken too long.
async fn overdue(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
    sleep(SHUTDOWN_TIMEOUT).await;
}
