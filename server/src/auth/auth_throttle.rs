//! Who has shown too many bad tokens or keys: failures by client address, in a table of a fixed size.
//!
//! It decides what is worth a look-up, never who is let in. A good token works from any address, as those that there are
//! are known. A key may have to be looked up to be known as good, and its hash computed, so suspects have one look-up at a
//! time. A key that was good when it was last shown waits for nobody, and one that was bad a moment ago is not looked up
//! again. Any other good key of a suspect waits for its turn, and is told to come again where too many of its address, or of
//! all, wait already: somebody there who makes up new keys all the time can keep it out for as long as that goes on.

use super::recent_credentials::Seen;
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

/// The failures of all clients.
pub struct Failures {
    slots: Mutex<Vec<Option<Slot>>>,
    /// Which slots an address may have is not for clients to choose.
    hasher: RandomState,
    turn: Semaphore,
    places: usize,
    /// How many wait of each suspect, where there are any.
    waiting: Mutex<HashMap<ClientNet, usize>>,
    good: Seen,
    bad: Seen,
}

/// The right of a suspect to one look-up.
#[derive(Debug)]
pub struct Permit<'a> {
    _turn: SemaphorePermit<'a>,
    _place: QueueSlot<'a>,
}

/// Of one that has the turn or waits for it.
#[derive(Debug)]
struct QueueSlot<'a> {
    failures: &'a Failures,
    client: ClientNet,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    client: ClientNet,
    since: Timestamp,
    failures: u32,
}

/// How many bad tokens or keys of an address are looked up in a window.
pub const THRESHOLD: u32 = 10;

/// For how long failures count, from the first of them.
pub const WINDOW: Duration = Duration::from_secs(60);

const SLOTS: usize = 4096;

/// In how many places an address may stand.
const PROBES: usize = 8;

/// The most that wait for the look-ups of suspects.
const PLACES: usize = 64;

/// The most of them that come from one address.
const PLACES_OF_ONE: usize = 8;

impl Default for Failures {
    fn default() -> Self {
        Self {
            slots: Mutex::new(vec![None; SLOTS]),
            hasher: RandomState::new(),
            turn: Semaphore::new(1),
            places: PLACES,
            waiting: Mutex::default(),
            good: Seen::default(),
            bad: Seen::default(),
        }
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failures").finish_non_exhaustive()
    }
}

impl Failures {
    /// Whether the next failure of that client is one too many.
    pub fn is_suspect(&self, client: IpAddr, now: Timestamp) -> bool {
        let (client, places) = self.places_of(client);
        let slots = self.slots();
        let mut found = places.filter_map(|place| slots.get(place).copied().flatten());
        found.any(|slot| slot.client == client && slot.counts(now) && slot.failures >= THRESHOLD)
    }

    /// Counts a failure. If it is one too many: after how many seconds, rounded up, the next one is answered again as the
    /// first was.
    pub fn failed(&self, client: IpAddr, now: Timestamp) -> Option<u64> {
        let (client, places) = self.places_of(client);
        let mut slots = self.slots();
        let fresh = Slot { client, since: now, failures: 0 };
        let at = |place: &usize| slots.get(*place).copied().flatten().filter(|slot| slot.counts(now));
        let places: Vec<usize> = places.collect();
        let own = places.iter().copied().find(|place| at(place).is_some_and(|slot| slot.client == client));
        // Where all are taken, whoever failed least makes room.
        let place =
            own.or_else(|| places.iter().copied().min_by_key(|place| at(place).map_or(0, |slot| slot.failures)));
        let mut slot = own.and_then(|place| at(&place)).unwrap_or(fresh);
        slot.failures = slot.failures.saturating_add(1);
        if let Some(room) = place.and_then(|place| slots.get_mut(place)) {
            *room = Some(slot);
        }
        drop(slots);
        if slot.failures == THRESHOLD + 1 {
            tracing::warn!(%client, failures = slot.failures, "too many bad tokens or keys; more of them are not looked up");
        }
        let left_ms = slot.since.plus(WINDOW).as_ms().saturating_sub(now.as_ms());
        (slot.failures > THRESHOLD).then_some(left_ms.div_ceil(1000))
    }

