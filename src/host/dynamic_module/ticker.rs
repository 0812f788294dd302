//! The thread that wakes up the main thread, as Envoy offers modules no timers.

use crate::host::dynamic_module::abi::Scheduler;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Wakes up the main thread until it is dropped, which waits for the thread's end.
#[derive(Debug)]
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    pace: Mutex<Pace>,
    changed: Condvar,
}

#[derive(Debug)]
struct Pace {
    period: Duration,
    /// Whether the main thread has yet to follow the last call.
    is_pending: bool,
    has_ended: bool,
}

impl Ticker {
    pub(super) fn start(scheduler: Scheduler, period: Duration) -> Result<Self, String> {
        let pace = Pace { period, is_pending: false, has_ended: false };
        let shared = Arc::new(Shared { pace: Mutex::new(pace), changed: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("keyward:tick".to_owned()).spawn(move || of_thread.run(&scheduler));
        let thread = thread.map_err(|error| format!("failed to start a thread: {error}"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Says that the main thread has followed, and how long it is not needed.
    pub(super) fn done(&self, period: Duration) {
        let mut pace = self.shared.lock();
        pace.is_pending = false;
        if period < pace.period {
            self.shared.changed.notify_all();
        }
        pace.period = period;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, scheduler: &Scheduler) {
        let mut pace = self.lock();
        while !pace.has_ended {
            let period = pace.period;
            pace = self.changed.wait_timeout(pace, period).unwrap_or_else(PoisonError::into_inner).0;
            if !pace.has_ended && !pace.is_pending {
                pace.is_pending = true;
                scheduler.commit();
            }
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
