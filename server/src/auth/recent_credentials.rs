//! Remembers whether recently used credentials were good, so that a suspect's good key does not wait behind bad ones, and a
//! repeated bad one is not looked up each time.
//!
//! A table of fixed size in which later credentials replace earlier ones. It holds hashes keyed with random bytes of the process,
//! no credentials and no digests of them. It admits nobody: a credential remembered as good is looked up like any other.

use crate::clock::Timestamp;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Good credentials, or bad ones.
pub(super) struct RecentCredentials {
    slots: Mutex<Vec<Option<(u64, Timestamp)>>>,
    hasher: RandomState,
}

const SLOTS: usize = 4096;

impl Default for RecentCredentials {
    fn default() -> Self {
        Self { slots: Mutex::new(vec![None; SLOTS]), hasher: RandomState::new() }
    }
}

impl RecentCredentials {
    /// Adds a credential.
    pub(super) fn add(&self, credential: &[u8], now: Timestamp) {
        let (hash, place) = self.place_of(credential);
        if let Some(slot) = self.slots().get_mut(place) {
            *slot = Some((hash, now));
        }
    }

    /// Removes a credential.
    pub(super) fn remove(&self, credential: &[u8]) {
        let (hash, place) = self.place_of(credential);
        if let Some(slot) = self.slots().get_mut(place) {
            *slot = slot.filter(|(of, _)| *of != hash);
        }
    }

    /// Whether the credential is remembered.
    pub(super) fn has(&self, credential: &[u8]) -> bool {
        self.noted_at(credential).is_some()
    }

    /// Whether the credential was added within that window, by a clock that was not set back since.
    pub(super) fn has_within(&self, credential: &[u8], window: Duration, now: Timestamp) -> bool {
        self.noted_at(credential).is_some_and(|at| at <= now && now < at.plus(window))
    }

    fn noted_at(&self, credential: &[u8]) -> Option<Timestamp> {
        let (hash, place) = self.place_of(credential);
        let slot = self.slots().get(place).copied().flatten();
        slot.filter(|(of, _)| *of == hash).map(|(_, at)| at)
    }

    fn place_of(&self, credential: &[u8]) -> (u64, usize) {
        let hash = self.hasher.hash_one(credential);
        (hash, usize::try_from(hash % SLOTS as u64).unwrap_or_default())
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Option<(u64, Timestamp)>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
