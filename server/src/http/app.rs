//! The state that handlers share.

use crate::auth::auth_throttle::AuthThrottle;
use crate::auth::client_ip::TrustedProxies;
use crate::auth::hash_pool::Verifier;
use crate::auth::self_service::SelfService;
use crate::auth::tokens::db::IssuedTokens;
use crate::auth::tokens::file::Tokens;
use crate::clock::Clock;
use crate::feed::Feed;
use crate::keys::leaks::Leaks;
use crate::keys::replay_seed::ReplaySeed;
use crate::store::Store;
use axum::extract::FromRef;
use keyward_core::dialect::Dialect;
use keyward_core::dialect::secret_recognizer::SecretRecognizer;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The state of a control plane's handlers. Layers clone it several times for each of thousands of polls, so it is one `Arc`.
#[derive(Clone)]
pub struct App(Arc<Services>);

impl From<Services> for App {
    fn from(services: Services) -> Self {
        Self(Arc::new(services))
    }
}

impl Deref for App {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

/// The services that handlers use.
pub struct Services {
    /// The database.
    pub store: Store,
    /// The feed of changes.
    pub feed: Feed,
    /// The dialect, which says what keys look like.
    pub dialect: Arc<Dialect>,
    /// Recognizes keys and tokens in text where none belongs.
    pub secrets: Arc<SecretRecognizer>,
    /// The tokens of the data directory's files.
    pub tokens: Arc<Tokens>,
    /// The tokens of the database.
    pub issued_tokens: Arc<IssuedTokens>,
    /// The throttle on failed authentication.
    pub auth_throttle: Arc<AuthThrottle>,
    /// The proxies whose client addresses are trusted.
    pub proxies: Arc<TrustedProxies>,
    /// Self-service; `None` if it is off.
    pub self_service: Option<Arc<SelfService>>,
    /// The seed from which plaintexts are derived again for repeated requests.
    pub pepper: Arc<ReplaySeed>,
    /// The handling of leaked keys.
    pub leaks: Arc<Leaks>,
    /// The clock.
    pub clock: Clock,
    /// The pool that verifies keys stored as password hashes.
    pub verifier: Verifier,
    /// How often edges report usage.
    pub usage_interval: Duration,
    /// Whether the server is shutting down, which stops long requests.
    pub stopping: watch::Receiver<bool>,
}

impl FromRef<App> for Feed {
    fn from_ref(app: &App) -> Self {
        app.feed.clone()
    }
}

impl FromRef<App> for Clock {
    fn from_ref(app: &App) -> Self {
        Arc::clone(&app.clock)
    }
}

#[cfg(test)]
impl App {
    /// Services for a test.
    pub(super) async fn example(dir: &std::path::Path, dialect: &str) -> Self {
        Services::example(dir, dialect).await.into()
    }
}

#[cfg(test)]
impl Services {
    /// Services with a database in that directory and a fixed clock.
    pub(super) async fn example(dir: &std::path::Path, dialect: &str) -> Self {
        let location = crate::store::Location::Directory(dir.to_owned());
        let store = Store::open(&location).await.unwrap();
        let clock: Clock = Arc::new(|| crate::clock::Timestamp::EXAMPLE);
        Self {
            feed: Feed::new(store.clone(), tokio::sync::watch::channel(false).1),
            dialect: Arc::new(Dialect::built_in(dialect).unwrap().unwrap()),
            secrets: Arc::new(SecretRecognizer::built_in()),
            tokens: Arc::new(Tokens::open(dir).unwrap()),
            pepper: Arc::new(ReplaySeed::open(dir).unwrap()),
            leaks: Arc::new(Leaks::default()),
            issued_tokens: Arc::new(IssuedTokens::new(store.clone(), Arc::clone(&clock))),
            auth_throttle: Arc::new(AuthThrottle::default()),
            proxies: Arc::new(TrustedProxies::default()),
            self_service: Some(Arc::new(SelfService { scope: None })),
            clock,
            verifier: Verifier::new(std::num::NonZeroUsize::MIN),
            usage_interval: Duration::from_secs(5),
            stopping: watch::channel(false).1,
            store,
        }
    }
}
