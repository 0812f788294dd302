//! Listens on a port, and serves its connections until the server shuts down.

use super::connections::{self, Timeouts};
use axum::Router;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tokio::sync::watch;
use tokio::time::sleep;

/// How long an ending server waits for answers that are under way.
const GRACE: Duration = Duration::from_secs(5);
/// How many connections may wait to be accepted, as far as the system lets them (`net.core.somaxconn`): after an outage all
/// edges come at once, and one that finds no room tries again a second later, by when Envoy has given it up.
const BACKLOG: u32 = 65_535;

/// Listens on the first address that `host:port` means and that can be had, and tells which that is.
pub(crate) async fn listen(on: &str) -> io::Result<(TcpListener, SocketAddr)> {
    let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "it is no address");
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
    // As the standard library does: connections of a server that has ended keep nobody from its port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `end` is done, which it tells by `shutdown`; then lets those that are being answered have their answer.
pub(crate) async fn serve_until(
    end: impl Future<Output = ()> + Send + 'static,
    shutdown: watch::Sender<bool>,
    listener: TcpListener,
    app: Router,
) {
    let ending = shutdown.subscribe();
    tokio::spawn(async move {
        end.await;
        shutdown.send_replace(true);
    });
    tokio::select! {
        () = connections::serve(listener, app, ending.clone(), Timeouts::default()) => {}
        () = overdue(ending) => tracing::warn!("ending with connections that did not finish"),
    }
}

/// Done once the server is told to end and the grace for it has passed.
async fn overdue(mut ending: watch::Receiver<bool>) {
    let _ = ending.wait_for(|ending| *ending).await;
    sleep(GRACE).await;
}
