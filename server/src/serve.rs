//! Starts, runs and stops a control plane.

pub mod relay;

pub use crate::auth::self_service::SelfService;

use crate::auth::auth_throttle::AuthThrottle;
use crate::auth::client_ip::TrustedProxies;
use crate::auth::hash_pool::Verifier;
use crate::auth::tokens::db::IssuedTokens;
use crate::auth::tokens::file::{TokenError, Tokens};
use crate::clock::Clock;
use crate::console::{self, ConsoleConfig};
use crate::feed::Feed;
use crate::http::{App, Services, router};
use crate::jobs::{retention, revocations};
use crate::keys::leaks::Leaks;
use crate::keys::replay_seed::{ReplaySeed, ReplaySeedError};
use crate::net::listener::{self, serve_console, serve_until};
use crate::relay::upstream::UpstreamError;
use crate::store::{self, DATABASE_FILE, Location, Store};
use ipnet::IpNet;
use keyward_core::dialect::Dialect;
use keyward_core::dialect::secret_recognizer::SecretRecognizer;
use keyward_core::document::Problems;
use keyward_core::key::secret::Secret;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The configuration of a control plane.
pub struct Config {
    /// The address to listen on, `host:port`; port 0 selects a free one.
    pub listen: String,
    /// The directory of the token files, the pepper, and the SQLite database.
    pub data_dir: PathBuf,
    /// The URL of a PostgreSQL database; `None` for SQLite in the data directory.
    pub database_url: Option<Secret>,
    /// The dialect.
    pub dialect: Dialect,
    /// The handling of leaked keys.
    pub leaks: Leaks,
    /// The clock.
    pub clock: Clock,
    /// After this time revoked and expired keys are purged from the edges.
    pub retention: Duration,
    /// How often they are purged.
    pub retention_interval: Duration,
    /// How often edges report usage.
    pub usage_interval: Duration,
    /// The maximum of simultaneous password verifications.
    pub max_verifications: NonZeroUsize,
    /// The proxies whose client addresses are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Self-service; `None` turns it off.
    pub self_service: Option<SelfService>,
    /// The console; `None` turns it off.
    pub console: Option<ConsoleConfig>,
}

/// A started server, with its listener, database and tokens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    /// The listener of the console, if it has one of its own.
    console_listener: Option<(TcpListener, SocketAddr)>,
    tokens: Arc<Tokens>,
    pepper: Arc<ReplaySeed>,
    store: Store,
    leaks: Arc<Leaks>,
    config: Config,
}

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The token files cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The pepper file cannot be used.
    #[error(transparent)]
    ReplaySeed(#[from] ReplaySeedError),
    /// The upstream of a relay is misconfigured.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The database cannot be used.
    #[error("{place}: {source}")]
    Store {
        /// The data directory, or the kind of database.
        place: String,
        /// Why.
        source: store::Error,
    },
    /// The data directory of a relay is that of a control plane, whose edge tokens are not for the relay's edges.
    #[error(
        "expected a data directory of the relay's own, got that of a control plane: {data_dir} contains {DATABASE_FILE}"
    )]
    DataDirInUse {
        /// The directory.
        data_dir: String,
    },
    /// The address is not available.
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: String,
        /// Why.
        source: io::Error,
    },
}

/// The dialect cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum DialectError {
    /// Neither a built-in dialect nor a readable file.
    #[error("unknown dialect {name:?}: not built in ({known}) and not a readable file ({source})")]
    Unknown {
        /// The name or file.
        name: String,
        /// The built-in dialects.
        known: String,
        /// The error of reading the file.
        source: io::Error,
    },
    /// The file is invalid.
    #[error("invalid dialect {name}: {problems}")]
    Invalid {
        /// The name or file.
        name: String,
        /// All problems.
        problems: Problems,
    },
}

/// How long the database may take to close; one that is interrupted recovers at the next start.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// How often expired keys are purged by default.
pub const RETENTION_INTERVAL: Duration = Duration::from_secs(3600);

/// One verification for each processor.
pub fn default_max_verifications() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Loads the built-in dialect of that name, or a file.
pub fn dialect(name_or_file: &str) -> Result<Dialect, DialectError> {
    let read = match Dialect::built_in(name_or_file) {
        Some(dialect) => dialect,
        None => {
            let text = std::fs::read(Path::new(name_or_file)).map_err(|source| DialectError::Unknown {
                name: name_or_file.to_owned(),
                known: Dialect::built_in_names().collect::<Vec<_>>().join(", "),
                source,
            })?;
            Dialect::parse(&text)
        }
    };
    read.map_err(|problems| DialectError::Invalid { name: name_or_file.to_owned(), problems })
}

