//! Tokens created over the API.
//!
//! Each is looked up in the database by its digest, so that a token revoked at one server is refused by all. A client with many
//! failures gets a look-up only for a token whose digest is among those of all tokens, which are read at most once a second:
//! guesses cost the database nothing, and a valid token still works.

use crate::auth::tokens::file::{RANDOM_LENGTH, TokenDigest, digest};
use crate::clock::{Clock, Timestamp};
use crate::model::{NewToken, Token};
use crate::random::{self, RngError};
use crate::store::{self, Store};
use keyward_core::key::secret::Secret;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync;

/// The tokens created over the API.
pub struct IssuedTokens {
    store: Store,
    clock: Clock,
    known: sync::Mutex<Known>,
    noted: Mutex<HashMap<String, Timestamp>>,
    look_ups: Mutex<HashMap<TokenDigest, Arc<LookUps>>>,
}

/// The look-ups of one token. After a change thousands of edges poll at once, perhaps with the same token: they share the look-up
/// that starts after their requests arrived, so that none is admitted by an outdated result.
#[derive(Default)]
struct LookUps {
    started: AtomicU64,
    /// The number of the last finished look-up, and its result; `None` if the database could not be read.
    done: sync::Mutex<(u64, Option<Option<Token>>)>,
}

/// The digests of all tokens, with the time they were read.
#[derive(Default)]
struct Known {
    digests: HashSet<TokenDigest>,
    read_at: Option<Timestamp>,
}

/// A request that looks a token up, or waits for another request's look-up.
struct Lookup<'a> {
    of: &'a IssuedTokens,
    digest: &'a TokenDigest,
    look_ups: Arc<LookUps>,
}

impl Drop for Lookup<'_> {
    fn drop(&mut self) {
        let mut all = self.of.look_ups();
        // Only this request and the map refer to it: no other waits, and later ones need a new look-up anyway.
        if Arc::strong_count(&self.look_ups) <= 2 {
            all.remove(self.digest);
        }
    }
}

/// The minimum interval between notes of a token's use.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);

/// The maximum age of the digests of all tokens, for a token that is not among them to count as bad.
const MAX_AGE: Duration = Duration::from_secs(1);

/// Creates a token: its plaintext, its digest, and its record.
pub fn issue(new: NewToken, now: Timestamp) -> Result<(Secret, TokenDigest, Token), RngError> {
    let plaintext = Secret::new(format!("{}{}", new.role.audience().prefix(), random::base62(RANDOM_LENGTH)?));
    let digest = digest(plaintext.expose().as_bytes());
    let token = Token {
        id: random::id("tok_")?,
        name: new.name,
        role: new.role,
        created_at: now,
        expires_at: new.expires_at,
        revoked_at: None,
        last_used_at: None,
    };
    Ok((plaintext, digest, token))
}

