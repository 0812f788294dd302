//! Throttles failed authentication by client address, in a table of fixed size. A client with too many failures in a window
//! is a *suspect*.
//!
//! The throttle decides which credentials are looked up, never which are accepted. A valid token works from any address, as the
//! digests of all tokens are known. A key may need a look-up and a password hash, so suspects have one look-up at a time. A key
//! that was good at its last use does not wait, and one that was bad a moment ago is not looked up again. Other keys of a suspect
//! wait for a permit, or are refused while too many of their address, or of all suspects, wait: an attacker who keeps making up
//! keys at the same address can keep a good one out for as long as that goes on.

use super::recent_credentials::RecentCredentials;
use crate::clock::Timestamp;
use keyward_core::client_net::ClientNet;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Counts the failures of all clients.
pub struct AuthThrottle {
    slots: Mutex<Vec<Option<Slot>>>,
    /// Keyed, so that clients cannot choose their slots.
    hasher: RandomState,
    lookup: Semaphore,
    max_waiting: usize,
    /// The number of waiting look-ups by suspect.
    waiting: Mutex<HashMap<ClientNet, usize>>,
    good: RecentCredentials,
    bad: RecentCredentials,
}

/// Too many look-ups of suspects wait already.
#[derive(Clone, Copy, Debug)]
pub struct TooManyWaiting;

/// Permits a suspect one look-up.
#[derive(Debug)]
pub struct Permit<'a> {
    _lookup: SemaphorePermit<'a>,
    _slot: QueueSlot<'a>,
}

/// The place in the queue of a suspect that has a permit or waits for one.
#[derive(Debug)]
struct QueueSlot<'a> {
    failures: &'a AuthThrottle,
    client: ClientNet,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    client: ClientNet,
    since: Timestamp,
    failures: u32,
}

/// The failures of an address in a window after which it is a suspect.
pub const THRESHOLD: u32 = 10;

/// How long failures count, from the first of them.
pub const WINDOW: Duration = Duration::from_secs(60);

const SLOTS: usize = 4096;

/// The number of slots in which an address may be counted.
const PROBES: usize = 8;

/// The maximum of waiting look-ups of suspects.
const MAX_WAITING: usize = 64;

/// The maximum of waiting look-ups of one suspect.
const MAX_WAITING_PER_CLIENT: usize = 8;

impl Default for AuthThrottle {
    fn default() -> Self {
        Self {
            slots: Mutex::new(vec![None; SLOTS]),
            hasher: RandomState::new(),
            lookup: Semaphore::new(1),
            max_waiting: MAX_WAITING,
            waiting: Mutex::default(),
            good: RecentCredentials::default(),
            bad: RecentCredentials::default(),
        }
    }
}

impl fmt::Debug for AuthThrottle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthThrottle").finish_non_exhaustive()
    }
}

impl AuthThrottle {
    /// Whether the next failure of that client exceeds the threshold.
    pub fn is_suspect(&self, client: IpAddr, now: Timestamp) -> bool {
        let (client, places) = self.slots_of(client);
        let slots = self.slots();
        let mut found = places.filter_map(|place| slots.get(place).copied().flatten());
        found.any(|slot| slot.client == client && slot.counts(now) && slot.failures >= THRESHOLD)
    }

    /// Counts a failure. Returns the seconds until the window ends, rounded up, if the failure exceeds the threshold.
    pub fn failed(&self, client: IpAddr, now: Timestamp) -> Option<u64> {
        let (client, places) = self.slots_of(client);
        let mut slots = self.slots();
        let fresh = Slot { client, since: now, failures: 0 };
        let at = |place: &usize| slots.get(*place).copied().flatten().filter(|slot| slot.counts(now));
        let places: Vec<usize> = places.collect();
        let own = places.iter().copied().find(|place| at(place).is_some_and(|slot| slot.client == client));
        // If all slots are taken, the client with the fewest failures is replaced.
        let place =
            own.or_else(|| places.iter().copied().min_by_key(|place| at(place).map_or(0, |slot| slot.failures)));
        let mut slot = own.and_then(|place| at(&place)).unwrap_or(fresh);
        slot.failures = slot.failures.saturating_add(1);
        if let Some(room) = place.and_then(|place| slots.get_mut(place)) {
            *room = Some(slot);
        }
        drop(slots);
        if slot.failures == THRESHOLD + 1 {
            tracing::warn!(%client, failures = slot.failures, "too many failed authentications; throttling client");
        }
        let left_ms = slot.since.plus(WINDOW).as_ms().saturating_sub(now.as_ms());
        (slot.failures > THRESHOLD).then_some(left_ms.div_ceil(1000))
    }

