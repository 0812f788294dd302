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

/// How a relay is to run.
pub struct RelayConfig {
    /// Where it listens, `host:port`; port 0 is any that is free.
    pub listen: String,
    /// Where its database is.
    pub data_dir: PathBuf,
    /// The tokens of its edges; `None` for `edge-token` in the data directory, which is made if it is not there.
    pub edge_token_file: Option<PathBuf>,
    /// Whom it follows: `http://HOST:PORT` or `https://HOST:PORT`.
    pub upstream: String,
    /// The file with the edge token that it shows there.
    pub upstream_token_file: PathBuf,
    /// How long it lets the upstream wait for news, in whole seconds.
    pub poll_wait: Duration,
    /// The time.
    pub clock: Clock,
}

/// A relay that has its port, state and tokens.
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
    /// Makes everything ready, and takes the port last. The upstream need not be there.
    ///
    /// # Errors
    /// If anything is missing.
    pub async fn start(config: RelayConfig) -> Result<Self, StartError> {
        let upstream = Arc::new(Upstream::new(&config.upstream, &config.upstream_token_file)?);
        if config.data_dir.join(DATABASE_FILE).exists() {
            return Err(StartError::NotARelays { data_dir: config.data_dir.display().to_string() });
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

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The tokens of its edges, to read their file again.
    pub fn tokens(&self) -> Arc<Tokens> {
        Arc::clone(&self.tokens)
    }

    /// Whom it follows, to read the token for it again.
    pub fn upstream(&self) -> Arc<Upstream> {
        Arc::clone(&self.upstream)
    }

    /// Serves until `end` is done, then answers who waits and closes the state.
    pub async fn run(self, end: impl Future<Output = ()> + Send + 'static) {
        let Self { listener, address, tokens, store, upstream, upstream_status, config } = self;
        let (shutdown, ending) = watch::channel(false);
        let following = tokio::spawn({
            let (store, upstream, upstream_status) =
                (store.clone(), Arc::clone(&upstream), Arc::clone(&upstream_status));
            let (clock, mut ending) = (Arc::clone(&config.clock), ending.clone());
            async move {
                tokio::select! {
                    _ = ending.wait_for(|ending| *ending) => {}
                    () = follow(&store, &upstream, &upstream_status, &clock, config.poll_wait) => {}
                }
            }
        });
        tokio::spawn({
            let (store, ending) = (store.clone(), ending.clone());
            async move { store.maintain(ending).await }
        });
        let app = relay_router(RelayApp {
            feed: Feed::new(store.clone(), ending.clone()).of_relay(Arc::clone(&upstream_status)),
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
