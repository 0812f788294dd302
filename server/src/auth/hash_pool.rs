//! A bounded pool that computes password hashes, so that first uses of keys delay nothing but other first uses. Callers are
//! served in turn, so that a busy one delays itself.

use crate::auth::password::{self, HashError, SALT_LENGTH};
use crate::model::PasswordHash;
use crate::net::fair_queue::{Bounds, FairQueue};
use crate::random::{self, RngError};
use keyward_core::key::secret::Secret as Plaintext;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Computes password hashes on blocking threads; clones share the bound. It has no `Debug`, which would show digests of
/// credentials.
#[derive(Clone)]
pub struct Verifier(Arc<Shared>);

struct Shared {
    /// Verifications in progress and waiting.
    checks: FairQueue<String>,
    /// Bounds the hashes of new keys: operators wait for each other, and not for clients.
    hashing: Arc<Semaphore>,
    max_wait: Duration,
    running: Mutex<HashMap<HashRequest, watch::Receiver<Option<CheckResult>>>>,
    computed: AtomicU64,
}

/// Too many verifications are in progress or waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many keys are being verified")]
pub struct Busy;

/// The hash of a new key cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum HashingError {
    /// No salt can be drawn.
    #[error(transparent)]
    Random(#[from] RngError),
    /// The computation failed, such as for lack of memory.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The process is shutting down.
    #[error("password hashing was interrupted")]
    Interrupted,
}

/// SHA-256 of credential and hash: simultaneous equal requests share one computation. Kept only while that runs.
type HashRequest = [u8; 32];
type CheckResult = Result<bool, Busy>;

/// The waiting verifications of one caller, for each in progress. All edges can share one token, and be one caller.
const WAITING_PER_SLOT: usize = 4;
/// The number of callers whose queues can be full at once.
const CALLERS: usize = 16;
/// The maximum wait: less than an edge waits for the whole response.
const MAX_WAIT: Duration = Duration::from_secs(2);

impl Verifier {
    /// A pool of that many verifications at once, with four times as many of each caller waiting for two seconds at most.
    pub fn new(at_once: NonZeroUsize) -> Self {
        Self::with_max_wait(at_once, MAX_WAIT)
    }

    fn with_max_wait(at_once: NonZeroUsize, max_wait: Duration) -> Self {
        let at_once = at_once.get().min(Semaphore::MAX_PERMITS / (WAITING_PER_SLOT * CALLERS));
        Self(Arc::new(Shared {
            checks: FairQueue::new(Bounds {
                at_once,
                at_once_per_caller: at_once,
                waiting: at_once * WAITING_PER_SLOT * CALLERS,
                waiting_per_caller: at_once * WAITING_PER_SLOT,
            }),
            hashing: Arc::new(Semaphore::new(at_once)),
            max_wait,
            running: Mutex::default(),
            computed: AtomicU64::new(0),
        }))
    }

    /// Whether the credential matches the hash. An unusable hash is logged, and matches nothing.
    pub async fn check(&self, caller: &str, credential: &[u8], hash: &PasswordHash) -> Result<bool, Busy> {
        let mut result = self.request(caller, credential, hash);
        let result = result.wait_for(Option::is_some).await;
        // The sender is dropped without a result only when the process shuts down.
        result.map_or(Err(Busy), |result| result.unwrap_or(Err(Busy)))
    }