    /// Waits until a client may look up a credential: for the permit, if the client is a suspect and the credential is not known
    /// as good. `Err` if too many wait already.
    pub async fn admit(
        &self,
        client: Option<IpAddr>,
        credential: &[u8],
        now: Timestamp,
    ) -> Result<Option<Permit<'_>>, TooManyWaiting> {
        match client {
            Some(client) if self.is_suspect(client, now) && !self.was_good(credential) => {
                self.permit(client).await.map(Some).ok_or(TooManyWaiting)
            }
            _ => Ok(None),
        }
    }

    /// Waits for the permit to look up a credential of a suspect: all suspects together have one look-up at a time. `None` if
    /// too many of that client, or of all, wait already.
    pub async fn permit(&self, client: IpAddr) -> Option<Permit<'_>> {
        let slot = self.queue(ClientNet::of(client))?;
        let lookup = self.lookup.acquire().await.ok()?;
        Some(Permit { _lookup: lookup, _slot: slot })
    }

    fn queue(&self, client: ClientNet) -> Option<QueueSlot<'_>> {
        let mut waiting = self.waiting();
        let of_all: usize = waiting.values().sum();
        let of_one = waiting.get(&client).copied().unwrap_or_default();
        if of_all >= self.max_waiting || of_one >= MAX_WAITING_PER_CLIENT {
            return None;
        }
        waiting.insert(client, of_one + 1);
        Some(QueueSlot { failures: self, client })
    }

    /// Remembers whether a key was good.
    pub fn note(&self, key: &[u8], is_good: bool, now: Timestamp) {
        let (right, wrong) = if is_good { (&self.good, &self.bad) } else { (&self.bad, &self.good) };
        right.add(key, now);
        wrong.remove(key);
    }

    /// Whether the key is remembered as good.
    pub fn was_good(&self, key: &[u8]) -> bool {
        self.good.has(key)
    }

    /// Whether the key is remembered as bad since less than a window ago.
    pub fn was_bad(&self, key: &[u8], now: Timestamp) -> bool {
        self.bad.has_within(key, WINDOW, now)
    }

    /// A throttle in which at most so many look-ups wait.
    #[cfg(test)]
    pub(crate) fn with_max_waiting(max_waiting: usize) -> Self {
        Self { max_waiting, ..Self::default() }
    }

    /// The client as it is counted, and the slots in which it may be.
    fn slots_of(&self, client: IpAddr) -> (ClientNet, impl Iterator<Item = usize>) {
        let client = ClientNet::of(client);
        let first = self.hasher.hash_one(client);
        let first = usize::try_from(first % SLOTS as u64).unwrap_or_default();
        (client, (first..first + PROBES).map(|place| place % SLOTS))
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<ClientNet, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Option<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        let mut waiting = self.failures.waiting();
        let left = waiting.remove(&self.client).unwrap_or_default().saturating_sub(1);
        if left > 0 {
            waiting.insert(self.client, left);
        }
    }
}

