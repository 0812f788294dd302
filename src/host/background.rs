//! What one configuration does besides handling requests: it follows the feed, reports usage, verifies credentials, and
//! flushes metrics. Driven by ticks and by responses of the control plane.

use crate::engine::feed::NotApplied;
use crate::engine::fetcher::{Answer, Event, Fetcher, Poll};
use crate::engine::store::Names;
use crate::host::control_plane::{Call, Response, feed_age, read_answer, status_error};
use crate::host::metrics::Metrics;
use crate::host::usage::Reports;
use crate::host::verify::Calls;
use crate::host::{Gateway, Host, Level, clock};
use crate::policy::Config;
use keyward_core::MAX_PAGE_BYTES;
use keyward_core::key::secret::Secret;
use std::time::Duration;

/// The interval at which the status is polled and the fetcher continues.
const TICK: Duration = Duration::from_millis(25);

/// The interval while a page is being applied.
const BUSY_TICK: Duration = Duration::from_millis(1);

/// The interval at which the gauges are set, in ticks.
const TICKS_PER_GAUGE: u64 = 40;

pub(super) struct Background {
    fetcher: Fetcher,
    token: Option<Secret>,
    /// Envoy's id of the callout in flight, and the id of the poll.
    callout: Option<(u64, u64)>,
    verifications: Calls,
    last_failure: Option<Failure>,
    reports: Reports,
    metrics: Metrics,
    ticks: u64,
}

/// A failure of the feed; logged when it starts and when the feed recovers, not on each attempt.
#[derive(Clone, Copy, PartialEq)]
enum Failure {
    Status(u32),
    Lost,
    Page(NotApplied),
}

impl Background {
    /// `seed` must differ between VMs and configurations.
    pub(super) fn new<G: Gateway>(gateway: &G, names: Names, token: Option<Secret>, seed: u64) -> Self {
        let Config { snapshot, control_plane, .. } = &gateway.worker().config;
        Self {
            fetcher: Fetcher::new(names, snapshot.bucket_bits, control_plane.poll_wait_s, seed),
            token,
            callout: None,
            verifications: Calls::default(),
            last_failure: None,
            reports: Reports::default(),
            metrics: Metrics::define(gateway),
            ticks: 0,
        }
    }

    /// How long to wait until the next tick.
    pub(super) fn period(&self) -> Duration {
        if self.fetcher.is_applying() { BUSY_TICK } else { TICK }
    }

    /// Does what is due. `serves` is whether the thread serves requests as well.
    pub(super) fn tick<G: Gateway>(&mut self, gateway: &G, serves: bool) {
        let began_us = G::Host::monotonic_us();
        let worker = gateway.worker();
        let now = worker.clock.read_wall::<G::Host>();
        let mut events = Vec::new();
        let poll = self.fetcher.tick(G::Host::STORE, now, serves, &mut events);
        self.note(gateway, &events);
        self.send(gateway, poll);
        worker.settle(G::Host::STORE, now.monotonic_ms);
        self.reports.tick(gateway, self.token.as_ref(), now.monotonic_ms);
        worker.snapshot.borrow_mut().poll(G::Host::STORE, now.monotonic_ms);
        self.verifications.tick(gateway, self.token.as_ref());
        self.metrics.flush(gateway);
        if self.ticks.is_multiple_of(TICKS_PER_GAUGE) {
            self.metrics.gauge(gateway, &worker.snapshot.borrow(), now.monotonic_ms);
        }
        self.ticks += 1;
        self.record(gateway, began_us);
    }

    /// Handles the response to a callout.
    pub(super) fn answer<G: Gateway>(&mut self, gateway: &G, callout: u64, response: &impl Response) {
        let began_us = G::Host::monotonic_us();
        self.pass_on(gateway, callout, response);
        self.record(gateway, began_us);
    }