    /// Waits for the turn of a suspect: where a look-up cannot be spared, all suspects together have one at a time. `None`
    /// if too many wait already, of that address or of all.
    pub async fn turn(&self, client: IpAddr) -> Option<Permit<'_>> {
        let place = self.place(ClientNet::of(client))?;
        let turn = self.turn.acquire().await.ok()?;
        Some(Permit { _turn: turn, _place: place })
    }

    fn place(&self, client: ClientNet) -> Option<QueueSlot<'_>> {
        let mut waiting = self.waiting();
        let of_all: usize = waiting.values().sum();
        let of_one = waiting.get(&client).copied().unwrap_or_default();
        if of_all >= self.places || of_one >= PLACES_OF_ONE {
            return None;
        }
        waiting.insert(client, of_one + 1);
        Some(QueueSlot { failures: self, client })
    }

    /// Notes what a key was found to be.
    pub fn note(&self, key: &[u8], is_good: bool, now: Timestamp) {
        let (right, wrong) = if is_good { (&self.good, &self.bad) } else { (&self.bad, &self.good) };
        right.add(key, now);
        wrong.remove(key);
    }

    /// Whether the key was good when it was last looked up, as far as that is known.
    pub fn was_good(&self, key: &[u8]) -> bool {
        self.good.has(key)
    }

    /// Whether the key was bad a moment ago, as far as that is known.
    pub fn was_bad(&self, key: &[u8], now: Timestamp) -> bool {
        self.bad.has_lately(key, now)
    }

    /// Where at most so many suspects wait.
    #[cfg(test)]
    pub(crate) fn with_places(places: usize) -> Self {
        Self { places, ..Self::default() }
    }

    /// The client as it is counted, and where it may stand.
    fn places_of(&self, client: IpAddr) -> (ClientNet, impl Iterator<Item = usize>) {
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
    /// A clock that was set back begins a new window, so that no wait is longer than one.
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

    fn exhaust(failures: &Failures, client: IpAddr, now: Timestamp) {
        for _ in 0..THRESHOLD {
            assert_eq!(failures.failed(client, now), None);
        }
    }

    #[test]
    fn the_failure_after_the_tenth_is_told_to_wait_until_the_window_of_the_first_is_over() {
        let (failures, client) = (Failures::default(), IpAddr::from([192, 0, 2, 1]));
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
        let failures = Failures::default();
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
        let (failures, client) = (Failures::default(), IpAddr::from([192, 0, 2, 1]));
        exhaust(&failures, client, NOW);
        for n in 0..50_000 {
            assert_eq!(failures.failed(IpAddr::V4(Ipv4Addr::from_bits(n)), NOW), None);
        }
        assert!(failures.is_suspect(client, NOW));
        assert_eq!(failures.slots().len(), SLOTS);
    }

    #[test]
    fn a_clock_that_was_set_back_lets_nobody_wait_longer_than_a_window() {
        let (failures, client) = (Failures::default(), IpAddr::from([192, 0, 2, 1]));
        exhaust(&failures, client, ms(3_600_000));
        assert!(!failures.is_suspect(client, NOW));
        assert_eq!(failures.failed(client, NOW), None);
    }

    #[tokio::test]
    async fn of_the_suspects_one_has_the_turn_and_few_may_wait() {
        let failures = Failures::with_places(1);
        let [one, other] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        let turn = failures.turn(one).await.unwrap();
        assert!(failures.turn(other).await.is_none());
        drop(turn);
        assert!(failures.turn(other).await.is_some());
    }

    #[tokio::test]
    async fn those_of_one_address_leave_places_to_others_and_whoever_goes_away_its_own() {
        let failures = Failures::default();
        let [one, other] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        let turn = failures.turn(one).await.unwrap();
        let mut waiting: Vec<_> = (1..PLACES_OF_ONE).map(|_| Box::pin(failures.turn(one))).collect();
        for waits in &mut waiting {
            assert!(waits.as_mut().now_or_never().is_none());
        }
        assert!(failures.turn(one).now_or_never().unwrap().is_none());
        let mut others = Box::pin(failures.turn(other));
        assert!(others.as_mut().now_or_never().is_none());
        drop(waiting);
        assert_eq!(failures.waiting().values().sum::<usize>(), 2);
        drop(turn);
        assert!(others.await.is_some());
        assert!(failures.waiting().is_empty());
    }

    #[test]
    fn what_was_good_is_so_until_it_is_not_and_what_was_bad_for_a_window() {
        let failures = Failures::default();
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