impl IssuedTokens {
    /// The tokens of that database.
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock, known: sync::Mutex::default(), noted: Mutex::default(), look_ups: Mutex::default() }
    }

    /// The valid token with that plaintext, if any. Malformed tokens cost no look-up, and neither do unknown ones of a suspect.
    pub async fn find(&self, shown: &[u8], is_suspect: bool) -> Result<Option<Token>, store::Error> {
        if !is_well_formed(shown) {
            return Ok(None);
        }
        let digest = digest(shown);
        let now = (self.clock)();
        if is_suspect && !self.is_known(&digest, now).await {
            return Ok(None);
        }
        let token = self.look_up(&digest).await?;
        Ok(token.filter(|token| token.is_valid(now)))
    }

    /// The token as of some time after this call.
    async fn look_up(&self, digest: &TokenDigest) -> Result<Option<Token>, store::Error> {
        let look_ups = Arc::clone(self.look_ups().entry(*digest).or_default());
        let lookup = Lookup { of: self, digest, look_ups };
        let arrived = lookup.look_ups.started.load(Ordering::SeqCst);
        let mut done = lookup.look_ups.done.lock().await;
        if done.0 > arrived {
            return done.1.clone().ok_or(store::Error::Slow);
        }
        let number = lookup.look_ups.started.fetch_add(1, Ordering::SeqCst) + 1;
        let found = self.store.token_by_digest(digest).await;
        *done = (number, found.as_ref().ok().cloned());
        found
    }

    fn look_ups(&self) -> MutexGuard<'_, HashMap<TokenDigest, Arc<LookUps>>> {
        self.look_ups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the use of the token in the background.
    pub fn note_use(&self, token: &Token) {
        let now = (self.clock)();
        let is_recent = |time: Timestamp| time <= now && now < time.plus(NOTE_INTERVAL);
        if token.last_used_at.is_some_and(is_recent) {
            return;
        }
        {
            // What was noted here may not have reached the database yet.
            let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            noted.retain(|_, time| is_recent(*time));
            if noted.contains_key(&token.id) {
                return;
            }
            noted.insert(token.id.clone(), now);
        }
        let (store, id) = (self.store.clone(), token.id.clone());
        tokio::spawn(async move {
            if let Err(error) = store.note_token_use(&id, now, NOTE_INTERVAL).await {
                tracing::debug!(%error, token = id, "failed to note token use");
            }
        });
    }

    /// Forgets the digests of all tokens, as a token was created.
    pub async fn forget_known(&self) {
        self.known.lock().await.read_at = None;
    }

    /// Whether the digest is that of a token, as far as known if the database cannot be read.
    async fn is_known(&self, digest: &TokenDigest, now: Timestamp) -> bool {
        let mut known = self.known.lock().await;
        let is_fresh = |read_at: Timestamp| read_at <= now && now < read_at.plus(MAX_AGE);
        if !known.digests.contains(digest) && !known.read_at.is_some_and(is_fresh) {
            match self.store.token_digests(now).await {
                Ok(digests) => known.digests = digests,
                Err(error) => tracing::warn!(%error, "failed to read token digests; keeping the last ones"),
            }
            known.read_at = Some(now);
        }
        known.digests.contains(digest)
    }
}