    /// Drops what was being done after a panic, and follows the feed again after a pause.
    #[cfg_attr(target_family = "wasm", expect(dead_code, reason = "a VM does not outlive a panic"))]
    pub(super) fn start_over<H: Host>(&mut self) {
        let now_ms = clock::monotonic_ms::<H>();
        self.callout = None;
        self.fetcher.release(H::STORE, now_ms);
        let _ = self.fetcher.not_sent(now_ms);
    }

    /// Handles the end of the configuration. Its callouts are dropped silently, so another fetcher should follow at once.
    pub(super) fn release<G: Gateway>(&mut self, gateway: &G) {
        self.fetcher.release(G::Host::STORE, clock::monotonic_ms::<G::Host>());
        self.reports.release();
        gateway.worker().release::<G::Host>();
        self.metrics.flush(gateway);
    }

    /// Records how long this has blocked the thread.
    fn record<G: Gateway>(&self, gateway: &G, began_us: u64) {
        self.metrics.record_tick(gateway, G::Host::monotonic_us().saturating_sub(began_us));
    }

    fn pass_on<G: Gateway>(&mut self, gateway: &G, callout: u64, response: &impl Response) {
        if self.reports.answer(gateway, self.token.as_ref(), callout, response)
            || self.verifications.answer(gateway, callout, response)
        {
            return;
        }
        let Some((_, poll)) = self.callout.take_if(|(sent, _)| *sent == callout) else { return };
        let answer = match read_answer(response, MAX_PAGE_BYTES) {
            Ok(bytes) => Answer::Page { bytes, age_ms: feed_age(response) },
            Err(status) => Answer::Failed { status },
        };
        let mut events = Vec::new();
        let now = gateway.worker().clock.now::<G::Host>();
        let next = self.fetcher.answer(G::Host::STORE, now, poll, answer, &mut events);
        self.note(gateway, &events);
        self.send(gateway, next);
    }

    fn send<G: Gateway>(&mut self, gateway: &G, poll: Option<Poll>) {
        let Some(poll) = poll else { return };
        let call = Call {
            control_plane: &gateway.worker().config.control_plane,
            token: self.token.as_ref(),
            method: "GET",
            path: &poll.path,
            body: None,
            timeout_ms: poll.timeout_ms,
        };
        match gateway.call(&call) {
            Ok(callout) => self.callout = Some((callout, poll.id)),
            Err(_) => {
                let event = self.fetcher.not_sent(clock::monotonic_ms::<G::Host>());
                self.note(gateway, &[event]);
            }
        }
    }

    fn note<G: Gateway>(&mut self, gateway: &G, events: &[Event]) {
        for event in events {
            gateway.worker().counts.count_event(event);
            match *event {
                Event::Page => {
                    if self.last_failure.take().is_some() {
                        G::Host::log(Level::Info, "feed recovered");
                    }
                }
                Event::Unreadable { entries } => {
                    G::Host::log(Level::Warn, &format!("unknown feed entries; refusing their keys  entries={entries}"))
                }
                Event::PageRefused(NotApplied::Superseded) => {}
                Event::PageRefused(refused) => self.fail(gateway, Failure::Page(refused)),
                Event::PollFailed { status } => self.fail(gateway, Failure::Status(status)),
                Event::PollLost => self.fail(gateway, Failure::Lost),
                Event::SnapshotMismatch => G::Host::log(
                    Level::Warn,
                    "snapshot differs from the control plane's; fetching it again, at most once a minute and less often where \
                     that changes nothing",
                ),
            }
        }
    }

    fn fail<G: Gateway>(&mut self, gateway: &G, failure: Failure) {
        if self.last_failure.replace(failure) == Some(failure) {
            return;
        }
        let error = match failure {
            Failure::Status(status) => status_error(status, &gateway.worker().config.control_plane.cluster),
            Failure::Lost => "timed out".to_owned(),
            Failure::Page(refused) => refused.to_string(),
        };
        G::Host::log(Level::Warn, &format!("feed request failed; serving last snapshot  error={error:?}"));
    }
}
