//! Leader election: the VM that holds a lease in shared data fetches the feed.
//!
//! The lease only saves work. Two fetchers at once are harmless, since every write is a compare-and-swap.
//!
//! The lease also shows whether a snapshot was maintained without a break. A snapshot that was abandoned, because no
//! configuration named it for a while, may miss revocations.

use crate::engine::store::{Names, SharedStore, Stored};

/// How long a lease lasts without renewal, in milliseconds; a dead holder is replaced after this.
pub const LEASE_MS: u64 = 2000;

/// The holder renews its lease when less than this remains, in milliseconds.
const RENEW_BELOW_MS: u64 = 1500;

/// How long a VM that serves requests leaves a vacant lease to others, in milliseconds.
pub const DEFERENCE_MS: u64 = 1000;

/// A lease that expired this long ago counts as abandoned, in milliseconds: even VMs that serve requests take it
/// sooner.
pub const LEFT_AFTER_MS: u64 = 2 * DEFERENCE_MS;

/// One VM's side of the lease.
#[derive(Debug)]
pub struct Lease {
    holder: u64,
    held_until_ms: Option<u64>,
    vacant_since_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    holder: u64,
    expires_ms: u64,
    /// Since when the lease has been held without a break, except for handovers.
    since_ms: u64,
}

/// Since when the snapshot has been maintained without a break, in milliseconds: responses of the feed from before may
/// have been followed by changes that nobody here received. If nobody holds the lease: `now_ms`.
pub fn continuous_since_ms(store: &impl SharedStore, names: &Names, now_ms: u64) -> u64 {
    match store.get(&names.lease).and_then(|stored| Cell::decode(&stored.bytes)) {
        Some(cell) if !cell.was_left(now_ms) => cell.since_ms,
        _ => now_ms,
    }
}

impl Lease {
    /// A VM without the lease; `holder` must differ between VMs.
    pub fn new(holder: u64) -> Self {
        Self { holder, held_until_ms: None, vacant_since_ms: None }
    }

    /// Whether this VM holds the lease.
    pub fn is_held(&self, now_ms: u64) -> bool {
        self.held_until_ms.is_some_and(|until| now_ms < until)
    }

    /// Takes a vacant lease or renews the held one when due; returns whether the lease is held.
    ///
    /// A VM that `serves` requests waits a second first, so that the main thread, which never serves requests, gets the
    /// lease. (The VM's clock starts when it sees the vacancy.)
    pub fn hold(&mut self, store: &impl SharedStore, names: &Names, now_ms: u64, serves: bool) -> bool {
        if let Some(until) = self.held_until_ms
            && now_ms + RENEW_BELOW_MS < until
        {
            return true;
        }
        let stored = store.get(&names.lease);
        let cell = stored.as_ref().and_then(|stored| Cell::decode(&stored.bytes));
        let mine = cell.is_some_and(|cell| cell.holder == self.holder);
        let vacant = cell.is_none_or(|cell| cell.expires_ms <= now_ms);
        if !mine && !vacant {
            self.held_until_ms = None;
            self.vacant_since_ms = None;
            return false;
        }
        let vacant_since = *self.vacant_since_ms.get_or_insert(now_ms);
        if !mine && serves && now_ms < vacant_since + DEFERENCE_MS {
            self.held_until_ms = None;
            return false;
        }
        let since_ms = cell.filter(|cell| mine || !cell.was_left(now_ms)).map_or(now_ms, |cell| cell.since_ms);
        let taken = self.write(store, names, stored.as_ref(), now_ms + LEASE_MS, since_ms);
        self.held_until_ms = taken.then_some(now_ms + LEASE_MS);
        self.vacant_since_ms = None;
        taken
    }

    /// Releases the lease, so that another VM can take it at once.
    pub fn release(&mut self, store: &impl SharedStore, names: &Names, now_ms: u64) {
        if self.held_until_ms.take().is_some() {
            let stored = store.get(&names.lease);
            let cell = stored.as_ref().and_then(|stored| Cell::decode(&stored.bytes));
            if let Some(cell) = cell.filter(|cell| cell.holder == self.holder) {
                self.write(store, names, stored.as_ref(), now_ms, cell.since_ms);
            }
        }
    }

    fn write(
        &self,
        store: &impl SharedStore,
        names: &Names,
        current: Option<&Stored>,
        expires_ms: u64,
        since_ms: u64,
    ) -> bool {
        let cell = Cell { holder: self.holder, expires_ms, since_ms };
        store.put(&names.lease, &cell.encode(), current.map(|stored| stored.tag)).is_ok()
    }
}

