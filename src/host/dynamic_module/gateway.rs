//! One configuration, which all threads share, and its background work on the main thread.

use crate::engine::verification::queue::{Busy, Ended, Unverified, Verifier};
use crate::host::background::Background;
use crate::host::configuration::Configuration;
use crate::host::control_plane::{Call, Response};
use crate::host::dynamic_module::Process;
use crate::host::dynamic_module::abi::{self, Config, Filter, Metric, Scheduler};
use crate::host::dynamic_module::ticker::Ticker;
use crate::host::dynamic_module::worker::{reporters_to, seed};
use crate::host::metrics::{Counts, Id, Kind};
use crate::host::usage::{self, ReportedTo, SharedReporter};
use crate::host::worker::Worker;
use crate::host::{Gateway, Host as _, Level, NotDone};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One configuration.
#[derive(Debug)]
pub(super) struct ProcessGateway {
    id: u64,
    text: Vec<u8>,
    reported_to: Option<ReportedTo>,
    is_open: AtomicBool,
    /// What its workers have counted.
    counts: Mutex<Vec<Arc<Counts>>>,
    waiting: Mutex<Waiting>,
    ticker: Mutex<Option<Ticker>>,
}

/// The requests that wait for a verification, of all workers.
#[derive(Debug)]
struct Waiting {
    verifier: Verifier,
    streams: BTreeMap<u32, WaitingStream>,
    last: u32,
}

#[derive(Debug)]
struct WaitingStream {
    scheduler: Scheduler,
    /// The result, once the stream was woken up.
    ended: Option<Arc<Ended>>,
}

static LAST_ID: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The main thread's part of each configuration, by id.
    static MAIN: RefCell<BTreeMap<u64, Rc<Main>>> = const { RefCell::new(BTreeMap::new()) };
}

impl ProcessGateway {
    /// Reads a configuration and starts its background work. `None` if the configuration has mistakes, which are logged;
    /// Envoy then rejects the listener.
    pub(super) fn open(envoy: Config, text: &[u8]) -> Option<Arc<Self>> {
        Self::try_open(envoy, text).inspect_err(|problem| Process::log(Level::Error, problem)).ok()
    }

    fn try_open(envoy: Config, text: &[u8]) -> Result<Arc<Self>, String> {
        let configuration = Configuration::read::<Process>(text)?;
        #[cfg(feature = "fault-injection")]
        crate::host::fault::on_configure(Process::STORE)?;
        let (names, token) = (configuration.names(), configuration.token.clone());
        let verifier = Verifier::new(&names);
        let gateway = Arc::new(Self {
            id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
            text: text.to_vec(),
            reported_to: usage::reported_to(&configuration.config.control_plane),
            is_open: AtomicBool::new(true),
            counts: Mutex::default(),
            waiting: Mutex::new(Waiting { verifier, streams: BTreeMap::new(), last: 0 }),
            ticker: Mutex::default(),
        });
        let scheduler = envoy.scheduler().ok_or("failed to get a scheduler of Envoy")?;
        let worker = Worker::new::<Process>(configuration, names.clone(), None);
        gateway.add_counts(&worker.counts);
        let surroundings = Surroundings { envoy, worker, gateway: Arc::clone(&gateway) };
        let background = Background::new(&surroundings, names, token, seed());
        if !abi::is_validation_mode() {
            *lock(&gateway.ticker) = Some(Ticker::start(scheduler, background.period())?);
        }
        let main = Main { surroundings, background: RefCell::new(background) };
        MAIN.with_borrow_mut(|open| {
            open.retain(|_, main| main.surroundings.gateway.is_open());
            open.insert(gateway.id, Rc::new(main));
        });
        Ok(gateway)
    }

    /// Ends the background work, before Envoy frees the configuration.
    pub(super) fn close(&self) {
        self.is_open.store(false, Ordering::Release);
        drop(lock(&self.ticker).take());
        if let Some(main) = MAIN.with_borrow_mut(|open| open.remove(&self.id))
            && let Ok(mut background) = main.background.try_borrow_mut()
        {
            background.release(&main.surroundings);
        }
    }

    /// Whether the configuration is in use.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Does what is due, on the main thread.
    pub(super) fn tick(&self) {
        self.with_background(|background, surroundings| background.tick(surroundings, false));
    }

    /// Handles the response to a callout, on the main thread.
    pub(super) fn on_response(&self, callout: u64, response: &CalloutResponse<'_>) {
        self.with_background(|background, surroundings| background.answer(surroundings, callout, response));
    }

    /// The configuration as Envoy passed it.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Adds what another worker counts.
    pub(super) fn add_counts(&self, counts: &Arc<Counts>) {
        lock(&self.counts).push(Arc::clone(counts));
    }

