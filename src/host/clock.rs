//! The monotonic clock and the wall clock. Requests read the monotonic clock; the wall clock is kept as an offset from
//! it.

use crate::engine::feed::Now;
use crate::host::Host;
use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

/// The offset of the wall clock, set on every tick, so that a request reads one clock for both.
pub(super) struct Clock {
    wall_minus_monotonic_ms: Cell<i64>,
    latest_wall_ms: Cell<u64>,
}

impl Clock {
    pub(super) fn new<H: Host>() -> Self {
        let clock = Self { wall_minus_monotonic_ms: Cell::new(0), latest_wall_ms: Cell::new(0) };
        clock.read_wall::<H>();
        clock
    }

    pub(super) fn now<H: Host>(&self) -> Now {
        let monotonic_ms = monotonic_ms::<H>();
        let wall_ms = monotonic_ms.saturating_add_signed(self.wall_minus_monotonic_ms.get());
        self.latest_wall_ms.set(wall_ms);
        Now { monotonic_ms, wall_ms }
    }

    /// The wall clock at the latest reading, without reading a clock.
    pub(super) fn latest_wall_ms(&self) -> u64 {
        self.latest_wall_ms.get()
    }

    /// Reads both clocks.
    pub(super) fn read_wall<H: Host>(&self) -> Now {
        let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let wall_ms = i64::try_from(wall_ms).unwrap_or(i64::MAX);
        let monotonic = i64::try_from(monotonic_ms::<H>()).unwrap_or(i64::MAX);
        self.wall_minus_monotonic_ms.set(wall_ms.saturating_sub(monotonic));
        self.now::<H>()
    }
}

/// The monotonic clock, in milliseconds.
pub(super) fn monotonic_ms<H: Host>() -> u64 {
    H::monotonic_us() / 1000
}
