//! Counters and gauges. Requests and events are counted in memory and flushed to Envoy on tick, so that counting costs
//! no call per request. No name contains a key, an owner or a path: Envoy never frees a name.
//!
//! A new counter is a variant of [`Counter`] with its name, a place where it is counted, and a row in
//! `docs/reference/observability.md`.

use crate::engine::decide::Decision;
use crate::engine::feed::NotApplied;
use crate::engine::fetcher::Event;
use crate::engine::snapshot::Snapshot;
use crate::engine::usage;
use crate::engine::verification::queue::Outcome;
use crate::host::Gateway;
use keyward_core::refusal::Refusal;
use keyward_core::wire::verify::Answer;
use std::sync::atomic::{AtomicU64, Ordering};

/// Envoy's id of a metric.
pub(super) type Id = u64;

/// The sorts of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// What is counted besides verdicts.
#[derive(Clone, Copy, Debug)]
enum Counter {
    Pages,
    PageFailures,
    PagesRefused,
    UnreadableEntries,
    Mismatches,
    VerifiedRight,
    VerifiedWrong,
    VerificationFailures,
    UsageBatches,
    UsageFailures,
    UsageDropped,
}

impl Counter {
    const NAMES: [&str; 11] = [
        "keyward_feed_pages",
        "keyward_feed_failures",
        "keyward_feed_pages_refused",
        "keyward_feed_entries_unreadable",
        "keyward_snapshot_mismatches",
        "keyward_verifications_right",
        "keyward_verifications_wrong",
        "keyward_verifications_failed",
        "keyward_usage_batches",
        "keyward_usage_failures",
        "keyward_usage_dropped",
    ];
}

/// The verdicts that are no refusal.
const PASSED: [&str; 3] = ["allow", "public", "delegated"];

const VERDICTS: usize = PASSED.len() + Refusal::ALL.len();

/// What one worker has counted since the last flush.
#[derive(Debug)]
pub(super) struct Counts([AtomicU64; VERDICTS + Counter::NAMES.len()]);

impl Counts {
    pub(super) fn new() -> Self {
        Self([const { AtomicU64::new(0) }; _])
    }

    pub(super) fn count_verdict(&self, decision: &Decision) {
        let index = match decision {
            Decision::Allow { .. } => 0,
            Decision::Public | Decision::Metadata(_) => 1,
            Decision::Delegated => 2,
            Decision::Refuse(refused) => {
                let Some(index) = Refusal::ALL.iter().position(|refusal| *refusal == refused.refusal) else { return };
                PASSED.len() + index
            }
            Decision::Verify(_) => return,
        };
        self.add_at(index, 1);
    }

    pub(super) fn count_event(&self, event: &Event) {
        match event {
            Event::Page => self.add(Counter::Pages, 1),
            Event::Unreadable { entries } => self.add(Counter::UnreadableEntries, *entries),
            Event::PageRefused(NotApplied::Superseded) => {}
            Event::PageRefused(_) => self.add(Counter::PagesRefused, 1),
            Event::SnapshotMismatch => self.add(Counter::Mismatches, 1),
            Event::PollFailed { .. } | Event::PollLost => self.add(Counter::PageFailures, 1),
        }
    }

    pub(super) fn count_verification(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Answered(Answer::Right { .. }) => Counter::VerifiedRight,
            Outcome::Answered(Answer::Wrong) => Counter::VerifiedWrong,
            Outcome::Unavailable { .. } | Outcome::Busy { .. } => Counter::VerificationFailures,
        };
        self.add(counter, 1);
    }

    pub(super) fn count_usage(&self, event: &usage::Event) {
        match event {
            usage::Event::Taken { .. } => self.add(Counter::UsageBatches, 1),
            usage::Event::Failed { .. } => self.add(Counter::UsageFailures, 1),
            usage::Event::Dropped { requests } => self.add(Counter::UsageDropped, *requests),
        }
    }

    fn add(&self, counter: Counter, by: u64) {
        self.add_at(VERDICTS + counter as usize, by);
    }

    fn add_at(&self, index: usize, by: u64) {
        if let Some(count) = self.0.get(index) {
            count.fetch_add(by, Ordering::Relaxed);
        }
    }
}

/// Envoy's metrics of one configuration.
#[derive(Debug)]
pub(super) struct Metrics {
    /// In the order of [`Counts`].
    counters: Vec<Option<Id>>,
    sequence: Option<Id>,
    records: Option<Id>,
    age_ms: Option<Id>,
    tick_us: Option<Id>,
}

impl Metrics {
    pub(super) fn define(gateway: &impl Gateway) -> Self {
        let verdicts = PASSED.into_iter().chain(Refusal::ALL.map(Refusal::name));
        let verdicts = verdicts.map(|name| gateway.define(Kind::Counter, &format!("keyward_requests_{name}")));
        let others = Counter::NAMES.into_iter().map(|name| gateway.define(Kind::Counter, name));
        Self {
            counters: verdicts.chain(others).collect(),
            sequence: gateway.define(Kind::Gauge, "keyward_snapshot_sequence"),
            records: gateway.define(Kind::Gauge, "keyward_snapshot_records"),
            age_ms: gateway.define(Kind::Gauge, "keyward_snapshot_age_ms"),
            tick_us: gateway.define(Kind::Histogram, "keyward_tick_us"),
        }
    }

    /// Flushes the counts to Envoy.
    pub(super) fn flush(&self, gateway: &impl Gateway) {
        gateway.counts(|counts| {
            for (count, counter) in counts.0.iter().zip(&self.counters) {
                if let Some(counter) = counter
                    && count.load(Ordering::Relaxed) > 0
                {
                    gateway.increment(*counter, count.swap(0, Ordering::Relaxed));
                }
            }
        });
    }

    /// Sets the gauges; whoever does so in a process sets the same values.
    pub(super) fn gauge(&self, gateway: &impl Gateway, snapshot: &Snapshot, now_ms: u64) {
        let set = |gauge: Option<Id>, value| {
            if let Some(gauge) = gauge {
                gateway.set(gauge, value);
            }
        };
        let status = snapshot.status();
        set(self.sequence, status.sequence);
        set(self.records, status.records);
        if status.generation > 0 || status.contact_ms > i64::MIN {
            set(self.age_ms, status.age_ms(now_ms));
        }
    }

    /// Records how long background work has blocked its thread.
    pub(super) fn record_tick(&self, gateway: &impl Gateway, took_us: u64) {
        if let Some(histogram) = self.tick_us {
            gateway.record(histogram, took_us);
        }
    }
}