    /// Has a stream wait for a verification, and returns the number under which it waits.
    pub(super) fn wait(
        &self,
        filter: &Filter,
        what: &Unverified,
        client: Option<IpAddr>,
        now_ms: u64,
    ) -> Result<u32, Busy> {
        let Some(scheduler) = filter.scheduler() else { return Err(Busy { retry_after_s: 1 }) };
        let mut waiting = lock(&self.waiting);
        let stream = waiting.last.wrapping_add(1);
        waiting.verifier.wait(Process::STORE, what, client, stream, now_ms)?;
        waiting.last = stream;
        waiting.streams.insert(stream, WaitingStream { scheduler, ended: None });
        Ok(stream)
    }

    /// The result of the verification that a stream was woken up with, which then no longer waits.
    pub(super) fn take_ended(&self, stream: u32) -> Option<Arc<Ended>> {
        let mut waiting = lock(&self.waiting);
        let ended = waiting.streams.get_mut(&stream)?.ended.take()?;
        waiting.streams.remove(&stream);
        Some(ended)
    }

    /// Forgets a stream that has ended while it waited.
    pub(super) fn leave(&self, stream: u32) {
        let mut waiting = lock(&self.waiting);
        waiting.verifier.leave(stream);
        waiting.streams.remove(&stream);
    }

    pub(super) fn with_background(&self, work: impl FnOnce(&mut Background, &Surroundings)) {
        let Some(main) = MAIN.with_borrow(|open| open.get(&self.id).cloned()) else { return };
        // Borrowed if Envoy answers a callout while it is being sent, which then has failed.
        let Ok(mut background) = main.background.try_borrow_mut() else { return };
        let result = catch_unwind(AssertUnwindSafe(|| work(&mut background, &main.surroundings)));
        if result.is_err() {
            background.start_over::<Process>();
        }
        // After a panic too: nothing else has the thread call again, and edges would follow no change any more.
        let period = background.period();
        if let Some(ticker) = &*lock(&self.ticker) {
            ticker.done(period);
        }
        if let Err(panic) = result {
            resume_unwind(panic);
        }
    }
}

/// The main thread's part of a configuration.
struct Main {
    surroundings: Surroundings,
    background: RefCell<Background>,
}

/// What surrounds the background work.
pub(super) struct Surroundings {
    envoy: Config,
    /// Serves no requests, and does the upkeep of what workers share.
    worker: Worker,
    gateway: Arc<ProcessGateway>,
}

impl Gateway for Surroundings {
    type Host = Process;

    /// Each is woken up on its own.
    const RESUMED_AT_ONCE: usize = usize::MAX;

    fn worker(&self) -> &Worker {
        &self.worker
    }

    fn call(&self, call: &Call<'_>) -> Result<u64, NotDone> {
        let body = call.body.map_or(&[][..], |(_, body)| body);
        let cluster = &call.control_plane.cluster;
        call.with_headers(|headers| self.envoy.call(cluster, headers, body, call.timeout_ms)).ok_or(NotDone)
    }

    fn verifier<T>(&self, see: impl FnOnce(&mut Verifier) -> T) -> T {
        see(&mut lock(&self.gateway.waiting).verifier)
    }

    fn resume(&self, ready: Vec<(u32, Arc<Ended>)>) {
        let mut waiting = lock(&self.gateway.waiting);
        for (stream, ended) in ready {
            if let Some(stream) = waiting.streams.get_mut(&stream) {
                stream.ended = Some(ended);
                stream.scheduler.commit();
            }
        }
    }

    fn reporters(&self) -> Vec<SharedReporter> {
        self.gateway.reported_to.as_ref().map(reporters_to).unwrap_or_default()
    }

    fn counts(&self, mut see: impl FnMut(&Counts)) {
        lock(&self.gateway.counts).retain(|counts| {
            // Looked at first: what has no worker counts no more, and is flushed for the last time.
            let has_worker = Arc::strong_count(counts) > 1;
            see(counts);
            has_worker
        });
    }

    fn define(&self, kind: Kind, name: &str) -> Option<Id> {
        let metric = match kind {
            Kind::Counter => Metric::Counter,
            Kind::Gauge => Metric::Gauge,
            Kind::Histogram => Metric::Histogram,
        };
        self.envoy.define(metric, name).map(|id| id as Id)
    }

    fn increment(&self, counter: Id, by: u64) {
        self.envoy.record(Metric::Counter, counter as usize, by);
    }

    fn set(&self, gauge: Id, value: u64) {
        self.envoy.record(Metric::Gauge, gauge as usize, value);
    }

    fn record(&self, histogram: Id, value: u64) {
        self.envoy.record(Metric::Histogram, histogram as usize, value);
    }
}

/// The response to a callout.
pub(super) struct CalloutResponse<'a> {
    /// Whether there is one; otherwise the call was reset.
    pub(super) exists: bool,
    pub(super) fields: Vec<(&'a [u8], &'a [u8])>,
    pub(super) chunks: Vec<&'a [u8]>,
}

impl Response for CalloutResponse<'_> {
    fn exists(&self) -> bool {
        self.exists
    }

    fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.fields.iter().find(|(given, _)| *given == name.as_bytes()).map(|(_, value)| value.to_vec())
    }

    fn body_length(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }

    fn body(&self) -> Option<Vec<u8>> {
        Some(self.chunks.concat())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
