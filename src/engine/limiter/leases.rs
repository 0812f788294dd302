//! Tokens that one worker takes from busy keys' limits in advance, so that most of their requests cost no host call.
//!
//! A lease is tokens of all limits of a key, taken with one admission and spent in this worker's memory until it
//! expires. It is charged as if all of it were admitted at its expiry, so spending it late does no harm. A lease never
//! crosses the end of a sub-window, so nothing counts for longer than an admission of that sub-window does anyway.
//! Unspent tokens are given back with the key's next admission, or on tick. The tokens of a VM that traps are lost
//! until their window has passed.
//!
//! **When a lease pays off.** An admission costs two host calls, one from a lease none. So a lease must cover at least
//! two requests, and must be small enough that idle tokens do not matter: at most 1/[`LEASABLE_PART`] of each limit, a
//! quarter of the share of a sub-window. Together, these exclude keys with a limit below [`MIN_LEASED_REQUESTS`]. A
//! lease is also at most what this worker used of the key in a period as long as a lease, and at most a quarter of what
//! is left.

use super::WindowState;
use super::bucket::sub_window_ms;
use keyward_core::key::limit::Limit;
use std::collections::BTreeMap;
use std::num::NonZeroU64;

/// Keys with a smaller limit are never leased.
pub const MIN_LEASED_REQUESTS: u32 = 2 * LEASABLE_PART;

/// The maximum duration of a lease, in milliseconds.
pub const LEASE_MS: u64 = 100;

/// Each of the key's limits, divided by this, bounds a lease.
const LEASABLE_PART: u32 = 256;

/// What a limit has left, divided by this, bounds a lease.
const LEFT_PART: u32 = 4;

/// The minimum use of a key in a period that makes a lease worthwhile.
const BUSY: u32 = 3;

/// How many keys are tracked at once; further keys are not leased.
const MAX_WATCHED: usize = 1024;

/// The leases of one worker, by key id.
#[derive(Debug, Default)]
pub(super) struct Leases {
    watched: BTreeMap<String, Watched>,
    is_closed: bool,
}

/// A key that can be leased.
#[derive(Debug, Default)]
struct Watched {
    last_ms: u64,
    period: u64,
    used: u32,
    used_before: u32,
    lease: Option<Lease>,
}

/// Tokens taken in advance.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    /// The limits that the tokens were taken from.
    pub(super) limits: Vec<Limit>,
    /// When the lease expires, in milliseconds; its tokens count as spent at that time.
    pub(super) until_ms: u64,
    /// How many tokens are left.
    pub(super) left: u32,
    /// The worker's clock at the time of the lease, and the windows as if all tokens were spent.
    pub(super) taken_ms: u64,
    pub(super) windows: Vec<WindowState>,
}

/// Whether a key with these limits can be leased.
pub(super) fn are_leasable(limits: &[Limit]) -> bool {
    limits.iter().all(|limit| limit.requests() >= MIN_LEASED_REQUESTS)
}

/// When a lease taken now expires.
pub(super) fn end_ms(limits: &[Limit], at_ms: u64) -> u64 {
    let latest_ms = at_ms.saturating_add(LEASE_MS);
    let sub_window_ends = limits.iter().map(|limit| {
        let length_ms = sub_window_ms(*limit).get();
        at_ms - at_ms % length_ms + (length_ms - 1)
    });
    sub_window_ends.fold(latest_ms, u64::min)
}

/// The size of a lease where each limit has `room` beside the request itself.
pub(super) fn size(wanted: u32, room: u32) -> u32 {
    wanted.min(room / LEFT_PART)
}

impl Leases {
    /// Spends a lease on a request; returns the windows as of the lease, with its unspent tokens still available.
    pub(super) fn spend(&mut self, key_id: &str, limits: &[Limit], cost: u32, now_ms: u64) -> Option<Vec<WindowState>> {
        let watched = self.watched.get_mut(key_id)?;
        let lease = watched.lease.as_mut().filter(|lease| lease.until_ms >= now_ms && lease.limits == limits)?;
        lease.left = lease.left.checked_sub(cost)?;
        let windows = lease.windows_at(now_ms);
        watched.count(limits, cost, now_ms);
        Some(windows)
    }

