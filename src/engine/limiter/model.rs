//! The limiter under attack: workers that write between each other's read and write, whose clocks are behind, and limits
//! that change; against an exact log of what was admitted.

use super::bucket::SUB_WINDOWS;
use super::*;
use crate::engine::store::memory::MemoryStore;
use crate::engine::store::{Conflict, Stored};
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::num::NonZeroU64;

const MAX_SKEW_MS: u64 = 7;
const BUCKET: &str = "model.0";

fn limiter() -> Limiter {
    Limiter::new("model.", 0)
}

/// What one request does.
#[derive(Clone, Debug)]
struct Request {
    key: usize,
    /// Which of the key's two sets of limits its worker knows.
    set: usize,
    cost: NonZeroU32,
    /// How far its worker's clock is behind.
    skew_ms: u64,
}

/// A request, and those that come between its read and its write.
#[derive(Clone, Debug)]
struct Arrival {
    after_ms: u64,
    request: Request,
    between: Vec<Request>,
}

/// The workers, their store, and what was admitted so far.
struct World {
    store: MemoryStore,
    keys: Vec<[Vec<Limit>; 2]>,
    true_ms: Cell<u64>,
    log: RefCell<Log>,
}

#[derive(Default)]
struct Log {
    written_ms: u64,
    admitted: BTreeMap<(usize, NonZeroU64), Vec<Admission>>,
}

struct Admission {
    at_ms: u64,
    true_ms: u64,
    cost: u64,
}

/// The store of a worker that others get ahead of.
struct Contended<'a> {
    world: &'a World,
    between: RefCell<Vec<Request>>,
}

impl SharedStore for Contended<'_> {
    fn get(&self, name: &str) -> Option<Stored> {
        self.world.store.get(name)
    }

    fn put(&self, name: &str, value: &[u8], expected: Option<u32>) -> Result<(), Conflict> {
        let next = self.between.borrow_mut().pop();
        next.iter().for_each(|request| self.world.request(request, &[]));
        self.world.store.put(name, value, expected)
    }
}

impl World {
    fn arrive(&self, arrival: &Arrival) {
        self.true_ms.set(self.true_ms.get() + arrival.after_ms);
        self.request(&arrival.request, &arrival.between);
    }

    fn request(&self, request: &Request, between: &[Request]) {
        let limits = &self.keys[request.key][request.set];
        let now_ms = self.true_ms.get() - request.skew_ms;
        let store = Contended { world: self, between: RefCell::new(between.to_vec()) };
        let verdict = limiter().admit(&store, &request.key.to_string(), limits, request.cost, now_ms);
        self.check(request, limits, now_ms, &verdict);
    }

    fn check(&self, request: &Request, limits: &[Limit], now_ms: u64, verdict: &Verdict) {
        let mut log = self.log.borrow_mut();
        let at_ms = now_ms.max(log.written_ms);
        let cost = u64::from(request.cost.get());
        let used = |limit: &Limit, longer_ms: u64| -> u64 {
            let admitted = log.admitted.get(&(request.key, limit.window_ms())).into_iter().flatten();
            let recent = admitted.filter(|one| at_ms - one.at_ms <= limit.window_ms().get() + longer_ms);
            recent.map(|one| one.cost).sum()
        };
        let longer_ms = |limit: &Limit| self.longer_ms(request.key, limit);
        match verdict {
            Verdict::Admitted { windows } => {
                for (limit, window) in limits.iter().zip(windows) {
                    let remains = |longer_ms| u64::from(limit.requests()).checked_sub(used(limit, longer_ms) + cost);
                    let most = remains(0).expect("more than the limit is admitted");
                    let least = remains(longer_ms(limit)).unwrap_or(0);
                    assert!((least..=most).contains(&u64::from(window.remaining)), "{window:?} {least} {most}");
                }
                log.written_ms = at_ms;
                for limit in limits {
                    let admission = Admission { at_ms, true_ms: self.true_ms.get(), cost };
                    log.admitted.entry((request.key, limit.window_ms())).or_default().push(admission);
                }
            }
            Verdict::Exhausted { retry_after_ms: None, .. } => {
                assert!(limits.iter().any(|limit| cost > u64::from(limit.requests())));
            }
            Verdict::Exhausted { limit, retry_after_ms: Some(wait_ms), .. } => {
                assert!(used(limit, longer_ms(limit)) + cost > u64::from(limit.requests()), "refused without need");
                assert!(
                    !self.would_admit(request.key, limits, request.cost, now_ms + wait_ms - 1),
                    "told to wait longer"
                );
                assert!(self.would_admit(request.key, limits, request.cost, now_ms + wait_ms), "waited in vain");
            }
        }
        let (Verdict::Admitted { windows } | Verdict::Exhausted { windows, .. }) = verdict;
        for WindowState { limit, remaining, reset_ms } in windows {
            let now = NonZeroU32::new(*remaining);
            assert!(now.is_none_or(|cost| self.would_admit(request.key, &[*limit], cost, now_ms)));
            if *reset_ms > 0 {
                let more = NonZeroU32::new(remaining + 1).unwrap();
                assert!(!self.would_admit(request.key, &[*limit], more, now_ms + reset_ms - 1));
                assert!(self.would_admit(request.key, &[*limit], more, now_ms + reset_ms));
            }
        }
    }

