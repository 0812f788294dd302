//! A TCP proxy that disturbs the responses of a server; requests pass unchanged.

use keyward_harness::Result;
use keyward_harness::ports::loopback;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What happens to the bytes of responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No disturbance.
    Pass,
    /// The connection breaks after at most this many more bytes.
    Cut(usize),
    /// The bytes are delayed until the mode changes.
    Stall,
    /// The bytes are discarded; the connection stays open until the mode changes.
    Drop,
    /// One bit of each piece is flipped.
    Flip,
}

/// The proxy, until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: Arc<Mutex<Mode>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts to accept connections on a free port for the server at `to`, which need not be running.
    pub async fn start(to: SocketAddr, seed: u64) -> Result<Self> {
        let failure = |error: std::io::Error| keyward_harness::Failure::new(format!("the proxy: {error}"));
        let listener = TcpListener::bind(loopback(0)).await.map_err(failure)?;
        let address = listener.local_addr().map_err(failure)?;
        let mode = Arc::new(Mutex::new(Mode::Pass));
        let accepting = tokio::spawn({
            let mode = Arc::clone(&mode);
            let mut rng = fastrand::Rng::with_seed(seed);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(carry(client, to, Arc::clone(&mode), rng.fork()));
                }
            }
        });
        Ok(Self { address, mode, accepting })
    }

    /// The listening address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the mode.
    pub fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(client: TcpStream, to: SocketAddr, mode: Arc<Mutex<Mode>>, rng: fastrand::Rng) {
    let Ok(server) = TcpStream::connect(to).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((mut from_client, to_client), (from_server, mut to_server)) = (client.into_split(), server.into_split());
    let asking = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    answer(from_server, to_client, &mode, rng).await;
    asking.abort();
}

/// Forwards responses until either side closes the connection, or discarded bytes break it.
async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mode: &Mutex<Mode>, mut rng: fastrand::Rng) {
    let current = || *mode.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bytes = vec![0; 16 << 10];
    let mut lost = false;
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        while current() == Mode::Stall {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let piece = &mut bytes[..count];
        match current() {
            Mode::Drop => {
                lost = true;
                continue;
            }
            _ if lost => return,
            Mode::Cut(most) => {
                let kept = rng.usize(..=most.min(count - 1));
                let _ = to.write_all(&piece[..kept]).await;
                return;
            }
            Mode::Flip => piece[rng.usize(..count)] ^= 1 << rng.u8(..8),
            Mode::Pass | Mode::Stall => {}
        }
        if to.write_all(piece).await.is_err() {
            return;
        }
    }
}
