//! Puts the server together, runs it, and ends it so that nobody is left waiting.

pub mod relay;

pub use crate::auth::self_service::SelfService;

use crate::auth::auth_throttle::Failures;
use crate::auth::client_ip::TrustedProxies;
use crate::auth::hash_pool::Verifier;
use crate::auth::tokens::db::IssuedTokens;
use crate::auth::tokens::file::{TokenError, Tokens};
use crate::clock::Clock;
use crate::feed::Feed;
use crate::http::{Services, router};
use crate::jobs::{retention, revocations};
use crate::keys::leaks::Leaks;
use crate::keys::replay_seed::{PepperError, ReplaySeed};
use crate::net::listener::{self, serve_until};
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

/// How a server is to run.
pub struct Config {
    /// Where it listens, `host:port`; port 0 is any that is free.
    pub listen: String,
    /// Where its tokens and its pepper are, and its state unless that is in another database.
    pub data_dir: PathBuf,
    /// The URL of the PostgreSQL database with its state; `None` for SQLite in the data directory.
    pub database_url: Option<Secret>,
    /// What keys look like.
    pub dialect: Dialect,
    /// What is done about keys that are found in public.
    pub leaks: Leaks,
    /// The time.
    pub clock: Clock,
    /// How long edges know a key that has ended.
    pub retention: Duration,
    /// How often the edges are told to forget what ended long ago.
    pub retention_interval: Duration,
    /// How often the edges are to tell of the use of keys.
    pub usage_interval: Duration,
    /// How many password hashes are checked at once.
    pub max_verifications: NonZeroUsize,
    /// The proxies that are believed when they say from where a request comes.
    pub trusted_proxies: Vec<IpNet>,
    /// What users of keys may do with them; `None` if nothing.
    pub self_service: Option<SelfService>,
}

/// A server that has its port, state and tokens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tokens: Arc<Tokens>,
    pepper: Arc<ReplaySeed>,
    store: Store,
    leaks: Arc<Leaks>,
    config: Config,
}

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The pepper cannot be used.
    #[error(transparent)]
    ReplaySeed(#[from] PepperError),
    /// The upstream of a relay cannot be asked.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The state cannot be used.
    #[error("{place}: {source}")]
    Store {
        /// The data directory, or what the database is.
        place: String,
        /// Why.
        source: store::Error,
    },
    /// The directory for a relay is that of a control plane, whose edge tokens are not for the relay's edges.
    #[error(
        "{data_dir} is the data directory of a control plane ({DATABASE_FILE} is there); a relay needs one of its own"
    )]
    NotARelays {
        /// The directory.
        data_dir: String,
    },
    /// The address cannot be had.
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: String,
        /// Why.
        source: io::Error,
    },
}

/// The dialect cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DialectError {
    /// It is neither a name nor a file.
    #[error("{name} is no dialect that comes with Keyward ({known}) and no file that can be read: {source}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names that would do.
        known: String,
        /// Why the file cannot be read.
        source: io::Error,
    },
    /// The file has mistakes.
    #[error("dialect {name}: {problems}")]
    Invalid {
        /// What was asked for.
        name: String,
        /// All of them.
        problems: Problems,
    },
}

/// How long the database may take to close; one that is cut off recovers at the next start.
const CLOSING: Duration = Duration::from_millis(500);
/// How often the retention is kept, unless a test has less time.
pub const RETENTION_INTERVAL: Duration = Duration::from_secs(3600);

/// As many verifications at once as there are processors.
pub fn default_max_verifications() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// The dialect of that name, or in that file.
///
/// # Errors
/// If there is none, or if it has mistakes.
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
    /// Makes everything ready, and takes the port last, so that whoever can connect is served.
    ///
    /// # Errors
    /// If anything is missing.
    pub async fn start(mut config: Config) -> Result<Self, StartError> {
        let tokens = Arc::new(Tokens::open(&config.data_dir)?);
        let pepper = Arc::new(ReplaySeed::open(&config.data_dir)?);
        let location = match &config.database_url {
            Some(url) => Location::Postgres(url.clone()),
            None => Location::Directory(config.data_dir.clone()),
        };
        let store =
            Store::open(&location).await.map_err(|source| StartError::Store { place: place(&location), source })?;
        tracing::info!("the state is in {}", location.described());
        let (listener, address) = listen(&config.listen).await?;
        let leaks = Arc::new(std::mem::take(&mut config.leaks));
        Ok(Self { listener, address, tokens, pepper, store, leaks, config })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The tokens, to read their files again.
    pub fn tokens(&self) -> Arc<Tokens> {
        Arc::clone(&self.tokens)
    }

    /// What is done about leaks, to read GitHub's keys again.
    pub fn leaks(&self) -> Arc<Leaks> {
        Arc::clone(&self.leaks)
    }

    /// Serves until `end` is done, then answers who waits and closes the state.
    pub async fn run(self, end: impl Future<Output = ()> + Send + 'static) {
        let Self { listener, address, tokens, pepper, store, leaks, config } = self;
        let (shutdown, ending) = watch::channel(false);
        let feed = Feed::new(store.clone(), ending.clone());
        let following = store.clone();
        let following = tokio::spawn({
            let ending = ending.clone();
            async move { following.follow(ending).await }
        });
        tokio::spawn({
            let (store, ending) = (store.clone(), ending.clone());
            async move { store.maintain(ending).await }
        });
        let retention = tokio::spawn(retention::keep_retention(
            store.clone(),
            Arc::clone(&config.clock),
            config.retention,
            config.retention_interval,
        ));
        let ringing =
            store.token_revocations().map(|changes| tokio::spawn(revocations::ring(changes, Arc::clone(&tokens))));
        let services = Services {
            store: store.clone(),
            feed,
            secrets: Arc::new(SecretRecognizer::built_in().with(&config.dialect)),
            dialect: Arc::new(config.dialect),
            tokens,
            pepper,
            leaks,
            issued_tokens: Arc::new(IssuedTokens::new(store.clone(), Arc::clone(&config.clock))),
            failures: Arc::new(Failures::default()),
            proxies: Arc::new(TrustedProxies::new(config.trusted_proxies)),
            self_service: config.self_service.map(Arc::new),
            clock: config.clock,
            verifier: Verifier::new(config.max_verifications),
            usage_interval: config.usage_interval,
            ending: shutdown.subscribe(),
        };
        let app = router(services.into());
        tracing::info!(%address, "listening");
        serve_until(end, shutdown, listener, app).await;
        retention.abort();
        if let Some(ringing) = ringing {
            ringing.abort();
        }
        close(following, &store).await;
    }
}

/// Where the state is, without what could be secret in a URL.
fn place(location: &Location) -> String {
    match location {
        Location::Directory(directory) | Location::Relay(directory) => directory.display().to_string(),
        Location::Postgres(_) => "the PostgreSQL database".to_owned(),
    }
}

/// Closes the state, once what follows others has ended, as it does by itself when the shutdown has begun.
async fn close(following: JoinHandle<()>, store: &Store) {
    let _ = timeout(CLOSING, following).await;
    if timeout(CLOSING, store.close()).await.is_err() {
        tracing::warn!("ending with the database still open");
    }
    tracing::info!("ended");
}

/// Listens, and tells where.
async fn listen(on: &str) -> Result<(TcpListener, SocketAddr), StartError> {
    listener::listen(on).await.map_err(|source| StartError::Listen { listen: on.to_owned(), source })
}
