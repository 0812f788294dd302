//! Who fetches: the VM that holds a lease in shared data.
//!
//! The lease only saves work. Two fetchers at once do no harm, since every write of theirs is compared and swapped.

use crate::engine::store::{Names, SharedStore, Stored};

/// How long a lease lasts that is not renewed, in milliseconds; a holder that dies is replaced after this.
pub const LEASE_MS: u64 = 2000;

/// A holder renews its lease when less than this is left, in milliseconds.
const RENEW_BELOW_MS: u64 = 1500;

/// A VM that serves requests leaves a vacant lease to others for this long, in milliseconds.
pub const DEFERENCE_MS: u64 = 1000;

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
        let taken = self.write(store, names, stored.as_ref(), now_ms + LEASE_MS);
        self.held_until_ms = taken.then_some(now_ms + LEASE_MS);
        self.vacant_since_ms = None;
        taken
    }

    /// Gives the lease up, so that another VM can take it at once.
    pub fn release(&mut self, store: &impl SharedStore, names: &Names) {
        if self.held_until_ms.take().is_some() {
            let stored = store.get(&names.lease);
            let cell = stored.as_ref().and_then(|stored| Cell::decode(&stored.bytes));
            if cell.is_some_and(|cell| cell.holder == self.holder) {
                self.write(store, names, stored.as_ref(), 0);
            }
        }
    }

    fn write(&self, store: &impl SharedStore, names: &Names, current: Option<&Stored>, expires_ms: u64) -> bool {
        let cell = Cell { holder: self.holder, expires_ms };
        store.put(&names.lease, &cell.encode(), current.map(|stored| stored.tag)).is_ok()
    }
}

impl Cell {
    fn encode(&self) -> Vec<u8> {
        [self.holder.to_le_bytes(), self.expires_ms.to_le_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (holder, rest) = bytes.split_first_chunk::<8>()?;
        let expires = rest.first_chunk::<8>()?;
        Some(Self { holder: u64::from_le_bytes(*holder), expires_ms: u64::from_le_bytes(*expires) })
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
        two.release(&store, &names);
        assert!(!two.hold(&store, &names, 1, false));
        one.release(&store, &names);
        assert!(two.hold(&store, &names, 2, false));
        one.release(&store, &names);
        assert!(two.is_held(3));
        assert!(!one.hold(&store, &names, 3, false));
    }
}