    /// Hashes a new key.
    pub async fn hash(&self, plaintext: &Plaintext) -> Result<PasswordHash, HashingError> {
        let mut salt = [0; SALT_LENGTH];
        random::fill(&mut salt)?;
        let plaintext = Zeroizing::new(plaintext.expose().as_bytes().to_vec());
        let permit = Arc::clone(&self.0.hashing).acquire_owned().await.map_err(|_| HashingError::Interrupted)?;
        let hashing = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            password::hash(&plaintext, &salt)
        });
        Ok(hashing.await.map_err(|_| HashingError::Interrupted)??)
    }

    /// The number of hashes computed for verifications.
    pub fn computed(&self) -> u64 {
        self.0.computed.load(Ordering::Relaxed)
    }

    /// The channel of the result; starts the computation unless an equal one is running.
    fn request(&self, caller: &str, credential: &[u8], hash: &PasswordHash) -> watch::Receiver<Option<CheckResult>> {
        let request = request_of(credential, hash);
        let mut running = self.0.running();
        if let Some(result) = running.get(&request) {
            return result.clone();
        }
        let (sender, result) = watch::channel(None);
        running.insert(request, result.clone());
        let check = Check { shared: Arc::clone(&self.0), request };
        let (caller, credential, hash) = (caller.to_owned(), Zeroizing::new(credential.to_vec()), hash.clone());
        // Not cancelled with its first listener, as others may have joined.
        tokio::spawn(async move {
            let checked = check.run(caller, credential, hash).await;
            drop(check);
            sender.send_replace(Some(checked));
        });
        result
    }
}

/// A running computation, for as long as other requests can join it.
struct Check {
    shared: Arc<Shared>,
    request: HashRequest,
}

