//! Who fetches: the VM that holds a lease in shared data.
//!
//! The lease only saves work. Two fetchers at once do no harm, since every write of theirs is compared and swapped.
//!
//! It also tells whether a snapshot was looked after all the time: one that was left, because no configuration named it for a
//! while, may not know what was revoked meanwhile.

use crate::engine::store::{Names, SharedStore, Stored};

/// How long a lease lasts that is not renewed, in milliseconds; a holder that dies is replaced after this.
pub const LEASE_MS: u64 = 2000;

/// A holder renews its lease when less than this is left, in milliseconds.
const RENEW_BELOW_MS: u64 = 1500;

/// A VM that serves requests leaves a vacant lease to others for this long, in milliseconds.
pub const DEFERENCE_MS: u64 = 1000;

/// A lease that expired so long ago is one that nobody wants, in milliseconds: those who serve requests take it after less.
pub const LEFT_AFTER_MS: u64 = 2 * DEFERENCE_MS;

/// One VM's part in the lease.
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
    /// Since when somebody has held it all the time, but for the moments in which it changes hands.
    since_ms: u64,
}

/// Since when the snapshot has been looked after without a break, in milliseconds: what the feed answered before may
/// have been followed by what nobody here has heard. Nobody does so now: from now on.
pub fn continuous_since_ms(store: &impl SharedStore, names: &Names, now_ms: u64) -> u64 {
    match store.get(&names.lease).and_then(|stored| Cell::decode(&stored.bytes)) {
        Some(cell) if !cell.was_left(now_ms) => cell.since_ms,
        _ => now_ms,
    }
}

impl Lease {
    /// A VM that holds nothing; `holder` must differ between VMs.
    pub fn new(holder: u64) -> Self {
        Self { holder, held_until_ms: None, vacant_since_ms: None }
    }

    /// Whether this VM holds the lease.
    pub fn is_held(&self, now_ms: u64) -> bool {
        self.held_until_ms.is_some_and(|until| now_ms < until)
    }

    /// Takes a vacant lease or renews the held one, if it is time; tells whether it is held then.
    ///
    /// A VM that `serves` requests waits a second first, so that the lease settles on the main thread, which never
    /// does. (Its clock starts when it sees the vacancy.)
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

    /// Gives the lease up, so that another VM can take it at once.
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
    fn one_holds_it_and_another_takes_it_only_when_it_has_expired() {
        let (store, names, mut one, mut two) = setup();
        assert!(one.hold(&store, &names, 0, false));
        assert!(!two.hold(&store, &names, 1, false));
        assert!(!two.hold(&store, &names, LEASE_MS - 1, false));
        assert!(two.hold(&store, &names, LEASE_MS, false));
        assert!(!one.is_held(LEASE_MS));
        assert!(!one.hold(&store, &names, LEASE_MS + 1, false));
    }

    #[test]
    fn a_holder_that_goes_on_keeps_it() {
        let (store, names, mut one, mut two) = setup();
        for now in (0..20_000).step_by(25) {
            assert!(one.hold(&store, &names, now, false));
            assert!(!two.hold(&store, &names, now, false), "at {now}");
        }
    }

    #[test]
    fn a_vm_that_serves_requests_lets_others_go_first() {
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
    fn a_released_lease_is_free_at_once_and_nobody_elses_is_released() {
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

    #[test]
    fn what_was_left_is_looked_after_from_the_day_on_which_somebody_comes_back() {
        let (store, names, mut one, mut two) = setup();
        let since = |now_ms| continuous_since_ms(&store, &names, now_ms);
        assert_eq!(since(500), 500, "nobody ever did");
        assert!(one.hold(&store, &names, 1000, false));
        for now in (1000..9000).step_by(500) {
            assert!(one.hold(&store, &names, now, false));
            assert_eq!(since(now), 1000);
        }
        one.release(&store, &names, 9000);
        assert!(two.hold(&store, &names, 9000 + DEFERENCE_MS, false), "handed over");
        assert_eq!(since(9000 + DEFERENCE_MS), 1000);
        let expired = 9000 + DEFERENCE_MS + LEASE_MS;
        assert_eq!(since(expired + DEFERENCE_MS), 1000, "the holder has died, and another one takes its time");
        let left = expired + LEFT_AFTER_MS;
        assert_eq!(since(left), left);
        assert!(one.hold(&store, &names, left + 50, false));
        assert_eq!(since(left + 100), left + 50);
    }

    #[test]
    fn a_holder_that_was_stopped_for_long_has_left_nothing() {
        let (store, names, mut one, _) = setup();
        assert!(one.hold(&store, &names, 0, false));
        assert!(one.hold(&store, &names, 60_000, false));
        assert_eq!(continuous_since_ms(&store, &names, 60_000), 0);
    }
}
