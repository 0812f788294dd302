//! A property test of the limiter with concurrent workers: they write between each other's read and write, their clocks
//! are behind, they trap or are reconfigured while holding leases, and limits change. An exact log of the admissions is
//! the reference.

use super::bucket::SUB_WINDOWS;
use super::*;
use crate::engine::store::memory::MemoryStore;
use crate::engine::store::{Conflict, Stored};
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::rc::Rc;

const MAX_SKEW_MS: u64 = 7;
const BUCKET: &str = "model.0";

const WORKERS: usize = 3;

fn limiter() -> Limiter {
    Limiter::new("model.", 0)
}

/// One request.
#[derive(Clone, Debug)]
struct Request {
    worker: usize,
    key: usize,
    /// Which of the key's two sets of limits the worker knows.
    set: usize,
    cost: NonZeroU32,
    /// How far the worker's clock is behind.
    skew_ms: u64,
}

/// A request, and the requests that arrive between its read and its write.
#[derive(Clone, Debug)]
struct Arrival {
    after_ms: u64,
    request: Request,
    between: Vec<Request>,
}

/// An event of the test.
#[derive(Clone, Debug)]
enum Event {
    Arrival(Arrival),
    /// A client uses up all that a worker admits, after a delay.
    Rush {
        after_ms: u64,
        request: Request,
    },
    /// A worker ticks.
    Tick(usize),
    /// A worker's VM traps with its leases, and a new one starts.
    Trap(usize),
    /// A worker is reconfigured: its leases are given back.
    Replacement(usize),
}

/// The workers, their store, and the admissions so far.
struct World {
    store: MemoryStore,
    workers: RefCell<Vec<Rc<Limiter>>>,
    /// The leases of a key whose worker is between its read and its write, and about to give them back.
    in_hand: RefCell<Vec<(usize, u64)>>,
    keys: Vec<[Vec<Limit>; 2]>,
    true_ms: Cell<u64>,
    log: RefCell<Log>,
}

#[derive(Default)]
struct Log {
    admitted: BTreeMap<(usize, NonZeroU64), Vec<Admission>>,
    /// The leases of workers that trapped, with the time.
    lost: BTreeMap<usize, Vec<(u64, u64)>>,
    /// When a worker last wrote an admission of a key: its lease is no older.
    taken_ms: BTreeMap<(usize, usize), u64>,
}

struct Admission {
    at_ms: u64,
    true_ms: u64,
    cost: u64,
}

/// The store of a worker that other workers get ahead of.
struct Contended<'a> {
    world: &'a World,
    between: RefCell<Vec<Request>>,
    was_asked: Cell<bool>,
}

impl SharedStore for Contended<'_> {
    fn get(&self, name: &str) -> Option<Stored> {
        self.was_asked.set(true);
        self.world.store.get(name)
    }

    fn put(&self, name: &str, value: &[u8], expected: Option<u32>) -> Result<(), Conflict> {
        let next = self.between.borrow_mut().pop();
        next.iter().for_each(|request| {
            self.world.request(request, &[]);
        });
        self.world.store.put(name, value, expected)
    }
}

impl World {
    fn arrive(&self, arrival: &Arrival) {
        self.true_ms.set(self.true_ms.get() + arrival.after_ms);
        self.request(&arrival.request, &arrival.between);
    }

    fn happen(&self, event: &Event) {
        match event {
            Event::Arrival(arrival) => self.arrive(arrival),
            Event::Rush { after_ms, request } => {
                self.true_ms.set(self.true_ms.get() + after_ms);
                // Large costs first, and one too many of each size.
                for cost in [4096, 512, 64, 8, 1] {
                    let cost = NonZeroU32::new(cost).unwrap();
                    let mut most = 10;
                    while most > 0 && self.request(&Request { cost, ..request.clone() }, &[]) {
                        most -= 1;
                    }
                }
            }
            Event::Tick(worker) => self.worker(*worker).tick(&self.store, self.true_ms.get()),
            Event::Trap(worker) => {
                let now_ms = self.true_ms.get();
                for key in 0..self.keys.len() {
                    let left = u64::from(self.worker(*worker).leases.borrow().left(&key.to_string()));
                    self.log.borrow_mut().lost.entry(key).or_default().push((now_ms, left));
                }
                self.workers.borrow_mut()[*worker] = Rc::new(limiter());
            }
            Event::Replacement(worker) => {
                self.worker(*worker).release(&self.store, self.true_ms.get());
                self.workers.borrow_mut()[*worker] = Rc::new(limiter());
            }
        }
    }

