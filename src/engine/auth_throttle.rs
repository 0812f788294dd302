//! Throttles clients that send bad keys: counts failures by client address, in a table of fixed size that all workers of
//! one process share. The threshold is `guessing` in the configuration; the server has a throttle of its own.
//!
//! A client is a [`ClientNet`]. Its failures are counted for a minute from the first on; past the threshold, its bad keys
//! are rate limited until that minute is over, and not counted. Good keys do not reach the throttle, so they are never
//! delayed.
//!
//! A failure reads one bucket, and is added to it on tick: until then it counts in its own worker only. The table holds at
//! most [`BUCKETS`] times [`SLOTS`] clients; in a full bucket, the client with the fewest failures is replaced. So the
//! table takes 328 KiB at most, and does not stop a client with many addresses: the 128 random bits of a key do.

use crate::engine::store::{self, SharedStore};
use keyward_core::client_net::ClientNet;
use keyward_core::key::limit::Limit;
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How many buckets there are.
pub const BUCKETS: usize = 256;

/// How many clients a bucket holds.
pub const SLOTS: usize = 64;

/// How many clients one worker counts between two ticks; failures of further ones are not counted.
const MAX_PENDING: usize = 1024;

const LAYOUT_VERSION: u8 = 1;

/// The failures of all clients.
#[derive(Debug)]
pub struct AuthThrottle {
    prefix: String,
    threshold: Limit,
    pending: RefCell<BTreeMap<Client, Failures>>,
}

/// The first quarter of a hash of a client's network: it finds the client's bucket and tells it from others there.
type Client = [u8; 8];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failures {
    first_ms: u64,
    count: u32,
}

impl AuthThrottle {
    /// A table whose names in shared data begin with `prefix`, and how many failures are too many: more than the
    /// threshold's requests in its window.
    pub fn new(prefix: impl Into<String>, threshold: Limit) -> Self {
        Self { prefix: prefix.into(), threshold, pending: RefCell::default() }
    }

    /// How many failures a client may have, and in which time.
    pub fn threshold(&self) -> Limit {
        self.threshold
    }

    /// Counts a failure of a client; if there were too many already, tells after how many milliseconds to come back
    /// instead, never 0. One read of shared data.
    pub fn fail(&self, store: &impl SharedStore, address: IpAddr, now_ms: u64) -> Option<u64> {
        let client = client(address);
        let stored = store.get(&self.bucket_name(client));
        let slots = read(stored.as_ref().map_or(&[], |stored| &stored.bytes));
        let shared = slots.iter().find(|(of, failures)| *of == client && self.is_live(failures, now_ms));
        let mut pending = self.pending.borrow_mut();
        let own = pending.get(&client).filter(|failures| self.is_live(failures, now_ms)).copied();
        let both = [shared.map(|(_, failures)| *failures), own];
        let count = both.iter().flatten().fold(0u32, |count, failures| count.saturating_add(failures.count));
        if count >= self.threshold.requests() {
            let first_ms = both.iter().flatten().map(|failures| failures.first_ms).min().unwrap_or(now_ms);
            return Some(self.over_ms(first_ms).saturating_sub(now_ms).max(1));
        }
        let is_full = pending.len() >= MAX_PENDING;
        match pending.get_mut(&client) {
            Some(failures) => failures.count = failures.count.saturating_add(1),
            None if is_full => {}
            None => drop(pending.insert(client, Failures { first_ms: now_ms, count: 1 })),
        }
        None
    }

    /// Adds what this worker has counted to what all share; two calls for each bucket that is concerned.
    pub fn tick(&self, store: &impl SharedStore, now_ms: u64) {
        let mut by_bucket: BTreeMap<String, Vec<(Client, Failures)>> = BTreeMap::new();
        let mut pending = std::mem::take(&mut *self.pending.borrow_mut());
        // A worker without requests may not have been here for longer than a window.
        pending.retain(|_, failures| self.is_live(failures, now_ms));
        for (client, failures) in pending {
            by_bucket.entry(self.bucket_name(client)).or_default().push((client, failures));
        }
        for (name, counted) in by_bucket {
            store::update(store, &name, |current| {
                let mut slots = read(current.unwrap_or_default());
                slots.retain(|(_, failures)| self.is_live(failures, now_ms));
                for (client, failures) in &counted {
                    add(&mut slots, *client, *failures);
                }
                (Some(encode(&slots)), ())
            });
        }
    }

    fn is_live(&self, failures: &Failures, now_ms: u64) -> bool {
        now_ms < self.over_ms(failures.first_ms)
    }

    fn over_ms(&self, first_ms: u64) -> u64 {
        first_ms.saturating_add(self.threshold.window_ms().get())
    }

    fn bucket_name(&self, client: Client) -> String {
        let [first, ..] = client;
        format!("{}{:x}", self.prefix, usize::from(first) % BUCKETS)
    }
}

fn client(address: IpAddr) -> Client {
    let hash: [u8; 32] = Sha256::digest(ClientNet::of(address).octets()).into();
    hash.first_chunk().copied().unwrap_or_default()
}