    /// How much longer than the window an admission may count.
    fn longer_ms(&self, key: usize, limit: &Limit) -> u64 {
        let same = self.keys[key].iter().flatten().filter(|other| other.window_ms() == limit.window_ms());
        let exact = same.clone().all(|other| other.requests() <= SUB_WINDOWS);
        if exact { 0 } else { limit.window_ms().get().div_ceil(u64::from(SUB_WINDOWS)) - 1 }
    }

    /// What would become of a request that has nothing come before it.
    fn would_admit(&self, key: usize, limits: &[Limit], cost: NonZeroU32, now_ms: u64) -> bool {
        let copy = MemoryStore::default();
        if let Some(stored) = self.store.get(BUCKET) {
            copy.put(BUCKET, &stored.bytes, None).unwrap();
        }
        matches!(limiter().admit(&copy, &key.to_string(), limits, cost, now_ms), Verdict::Admitted { .. })
    }

    /// The most that was admitted in any span, in the time of the log and in the time that the workers did not know.
    fn check_all_spans(&self) {
        for ((key, window_ms), admitted) in &self.log.borrow().admitted {
            let known = self.keys[*key].iter().flatten().filter(|limit| limit.window_ms() == *window_ms);
            let most = u64::from(known.map(Limit::requests).max().unwrap());
            for (n, first) in admitted.iter().enumerate() {
                let cost_while = |in_span: &dyn Fn(&Admission) -> bool| -> u64 {
                    admitted[n..].iter().take_while(|one| in_span(one)).map(|one| one.cost).sum()
                };
                assert!(cost_while(&|one| one.at_ms - first.at_ms <= window_ms.get()) <= most);
                assert!(cost_while(&|one| one.true_ms - first.true_ms <= window_ms.get() - MAX_SKEW_MS) <= most);
            }
        }
    }
}

const KEYS: usize = 3;

fn any_limits() -> impl Strategy<Value = Vec<Limit>> {
    let requests = prop_oneof![0u32..5, 5u32..70, 60u32..400, Just(u32::MAX)];
    prop::collection::btree_map(prop_oneof![Just(1u64), Just(2), Just(7), Just(60)], requests, 1..4).prop_map(
        |limits| limits.into_iter().map(|(seconds, requests)| Limit::new(requests, seconds * 1000).unwrap()).collect(),
    )
}

fn any_request(changing: bool) -> impl Strategy<Value = Request> {
    let cost = prop_oneof![8 => Just(1u32), 1 => 1u32..20, 1 => Just(u32::MAX)];
    let set = if changing { 0..2usize } else { 0..1 };
    let skew_ms = prop_oneof![Just(0), 0..=MAX_SKEW_MS];
    (0..KEYS, set, cost, skew_ms).prop_map(|(key, set, cost, skew_ms)| Request {
        key,
        set,
        cost: NonZeroU32::new(cost).unwrap(),
        skew_ms,
    })
}

fn any_arrivals(changing: bool) -> impl Strategy<Value = Vec<Arrival>> {
    let after_ms =
        prop_oneof![10 => Just(0u64), 10 => 0u64..40, 3 => 40u64..1200, 1 => 990u64..1010, 1 => 0u64..70_000];
    let between = prop::collection::vec(any_request(changing), 0..3);
    let arrival = (after_ms, any_request(changing), between).prop_map(|(after_ms, request, between)| Arrival {
        after_ms,
        request,
        between,
    });
    prop::collection::vec(arrival, 1..400)
}

