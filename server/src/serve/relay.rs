//! Starts and runs a relay.

use super::{StartError, close, listen};
use crate::auth::tokens::file::{TokenError, Tokens};
use crate::clock::Clock;
use crate::feed::Feed;
use crate::feed::upstream_status::UpstreamStatus;
use crate::http::{RelayApp, relay_router};
use crate::net::listener::serve_until;
use crate::relay::follow::follow;
use crate::relay::upstream::Upstream;
use crate::store::{DATABASE_FILE, Location, Store};
use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

/// The configuration of a relay.
pub struct RelayConfig {
    /// The address to listen on, `host:port`; port 0 selects a free one.
    pub listen: String,
    /// The directory of the database.
    pub data_dir: PathBuf,
    /// The file of the edge tokens; `None` for `edge-token` in the data directory, which is created if missing.
    pub edge_token_file: Option<PathBuf>,
    /// The URL of the upstream: `http://HOST:PORT` or `https://HOST:PORT`.
    pub upstream: String,
    /// The file with the edge token for the upstream.
    pub upstream_token_file: PathBuf,
    /// The wait of a long poll to the upstream, in whole seconds.
    pub poll_wait: Duration,
    /// The clock.
    pub clock: Clock,
}

/// A started relay, with its listener, database and tokens.
pub struct Relay {
    listener: TcpListener,
    address: SocketAddr,
    tokens: Arc<Tokens>,
    store: Store,
    upstream: Arc<Upstream>,
    upstream_status: Arc<UpstreamStatus>,
    config: RelayConfig,
}

impl Relay {
    /// Opens tokens and database, and listens last. The upstream need not be available.
    pub async fn start(config: RelayConfig) -> Result<Self, StartError> {
        let upstream = Arc::new(Upstream::new(&config.upstream, &config.upstream_token_file)?);
        if config.data_dir.join(DATABASE_FILE).exists() {
            return Err(StartError::DataDirInUse { data_dir: config.data_dir.display().to_string() });
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&config.data_dir);
        made.map_err(|source| TokenError::Io { path: config.data_dir.clone(), source })?;
        let tokens = Arc::new(match &config.edge_token_file {
            Some(file) => Tokens::of_edges(file)?,
            None => Tokens::of_edges_in(&config.data_dir)?,
        });
        let failed = |source| StartError::Store { place: config.data_dir.display().to_string(), source };
        let store = Store::open(&Location::Relay(config.data_dir.clone())).await.map_err(failed)?;
        let standing = store.standing().await.map_err(failed)?;
        let upstream_status = Arc::new(UpstreamStatus::new(&standing, (config.clock)(), Instant::now()));
        let (listener, address) = listen(&config.listen).await?;
        Ok(Self { listener, address, tokens, store, upstream, upstream_status, config })
    }

    /// The address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The tokens of edges, to reload their file.
    pub fn tokens(&self) -> Arc<Tokens> {
        Arc::clone(&self.tokens)
    }

    /// The upstream, to reload the token for it.
    pub fn upstream(&self) -> Arc<Upstream> {
        Arc::clone(&self.upstream)
    }

    /// Serves until `end` resolves, then answers open requests and closes the database.
    pub async fn run(self, end: impl Future<Output = ()> + Send + 'static) {
        let Self { listener, address, tokens, store, upstream, upstream_status, config } = self;
        let (shutdown, stopping) = watch::channel(false);
        let following = tokio::spawn({
            let (store, upstream, upstream_status) =
                (store.clone(), Arc::clone(&upstream), Arc::clone(&upstream_status));
            let (clock, mut stopping) = (Arc::clone(&config.clock), stopping.clone());
            async move {
                tokio::select! {
                    _ = stopping.wait_for(|is_stopping| *is_stopping) => {}
                    () = follow(&store, &upstream, &upstream_status, &clock, config.poll_wait) => {}
                }
            }
        });
        tokio::spawn({
            let (store, stopping) = (store.clone(), stopping.clone());
            async move { store.maintain(stopping).await }
        });
        let app = relay_router(RelayApp {
            feed: Feed::new(store.clone(), stopping.clone()).of_relay(Arc::clone(&upstream_status)),
            store: store.clone(),
            tokens,
            clock: config.clock,
            upstream,
            upstream_status,
        });
        tracing::info!(%address, "listening");
        serve_until(end, shutdown, listener, app).await;
        close(following, &store).await;
    }
}