impl Server {
    /// Opens tokens, pepper and database, and listens last, so that every connection is served.
    pub async fn start(mut config: Config) -> Result<Self, StartError> {
        let tokens = Arc::new(Tokens::open(&config.data_dir)?);
        let pepper = Arc::new(ReplaySeed::open(&config.data_dir)?);
        let location = match &config.database_url {
            Some(url) => Location::Postgres(url.clone()),
            None => Location::Directory(config.data_dir.clone()),
        };
        let store =
            Store::open(&location).await.map_err(|source| StartError::Store { place: place(&location), source })?;
        tracing::info!(location = location.described(), "database opened");
        let (listener, address) = listen(&config.listen).await?;
        let console_listener = match config.console.as_ref().and_then(|console| console.listen.as_deref()) {
            Some(on) => Some(listen(on).await?),
            None => None,
        };
        let leaks = Arc::new(std::mem::take(&mut config.leaks));
        Ok(Self { listener, address, console_listener, tokens, pepper, store, leaks, config })
    }

    /// The address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the console's own listener, if it has one.
    pub fn console_address(&self) -> Option<SocketAddr> {
        self.console_listener.as_ref().map(|(_, address)| *address)
    }

    /// The tokens, to reload their files.
    pub fn tokens(&self) -> Arc<Tokens> {
        Arc::clone(&self.tokens)
    }

    /// The handling of leaks, to reload GitHub's keys.
    pub fn leaks(&self) -> Arc<Leaks> {
        Arc::clone(&self.leaks)
    }

    /// Serves until `end` resolves, then answers open requests and closes the database.
    pub async fn run(self, end: impl Future<Output = ()> + Send + 'static) {
        let Self { listener, address, console_listener, tokens, pepper, store, leaks, config } = self;
        let (shutdown, stopping) = watch::channel(false);
        let feed = Feed::new(store.clone(), stopping.clone());
        let following = store.clone();
        let following = tokio::spawn({
            let stopping = stopping.clone();
            async move { following.follow(stopping).await }
        });
        tokio::spawn({
            let (store, stopping) = (store.clone(), stopping.clone());
            async move { store.maintain(stopping).await }
        });
        let retention = tokio::spawn(retention::run(
            store.clone(),
            Arc::clone(&config.clock),
            config.retention,
            config.retention_interval,
        ));
        let notifying =
            store.token_revocations().map(|changes| tokio::spawn(revocations::forward(changes, Arc::clone(&tokens))));
        let services = Services {
            store: store.clone(),
            feed,
            secrets: Arc::new(SecretRecognizer::built_in().with(&config.dialect)),
            dialect: Arc::new(config.dialect),
            tokens,
            pepper,
            leaks,
            issued_tokens: Arc::new(IssuedTokens::new(store.clone(), Arc::clone(&config.clock))),
            auth_throttle: Arc::new(AuthThrottle::default()),
            proxies: Arc::new(TrustedProxies::new(config.trusted_proxies)),
            self_service: config.self_service.map(Arc::new),
            clock: config.clock,
            verifier: Verifier::new(config.max_verifications),
            usage_interval: config.usage_interval,
            stopping: shutdown.subscribe(),
        };
        let app = App::from(services);
        let api = router(app.clone());
        let served = match (&config.console, console_listener) {
            (None, _) => api,
            (Some(console), None) => api.clone().merge(console::router(app, api, console)),
            (Some(console), Some((listener, address))) => {
                tracing::info!(%address, "console served");
                let pages = console::router_alone(app, api.clone(), console);
                tokio::spawn(serve_console(listener, pages, stopping.clone()));
                api
            }
        };
        tracing::info!(%address, "listening");
        serve_until(end, shutdown, listener, served).await;
        retention.abort();
        if let Some(notifying) = notifying {
            notifying.abort();
        }
        close(following, &store).await;
    }
}

/// The database without its URL, which can contain a password.
fn place(location: &Location) -> String {
    match location {
        Location::Directory(directory) | Location::Relay(directory) => directory.display().to_string(),
        Location::Postgres(_) => "the PostgreSQL database".to_owned(),
    }
}

/// Closes the database, after the follower, which stops by itself on shutdown.
async fn close(following: JoinHandle<()>, store: &Store) {
    let _ = timeout(CLOSE_TIMEOUT, following).await;
    if timeout(CLOSE_TIMEOUT, store.close()).await.is_err() {
        tracing::warn!("database did not close in time");
    }
    tracing::info!("stopped");
}

/// Listens on the address.
async fn listen(on: &str) -> Result<(TcpListener, SocketAddr), StartError> {
    listener::listen(on).await.map_err(|source| StartError::Listen { listen: on.to_owned(), source })
}
