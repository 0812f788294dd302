//! Whether a key may make one more request now: strict sliding windows shared by all workers of one process.
//!
//! **Guarantee.** In any span as long as a limit's window, both ends included, at most the limit is admitted, even if
//! workers interleave, trap while holding leases, or are reconfigured (`model::limit_is_never_exceeded`). And no more
//! is refused than that requires: under constant demand, a single limit admits at least 95 % of itself
//! (`model::saturated_limit_is_used_by_95_percent`).
//!
//! **Algorithm.** A window keeps a list of admissions, each with a cost and the last millisecond in which it may have
//! happened. A request passes if its cost fits beside all admissions that are not older than the window. Up to
//! [`SUB_WINDOWS`] requests, every admission has its own entry, which is exact. Above that, the admissions of one
//! sub-window (a 64th of the window) share an entry that is as old as the youngest of them. So each admission counts
//! for at least its window, which makes the guarantee strict, and for at most a sub-window longer, which makes at least
//! 64/65 of the limit usable. There is one mechanism, an entry means the same under every limit, and the time at which
//! enough capacity returns is computed, not estimated: a client that waits for `retry_after_ms` is admitted unless the
//! key was used meanwhile.
//!
//! **Leases.** For busy keys with limits of [`MIN_LEASED_REQUESTS`] or more, a worker takes some tokens in advance, so
//! that most requests cost no host call (`leases.rs`). A lease counts from when it is taken, as if all of it were
//! admitted when it expires. Unspent tokens are given back.
//!
//! **Time.** A clock in milliseconds rounds down: readings that are a window apart may be taken up to a millisecond
//! less apart. Hence *both ends included*: an admission at 0 under `1/s` frees capacity at 1001. An admission happens
//! at the latest reading that any worker has written to its bucket or its own worker has taken, so a worker whose clock
//! is behind does no harm; spans are measured between these times. The clock is the process's monotonic one: changes of
//! the wall clock have no effect.
//!
//! **Storage.** One of a fixed number of shared buckets, by the hash of the key's id, so that all secrets of a key
//! share its limits. The number of buckets is that of the first limiter of the process: a key that moved to another
//! bucket would lose its counts. Each write drops the empty windows of all keys in the bucket, and nothing else, and
//! every worker sweeps one bucket per tick. So a bucket holds, for each key and window in use when it was last swept,
//! at most [`MAX_ENTRIES`] entries.
//!
//! **When limits change**, a window keeps its count under the new number of requests; a new window starts empty; a
//! removed limit no longer counts, and its list stays until it is empty, in case the limit is restored.
//!
//! The limiter does not queue, smooth bursts, or count beyond one process.

mod bucket;
mod leases;

#[cfg(test)]
mod memory;
#[cfg(test)]
mod model;

use crate::engine::store::{self, SharedStore};
use bucket::Bucket;
use keyward_core::key::limit::Limit;
use leases::{Lease, Leases};
use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;

pub use bucket::{KeyHash, MAX_ENTRIES, SUB_WINDOWS};
pub use leases::{LEASE_MS, MIN_LEASED_REQUESTS};

/// The limits of all keys in use, and the leases of one worker.
#[derive(Debug)]
pub struct Limiter {
    prefix: String,
    /// As requested; the effective value is `settled_bits`.
    bucket_bits: u32,
    settled_bits: Cell<Option<u32>>,
    leases: RefCell<Leases>,
    /// The bucket to sweep next.
    sweeps: Cell<u32>,
}

/// The decision on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Admitted, and counted in every window.
    Admitted {
        /// The windows including this request, in the order of the limits.
        windows: Vec<WindowState>,
    },
    /// Refused, and counted in no window.
    Exhausted {
        /// The refusing limit with the longest wait.
        limit: Limit,
        /// How long until all limits admit the request if the key is not used meanwhile, in milliseconds, never 0;
        /// `None` if they never will, because the request costs more than a limit.
        retry_after_ms: Option<u64>,
        /// The current windows, in the order of the limits.
        windows: Vec<WindowState>,
    },
}