impl Check {
    async fn run(&self, caller: String, credential: Zeroizing<Vec<u8>>, hash: PasswordHash) -> CheckResult {
        let slot = timeout(self.shared.max_wait, self.shared.checks.acquire(caller)).await;
        let Ok(Ok(slot)) = slot else { return Err(Busy) };
        self.shared.computed.fetch_add(1, Ordering::Relaxed);
        let checking = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            password::verify(&credential, &hash)
        });
        match checking.await.map_err(|_| Busy)? {
            Ok(right) => Ok(right),
            Err(error) => {
                tracing::error!(%error, "unusable password hash");
                Ok(false)
            }
        }
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.shared.running().remove(&self.request);
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, HashMap<HashRequest, watch::Receiver<Option<CheckResult>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request_of(credential: &[u8], hash: &PasswordHash) -> HashRequest {
    // A hash contains no NUL.
    Sha256::new().chain_update(hash.expose()).chain_update([0]).chain_update(credential).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const CALLER: &str = "token:tok_1";
    const KEY: &str = "user.key";
    const DEADLINE: Duration = Duration::from_secs(30);

    fn verifier(max_wait: Duration) -> Verifier {
        Verifier::with_max_wait(NonZeroUsize::MIN, max_wait)
    }

    async fn hashed(verifier: &Verifier) -> PasswordHash {
        verifier.hash(&Plaintext::new(KEY.to_owned())).await.unwrap()
    }

    /// Asks on a task of its own.
    fn asking(verifier: &Verifier, credential: String, hash: &PasswordHash) -> tokio::task::JoinHandle<CheckResult> {
        let (verifier, hash) = (verifier.clone(), hash.clone());
        tokio::spawn(async move { verifier.check(CALLER, credential.as_bytes(), &hash).await })
    }

    async fn until(condition: impl Fn() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < DEADLINE, "it does not come to pass");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn every_hash_has_a_salt_of_its_own_and_is_right_for_its_key() {
        let verifier = verifier(DEADLINE);
        let (one, other) = (hashed(&verifier).await, hashed(&verifier).await);
        assert_ne!(one, other);
        for hash in [one, other] {
            assert_eq!(verifier.check(CALLER, KEY.as_bytes(), &hash).await, Ok(true));
            assert_eq!(verifier.check(CALLER, b"user.kez", &hash).await, Ok(false));
        }
        assert_eq!(verifier.computed(), 4);
        assert_eq!(verifier.check(CALLER, b"any", &PasswordHash::new("nonsense".into())).await, Ok(false));
    }

    #[tokio::test]
    async fn of_twenty_behind_another_four_wait_and_the_rest_are_sent_away() {
        let verifier = verifier(DEADLINE);
        let hash = hashed(&verifier).await;
        let slot = verifier.0.checks.acquire("another".to_owned()).await.unwrap();
        let asking: Vec<_> = (0..20).map(|n| asking(&verifier, format!("user.{n}"), &hash)).collect();
        until(|| asking.iter().filter(|asking| asking.is_finished()).count() == 16).await;
        assert_eq!((verifier.computed(), verifier.0.running().len()), (0, 4));
        drop(slot);
        let mut verdicts = Vec::new();
        for asking in asking {
            verdicts.push(asking.await.unwrap());
        }
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Ok(false)).count(), 4);
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Err(Busy)).count(), 16);
        assert_eq!(verifier.computed(), 4);
        assert_eq!(verifier.check(CALLER, KEY.as_bytes(), &hash).await, Ok(true), "the places are free again");
    }

    #[tokio::test]
    async fn those_who_ask_the_same_at_once_share_one_check_and_a_place_though_the_first_goes_away() {
        let verifier = verifier(DEADLINE);
        let hash = hashed(&verifier).await;
        let slot = verifier.0.checks.acquire("another".to_owned()).await.unwrap();
        let first = asking(&verifier, KEY.to_owned(), &hash);
        until(|| verifier.0.running().len() == 1).await;
        first.abort();
        let answers: Vec<_> = (0..20).map(|_| verifier.request(CALLER, KEY.as_bytes(), &hash)).collect();
        drop(slot);
        for mut answer in answers {
            assert_eq!(*answer.wait_for(Option::is_some).await.unwrap(), Some(Ok(true)));
        }
        assert_eq!(verifier.computed(), 1);
        assert!(verifier.0.running().is_empty(), "nothing is kept of it");
    }

    #[tokio::test]
    async fn a_caller_that_floods_does_not_delay_another() {
        let verifier = verifier(DEADLINE);
        let hash = hashed(&verifier).await;
        let slot = verifier.0.checks.acquire("another".to_owned()).await.unwrap();
        let flood: Vec<_> = (0..20).map(|n| asking(&verifier, format!("user.{n}"), &hash)).collect();
        until(|| verifier.0.checks.waiting() == WAITING_PER_SLOT).await;
        let answer = verifier.request("token:tok_2", KEY.as_bytes(), &hash);
        until(|| verifier.0.checks.waiting() == WAITING_PER_SLOT + 1).await;
        drop(slot);
        until(|| answer.borrow().is_some()).await;
        assert_eq!(*answer.borrow(), Some(Ok(true)));
        assert!(verifier.computed() <= 3, "{} were checked before", verifier.computed() - 1);
        for asking in flood {
            drop(asking.await);
        }
    }

    #[tokio::test]
    async fn another_hash_is_another_question() {
        let verifier = verifier(DEADLINE);
        let hash = hashed(&verifier).await;
        let other = verifier.hash(&Plaintext::new("user.other".to_owned())).await.unwrap();
        let slot = verifier.0.checks.acquire("another".to_owned()).await.unwrap();
        let (right, wrong) = (asking(&verifier, KEY.to_owned(), &hash), asking(&verifier, KEY.to_owned(), &other));
        until(|| verifier.0.running().len() == 2).await;
        drop(slot);
        assert_eq!((right.await.unwrap(), wrong.await.unwrap()), (Ok(true), Ok(false)));
    }

    #[tokio::test]
    async fn who_has_waited_for_too_long_is_sent_away_and_nothing_was_computed() {
        let verifier = verifier(Duration::from_millis(1));
        let hash = hashed(&verifier).await;
        let slot = verifier.0.checks.acquire("another".to_owned()).await.unwrap();
        assert_eq!(verifier.check(CALLER, KEY.as_bytes(), &hash).await, Err(Busy));
        assert_eq!(verifier.computed(), 0);
        drop(slot);
        assert_eq!(verifier.check(CALLER, KEY.as_bytes(), &hash).await, Ok(true));
    }
}