fn add(slots: &mut Vec<(Client, Failures)>, client: Client, more: Failures) {
    if let Some((_, failures)) = slots.iter_mut().find(|(of, _)| *of == client) {
        failures.count = failures.count.saturating_add(more.count);
        return;
    }
    if slots.len() >= SLOTS
        && let Some((n, _)) = slots.iter().enumerate().min_by_key(|(_, (_, failures))| failures.count)
    {
        slots.swap_remove(n);
    }
    slots.push((client, more));
}

/// Layout, little-endian: a byte of version; then of each client: hash (8), first failure (8), count (4).
fn encode(slots: &[(Client, Failures)]) -> Vec<u8> {
    let mut out = vec![LAYOUT_VERSION];
    for (client, failures) in slots {
        out.extend_from_slice(client);
        out.extend_from_slice(&failures.first_ms.to_le_bytes());
        out.extend_from_slice(&failures.count.to_le_bytes());
    }
    out
}

/// What cannot be read is empty.
fn read(bytes: &[u8]) -> Vec<(Client, Failures)> {
    let Some((&LAYOUT_VERSION, rest)) = bytes.split_first() else { return Vec::new() };
    let (slots, _) = rest.as_chunks::<20>();
    let slot = |bytes: &[u8; 20]| {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, count @ ..] = *bytes;
        let first_ms = u64::from_le_bytes([i, j, k, l, m, n, o, p]);
        ([a, b, c, d, e, f, g, h], Failures { first_ms, count: u32::from_le_bytes(count) })
    };
    slots.iter().map(slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::store::memory::MemoryStore;

    fn guessing() -> AuthThrottle {
        AuthThrottle::new("g.", "3/min".parse().unwrap())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn past_the_threshold_a_client_is_told_when_its_minute_is_over_and_that_is_true() {
        let (store, guessing) = (MemoryStore::default(), guessing());
        let fail = |now_ms| guessing.fail(&store, address("192.0.2.1"), now_ms);
        assert_eq!([fail(1000), fail(1001)], [None; 2]);
        guessing.tick(&store, 1025);
        assert_eq!([fail(1026), fail(1026)], [None, Some(59_974)]);
        guessing.tick(&store, 1050);
        assert_eq!(fail(60_999), Some(1));
        assert_eq!([fail(61_000), fail(61_000), fail(61_000)], [None; 3]);
        assert_eq!(fail(61_000), Some(60_000));
    }

    #[test]
    fn all_workers_share_the_counts_from_the_next_tick_on() {
        let (store, one, two) = (MemoryStore::default(), guessing(), guessing());
        let client = address("192.0.2.1");
        assert!((0..3).all(|_| one.fail(&store, client, 0).is_none()));
        assert_eq!(two.fail(&store, client, 0), None);
        one.tick(&store, 25);
        assert_eq!(two.fail(&store, client, 25), Some(59_975));
        assert_eq!(two.fail(&store, address("192.0.2.2"), 25), None, "another client");
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_address_is_what_it_maps() {
        for (one, same, another) in
            [("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"), ("192.0.2.1", "::ffff:192.0.2.1", "::c000:201")]
        {
            assert_eq!(client(address(one)), client(address(same)));
            assert_ne!(client(address(one)), client(address(another)));
        }
    }

    #[test]
    fn a_failure_costs_one_call_and_a_tick_without_failures_none() {
        let (store, guessing) = (MemoryStore::default(), guessing());
        guessing.tick(&store, 0);
        assert_eq!(store.calls.get(), 0);
        guessing.fail(&store, address("192.0.2.1"), 0);
        assert_eq!(store.calls.get(), 1);
        guessing.tick(&store, 0);
        assert_eq!(store.calls.get(), 3);
    }

    #[test]
    fn however_many_clients_fail_the_table_stays_small_and_who_fails_most_stays_in_it() {
        let (store, guessing) = (MemoryStore::default(), guessing());
        let worst = address("192.0.2.1");
        assert!((0..3).all(|_| guessing.fail(&store, worst, 0).is_none()));
        for n in 0..100_000u32 {
            guessing.fail(&store, IpAddr::V4((0x0a00_0000 + n).into()), 1);
            if n % 500 == 0 {
                guessing.tick(&store, 1);
            }
        }
        guessing.tick(&store, 1);
        assert!(store.bytes() <= 328 << 10, "{}", store.bytes());
        assert!(guessing.fail(&store, worst, 2).is_some());
        assert!(guessing.pending.borrow().len() <= MAX_PENDING);
    }

    #[test]
    fn a_bucket_that_cannot_be_read_is_empty() {
        for bytes in [&b""[..], b"?", &[1; 19], &[LAYOUT_VERSION, 2, 3]] {
            assert_eq!(read(bytes), []);
        }
        let slots = vec![([1; 8], Failures { first_ms: 2, count: 3 }), ([4; 8], Failures { first_ms: 5, count: 6 })];
        assert_eq!(read(&encode(&slots)), slots);
    }
}