/// The usage of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowState {
    /// The limit.
    pub limit: Limit,
    /// How many requests the limit would admit now.
    pub remaining: u32,
    /// How long until the limit would admit more than that, in milliseconds; 0 if the limit is unused, a window if it
    /// never admits a request.
    pub reset_ms: u64,
}

impl Limiter {
    /// A limiter whose 2^`bucket_bits` buckets (at most 2^32) have names that begin with `prefix`. If buckets exist
    /// already, their number is kept.
    pub fn new(prefix: impl Into<String>, bucket_bits: u32) -> Self {
        Self {
            prefix: prefix.into(),
            bucket_bits: bucket_bits.min(32),
            settled_bits: Cell::new(None),
            leases: RefCell::default(),
            sweeps: Cell::new(0),
        }
    }

    /// Admits a request of a key if all limits do.
    ///
    /// `now_ms` is the process's monotonic clock. A refused request reads the bucket once, an admitted one also writes
    /// it, and both retry when another worker has written in between. A request that spends a lease does neither.
    pub fn admit(
        &self,
        store: &impl SharedStore,
        key_id: &str,
        limits: &[Limit],
        cost: NonZeroU32,
        now_ms: u64,
    ) -> Verdict {
        self.admit_hashed(store, (key_id, || KeyHash::of(key_id)), limits, cost, now_ms)
    }

    /// Like [`admit`](Self::admit) for a key whose hash may be known already; the hash is computed only if no lease is
    /// spent.
    pub fn admit_hashed(
        &self,
        store: &impl SharedStore,
        (key_id, hash): (&str, impl FnOnce() -> KeyHash),
        limits: &[Limit],
        cost: NonZeroU32,
        now_ms: u64,
    ) -> Verdict {
        if limits.is_empty() {
            return Verdict::Admitted { windows: Vec::new() };
        }
        let cost = cost.get();
        if let Some(windows) = self.leases.borrow_mut().spend(key_id, limits, cost, now_ms) {
            return Verdict::Admitted { windows };
        }
        let (wanted, replaced) = self.leases.borrow_mut().ask(key_id, limits, now_ms);
        let key = hash();
        let (verdict, lease) = store::update(store, &self.bucket_name(store, &key), |current| {
            let stored = Bucket::read(current.unwrap_or_default());
            let at_ms = now_ms.max(stored.written_ms);
            let given_back = replaced.as_ref().map(|lease| lease.given_back(&stored, &key, at_ms));
            let bucket = given_back.as_deref().map_or(stored, Bucket::read);
            if let Some((limit, room_from_ms)) = refusal(&bucket, &key, limits, cost, at_ms) {
                let retry_after_ms = room_from_ms.map(|from_ms| from_ms.saturating_sub(now_ms));
                let windows = states(&bucket, &key, limits, at_ms, now_ms);
                return (given_back, (Verdict::Exhausted { limit, retry_after_ms, windows }, None));
            }
            let room = limits.iter().map(|limit| bucket.entries(&key, limit.window_ms()).live(at_ms).room(*limit));
            let leased = leases::size(wanted, room.min().unwrap_or(0).saturating_sub(cost));
            let until_ms = if leased > 0 { leases::end_ms(limits, at_ms) } else { at_ms };
            let rewritten = bucket.with_admission(&key, limits, cost.saturating_add(leased), at_ms, until_ms);
            let mut windows = states(&Bucket::read(&rewritten), &key, limits, at_ms, now_ms);
            let lease = (leased > 0).then(|| {
                let (limits, windows) = (limits.to_vec(), windows.clone());
                Lease { limits, until_ms, left: leased, taken_ms: now_ms, windows }
            });
            windows.iter_mut().for_each(|window| window.remaining = window.remaining.saturating_add(leased));
            (Some(rewritten), (Verdict::Admitted { windows }, lease))
        });
        if matches!(verdict, Verdict::Admitted { .. }) {
            self.leases.borrow_mut().note(key_id, limits, cost, now_ms, lease);
        }
        verdict
    }

