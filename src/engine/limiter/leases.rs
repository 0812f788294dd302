//! What one worker has taken of busy keys' limits in advance, so that most of their requests cost no call to the host.
//!
//! A lease is tokens of all limits of a key, taken with one admission and spent in this worker's memory until it ends.
//! It is charged as if all of it were admitted at its end, so spending it late breaks nothing; it never crosses the end of
//! a sub-window, so it makes nothing count for longer than an admission of that sub-window does anyway. What is left of
//! it is given back: with the key's next admission, or on tick. What a VM that traps had taken is lost until its window
//! has passed, and nothing else.
//!
//! **When it pays.** An admission costs two host calls, one from a lease none. So a lease must be spent on two requests at
//! least, and may take little enough that tokens in idle hands matter to nobody: at most 1/[`LEASABLE_PART`] of each limit,
//! a quarter of what falls to a sub-window. Both together leave out keys with a limit below [`MIN_LEASED_REQUESTS`]. Nor
//! does it take more than this worker used of the key in a period as long as a lease, or a quarter of what is left.

use super::WindowState;
use super::bucket::sub_window_ms;
use keyward_core::key::limit::Limit;
use std::collections::BTreeMap;
use std::num::NonZeroU64;

/// A key with a smaller limit than this is never leased of.
pub const MIN_LEASED_REQUESTS: u32 = 2 * LEASABLE_PART;

/// How long a lease lasts at most, in milliseconds.
pub const LEASE_MS: u64 = 100;

/// The largest lease is this part of each of the key's limits.
const LEASABLE_PART: u32 = 256;

/// The largest lease is this part of what a limit has left.
const LEFT_PART: u32 = 4;

/// How much of a key must have been used in a period for a lease to be worth it.
const BUSY: u32 = 3;

/// How many keys are watched at once; further ones are not leased of.
const MAX_WATCHED: usize = 1024;

/// The leases of one worker, by the key's id.
#[derive(Debug, Default)]
pub(super) struct Leases {
    watched: BTreeMap<String, Watched>,
    is_closed: bool,
}

/// A key of which leases can be taken.
#[derive(Debug, Default)]
struct Watched {
    last_ms: u64,
    period: u64,
    used: u32,
    used_before: u32,
    lease: Option<Lease>,
}

/// Tokens that were taken in advance.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    /// What they were taken of.
    pub(super) limits: Vec<Limit>,
    /// Until when they may be spent, and when they count as spent, in milliseconds.
    pub(super) until_ms: u64,
    /// How many are left.
    pub(super) left: u32,
    /// The worker's clock when they were taken, and the windows with all of them spent.
    pub(super) taken_ms: u64,
    pub(super) windows: Vec<WindowState>,
}

/// Whether leases can be taken of a key with these limits.
pub(super) fn are_leasable(limits: &[Limit]) -> bool {
    limits.iter().all(|limit| limit.requests() >= MIN_LEASED_REQUESTS)
}

/// When a lease that is taken now ends.
pub(super) fn end_ms(limits: &[Limit], at_ms: u64) -> u64 {
    let latest_ms = at_ms.saturating_add(LEASE_MS);
    let sub_window_ends = limits.iter().map(|limit| {
        let length_ms = sub_window_ms(*limit).get();
        at_ms - at_ms % length_ms + (length_ms - 1)
    });
    sub_window_ends.fold(latest_ms, u64::min)
}

/// How much a lease may take where each limit has `room` beside the request itself.
pub(super) fn size(wanted: u32, room: u32) -> u32 {
    wanted.min(room / LEFT_PART)
}

impl Leases {
    /// Spends a lease on a request; tells the windows, as they were when it was taken, with the rest of it to come.
    pub(super) fn spend(&mut self, key_id: &str, limits: &[Limit], cost: u32, now_ms: u64) -> Option<Vec<WindowState>> {
        let watched = self.watched.get_mut(key_id)?;
        let lease = watched.lease.as_mut().filter(|lease| lease.until_ms >= now_ms && lease.limits == limits)?;
        lease.left = lease.left.checked_sub(cost)?;
        let windows = lease.windows_at(now_ms);
        watched.count(limits, cost, now_ms);
        Some(windows)
    }

    /// How much a lease should take, which is none at all if 0, and the lease that it would replace: that is not spent any
    /// more.
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

    /// Notes an admission that was no lease's, with the lease that came of it.
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

    /// Takes out the leases that have ended with something left, and forgets keys that are not busy any more.
    pub(super) fn ended(&mut self, now_ms: u64) -> Vec<(String, Lease)> {
        let mut ended = Vec::new();
        self.watched.retain(|key_id, watched| {
            if let Some(lease) = watched.lease.take_if(|lease| lease.until_ms < now_ms)
                && lease.left > 0
            {
                ended.push((key_id.clone(), lease));
            }
            watched.lease.is_some() || watched.is_recent(now_ms)
        });
        ended
    }

    /// Takes out all leases, and takes none any more.
    pub(super) fn close(&mut self) -> Vec<(String, Lease)> {
        self.is_closed = true;
        let watched = std::mem::take(&mut self.watched).into_iter();
        watched.filter_map(|(key_id, watched)| Some((key_id, watched.lease.filter(|lease| lease.left > 0)?))).collect()
    }

    /// What is left of the lease of a key, ended or not.
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

    /// What was used longer ago than two periods says nothing of what will be, and none is longer than a lease.
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