fn play(keys: Vec<[Vec<Limit>; 2]>, arrivals: &[Arrival]) {
    let world = World {
        store: MemoryStore::default(),
        keys,
        true_ms: Cell::new(MAX_SKEW_MS),
        log: RefCell::new(Log::default()),
    };
    arrivals.iter().for_each(|arrival| world.arrive(arrival));
    world.check_all_spans();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_ever_passes_a_limit(limits in prop::collection::vec(any_limits(), KEYS), arrivals in any_arrivals(false)) {
        play(limits.into_iter().map(|set| [set, vec![]]).collect(), &arrivals);
    }

    #[test]
    fn nothing_ever_passes_a_limit_that_changes(
        limits in prop::collection::vec([any_limits(), any_limits()], KEYS),
        arrivals in any_arrivals(true),
    ) {
        play(limits, &arrivals);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), now_ms in any::<u64>()) {
        let store = MemoryStore::default();
        store.put(BUCKET, &[&[1], bytes.as_slice()].concat(), None).unwrap();
        let limits = ["1/s".parse().unwrap(), "1000/min".parse().unwrap()];
        limiter().admit(&store, "k", &limits, NonZeroU32::MIN, now_ms);
    }
}

/// Fills a window evenly, which is the worst for sub-windows, and then never lets the queue run dry for `windows` of it;
/// returns how much of the limit was used in that time.
fn used_when_saturated(limit: Limit, windows: u64, cost: NonZeroU32) -> f64 {
    let store = MemoryStore::default();
    let admit = |now_ms| limiter().admit(&store, "k", &[limit], cost, now_ms);
    let window_ms = limit.window_ms().get();
    let at_once = limit.requests() / cost;
    for n in 0..u64::from(at_once) {
        assert!(matches!(admit(17 + n * window_ms / u64::from(at_once)), Verdict::Admitted { .. }));
    }
    let begin_ms = 17 + window_ms;
    let (mut now_ms, mut used) = (begin_ms, 0u64);
    while now_ms < begin_ms + windows * window_ms {
        match admit(now_ms) {
            Verdict::Admitted { .. } => used += u64::from(cost.get()),
            // The queue tries again all the time; nothing passes before this, as `World::check` shows.
            Verdict::Exhausted { retry_after_ms, .. } => now_ms += retry_after_ms.unwrap(),
        }
    }
    used as f64 / (windows * u64::from(limit.requests())) as f64
}

#[test]
fn a_saturated_limit_is_used() {
    for (limit, cost) in [
        ("1/s", 1),
        ("3/s", 1),
        ("10/s", 1),
        ("64/s", 1),
        ("65/s", 1),
        ("200/min", 1),
        ("1000/s", 1),
        ("1000/h", 1),
        ("100000/s", 20),
    ] {
        let used = used_when_saturated(limit.parse().unwrap(), 40, NonZeroU32::new(cost).unwrap());
        assert!((0.95..=1.0).contains(&used), "{limit}: {used}");
    }
}

/// Sends at an even pace, `demand` times as fast as the limit, and never sends again what was refused; returns how much
/// of the limit was used after the first two windows.
fn used_when_paced(limit: Limit, demand: f64) -> f64 {
    let (store, windows) = (MemoryStore::default(), 10);
    let requests = f64::from(limit.requests());
    let pace_ms = limit.window_ms().get() as f64 / requests / demand;
    let passes = |n: &u32| {
        let verdict = limiter().admit(&store, "k", &[limit], NonZeroU32::MIN, (f64::from(*n) * pace_ms) as u64);
        matches!(verdict, Verdict::Admitted { .. })
    };
    let in_a_window = (requests * demand) as u32;
    let passed = (0..(2 + windows) * in_a_window).filter(passes);
    let used = passed.filter(|n| *n >= 2 * in_a_window).count();
    used as f64 / (requests * f64::from(windows))
}

#[test]
fn a_client_that_keeps_to_a_large_limit_or_a_little_above_gets_nearly_all_of_it() {
    for limit in ["65/s", "100/s", "1000/s", "200/min", "1000/min"] {
        for demand in [1.0, 1.01, 1.1, 1.3] {
            let used = used_when_paced(limit.parse().unwrap(), demand);
            assert!((0.95..=1.0).contains(&used), "{limit} at {demand}: {used}");
        }
    }
}