    /// How long until a limit has room for `cost` if nothing is admitted meanwhile, in milliseconds: 0 if it has room.
    /// Admits nothing.
    pub fn wait_ms(&self, store: &impl SharedStore, key_id: &str, limit: Limit, cost: u32, now_ms: u64) -> u64 {
        let key = KeyHash::of(key_id);
        let stored = store.get(&self.bucket_name(store, &key));
        let bucket = Bucket::read(stored.as_ref().map_or(&[], |stored| &stored.bytes));
        let room_from_ms = bucket.entries(&key, limit.window_ms()).live(now_ms).room_from_ms(limit, cost);
        room_from_ms.map_or(limit.window_ms().get(), |from_ms| from_ms.saturating_sub(now_ms))
    }

    /// Gives back the unspent tokens of expired leases, and sweeps one bucket.
    pub fn tick(&self, store: &impl SharedStore, now_ms: u64) {
        let expired = self.leases.borrow_mut().take_expired(now_ms);
        self.give_back(store, &expired, now_ms);
        let index = self.sweeps.get();
        self.sweeps.set(index.wrapping_add(1));
        let bits = self.bits(store);
        let index = index.checked_rem(1u32.checked_shl(bits).unwrap_or(0)).unwrap_or(index);
        store::update(store, &self.name(index), |current| {
            let bucket = Bucket::read(current.unwrap_or_default());
            (bucket.swept(now_ms.max(bucket.written_ms)), ())
        });
    }

    /// Gives all leases back and takes no more: the configuration is being replaced.
    pub fn release(&self, store: &impl SharedStore, now_ms: u64) {
        let leases = self.leases.borrow_mut().close();
        self.give_back(store, &leases, now_ms);
    }

    fn give_back(&self, store: &impl SharedStore, leases: &[(String, Lease)], now_ms: u64) {
        for (key_id, lease) in leases {
            let key = KeyHash::of(key_id);
            store::update(store, &self.bucket_name(store, &key), |current| {
                let bucket = Bucket::read(current.unwrap_or_default());
                (Some(lease.given_back(&bucket, &key, now_ms.max(bucket.written_ms))), ())
            });
        }
    }

    fn bucket_name(&self, store: &impl SharedStore, key: &KeyHash) -> String {
        self.name(key.leading_bits(self.bits(store)))
    }

    fn name(&self, index: u32) -> String {
        format!("{}{index:x}", self.prefix)
    }

    /// The number of buckets as a power of two: that of the first limiter.
    fn bits(&self, store: &impl SharedStore) -> u32 {
        if let Some(bits) = self.settled_bits.get() {
            return bits;
        }
        let bits = store::update(store, &format!("{}bits", self.prefix), |current| match current {
            Some([bits]) => (None, u32::from(*bits)),
            _ => (Some(vec![self.bucket_bits as u8]), self.bucket_bits),
        });
        self.settled_bits.set(Some(bits));
        bits
    }
}

impl Lease {
    fn given_back(&self, bucket: &Bucket<'_>, key: &KeyHash, at_ms: u64) -> Vec<u8> {
        bucket.without(key, &self.limits, self.left, at_ms, self.until_ms)
    }
}

/// The limit with the longest wait among those that refuse, and from when on it has room; `None` for never.
fn refusal(
    bucket: &Bucket<'_>,
    key: &KeyHash,
    limits: &[Limit],
    cost: u32,
    at_ms: u64,
) -> Option<(Limit, Option<u64>)> {
    limits
        .iter()
        .map(|limit| (*limit, bucket.entries(key, limit.window_ms()).room_from_ms(*limit, cost)))
        .filter(|(_, room_from_ms)| room_from_ms.is_none_or(|from_ms| from_ms > at_ms))
        .max_by_key(|(_, room_from_ms)| room_from_ms.unwrap_or(u64::MAX))
}

