//! The shared data that limits take, and the separation of keys that share a bucket.
//!
//! `cargo test -p keyward-filter --lib limiter::memory -- --nocapture` prints the figures of `docs/reference/rate-limits.md`.

use super::*;
use crate::engine::store::memory::MemoryStore;

const KEYS: usize = 100_000;
const BUCKET_BITS: u32 = 12;

fn limits(limits: &[&str]) -> Vec<Limit> {
    limits.iter().map(|limit| limit.parse().unwrap()).collect()
}

/// A hundred thousand keys keep separate counts, and leave nothing behind when idle.
#[test]
fn idle_keys_leave_nothing_behind() {
    let (store, limiter) = (MemoryStore::default(), Limiter::new("keyward1.0123456789abcdef.limit.", BUCKET_BITS));
    let limits = limits(&["1/s", "9/min"]);
    let passes = |n: usize, now_ms| {
        let verdict = limiter.admit(&store, &format!("key_{n:026}"), &limits, NonZeroU32::MIN, now_ms);
        matches!(verdict, Verdict::Admitted { .. })
    };
    assert!((0..KEYS).all(|n| passes(n, n as u64 / 200)));
    let live = store.bytes();
    println!("{KEYS} keys with one request in each of two windows: {} bytes a key", live / KEYS);
    assert!(live <= 110 * KEYS, "{live}");
    assert!((0..KEYS).all(|n| !passes(n, 500)), "expected a second request within the second to be refused");

    let ticks = 1 << BUCKET_BITS;
    (0..ticks).for_each(|n| limiter.tick(&store, 60_501 + n * 25));
    let idle = store.bytes();
    println!("idle for a minute and swept: {} bytes in all", idle);
    assert!(idle <= 60 << BUCKET_BITS, "{idle}");
}

#[test]
fn key_takes_at_most_the_documented_memory() {
    for (of_key, most) in [(&["10/s", "200/min"][..], 1000), (&["100000/s"], 850)] {
        let (store, limiter) = (MemoryStore::default(), Limiter::new("l.", 0));
        let limits = limits(of_key);
        let mut bytes = 0;
        for now_ms in (0..130_000).step_by(7) {
            limiter.admit(&store, "k", &limits, NonZeroU32::MIN, now_ms);
            bytes = bytes.max(store.bytes());
        }
        println!("one key that uses up {of_key:?}: {bytes} bytes");
        assert!(bytes <= most, "{of_key:?}: {bytes}");
    }
}