impl Cell {
    fn encode(&self) -> Vec<u8> {
        [self.holder, self.expires_ms, self.since_ms].map(u64::to_le_bytes).concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (holder, rest) = bytes.split_first_chunk::<8>()?;
        let (expires, rest) = rest.split_first_chunk::<8>()?;
        let [holder, expires_ms, since_ms] = [*holder, *expires, *rest.first_chunk::<8>()?].map(u64::from_le_bytes);
        Some(Self { holder, expires_ms, since_ms })
    }

    fn was_left(&self, now_ms: u64) -> bool {
        self.expires_ms.saturating_add(LEFT_AFTER_MS) <= now_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::store::memory::MemoryStore;

    fn setup() -> (MemoryStore, Names, Lease, Lease) {
        (MemoryStore::default(), Names::new("c", "a", 8), Lease::new(1), Lease::new(2))
    }

    #[test]
    fn lease_passes_to_another_vm_only_when_expired() {
        let (store, names, mut one, mut two) = setup();
        assert!(one.hold(&store, &names, 0, false));
        assert!(!two.hold(&store, &names, 1, false));
        assert!(!two.hold(&store, &names, LEASE_MS - 1, false));
        assert!(two.hold(&store, &names, LEASE_MS, false));
        assert!(!one.is_held(LEASE_MS));
        assert!(!one.hold(&store, &names, LEASE_MS + 1, false));
    }

    #[test]
    fn holder_that_renews_keeps_the_lease() {
        let (store, names, mut one, mut two) = setup();
        for now in (0..20_000).step_by(25) {
            assert!(one.hold(&store, &names, now, false));
            assert!(!two.hold(&store, &names, now, false), "at {now}");
        }
    }

    #[test]
    fn serving_vm_lets_others_go_first() {
        let (store, names, mut serving, mut idle) = setup();
        assert!(!serving.hold(&store, &names, 0, true));
        assert!(!serving.hold(&store, &names, DEFERENCE_MS - 1, true));
        assert!(idle.hold(&store, &names, DEFERENCE_MS - 1, false));
        assert!(!serving.hold(&store, &names, DEFERENCE_MS, true));
        let vacant_at = DEFERENCE_MS - 1 + LEASE_MS;
        assert!(!serving.hold(&store, &names, vacant_at, true));
        assert!(serving.hold(&store, &names, vacant_at + DEFERENCE_MS, true));
    }

    #[test]
    fn release_frees_only_ones_own_lease_at_once() {
        let (store, names, mut one, mut two) = setup();
        assert!(one.hold(&store, &names, 0, false));
        two.release(&store, &names, 1);
        assert!(!two.hold(&store, &names, 1, false));
        one.release(&store, &names, 2);
        assert!(two.hold(&store, &names, 2, false));
        one.release(&store, &names, 3);
        assert!(two.is_held(3));
        assert!(!one.hold(&store, &names, 3, false));
    }

    /// An abandoned snapshot counts as maintained only from the moment at which a VM takes the lease again.
    #[test]
    fn abandoned_snapshot_is_continuous_from_its_return() {
        let (store, names, mut one, mut two) = setup();
        let since = |now_ms| continuous_since_ms(&store, &names, now_ms);
        assert_eq!(since(500), 500, "never maintained");
        assert!(one.hold(&store, &names, 1000, false));
        for now in (1000..9000).step_by(500) {
            assert!(one.hold(&store, &names, now, false));
            assert_eq!(since(now), 1000);
        }
        one.release(&store, &names, 9000);
        assert!(two.hold(&store, &names, 9000 + DEFERENCE_MS, false), "handed over");
        assert_eq!(since(9000 + DEFERENCE_MS), 1000);
        let expired = 9000 + DEFERENCE_MS + LEASE_MS;
        assert_eq!(since(expired + DEFERENCE_MS), 1000, "the holder has died, and another VM waits its turn");
        let left = expired + LEFT_AFTER_MS;
        assert_eq!(since(left), left);
        assert!(one.hold(&store, &names, left + 50, false));
        assert_eq!(since(left + 100), left + 50);
    }

    #[test]
    fn holder_paused_for_long_has_not_abandoned_the_lease() {
        let (store, names, mut one, _) = setup();
        assert!(one.hold(&store, &names, 0, false));
        assert!(one.hold(&store, &names, 60_000, false));
        assert_eq!(continuous_since_ms(&store, &names, 60_000), 0);
    }
}