fn states(bucket: &Bucket<'_>, key: &KeyHash, limits: &[Limit], at_ms: u64, now_ms: u64) -> Vec<WindowState> {
    let state = |limit: &Limit| {
        let entries = bucket.entries(key, limit.window_ms()).live(at_ms);
        let remaining = entries.room(*limit);
        if limit.requests() == 0 {
            return WindowState { limit: *limit, remaining, reset_ms: limit.window_ms().get() };
        }
        let more_from_ms = remaining.checked_add(1).and_then(|more| entries.room_from_ms(*limit, more));
        WindowState { limit: *limit, remaining, reset_ms: more_from_ms.unwrap_or(0).saturating_sub(now_ms) }
    };
    limits.iter().map(state).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::store::memory::MemoryStore;

    const ONE: NonZeroU32 = NonZeroU32::MIN;

    struct Setup {
        store: MemoryStore,
        limiter: Limiter,
    }

    impl Setup {
        fn new() -> Self {
            Self { store: MemoryStore::default(), limiter: Limiter::new("t.", 0) }
        }

        fn admit(&self, key: &str, limits: &[&str], cost: u32, now_ms: u64) -> Verdict {
            self.limiter.admit(&self.store, key, &parsed(limits), NonZeroU32::new(cost).unwrap(), now_ms)
        }

        fn passes(&self, key: &str, limits: &[&str], now_ms: u64) -> bool {
            matches!(self.admit(key, limits, 1, now_ms), Verdict::Admitted { .. })
        }

        fn bytes(&self) -> usize {
            self.store.get("t.0").map_or(0, |stored| stored.bytes.len())
        }
    }

    fn parsed(limits: &[&str]) -> Vec<Limit> {
        limits.iter().map(|limit| limit.parse().unwrap()).collect()
    }

    fn retry_after_ms(verdict: &Verdict) -> Option<u64> {
        match verdict {
            Verdict::Admitted { .. } => panic!("expected a refusal"),
            Verdict::Exhausted { retry_after_ms, .. } => *retry_after_ms,
        }
    }

    fn remaining(verdict: &Verdict) -> Vec<u32> {
        let (Verdict::Admitted { windows } | Verdict::Exhausted { windows, .. }) = verdict;
        windows.iter().map(|window| window.remaining).collect()
    }

    #[test]
    fn wait_is_reported_without_admitting() {
        let setup = Setup::new();
        let wait_ms = |cost, now_ms| setup.limiter.wait_ms(&setup.store, "k", Limit::per_minute(3), cost, now_ms);
        assert_eq!(
            [wait_ms(3, 5000), wait_ms(4, 5000)],
            [0, 60_000],
            "a request that is never admitted waits for a window"
        );
        assert_eq!(setup.bytes(), 0);
        for at_ms in [5000, 5100] {
            assert!(setup.passes("k", &["3/min"], at_ms));
        }
        assert_eq!([wait_ms(1, 5200), wait_ms(2, 5200), wait_ms(3, 5200)], [0, 59_801, 59_901]);
        assert_eq!([wait_ms(2, 65_000), wait_ms(2, 65_001)], [1, 0]);
    }

    #[test]
    fn small_limit_is_exact_to_the_millisecond() {
        let setup = Setup::new();
        assert!(setup.passes("k", &["2/s"], 5000));
        assert!(setup.passes("k", &["2/s"], 5400));
        assert_eq!(retry_after_ms(&setup.admit("k", &["2/s"], 1, 5401)), Some(600));
        assert!(!setup.passes("k", &["2/s"], 6000));
        assert!(setup.passes("k", &["2/s"], 6001));
        assert!(!setup.passes("k", &["2/s"], 6400));
        assert!(setup.passes("k", &["2/s"], 6401));
    }

    #[test]
    fn remaining_is_reported_with_the_time_of_more() {
        let setup = Setup::new();
        let limit: Limit = "3/s".parse().unwrap();
        let windows = |remaining, reset_ms| vec![WindowState { limit, remaining, reset_ms }];
        assert_eq!(setup.admit("k", &["3/s"], 1, 0), Verdict::Admitted { windows: windows(2, 1001) });
        assert_eq!(setup.admit("k", &["3/s"], 2, 100), Verdict::Admitted { windows: windows(0, 901) });
        let exhausted = |retry_after_ms, reset_ms| Verdict::Exhausted {
            limit,
            retry_after_ms: Some(retry_after_ms),
            windows: windows(0, reset_ms),
        };
        assert_eq!(setup.admit("k", &["3/s"], 1, 200), exhausted(801, 801));
        assert_eq!(setup.admit("k", &["3/s"], 2, 200), exhausted(901, 801));
    }

    #[test]
    fn all_windows_must_admit_with_longest_wait_reported() {
        let setup = Setup::new();
        let limits = ["2/s", "3/min"];
        assert!(setup.passes("k", &limits, 0));
        assert!(setup.passes("k", &limits, 0));
        let verdict = setup.admit("k", &limits, 1, 500);
        assert_eq!((retry_after_ms(&verdict), remaining(&verdict)), (Some(501), vec![0, 1]));
        assert!(setup.passes("k", &limits, 1001));
        let verdict = setup.admit("k", &limits, 1, 1002);
        assert_eq!((retry_after_ms(&verdict), remaining(&verdict)), (Some(58_999), vec![1, 0]));
        assert!(matches!(verdict, Verdict::Exhausted { limit, .. } if limit.to_string() == "3/min"));
    }

    #[test]
    fn request_costlier_than_a_limit_is_not_counted() {
        let setup = Setup::new();
        for limits in [["5/s", "100/min"], ["100/min", "5/s"]] {
            let verdict = setup.admit("k", &limits, 6, 0);
            assert_eq!(retry_after_ms(&verdict), None);
            assert!(matches!(verdict, Verdict::Exhausted { limit, .. } if limit.to_string() == "5/s"));
        }
        assert_eq!(setup.bytes(), 0);
        assert!(matches!(setup.admit("k", &["5/s"], 5, 0), Verdict::Admitted { .. }));
        assert_eq!(retry_after_ms(&setup.admit("k", &["0/s"], 1, 9999)), None);
    }

    #[test]
    fn without_limits_nothing_is_read_or_written() {
        let setup = Setup::new();
        assert_eq!(setup.admit("k", &[], 1, 0), Verdict::Admitted { windows: vec![] });
        assert_eq!(setup.store.calls.get(), 0);
    }

    #[test]
    fn refusal_is_one_read_and_admission_also_one_write() {
        let setup = Setup::new();
        setup.admit("another", &["1/s"], 1, 0);
        let first = setup.store.calls.get();
        setup.admit("k", &["1/s"], 1, 0);
        assert_eq!(setup.store.calls.get() - first, 2);
        setup.admit("k", &["1/s"], 1, 0);
        assert_eq!(setup.store.calls.get() - first, 3);
    }

    #[test]
    fn largest_limit_and_latest_time_do_not_overflow() {
        let setup = Setup::new();
        let limits = ["4294967295/s", "4294967295/31d"];
        assert_eq!(remaining(&setup.admit("k", &limits, u32::MAX - 1, 0)), [1, 1]);
        assert_eq!(remaining(&setup.admit("k", &limits, 1, 0)), [0, 0]);
        assert_eq!(retry_after_ms(&setup.admit("k", &limits, 1, 0)), Some(Limit::MAX_WINDOW_MS + 1));
        for now_ms in [u64::MAX - 1, u64::MAX, u64::MAX] {
            setup.admit("k", &limits, u32::MAX, now_ms);
        }
    }

    #[test]
    fn window_keeps_its_count_when_limits_change() {
        let setup = Setup::new();
        (0..5).for_each(|n| assert!(setup.passes("k", &["10/s", "100/min"], n)));
        assert_eq!(remaining(&setup.admit("k", &["8/s", "100/h"], 1, 10)), [2, 99]);
        let verdict = setup.admit("k", &["3/s"], 1, 20);
        assert_eq!((retry_after_ms(&verdict), remaining(&verdict)), (Some(984), vec![0]));
        assert_eq!(remaining(&setup.admit("k", &["100000/s"], 1, 30)), [99_993]);
        assert_eq!(remaining(&setup.admit("k", &["100/min"], 1, 40)), [94], "a restored limit");
    }

    #[test]
    fn write_drops_empty_windows_and_keeps_live_ones() {
        let setup = Setup::new();
        (0..100).for_each(|n| assert!(setup.passes(&format!("k{n}"), &["1/s", "2/min"], n)));
        let full = setup.bytes();
        assert!(setup.passes("other", &["1/s"], 1050));
        assert!(setup.bytes() < full);
        assert!((0..50).all(|n| setup.passes(&format!("k{n}"), &["1/s"], 1100)));
        assert!((50..100).all(|n| setup.passes(&format!("k{n}"), &["1/s"], 1100)));
        assert!((0..100).all(|n| setup.passes(&format!("k{n}"), &["2/min"], 1100)));
        assert!((0..100).all(|n| !setup.passes(&format!("k{n}"), &["2/min"], 60_000)));
        assert!(setup.passes("other", &["1/s"], 70_000));
        assert_eq!(setup.bytes(), bucket::HEADER_LENGTH + bucket::RECORD_HEADER_LENGTH + bucket::ENTRY_LENGTH);
    }

    #[test]
    fn worker_with_slow_clock_cannot_restore_a_window() {
        let setup = Setup::new();
        assert!(setup.passes("k", &["1/s"], 0));
        assert!(setup.passes("other", &["1/s"], 1001));
        assert!(setup.passes("k", &["1/s"], 990), "the admission happens at 1001");
        assert!(!setup.passes("k", &["1/s"], 1991));
        assert!(setup.passes("k", &["1/s"], 2002));
    }

    #[test]
    fn entries_of_a_window_are_bounded() {
        let setup = Setup::new();
        let bound = bucket::HEADER_LENGTH + bucket::RECORD_HEADER_LENGTH + MAX_ENTRIES * bucket::ENTRY_LENGTH;
        for now_ms in 0..3000 {
            let limit = ["64/s", "1000/s", "1000000/s"][now_ms as usize % 3];
            setup.admit("k", &[limit], 1, now_ms);
            assert!(setup.bytes() <= bound);
        }
    }

    /// A limit of zero admits nothing, and a window whose limit is one admits one request.
    #[test]
    fn limit_of_zero_admits_nothing() {
        let setup = Setup::new();
        for (limit, window_ms) in [("0/s", 1000), ("0/d", 86_400_000)] {
            let limit: Limit = limit.parse().unwrap();
            let windows = vec![WindowState { limit, remaining: 0, reset_ms: window_ms }];
            let verdict = setup.admit("k", &[&limit.to_string()], 1, 0);
            assert_eq!(verdict, Verdict::Exhausted { limit, retry_after_ms: None, windows });
        }
        assert!(setup.passes("k", &["1/d"], 0));
        assert_eq!(retry_after_ms(&setup.admit("k", &["1/d"], 1, 86_399_999)), Some(2));
        assert!(setup.passes("k", &["1/d"], 86_400_001));
    }

    #[test]
    fn different_limits_for_two_windows_both_hold() {
        let setup = Setup::new();
        let passed = (0..180_000).step_by(100).filter(|now_ms| setup.passes("k", &["10/s", "5/min"], *now_ms)).count();
        assert_eq!(passed, 15);
    }

    /// A limiter with a lease of 10 or more tokens, which one more request at 100 ms can spend.
    fn with_a_lease(store: &MemoryStore) -> Limiter {
        let (limiter, limits) = (Limiter::new("t.", 0), parsed(&["10000/s"]));
        (0..20).for_each(|_| drop(limiter.admit(store, "k", &limits, ONE, 100)));
        assert!(limiter.leases.borrow().left("k") >= 10);
        limiter
    }

    fn remaining_elsewhere(store: &MemoryStore, now_ms: u64) -> u32 {
        let verdict = Limiter::new("t.", 0).admit(store, "k", &parsed(&["10000/s"]), ONE, now_ms);
        remaining(&verdict)[0]
    }

    #[test]
    fn leased_tokens_are_missing_elsewhere_until_returned() {
        let store = MemoryStore::default();
        let limiter = with_a_lease(&store);
        assert!(remaining_elsewhere(&store, 100) < 10_000 - 21);
        limiter.tick(&store, 111);
        assert!(remaining_elsewhere(&store, 111) < 10_000 - 22, "the lease lasts to the end of its sub-window");
        limiter.tick(&store, 112);
        assert_eq!(remaining_elsewhere(&store, 112), 10_000 - 23);
        assert_eq!(limiter.leases.borrow().left("k"), 0);
    }

    #[test]
    fn replaced_configuration_returns_leases_and_stops() {
        let store = MemoryStore::default();
        let limiter = with_a_lease(&store);
        limiter.release(&store, 101);
        assert_eq!(remaining_elsewhere(&store, 101), 10_000 - 21);
        (0..20).for_each(|_| drop(limiter.admit(&store, "k", &parsed(&["10000/s"]), ONE, 102)));
        assert_eq!(remaining_elsewhere(&store, 102), 10_000 - 42);
    }

    #[test]
    fn next_admission_returns_a_lease_without_extra_calls() {
        let store = MemoryStore::default();
        let limiter = with_a_lease(&store);
        let before = store.calls.get();
        // A different window than the leased one: the lease cannot be spent on it, and both are settled at once.
        assert_eq!(remaining(&limiter.admit(&store, "k", &parsed(&["10000/s", "9/min"]), ONE, 101)), [9979, 8]);
        assert_eq!(store.calls.get() - before, 2);
        // Nor can an expired lease.
        let limiter = with_a_lease(&store);
        let used = 10_000 - remaining_elsewhere(&store, 100) - limiter.leases.borrow().left("k");
        let before = store.calls.get();
        assert_eq!(remaining(&limiter.admit(&store, "k", &parsed(&["10000/s"]), ONE, 500)), [10_000 - used - 1]);
        assert_eq!(store.calls.get() - before, 2);
    }

    #[test]
    fn lease_is_spent_up_to_its_last_millisecond() {
        let store = MemoryStore::default();
        for (now_ms, calls) in [(111, 0), (112, 2)] {
            let limiter = with_a_lease(&store);
            let before = store.calls.get();
            limiter.admit(&store, "k", &parsed(&["10000/s"]), ONE, now_ms);
            assert_eq!(store.calls.get() - before, calls, "at {now_ms}");
        }
    }

    #[test]
    fn key_with_a_small_limit_is_never_leased() {
        let store = MemoryStore::default();
        let limiter = Limiter::new("t.", 0);
        for limits in [&["10000/s", "511/min"][..], &["511/s"], &["64/s"], &["1/s"]] {
            (0..50).for_each(|_| drop(limiter.admit(&store, "k", &parsed(limits), ONE, 0)));
            assert_eq!(limiter.leases.borrow().left("k"), 0);
        }
    }

    #[test]
    fn existing_number_of_buckets_is_kept() {
        let store = MemoryStore::default();
        let limits = parsed(&["1/h"]);
        let admit = |limiter: &Limiter, n: u32| limiter.admit(&store, &n.to_string(), &limits, ONE, 0);
        let first = Limiter::new("p.", 4);
        assert!((0..100).all(|n| matches!(admit(&first, n), Verdict::Admitted { .. })));
        let replaced = Limiter::new("p.", 7);
        assert!((0..100).all(|n| matches!(admit(&replaced, n), Verdict::Exhausted { .. })));
    }

    #[test]
    fn keys_are_spread_over_all_buckets() {
        let (store, limiter) = (MemoryStore::default(), Limiter::new("p.", 3));
        for n in 0..100 {
            limiter.admit(&store, &n.to_string(), &parsed(&["1/s"]), ONE, 0);
        }
        assert!((0..8).all(|n| store.get(&format!("p.{n:x}")).is_some()));
    }

    #[test]
    fn unreadable_bucket_is_empty() {
        let setup = Setup::new();
        assert!(setup.passes("k", &["1/s"], 0));
        let good = setup.store.get("t.0").unwrap().bytes;
        let other_layout = [&[good[0] + 1], &good[1..]].concat();
        let cut = good[..good.len() - 1].to_vec();
        for bad in [other_layout, cut, vec![], b"?".to_vec()] {
            let tag = setup.store.get("t.0").unwrap().tag;
            setup.store.put("t.0", &bad, Some(tag)).unwrap();
            assert!(setup.passes("k", &["1/s"], 1));
            assert!(!setup.passes("k", &["1/s"], 2));
        }
    }
}
