//! Counters and gauges. Requests are counted in memory and flushed to Envoy on tick, so that counting costs no host
//! call per request. No name contains a key, an owner or a path: Envoy never frees a name.
//!
//! A new counter is a field, a line in `define`, a place in `flush`, which the compiler does not ask for, and a row in
//! `docs/reference/observability.md`.

use crate::engine::feed::NotApplied;
use crate::engine::fetcher::Event;
use crate::engine::snapshot::Snapshot;
use crate::engine::usage;
use crate::engine::verification::queue::Outcome;
use keyward_core::refusal::Refusal;
use keyward_core::wire::verify::Answer;
use proxy_wasm::hostcalls;
use proxy_wasm::types::MetricType;

pub(super) struct Metrics {
    verdicts: Vec<(&'static str, Counter)>,
    pages: Counter,
    page_failures: Counter,
    pages_refused: Counter,
    unreadable_entries: Counter,
    mismatches: Counter,
    verified_right: Counter,
    verified_wrong: Counter,
    verification_failures: Counter,
    usage_batches: Counter,
    usage_failures: Counter,
    usage_dropped: Counter,
    sequence: Gauge,
    records: Gauge,
    age_ms: Gauge,
    tick_us: Histogram,
}

struct Counter {
    id: Option<u32>,
    pending: i64,
}

struct Gauge(Option<u32>);

struct Histogram(Option<u32>);

impl Metrics {
    pub(super) fn define() -> Self {
        let verdicts = ["allow", "public", "delegated"].into_iter().chain(Refusal::ALL.map(Refusal::name));
        Self {
            verdicts: verdicts.map(|name| (name, Counter::define(&format!("keyward_requests_{name}")))).collect(),
            pages: Counter::define("keyward_feed_pages"),
            page_failures: Counter::define("keyward_feed_failures"),
            pages_refused: Counter::define("keyward_feed_pages_refused"),
            unreadable_entries: Counter::define("keyward_feed_entries_unreadable"),
            mismatches: Counter::define("keyward_snapshot_mismatches"),
            verified_right: Counter::define("keyward_verifications_right"),
            verified_wrong: Counter::define("keyward_verifications_wrong"),
            verification_failures: Counter::define("keyward_verifications_failed"),
            usage_batches: Counter::define("keyward_usage_batches"),
            usage_failures: Counter::define("keyward_usage_failures"),
            usage_dropped: Counter::define("keyward_usage_dropped"),
            sequence: Gauge::define("keyward_snapshot_sequence"),
            records: Gauge::define("keyward_snapshot_records"),
            age_ms: Gauge::define("keyward_snapshot_age_ms"),
            tick_us: Histogram::define("keyward_tick_us"),
        }
    }

    pub(super) fn count_verdict(&mut self, verdict: &str) {
        if let Some((_, counter)) = self.verdicts.iter_mut().find(|(name, _)| *name == verdict) {
            counter.pending += 1;
        }
    }

    pub(super) fn count_event(&mut self, event: &Event) {
        match event {
            Event::Page => self.pages.pending += 1,
            Event::Unreadable { entries } => {
                self.unreadable_entries.pending += i64::try_from(*entries).unwrap_or(i64::MAX);
            }
            Event::PageRefused(NotApplied::Superseded) => {}
            Event::PageRefused(_) => self.pages_refused.pending += 1,
            Event::SnapshotMismatch => self.mismatches.pending += 1,
            Event::PollFailed { .. } | Event::PollLost => self.page_failures.pending += 1,
        }
    }

    pub(super) fn count_verification(&mut self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Answered(Answer::Right { .. }) => &mut self.verified_right,
            Outcome::Answered(Answer::Wrong) => &mut self.verified_wrong,
            Outcome::Unavailable { .. } | Outcome::Busy { .. } => &mut self.verification_failures,
        };
        counter.pending += 1;
    }

    pub(super) fn count_usage(&mut self, event: &usage::Event) {
        match event {
            usage::Event::Taken { .. } => self.usage_batches.pending += 1,
            usage::Event::Failed { .. } => self.usage_failures.pending += 1,
            usage::Event::Dropped { requests } => {
                self.usage_dropped.pending += i64::try_from(*requests).unwrap_or(i64::MAX);
            }
        }
    }

    /// Flushes the counts to Envoy.
    pub(super) fn flush(&mut self) {
        let verdicts = self.verdicts.iter_mut().map(|(_, counter)| counter);
        let feed = [
            &mut self.pages,
            &mut self.page_failures,
            &mut self.pages_refused,
            &mut self.unreadable_entries,
            &mut self.mismatches,
        ];
        let verifications = [&mut self.verified_right, &mut self.verified_wrong, &mut self.verification_failures];
        let usage = [&mut self.usage_batches, &mut self.usage_failures, &mut self.usage_dropped];
        verdicts.chain(feed).chain(verifications).chain(usage).for_each(Counter::flush);
    }

    /// Sets the gauges; every VM of the process sets the same values.
    pub(super) fn gauge(&self, snapshot: &Snapshot, now_ms: u64) {
        let status = snapshot.status();
        self.sequence.set(status.sequence);
        self.records.set(status.records);
        if status.generation > 0 || status.contact_ms > i64::MIN {
            self.age_ms.set(status.age_ms(now_ms));
        }
    }

    /// Records how long a call of the root context has blocked its thread.
    pub(super) fn record_tick(&self, took_us: u64) {
        if let Some(id) = self.tick_us.0 {
            let _ = hostcalls::record_metric(id, took_us);
        }
    }
}

impl Counter {
    fn define(name: &str) -> Self {
        Self { id: hostcalls::define_metric(MetricType::Counter, name).ok(), pending: 0 }
    }

    fn flush(&mut self) {
        // The SDK panics on an increment that is not positive.
        if self.pending > 0
            && let Some(id) = self.id
        {
            let _ = hostcalls::increment_metric(id, self.pending);
            self.pending = 0;
        }
    }
}

impl Gauge {
    fn define(name: &str) -> Self {
        Self(hostcalls::define_metric(MetricType::Gauge, name).ok())
    }

    fn set(&self, value: u64) {
        if let Some(id) = self.0 {
            let _ = hostcalls::record_metric(id, value);
        }
    }
}

impl Histogram {
    fn define(name: &str) -> Self {
        Self(hostcalls::define_metric(MetricType::Histogram, name).ok())
    }
}