impl Slot {
    /// A clock that was set back starts a new window, so that no client waits longer than one.
    fn counts(&self, now: Timestamp) -> bool {
        self.since <= now && now < self.since.plus(WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::net::Ipv4Addr;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    fn ms(ms: u64) -> Timestamp {
        NOW.plus(Duration::from_millis(ms))
    }

    fn exhaust(failures: &AuthThrottle, client: IpAddr, now: Timestamp) {
        for _ in 0..THRESHOLD {
            assert_eq!(failures.failed(client, now), None);
        }
    }

    #[test]
    fn the_failure_after_the_tenth_is_told_to_wait_until_the_window_of_the_first_is_over() {
        let (failures, client) = (AuthThrottle::default(), IpAddr::from([192, 0, 2, 1]));
        exhaust(&failures, client, NOW);
        assert!(failures.is_suspect(client, ms(59_999)));
        for (at, left) in [(1, 60), (59_000, 1), (59_999, 1)] {
            assert_eq!(failures.failed(client, ms(at)), Some(left), "{at}");
        }
        assert!(!failures.is_suspect(client, ms(60_000)));
        assert_eq!(failures.failed(client, ms(60_000)), None);
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_a_64_of_ipv6() {
        let failures = AuthThrottle::default();
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        exhaust(&failures, parse("2001:db8:1:2::1"), NOW);
        exhaust(&failures, parse("192.0.2.1"), NOW);
        for (client, is_suspect) in [
            ("2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:3::1", false),
            ("192.0.2.2", false),
            ("::ffff:192.0.2.1", true),
        ] {
            assert_eq!(failures.is_suspect(parse(client), NOW), is_suspect, "{client}");
        }
    }

    #[test]
    fn a_crowd_of_others_does_not_push_out_who_failed_often() {
        let (failures, client) = (AuthThrottle::default(), IpAddr::from([192, 0, 2, 1]));
        exhaust(&failures, client, NOW);
        for n in 0..50_000 {
            assert_eq!(failures.failed(IpAddr::V4(Ipv4Addr::from_bits(n)), NOW), None);
        }
        assert!(failures.is_suspect(client, NOW));
        assert_eq!(failures.slots().len(), SLOTS);
    }

    #[test]
    fn a_clock_that_was_set_back_lets_nobody_wait_longer_than_a_window() {
        let (failures, client) = (AuthThrottle::default(), IpAddr::from([192, 0, 2, 1]));
        exhaust(&failures, client, ms(3_600_000));
        assert!(!failures.is_suspect(client, NOW));
        assert_eq!(failures.failed(client, NOW), None);
    }

    #[tokio::test]
    async fn of_the_suspects_one_has_the_turn_and_few_may_wait() {
        let failures = AuthThrottle::with_max_waiting(1);
        let [one, other] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        let permit = failures.permit(one).await.unwrap();
        assert!(failures.permit(other).await.is_none());
        drop(permit);
        assert!(failures.permit(other).await.is_some());
    }

    #[tokio::test]
    async fn those_of_one_address_leave_places_to_others_and_whoever_goes_away_its_own() {
        let failures = AuthThrottle::default();
        let [one, other] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        let permit = failures.permit(one).await.unwrap();
        let mut waiting: Vec<_> = (1..MAX_WAITING_PER_CLIENT).map(|_| Box::pin(failures.permit(one))).collect();
        for waits in &mut waiting {
            assert!(waits.as_mut().now_or_never().is_none());
        }
        assert!(failures.permit(one).now_or_never().unwrap().is_none());
        let mut others = Box::pin(failures.permit(other));
        assert!(others.as_mut().now_or_never().is_none());
        drop(waiting);
        assert_eq!(failures.waiting().values().sum::<usize>(), 2);
        drop(permit);
        assert!(others.await.is_some());
        assert!(failures.waiting().is_empty());
    }

    #[test]
    fn what_was_good_is_so_until_it_is_not_and_what_was_bad_for_a_window() {
        let failures = AuthThrottle::default();
        let seen = |at| (failures.was_good(b"key"), failures.was_bad(b"key", at));
        assert_eq!(seen(NOW), (false, false));
        failures.note(b"key", true, NOW);
        assert_eq!(seen(ms(3_600_000)), (true, false));
        failures.note(b"key", false, NOW);
        assert_eq!((seen(ms(59_999)), seen(ms(60_000))), ((false, true), (false, false)));
        assert_eq!(seen(NOW.minus(Duration::from_millis(1))), (false, false), "a clock that was set back");
        failures.note(b"key", true, NOW);
        assert_eq!(seen(NOW), (true, false));
    }
}