    /// The size of the lease to take, 0 for none, and the lease that it would replace, which is no longer spent.
    pub(super) fn ask(&mut self, key_id: &str, limits: &[Limit], now_ms: u64) -> (u32, Option<Lease>) {
        let Some(watched) = self.watched.get_mut(key_id) else { return (0, None) };
        let replaced = watched.lease.take().filter(|lease| lease.left > 0);
        if self.is_closed || !are_leasable(limits) {
            return (0, replaced);
        }
        watched.count(limits, 0, now_ms);
        let used = watched.used.max(watched.used_before);
        let most = limits.iter().map(|limit| limit.requests() / LEASABLE_PART).min().unwrap_or(0);
        (if used >= BUSY { used.min(most) } else { 0 }, replaced)
    }

    /// Records an admission that spent no lease, with the lease that was taken with it.
    pub(super) fn note(&mut self, key_id: &str, limits: &[Limit], cost: u32, now_ms: u64, lease: Option<Lease>) {
        if !are_leasable(limits) || self.is_closed {
            return;
        }
        if let Some(watched) = self.watched.get_mut(key_id) {
            watched.count(limits, cost, now_ms);
            watched.lease = lease;
        } else if self.watched.len() < MAX_WATCHED {
            let mut watched = Watched { lease, ..Watched::default() };
            watched.count(limits, cost, now_ms);
            self.watched.insert(key_id.to_owned(), watched);
        }
    }

    /// Removes the expired leases with unspent tokens, and forgets keys that are no longer busy.
    pub(super) fn take_expired(&mut self, now_ms: u64) -> Vec<(String, Lease)> {
        let mut expired = Vec::new();
        self.watched.retain(|key_id, watched| {
            if let Some(lease) = watched.lease.take_if(|lease| lease.until_ms < now_ms)
                && lease.left > 0
            {
                expired.push((key_id.clone(), lease));
            }
            watched.lease.is_some() || watched.is_recent(now_ms)
        });
        expired
    }

    /// Removes all leases, and takes no more.
    pub(super) fn close(&mut self) -> Vec<(String, Lease)> {
        self.is_closed = true;
        let watched = std::mem::take(&mut self.watched).into_iter();
        watched.filter_map(|(key_id, watched)| Some((key_id, watched.lease.filter(|lease| lease.left > 0)?))).collect()
    }

    /// The unspent tokens of a key's lease, expired or not.
    #[cfg(test)]
    pub(super) fn left(&self, key_id: &str) -> u32 {
        self.watched.get(key_id).and_then(|watched| watched.lease.as_ref()).map_or(0, |lease| lease.left)
    }
}

impl Watched {
    fn count(&mut self, limits: &[Limit], cost: u32, now_ms: u64) {
        self.last_ms = now_ms;
        let period = now_ms / period_ms(limits);
        if period != self.period {
            self.used_before = if period == self.period + 1 { self.used } else { 0 };
            (self.period, self.used) = (period, 0);
        }
        self.used = self.used.saturating_add(cost);
    }

    /// Use from more than two periods ago does not predict future use; no period is longer than a lease.
    fn is_recent(&self, now_ms: u64) -> bool {
        self.last_ms.saturating_add(2 * LEASE_MS) >= now_ms
    }
}

impl Lease {
    fn windows_at(&self, now_ms: u64) -> Vec<WindowState> {
        let since_ms = now_ms.saturating_sub(self.taken_ms);
        let state = |window: &WindowState| WindowState {
            remaining: window.remaining.saturating_add(self.left),
            reset_ms: window.reset_ms.saturating_sub(since_ms),
            ..*window
        };
        self.windows.iter().map(state).collect()
    }
}

/// Use is counted in periods as long as the longest lease.
fn period_ms(limits: &[Limit]) -> NonZeroU64 {
    let lease_ms = NonZeroU64::MIN.saturating_add(LEASE_MS - 1);
    limits.iter().map(|limit| sub_window_ms(*limit)).fold(lease_ms, NonZeroU64::min)
}