    fn worker(&self, worker: usize) -> Rc<Limiter> {
        Rc::clone(&self.workers.borrow()[worker])
    }

    /// Whether the request is admitted.
    fn request(&self, request: &Request, between: &[Request]) -> bool {
        let limits = &self.keys[request.key][request.set];
        let now_ms = self.true_ms.get() - request.skew_ms;
        let store = Contended { world: self, between: RefCell::new(between.to_vec()), was_asked: Cell::new(false) };
        let limiter = self.worker(request.worker);
        let left = u64::from(limiter.leases.borrow().left(&request.key.to_string()));
        self.in_hand.borrow_mut().push((request.key, left));
        let verdict = limiter.admit(&store, &request.key.to_string(), limits, request.cost, now_ms);
        self.in_hand.borrow_mut().pop();
        if store.was_asked.get() || limits.is_empty() {
            self.check(request, limits, now_ms, &verdict);
        } else {
            self.check_leased(request, limits, now_ms, &verdict);
        }
        matches!(verdict, Verdict::Admitted { .. })
    }

    /// A request that spends a lease happened no earlier than the lease; the windows since then are unknown.
    fn check_leased(&self, request: &Request, limits: &[Limit], now_ms: u64, verdict: &Verdict) {
        let Verdict::Admitted { windows } = verdict else { panic!("refused without reading the store: {verdict:?}") };
        assert!(limits.iter().all(|limit| limit.requests() >= MIN_LEASED_REQUESTS), "{limits:?}");
        assert_eq!(windows.iter().map(|window| window.limit).collect::<Vec<_>>(), limits);
        assert!(windows.iter().all(|window| window.remaining < window.limit.requests()), "{windows:?}");
        let taken_ms = self.log.borrow().taken_ms[&(request.worker, request.key)];
        self.log(request, limits, now_ms.max(taken_ms));
    }

    /// The latest clock reading that any worker has written.
    fn written_ms(&self) -> u64 {
        self.store.get(BUCKET).map_or(0, |stored| Bucket::read(&stored.bytes).written_ms)
    }

    fn log(&self, request: &Request, limits: &[Limit], at_ms: u64) {
        let mut log = self.log.borrow_mut();
        for limit in limits {
            let admission = Admission { at_ms, true_ms: self.true_ms.get(), cost: u64::from(request.cost.get()) };
            log.admitted.entry((request.key, limit.window_ms())).or_default().push(admission);
        }
    }

    /// The unspent leases of a key: those held, and those lost by traps within `longer_ms` of the window.
    fn unspent(&self, key: usize, at_ms: u64, longer_ms: u64) -> u64 {
        let workers = self.workers.borrow();
        let taken = workers.iter().map(|worker| u64::from(worker.leases.borrow().left(&key.to_string())));
        let log = self.log.borrow();
        let lost = log.lost.get(&key).into_iter().flatten();
        let lost = lost.filter(|(ms, _)| at_ms.saturating_sub(ms + LEASE_MS) <= longer_ms).map(|(_, left)| left);
        let in_hand = self.in_hand.borrow();
        let in_hand = in_hand.iter().filter(|(of, _)| *of == key).map(|(_, left)| *left);
        taken.chain(lost.copied()).chain(in_hand).sum()
    }