/// Whether the text has the format of a token.
pub(crate) fn is_well_formed(shown: &[u8]) -> bool {
    let body = shown.strip_prefix(b"kwa_").or_else(|| shown.strip_prefix(b"kwe_"));
    body.is_some_and(|body| body.len() == RANDOM_LENGTH && body.iter().all(u8::is_ascii_alphanumeric))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Actor, Role};
    use crate::store::Location;
    use futures_util::FutureExt;

    struct Fixture {
        _dir: tempfile::TempDir,
        store: Store,
        now_ms: Arc<AtomicU64>,
        issued: IssuedTokens,
    }

    async fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        let now_ms = Arc::new(AtomicU64::new(Timestamp::EXAMPLE.as_ms()));
        let clock = Arc::clone(&now_ms);
        let clock: Clock = Arc::new(move || Timestamp::from_ms(clock.load(Ordering::Relaxed)));
        Fixture { _dir: dir, issued: IssuedTokens::new(store.clone(), clock), store, now_ms }
    }

    impl Fixture {
        /// Makes a token as another server would.
        async fn make(&self, role: Role) -> (Secret, Token) {
            let new = NewToken { name: "n".into(), role, expires_at: None };
            let (plaintext, digest, token) = issue(new, Timestamp::EXAMPLE).unwrap();
            self.store.create_token(Actor::server(), token.clone(), digest).await.unwrap();
            (plaintext, token)
        }

        async fn find(&self, shown: &Secret, is_suspect: bool) -> Option<Token> {
            self.issued.find(shown.expose().as_bytes(), is_suspect).await.unwrap()
        }
    }

    #[tokio::test]
    async fn a_token_has_the_form_of_those_of_the_files_and_is_found() {
        let fixture = fixture().await;
        for (role, prefix) in
            [(Role::Viewer, "kwa_"), (Role::Operator, "kwa_"), (Role::Admin, "kwa_"), (Role::Edge, "kwe_")]
        {
            let (plaintext, token) = fixture.make(role).await;
            assert!(plaintext.expose().starts_with(prefix) && is_well_formed(plaintext.expose().as_bytes()));
            assert_eq!(fixture.find(&plaintext, false).await, Some(token));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_a_token_is_none_even_where_the_database_cannot_be_read() {
        let fixture = fixture().await;
        fixture.store.close().await;
        let good = format!("kwa_{}", "a".repeat(43));
        assert!(fixture.issued.find(good.as_bytes(), false).await.unwrap_err().is_temporary());
        for bad in
            ["", "kwa_", &good[..46], &format!("{good}a"), &good.replace("kwa_", "kwx_"), &good.replace("aaaa", "a-a ")]
        {
            assert_eq!(fixture.issued.find(bad.as_bytes(), false).await.unwrap(), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_suspects_bad_token_costs_no_look_up_and_its_good_one_is_found() {
        let fixture = fixture().await;
        let (plaintext, token) = fixture.make(Role::Viewer).await;
        let guess = Secret::new(format!("kwa_{}", "a".repeat(43)));
        assert_eq!(fixture.find(&guess, true).await, None);
        assert_eq!(fixture.find(&plaintext, true).await, Some(token));

        // Made at another server; the digests are as old as they may be at most.
        let (later, later_token) = fixture.make(Role::Viewer).await;
        assert_eq!(fixture.find(&later, true).await, None);
        fixture.now_ms.fetch_add(1000, Ordering::Relaxed);
        assert_eq!(fixture.find(&later, true).await, Some(later_token));
        let (own, own_token) = fixture.make(Role::Viewer).await;
        fixture.issued.forget_known().await;
        assert_eq!(fixture.find(&own, true).await, Some(own_token));

        fixture.store.close().await;
        assert_eq!(fixture.find(&guess, true).await, None, "where a look-up would have failed");
        assert!(fixture.issued.find(guess.expose().as_bytes(), false).await.is_err());
    }

    #[tokio::test]
    async fn a_token_in_constant_use_is_noted_every_minute_though_a_note_was_lost() {
        let fixture = fixture().await;
        let (_, token) = fixture.make(Role::Viewer).await;
        let noted_at = |ms| Some(Timestamp::EXAMPLE.plus(Duration::from_millis(ms)));
        // The row that was read does not say so yet, and never will of the first note.
        for (advance_ms, noted) in [(0, noted_at(0)), (30_000, noted_at(0)), (30_000, noted_at(60_000))] {
            fixture.now_ms.fetch_add(advance_ms, Ordering::Relaxed);
            fixture.issued.note_use(&token);
            while fixture.store.token(&token.id).await.unwrap().unwrap().last_used_at != noted {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn what_was_revoked_is_not_found_though_its_digest_is_remembered() {
        let fixture = fixture().await;
        let (plaintext, token) = fixture.make(Role::Viewer).await;
        assert!(fixture.find(&plaintext, true).await.is_some());
        fixture.store.revoke_token(Actor::server(), token.id, Timestamp::EXAMPLE).await.unwrap();
        for is_suspect in [false, true] {
            assert_eq!(fixture.find(&plaintext, is_suspect).await, None);
        }
    }

    #[tokio::test]
    async fn who_come_together_share_a_look_up_and_who_comes_later_has_another() {
        let fixture = fixture().await;
        let (plaintext, token) = fixture.make(Role::Edge).await;
        let digest = digest(plaintext.expose().as_bytes());
        let look_ups = Arc::clone(fixture.issued.look_ups().entry(digest).or_default());

        // A look-up has started before their arrival, and finds the state before the token was created.
        look_ups.started.store(1, Ordering::SeqCst);
        let mut done = look_ups.done.lock().await;
        let mut together: Vec<_> = (0..100).map(|_| Box::pin(fixture.find(&plaintext, false))).collect();
        for find in &mut together {
            assert_eq!(find.as_mut().now_or_never(), None, "it waits for the one that has started");
        }
        *done = (1, Some(None));
        drop(done);
        let found = futures_util::future::join_all(together).await;
        assert!(found.iter().all(|found| found.as_ref() == Some(&token)));
        assert_eq!(look_ups.started.load(Ordering::SeqCst), 2);

        fixture.store.revoke_token(Actor::server(), token.id, Timestamp::EXAMPLE).await.unwrap();
        assert_eq!(fixture.find(&plaintext, false).await, None);
        drop(look_ups);
        assert_eq!(fixture.find(&plaintext, false).await, None);
        assert!(fixture.issued.look_ups().is_empty());
    }
}
