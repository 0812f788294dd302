//! The workers of this thread, one for each configuration that it serves.

use crate::engine::usage::{MAX_SECRETS, Reporter};
use crate::host::configuration::Configuration;
use crate::host::dynamic_module::Process;
use crate::host::dynamic_module::gateway::ProcessGateway;
use crate::host::dynamic_module::store::ProcessStore;
use crate::host::usage::{self, ReportedTo, SharedReporter};
use crate::host::worker::Worker;
use crate::host::{Host as _, Level};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often a worker that serves requests synchronizes with the store, in milliseconds.
const SETTLE_MS: u64 = 25;

/// This thread's worker under one configuration.
pub(super) struct ThreadWorker {
    pub(super) worker: Worker,
    pub(super) gateway: Arc<ProcessGateway>,
    /// The [`ProcessStore::status_writes`] at the last poll.
    polled: Cell<Option<u64>>,
    settled_ms: Cell<u64>,
}

thread_local! {
    static WORKERS: RefCell<Vec<Rc<ThreadWorker>>> = const { RefCell::new(Vec::new()) };

    /// This thread's reporters. They survive a change of configuration.
    static REPORTERS: RefCell<BTreeMap<ReportedTo, SharedReporter>> = const { RefCell::new(BTreeMap::new()) };
}

/// The reporters of all threads.
static ALL_REPORTERS: Mutex<BTreeMap<ReportedTo, Vec<SharedReporter>>> = Mutex::new(BTreeMap::new());

impl ThreadWorker {
    /// This thread's worker for a configuration, made if there is none yet.
    pub(super) fn of(gateway: &Arc<ProcessGateway>) -> Option<Rc<Self>> {
        WORKERS.with_borrow_mut(|workers| {
            if let Some(worker) = workers.iter().find(|worker| Arc::ptr_eq(&worker.gateway, gateway)) {
                return Some(Rc::clone(worker));
            }
            Self::release_ended(workers);
            let worker = Rc::new(Self::new(gateway)?);
            workers.push(Rc::clone(&worker));
            Some(worker)
        })
    }

    /// Forgets this thread's worker for a configuration, which a panic may have left in disorder.
    pub(super) fn discard(gateway: &Arc<ProcessGateway>) {
        WORKERS.with_borrow_mut(|workers| workers.retain(|worker| !Arc::ptr_eq(&worker.gateway, gateway)));
    }

    fn new(gateway: &Arc<ProcessGateway>) -> Option<Self> {
        // Parsed by each thread, since it is shared within a thread only. It was accepted when the listener was.
        let configuration = match Configuration::read::<Process>(gateway.text()) {
            Ok(configuration) => configuration,
            Err(problem) => {
                Process::log(Level::Error, &problem);
                return None;
            }
        };
        let reporter = usage::reported_to(&configuration.config.control_plane).map(reporter_to);
        let names = configuration.names();
        let worker = Worker::new::<Process>(configuration, names, reporter);
        gateway.add_counts(&worker.counts);
        Some(Self { worker, gateway: Arc::clone(gateway), polled: Cell::new(None), settled_ms: Cell::new(0) })
    }

    /// Does what a VM does on tick, before a request.
    pub(super) fn catch_up(&self) {
        let now_ms = self.worker.clock.now::<Process>().monotonic_ms;
        let writes = ProcessStore::status_writes();
        if self.polled.replace(Some(writes)) != Some(writes) {
            self.worker.snapshot.borrow_mut().poll(Process::STORE, now_ms);
        }
        if now_ms.saturating_sub(self.settled_ms.get()) >= SETTLE_MS {
            self.settled_ms.set(now_ms);
            self.worker.clock.read_wall::<Process>();
            self.worker.settle(Process::STORE, now_ms);
            WORKERS.with_borrow_mut(Self::release_ended);
        }
    }

    /// Lets go of the workers whose configuration has ended.
    fn release_ended(workers: &mut Vec<Rc<Self>>) {
        workers.retain(|worker| {
            let stays = worker.gateway.is_open();
            if !stays {
                worker.worker.release::<Process>();
            }
            stays
        });
    }

    /// Has all workers know of bad keys that this one has counted: it has no tick that would do it without a next request.
    pub(super) fn share_failures(&self) {
        if let Some(guessing) = &self.worker.guessing {
            guessing.tick(Process::STORE, self.worker.clock.now::<Process>().monotonic_ms);
        }
    }
}

/// The reporters of all threads to one control plane.
pub(super) fn reporters_to(control_plane: &ReportedTo) -> Vec<SharedReporter> {
    all_reporters().get(control_plane).cloned().unwrap_or_default()
}

fn reporter_to(control_plane: ReportedTo) -> SharedReporter {
    REPORTERS.with_borrow_mut(|reporters| {
        let new = || {
            let reporter = Arc::new(Mutex::new(Reporter::new(MAX_SECRETS, seed())));
            all_reporters().entry(control_plane.clone()).or_default().push(Arc::clone(&reporter));
            reporter
        };
        Arc::clone(reporters.entry(control_plane.clone()).or_insert_with(new))
    })
}

fn all_reporters() -> MutexGuard<'static, BTreeMap<ReportedTo, Vec<SharedReporter>>> {
    ALL_REPORTERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A random number; 0 without entropy, which makes pauses less random.
pub(super) fn seed() -> u64 {
    let mut bytes = [0; 8];
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