    fn check(&self, request: &Request, limits: &[Limit], now_ms: u64, verdict: &Verdict) {
        let log = self.log.borrow();
        let at_ms = now_ms.max(self.written_ms());
        let cost = u64::from(request.cost.get());
        let own = self.worker(request.worker).leases.borrow().left(&request.key.to_string());
        let used = |limit: &Limit, longer_ms: u64| -> u64 {
            let admitted = log.admitted.get(&(request.key, limit.window_ms())).into_iter().flatten();
            let age_ms = |one: &Admission| at_ms.saturating_sub(one.at_ms);
            let recent = admitted.filter(|one| age_ms(one) <= limit.window_ms().get() + longer_ms);
            recent.map(|one| one.cost).sum()
        };
        let longer_ms = |limit: &Limit| self.longer_ms(request.key, limit);
        match verdict {
            Verdict::Admitted { windows } => {
                for (limit, window) in limits.iter().zip(windows) {
                    let remains = |longer_ms| u64::from(limit.requests()).checked_sub(used(limit, longer_ms) + cost);
                    let most = remains(0).expect("more than the limit is admitted");
                    let longer_ms = longer_ms(limit);
                    let unspent = self.unspent(request.key, at_ms, limit.window_ms().get() + longer_ms);
                    let least = remains(longer_ms).unwrap_or(0).saturating_sub(unspent - u64::from(own));
                    assert!((least..=most).contains(&u64::from(window.remaining)), "{window:?} {least} {most}");
                }
                drop(log);
                self.log(request, limits, at_ms);
                self.log.borrow_mut().taken_ms.insert((request.worker, request.key), at_ms);
            }
            Verdict::Exhausted { retry_after_ms: None, .. } => {
                assert!(limits.iter().any(|limit| cost > u64::from(limit.requests())));
            }
            Verdict::Exhausted { limit, retry_after_ms: Some(wait_ms), .. } => {
                let longer_ms = longer_ms(limit);
                let unspent = self.unspent(request.key, at_ms, limit.window_ms().get() + longer_ms);
                let taken = used(limit, longer_ms) + unspent;
                assert!(taken + cost > u64::from(limit.requests()), "refused although there was room");
                assert!(
                    !self.would_admit(request.key, limits, request.cost, now_ms + wait_ms - 1),
                    "the reported wait is too long"
                );
                assert!(
                    self.would_admit(request.key, limits, request.cost, now_ms + wait_ms),
                    "the reported wait is too short"
                );
            }
        }
        let (Verdict::Admitted { windows } | Verdict::Exhausted { windows, .. }) = verdict;
        for WindowState { limit, remaining, reset_ms } in windows {
            // Only this worker can spend its own lease.
            let remaining = remaining.saturating_sub(own);
            let now = NonZeroU32::new(remaining);
            assert!(now.is_none_or(|cost| self.would_admit(request.key, &[*limit], cost, now_ms)));
            if limit.requests() == 0 {
                assert_eq!(*reset_ms, limit.window_ms().get());
            } else if *reset_ms > 0 {
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

    /// Whether a request without earlier concurrent requests would be admitted.
    fn would_admit(&self, key: usize, limits: &[Limit], cost: NonZeroU32, now_ms: u64) -> bool {
        let copy = MemoryStore::default();
        if let Some(stored) = self.store.get(BUCKET) {
            copy.put(BUCKET, &stored.bytes, None).unwrap();
        }
        matches!(limiter().admit(&copy, &key.to_string(), limits, cost, now_ms), Verdict::Admitted { .. })
    }

    /// Checks the admissions in every span, both by the time of the log and by the true time.
    fn check_all_spans(&self) {
        for ((key, window_ms), admitted) in &self.log.borrow().admitted {
            let known = self.keys[*key].iter().flatten().filter(|limit| limit.window_ms() == *window_ms);
            let most = u64::from(known.map(Limit::requests).max().unwrap());
            // Leased tokens are spent after later writes of other workers, so both clocks are checked.
            let check = |time_of: &dyn Fn(&Admission) -> u64, span_ms: u64| {
                let mut times: Vec<_> = admitted.iter().map(|one| (time_of(one), one.cost)).collect();
                times.sort_unstable();
                for (n, (first_ms, _)) in times.iter().enumerate() {
                    let in_span = times[n..].iter().take_while(|(ms, _)| ms - first_ms <= span_ms);
                    assert!(in_span.map(|(_, cost)| cost).sum::<u64>() <= most);
                }
            };
            check(&|one| one.at_ms, window_ms.get());
            check(&|one| one.true_ms, window_ms.get() - MAX_SKEW_MS);
        }
    }
}

const KEYS: usize = 3;

fn any_limits() -> impl Strategy<Value = Vec<Limit>> {
    let requests = prop_oneof![0u32..5, 5u32..70, 60u32..400, 512u32..9000, 512u32..9000, Just(u32::MAX)];
    prop::collection::btree_map(prop_oneof![Just(1u64), Just(2), Just(7), Just(60)], requests, 1..4).prop_map(
        |limits| limits.into_iter().map(|(seconds, requests)| Limit::new(requests, seconds * 1000).unwrap()).collect(),
    )
}

fn any_request(changing: bool) -> impl Strategy<Value = Request> {
    let cost = prop_oneof![12 => Just(1u32), 3 => 1u32..20, 3 => 20u32..1000, 1 => Just(u32::MAX)];
    let set = if changing { 0..2usize } else { 0..1 };
    let skew_ms = prop_oneof![Just(0), 0..=MAX_SKEW_MS];
    (0..WORKERS, 0..KEYS, set, cost, skew_ms).prop_map(|(worker, key, set, cost, skew_ms)| Request {
        worker,
        key,
        set,
        cost: NonZeroU32::new(cost).unwrap(),
        skew_ms,
    })
}

fn any_events(changing: bool) -> impl Strategy<Value = Vec<Event>> {
    let after_ms =
        prop_oneof![20 => Just(0u64), 20 => 0u64..40, 3 => 40u64..1200, 1 => 990u64..1010, 1 => 0u64..70_000];
    let between = prop::collection::vec(any_request(changing), 0..3);
    let arrival = (after_ms, any_request(changing), between).prop_map(|(after_ms, request, between)| {
        // Only another VM can get ahead.
        let between = between.into_iter().filter(|other| other.worker != request.worker).collect();
        Event::Arrival(Arrival { after_ms, request, between })
    });
    let after_ms = prop_oneof![2 => 0u64..30, 1 => 960u64..1010];
    let rush = (after_ms, any_request(changing)).prop_map(|(after_ms, request)| Event::Rush { after_ms, request });
    let event = prop_oneof![
        40 => arrival,
        6 => rush,
        3 => (0..WORKERS).prop_map(Event::Tick),
        1 => (0..WORKERS).prop_map(Event::Trap),
        1 => (0..WORKERS).prop_map(Event::Replacement),
    ];
    prop::collection::vec(event, 1..400)
}

/// One key in constant use, with pauses of about its window.
fn any_use() -> impl Strategy<Value = Vec<Event>> {
    let after_ms = || prop_oneof![6 => 0u64..24, 1 => 980u64..1024];
    let request = || {
        (0..WORKERS, prop_oneof![Just(1u32), 1u32..9]).prop_map(|(worker, cost)| {
            let cost = NonZeroU32::new(cost).unwrap();
            Request { worker, key: 0, set: 0, cost, skew_ms: 0 }
        })
    };
    let arrival = (after_ms(), request())
        .prop_map(|(after_ms, request)| Event::Arrival(Arrival { after_ms, request, between: Vec::new() }));
    let rush = (after_ms(), request()).prop_map(|(after_ms, request)| Event::Rush { after_ms, request });
    let event = prop_oneof![8 => arrival, 4 => rush, 1 => (0..WORKERS).prop_map(Event::Tick)];
    prop::collection::vec(event, 1..100)
}

fn play(keys: Vec<[Vec<Limit>; 2]>, events: &[Event]) {
    let world = World {
        store: MemoryStore::default(),
        workers: RefCell::new((0..WORKERS).map(|_| Rc::new(limiter())).collect()),
        in_hand: RefCell::default(),
        keys,
        true_ms: Cell::new(MAX_SKEW_MS),
        log: RefCell::new(Log::default()),
    };
    events.iter().for_each(|event| world.happen(event));
    world.check_all_spans();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn limit_is_never_exceeded(limits in prop::collection::vec(any_limits(), KEYS), events in any_events(false)) {
        play(limits.into_iter().map(|set| [set, vec![]]).collect(), &events);
    }

    #[test]
    fn changing_limit_is_never_exceeded(
        limits in prop::collection::vec([any_limits(), any_limits()], KEYS),
        events in any_events(true),
    ) {
        play(limits, &events);
    }

    #[test]
    fn leased_limit_is_never_exceeded(requests in 512u32..3000, events in any_use()) {
        play(vec![[vec![Limit::new(requests, 1000).unwrap()], vec![]]], &events);
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), now_ms in any::<u64>()) {
        let store = MemoryStore::default();
        store.put(BUCKET, &[&[1], bytes.as_slice()].concat(), None).unwrap();
        let limits = ["1/s".parse().unwrap(), "1000/min".parse().unwrap()];
        limiter().admit(&store, "k", &limits, NonZeroU32::MIN, now_ms);
    }
}

/// Fills a window evenly, which is the worst case for sub-windows, and then keeps the queue of the first worker full
/// for `windows` windows, while the others receive a few requests and keep their leases until they tick; returns the
/// fraction of the limit that was used in that time.
fn used_when_saturated(limit: Limit, windows: u64, cost: NonZeroU32, workers: usize) -> f64 {
    const TICK_MS: u64 = 25;
    let store = MemoryStore::default();
    let workers: Vec<Limiter> = (0..workers).map(|_| limiter()).collect();
    let (first, others) = workers.split_first().unwrap();
    let admit = |worker: &Limiter, now_ms| worker.admit(&store, "k", &[limit], cost, now_ms);
    let window_ms = limit.window_ms().get();
    let at_once = limit.requests() / cost;
    for n in 0..u64::from(at_once) {
        assert!(matches!(admit(first, 17 + n * window_ms / u64::from(at_once)), Verdict::Admitted { .. }));
    }
    let begin_ms = 17 + window_ms;
    let (mut now_ms, mut used, mut ticked_ms, mut random) = (begin_ms, 0u64, 0, 1u64);
    while now_ms < begin_ms + windows * window_ms {
        if now_ms >= ticked_ms + TICK_MS {
            workers.iter().for_each(|worker| worker.tick(&store, now_ms));
            ticked_ms = now_ms;
        }
        for other in others {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let burst = if random >> 60 == 0 { random >> 56 & 7 } else { 0 };
            let admitted = (0..burst).filter(|_| matches!(admit(other, now_ms), Verdict::Admitted { .. })).count();
            used += u64::from(cost.get()) * admitted as u64;
        }
        match admit(first, now_ms) {
            Verdict::Admitted { .. } => used += u64::from(cost.get()),
            // The queue retries constantly; as `World::check` shows, nothing passes earlier except for returned leases.
            Verdict::Exhausted { retry_after_ms, .. } => {
                let is_taken = others.iter().any(|other| other.leases.borrow().left("k") > 0);
                let retry_after_ms = retry_after_ms.unwrap();
                now_ms += if is_taken { retry_after_ms.min(TICK_MS) } else { retry_after_ms };
            }
        }
    }
    used as f64 / (windows * u64::from(limit.requests())) as f64
}

#[test]
fn saturated_limit_is_used_by_95_percent() {
    for (limit, cost) in [
        ("1/s", 1),
        ("1/d", 1),
        ("3/s", 1),
        ("10/s", 1),
        ("64/s", 1),
        ("65/s", 1),
        ("200/min", 1),
        ("512/s", 1),
        ("1000/s", 1),
        ("1000/h", 1),
        ("5000/min", 1),
        ("100000/s", 20),
        ("4294967295/s", 3_000_000),
        ("4294967295/d", 3_000_000),
    ] {
        for workers in [1, 2, 4] {
            let used = used_when_saturated(limit.parse().unwrap(), 10, NonZeroU32::new(cost).unwrap(), workers);
            assert!((0.95..=1.0).contains(&used), "{limit} with {workers} workers: {used}");
        }
    }
}

/// Store calls per request, for a key that receives this many requests a second for ten seconds.
fn calls_for_each_request(limit: &str, requests_in_a_second: u64, workers: usize) -> f64 {
    let store = MemoryStore::default();
    let workers: Vec<Limiter> = (0..workers).map(|_| limiter()).collect();
    let limits = [limit.parse().unwrap()];
    let mut calls = 0;
    for n in 0..10 * requests_in_a_second {
        let now_ms = n * 1000 / requests_in_a_second;
        let before = store.calls.get();
        workers[n as usize % workers.len()].admit(&store, "k", &limits, NonZeroU32::MIN, now_ms);
        calls += store.calls.get() - before;
    }
    calls as f64 / (10 * requests_in_a_second) as f64
}

/// Leases save most calls of busy keys, and cost other keys none.
#[test]
fn leases_save_most_calls_of_busy_keys() {
    // The table of docs/explanation/rate-limiting.md; `cargo test -p keyward-filter --lib leases_save -- --nocapture`
    // prints it.
    for (limit, requests_in_a_second, workers, at_most) in [
        ("500/s", 400, 2, 2.05),
        ("1000/s", 900, 1, 0.6),
        ("1000/s", 900, 2, 0.6),
        ("10000/s", 2000, 1, 0.1),
        ("10000/s", 2000, 2, 0.2),
        ("10000/s", 100, 2, 2.05),
        ("100000/min", 1000, 2, 0.1),
        ("100000/h", 20, 2, 2.05),
    ] {
        let calls = calls_for_each_request(limit, requests_in_a_second, workers);
        println!("{limit:>12} at {requests_in_a_second:>5}/s on {workers}: {calls:.2} calls a request");
        assert!(calls <= at_most, "{limit} at {requests_in_a_second}/s on {workers} workers: {calls}");
    }
}

/// Sends at an even pace, `demand` times as fast as the limit, without retries; returns the fraction of the limit that
/// was used after the first two windows.
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

/// A client that keeps to a large limit, or slightly exceeds it, gets nearly all of it.
#[test]
fn paced_client_gets_nearly_all_of_a_large_limit() {
    for limit in ["65/s", "100/s", "1000/s", "200/min", "1000/min"] {
        for demand in [1.0, 1.01, 1.1, 1.3] {
            let used = used_when_paced(limit.parse().unwrap(), demand);
            assert!((0.95..=1.0).contains(&used), "{limit} at {demand}: {used}");
        }
    }
}
