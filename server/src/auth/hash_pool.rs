//! Checks credentials against password hashes, a bounded number at once, so that first uses of keys slow down first uses
//! of keys and nothing else. Callers are served in turn, so that one that asks much waits for itself.

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

/// Computes password hashes on threads of their own; clones share the bound. It has no `Debug`, which would show digests of
/// credentials.
#[derive(Clone)]
pub struct Verifier(Arc<Shared>);

struct Shared {
    /// Those that are being checked and those that wait for that.
    checks: FairQueue<String>,
    /// One for each that is being made: operators wait for each other, and not for clients.
    makers: Arc<Semaphore>,
    patience: Duration,
    running: Mutex<HashMap<HashRequest, watch::Receiver<Option<Verdict>>>>,
    computed: AtomicU64,
}

/// As many credentials are being checked as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many keys are being verified")]
pub struct Busy;

/// No hash can be made of a new key.
#[derive(Debug, thiserror::Error)]
pub enum Unhashed {
    /// There is no salt.
    #[error(transparent)]
    Random(#[from] RngError),
    /// There is no memory.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The process ends.
    #[error("the hashing was interrupted")]
    Interrupted,
}

/// SHA-256 of a credential and a hash: two who ask the same at once get one answer. It is known only while it is sought.
type HashRequest = [u8; 32];
type Verdict = Result<bool, Busy>;

/// How many of one caller wait for each that is being checked. All edges can have one token, and be one caller.
const WAITING_PER_SLOT: usize = 4;
/// How many callers can have as many waiting as one may.
const CALLERS: usize = 16;
/// How long one waits at most: less than an edge does for the whole answer.
const PATIENCE: Duration = Duration::from_secs(2);

impl Verifier {
    /// Checks that many at once, and lets four times as many of each caller wait for two seconds at most.
    pub fn new(at_once: NonZeroUsize) -> Self {
        Self::with_patience(at_once, PATIENCE)
    }

    fn with_patience(at_once: NonZeroUsize, patience: Duration) -> Self {
        let at_once = at_once.get().min(Semaphore::MAX_PERMITS / (WAITING_PER_SLOT * CALLERS));
        Self(Arc::new(Shared {
            checks: FairQueue::new(Bounds {
                at_once,
                at_once_per_caller: at_once,
                waiting: at_once * WAITING_PER_SLOT * CALLERS,
                waiting_per_caller: at_once * WAITING_PER_SLOT,
            }),
            makers: Arc::new(Semaphore::new(at_once)),
            patience,
            running: Mutex::default(),
            computed: AtomicU64::new(0),
        }))
    }

    /// Whether the credential is what was hashed. A hash that cannot be used is told in the log, and nothing is right by it.
    ///
    /// # Errors
    /// If it would have to wait for too long.
    pub async fn check(&self, caller: &str, credential: &[u8], hash: &PasswordHash) -> Result<bool, Busy> {
        let mut answer = self.ask(caller, credential, hash);
        let answered = answer.wait_for(Option::is_some).await;
        // Whoever seeks the answer goes without one only if the process ends.
        answered.map_or(Err(Busy), |verdict| verdict.unwrap_or(Err(Busy)))
    }

    /// What is kept of a new key.
    ///
    /// # Errors
    /// If no hash can be made.
    pub async fn hash(&self, plaintext: &Plaintext) -> Result<PasswordHash, Unhashed> {
        let mut salt = [0; SALT_LENGTH];
        random::fill(&mut salt)?;
        let plaintext = Zeroizing::new(plaintext.expose().as_bytes().to_vec());
        let turn = Arc::clone(&self.0.makers).acquire_owned().await.map_err(|_| Unhashed::Interrupted)?;
        let making = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            password::hash(&plaintext, &salt)
        });
        Ok(making.await.map_err(|_| Unhashed::Interrupted)??)
    }

    /// How many credentials were checked so far.
    pub fn computed(&self) -> u64 {
        self.0.computed.load(Ordering::Relaxed)
    }

    /// Where the answer will be; begins to seek it, unless that is under way.
    fn ask(&self, caller: &str, credential: &[u8], hash: &PasswordHash) -> watch::Receiver<Option<Verdict>> {
        let question = question(credential, hash);
        let mut running = self.0.running();
        if let Some(answer) = running.get(&question) {
            return answer.clone();
        }
        let (tell, answer) = watch::channel(None);
        running.insert(question, answer.clone());
        let search = Search { shared: Arc::clone(&self.0), question };
        let (caller, credential, hash) = (caller.to_owned(), Zeroizing::new(credential.to_vec()), hash.clone());
        // Not stopped where its only listener goes: others may have joined.
        tokio::spawn(async move {
            let verdict = search.run(caller, credential, hash).await;
            drop(search);
            tell.send_replace(Some(verdict));
        });
        answer
    }
}

/// A question that is being answered, for as long as others can join.
struct Search {
    shared: Arc<Shared>,
    question: HashRequest,
}

impl Search {
    async fn run(&self, caller: String, credential: Zeroizing<Vec<u8>>, hash: PasswordHash) -> Verdict {
        let slot = timeout(self.shared.patience, self.shared.checks.acquire(caller)).await;
        let Ok(Ok(slot)) = slot else { return Err(Busy) };
        self.shared.computed.fetch_add(1, Ordering::Relaxed);
        let checking = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            password::verify(&credential, &hash)
        });
        match checking.await.map_err(|_| Busy)? {
            Ok(right) => Ok(right),
            Err(error) => {
                tracing::error!(%error, "a password hash cannot be used");
                Ok(false)
            }
        }
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.shared.running().remove(&self.question);
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, HashMap<HashRequest, watch::Receiver<Option<Verdict>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn question(credential: &[u8], hash: &PasswordHash) -> HashRequest {
    // No hash has a NUL.
    Sha256::new().chain_update(hash.expose()).chain_update([0]).chain_update(credential).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const CALLER: &str = "token:tok_1";
    const KEY: &str = "user.key";
    const DEADLINE: Duration = Duration::from_secs(30);

    fn verifier(patience: Duration) -> Verifier {
        Verifier::with_patience(NonZeroUsize::MIN, patience)
    }

    async fn hashed(verifier: &Verifier) -> PasswordHash {
        verifier.hash(&Plaintext::new(KEY.to_owned())).await.unwrap()
    }

    /// Asks on a task of its own.
    fn asking(verifier: &Verifier, credential: String, hash: &PasswordHash) -> tokio::task::JoinHandle<Verdict> {
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
        let answers: Vec<_> = (0..20).map(|_| verifier.ask(CALLER, KEY.as_bytes(), &hash)).collect();
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
        let answer = verifier.ask("token:tok_2", KEY.as_bytes(), &hash);
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
