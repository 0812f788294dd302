//! What the handlers work with.

use crate::auth::auth_throttle::Failures;
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

/// What the handlers work with, in one piece: on its way through the layers a request takes several copies, and thousands of
/// polls come at once.
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

/// What the handlers work with.
pub struct Services {
    /// The state.
    pub store: Store,
    /// The feed of changes to it.
    pub feed: Feed,
    /// What keys look like.
    pub dialect: Arc<Dialect>,
    /// What keys and tokens look like, in text that is not meant to hold any.
    pub secrets: Arc<SecretRecognizer>,
    /// Who may call, by the files of the data directory.
    pub tokens: Arc<Tokens>,
    /// Who may call, by the database.
    pub issued_tokens: Arc<IssuedTokens>,
    /// Who has called in vain.
    pub failures: Arc<Failures>,
    /// Who may say from where a request comes.
    pub proxies: Arc<TrustedProxies>,
    /// What users of keys may do with them; `None` if nothing.
    pub self_service: Option<Arc<SelfService>>,
    /// From what plaintexts can be drawn again.
    pub pepper: Arc<ReplaySeed>,
    /// What is done about keys that are found in public.
    pub leaks: Arc<Leaks>,
    /// The time.
    pub clock: Clock,
    /// Checks what only a password hash is kept of.
    pub verifier: Verifier,
    /// How often the edges are to tell of the use of keys.
    pub usage_interval: Duration,
    /// Whether the server ends, so that nothing long is gone on with.
    pub ending: watch::Receiver<bool>,
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
    /// An example of what handlers work with.
    pub(super) async fn example(dir: &std::path::Path, dialect: &str) -> Self {
        Services::example(dir, dialect).await.into()
    }
}

#[cfg(test)]
impl Services {
    /// What handlers work with that keep their state in that directory, at an example's time.
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
            failures: Arc::new(Failures::default()),
            proxies: Arc::new(TrustedProxies::default()),
            self_service: Some(Arc::new(SelfService { scope: None })),
            clock,
            verifier: Verifier::new(std::num::NonZeroUsize::MIN),
            usage_interval: Duration::from_secs(5),
            ending: watch::channel(false).1,
            store,
        }
    }
}
