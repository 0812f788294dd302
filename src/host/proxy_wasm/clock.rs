//! The monotonic clock and the wall clock. Requests read the monotonic clock; the wall clock is kept as an offset from
//! it.

use crate::engine::feed::Now;
use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

/// The offset of the wall clock, set on every tick, so that a request needs one host call for both clocks.
pub(super) struct Clock {
    wall_minus_monotonic_ms: Cell<i64>,
    latest_wall_ms: Cell<u64>,
}

impl Clock {
    pub(super) fn new() -> Self {
        let clock = Self { wall_minus_monotonic_ms: Cell::new(0), latest_wall_ms: Cell::new(0) };
        clock.read_wall();
        clock
    }

    pub(super) fn now(&self) -> Now {
        let monotonic_ms = monotonic_ms();
        let wall_ms = monotonic_ms.saturating_add_signed(self.wall_minus_monotonic_ms.get());
        self.latest_wall_ms.set(wall_ms);
        Now { monotonic_ms, wall_ms }
    }

    /// The wall clock at the latest reading, without a host call.
    pub(super) fn latest_wall_ms(&self) -> u64 {
        self.latest_wall_ms.get()
    }

    /// Reads both clocks.
    pub(super) fn read_wall(&self) -> Now {
        let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let wall_ms = i64::try_from(wall_ms).unwrap_or(i64::MAX);
        let monotonic = i64::try_from(monotonic_ms()).unwrap_or(i64::MAX);
        self.wall_minus_monotonic_ms.set(wall_ms.saturating_sub(monotonic));
        self.now()
    }
}

/// The monotonic clock shared by all VMs of a process (WASI's `CLOCK_MONOTONIC`), in milliseconds. `std`'s `Instant` is
/// the same clock but cannot be stored in shared data.
pub(super) fn monotonic_ms() -> u64 {
    since_start().as_millis()
}

/// The same clock in microseconds.
pub(super) fn monotonic_us() -> u64 {
    since_start().as_micros()
}

fn since_start() -> coarsetime::Duration {
    coarsetime::Duration::from_ticks(coarsetime::Instant::now_without_cache_update().as_ticks())
}
