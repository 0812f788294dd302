//! Reports usage to the control plane: what is counted, when a batch is sent, and what happens to one without a
//! response.
//!
//! Counting must not slow down requests, and a response may never arrive: batches have their own deadline, because
//! Envoy drops callouts silently when a listener is replaced, and are sent again unchanged, with the same id, until
//! acknowledged. Counting continues meanwhile. Counts that a VM holds are lost with the VM.

mod counts;

use crate::engine::backoff::Backoff;
use crate::engine::decide::Decision;
use counts::Counts;
use keyward_core::wire::usage::{Batch, BatchId, INTERVAL_MS, Receipt};

/// Counts and reports the usage that one VM sees.
#[derive(Debug)]
pub struct Reporter {
    counts: Counts,
    /// The batch in flight, or waiting for a retry.
    pending: Option<Batch>,
    phase: Phase,
    /// When to report usage counted after a quiet time.
    due_ms: Option<u64>,
    backoff: Backoff,
    failing: Option<Failure>,
    reports: u64,
}

#[derive(Debug)]
enum Phase {
    Idle { not_before_ms: u64 },
    Sending { report: u64, deadline_ms: u64 },
}

/// A request to the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Identifies the report when its response arrives.
    pub id: u64,
    /// The body of a POST to [`USAGE_PATH`](keyward_core::USAGE_PATH).
    pub body: Vec<u8>,
    /// The timeout of the request, in milliseconds.
    pub timeout_ms: u64,
}

/// The result of a report.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// Status 200 and this body.
    Receipt(&'a [u8]),
    /// Another status, or no response.
    Failed {
        /// The status; 0 without a response.
        status: u32,
    },
}

/// Why a batch was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The control plane returned this status; 0 without a response.
    Status(u32),
    /// The control plane returned 200 with a body that is not a receipt.
    NoReceipt,
    /// The response timed out.
    Lost,
}

/// An event for the log and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A batch was accepted.
    Taken {
        /// Whether the batch before was not accepted.
        recovered: bool,
    },
    /// A batch was not accepted.
    Failed {
        /// The reason.
        failure: Failure,
        /// Whether the failure differs from the previous outcome.
        news: bool,
    },
    /// Requests that will be missing in the reports.
    Dropped {
        /// The number of requests.
        requests: u64,
    },
}

/// How many secrets a VM counts at once by default: about 2 MB.
pub const MAX_SECRETS: usize = 10_000;

/// The longest delay of a report after a quiet time, in milliseconds.
const FIRST_MS: u64 = 900;

/// The timeout of a report, in milliseconds.
const TIMEOUT_MS: u64 = 5000;

/// The shortest and the longest backoff after a failure, in milliseconds.
const BACKOFF_MS: (u64, u64) = (500, 10_000);

/// The pause if the control plane has no endpoint for batches or rejects this edge's, in milliseconds.
const UNWANTED_MS: u64 = 60_000;

impl Reporter {
    /// A reporter for at most this many secrets; `seed` must differ between VMs.
    pub fn new(max_secrets: usize, seed: u64) -> Self {
        Self {
            counts: Counts::new(max_secrets),
            pending: None,
            phase: Phase::Idle { not_before_ms: 0 },
            due_ms: None,
            backoff: Backoff::new(BACKOFF_MS.0, BACKOFF_MS.1, seed),
            failing: None,
            reports: 0,
        }
    }

    /// Counts a request: for its key if the record is known, else by verdict only.
    pub fn count(&mut self, decision: &Decision, wall_ms: u64) {
        self.counts.count(decision, wall_ms);
    }

    /// Returns the next report when one is due. Without an id from `draw_id`, no report is sent.
    pub fn tick(
        &mut self,
        now_ms: u64,
        draw_id: impl FnOnce() -> Option<BatchId>,
        events: &mut Vec<Event>,
    ) -> Option<Report> {
        if matches!(self.phase, Phase::Sending { deadline_ms, .. } if now_ms >= deadline_ms) {
            self.fail(now_ms, Failure::Lost, events);
        }
        let requests = self.counts.take_dropped_lately();
        if requests > 0 {
            events.push(Event::Dropped { requests });
        }
        self.next_report(now_ms, draw_id)
    }

    /// Handles the response to a report, and returns the next report if more is waiting than one batch holds.
    pub fn answer(
        &mut self,
        now_ms: u64,
        id: u64,
        answer: Answer<'_>,
        draw_id: impl FnOnce() -> Option<BatchId>,
        events: &mut Vec<Event>,
    ) -> Option<Report> {
        if !self.is_out(id) {
            return None;
        }
        let receipt = match answer {
            Answer::Receipt(body) => Receipt::decode(body).map_err(|_| Failure::NoReceipt),
            Answer::Failed { status } => Err(Failure::Status(status)),
        };
        match receipt {
            Ok(receipt) => self.taken(now_ms, receipt, events),
            Err(failure) => self.fail(now_ms, failure, events),
        }
        self.next_report(now_ms, draw_id)
    }

    /// Records that the report could not be sent.
    pub fn not_sent(&mut self, now_ms: u64, events: &mut Vec<Event>) {
        self.fail(now_ms, Failure::Status(0), events);
    }

    /// Handles the loss of the context that sent this report, and with it of the response: another context sends the
    /// batch again.
    pub fn release(&mut self, id: u64) {
        if self.is_out(id) {
            self.phase = Phase::Idle { not_before_ms: 0 };
        }
    }

    fn is_out(&self, id: u64) -> bool {
        matches!(self.phase, Phase::Sending { report, .. } if report == id)
    }

    fn next_report(&mut self, now_ms: u64, draw_id: impl FnOnce() -> Option<BatchId>) -> Option<Report> {
        let Phase::Idle { not_before_ms } = self.phase else { return None };
        if self.pending.is_none() {
            if self.counts.is_empty() {
                return None;
            }
            let due_ms = *self.due_ms.get_or_insert_with(|| now_ms + self.backoff.draw(FIRST_MS));
            if now_ms < due_ms {
                return None;
            }
        }
        if now_ms < not_before_ms {
            return None;
        }
        let batch = match &self.pending {
            Some(batch) => batch,
            None => self.pending.insert(self.counts.take(draw_id()?)),
        };
        self.due_ms = None;
        self.reports += 1;
        // Envoy's own timeout normally comes first; this deadline is for responses that never arrive.
        self.phase = Phase::Sending { report: self.reports, deadline_ms: now_ms + TIMEOUT_MS + 1000 };
        Some(Report { id: self.reports, body: batch.encode(), timeout_ms: TIMEOUT_MS })
    }

    fn taken(&mut self, now_ms: u64, receipt: Receipt, events: &mut Vec<Event>) {
        self.pending = None;
        self.backoff.reset();
        events.push(Event::Taken { recovered: self.failing.take().is_some() });
        let interval_ms = receipt.interval_ms.clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end());
        let has_more = self.counts.has_more();
        let pause_ms = if has_more { 0 } else { self.backoff.draw(interval_ms) };
        self.due_ms = has_more.then_some(now_ms);
        self.phase = Phase::Idle { not_before_ms: now_ms + pause_ms };
    }

    fn fail(&mut self, now_ms: u64, failure: Failure, events: &mut Vec<Event>) {
        events.push(Event::Failed { failure, news: self.failing.replace(failure) != Some(failure) });
        // A retry of a batch that the control plane cannot parse would not help, and would block the next batches.
        if let Failure::Status(400 | 413 | 422) = failure
            && let Some(batch) = self.pending.take()
        {
            self.counts.give_up(&batch);
        }
        let pause_ms = match failure {
            Failure::Status(401 | 403 | 404) => self.backoff.draw(UNWANTED_MS),
            _ => self.backoff.after_failure(),
        };
        self.phase = Phase::Idle { not_before_ms: now_ms + pause_ms };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::decide::Refused;
    use crate::engine::rules::Strip;
    use crate::engine::snapshot::{OwnerState, PlanState, ResolvedKey};
    use keyward_core::refusal::Refusal;
    use keyward_core::wire::entry::KeyRecord;
    use keyward_core::wire::usage::{MAX_KEYS, Verdicts};
    use std::collections::BTreeMap;
    use std::num::NonZeroU32;
    use std::rc::Rc;

    const WALL_MS: u64 = 1_700_000_000_000;

    /// A VM with a clock; every batch gets a new id.
    struct Vm {
        reporter: Reporter,
        now_ms: u64,
        ids: u8,
        events: Vec<Event>,
    }

    impl Vm {
        fn new() -> Self {
            Self::with_bound(MAX_SECRETS)
        }

        fn with_bound(max_secrets: usize) -> Self {
            Self { reporter: Reporter::new(max_secrets, 7), now_ms: 1000, ids: 0, events: Vec::new() }
        }

        fn count(&mut self, decision: &Decision) {
            self.reporter.count(decision, WALL_MS + self.now_ms);
        }

        fn tick(&mut self) -> Option<Report> {
            let ids = &mut self.ids;
            self.reporter.tick(self.now_ms, || draw(ids), &mut self.events)
        }

        fn answer(&mut self, id: u64, answer: Answer<'_>) -> Option<Report> {
            let ids = &mut self.ids;
            self.reporter.answer(self.now_ms, id, answer, || draw(ids), &mut self.events)
        }

        fn accept(&mut self, report: &Report) -> Option<Report> {
            self.answer(report.id, Answer::Receipt(br#"{"interval_ms": 5000}"#))
        }

        /// Ticks every 25 ms until there is a report.
        fn report_within(&mut self, ms: u64) -> Option<Report> {
            let end = self.now_ms + ms;
            while self.now_ms < end {
                self.now_ms += 25;
                if let Some(report) = self.tick() {
                    return Some(report);
                }
            }
            None
        }
    }

    fn draw(ids: &mut u8) -> Option<BatchId> {
        *ids += 1;
        Some(BatchId([*ids; 16]))
    }

    fn holder(key_id: &str, secret_id: &str) -> Rc<ResolvedKey> {
        let key = KeyRecord { key_id: key_id.to_owned(), secret_id: secret_id.to_owned(), ..KeyRecord::default() };
        Rc::new(ResolvedKey::new(key, OwnerState::Unowned, PlanState::NoPlan))
    }

    fn allow(key_id: &str, secret_id: &str, cost: u32) -> Decision {
        let (holder, cost) = (holder(key_id, secret_id), NonZeroU32::new(cost).unwrap());
        Decision::Allow { holder, strip: Strip::IdentityAndCredentials, cost, windows: Vec::new() }
    }

    fn refuse(key_id: &str, secret_id: &str, refusal: Refusal) -> Decision {
        Decision::Refuse(Refused { holder: Some(holder(key_id, secret_id)), ..refusal.into() })
    }

    fn batch(report: &Report) -> Batch {
        Batch::decode(&report.body).unwrap()
    }

    fn verdicts(counts: &[(&str, u64)]) -> Verdicts {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn secret_reports_verdicts_credits_and_last_use() {
        let mut vm = Vm::new();
        vm.count(&allow("key_1", "sec_1", 3));
        vm.now_ms = 1010;
        vm.count(&allow("key_1", "sec_1", 4));
        vm.now_ms = 1020;
        vm.count(&refuse("key_1", "sec_1", Refusal::RateLimited));
        vm.count(&allow("key_1", "sec_2", 1));
        vm.count(&refuse("key_2", "", Refusal::Revoked));
        for decision in [Decision::Public, Decision::Public, Decision::Delegated] {
            vm.count(&decision);
        }
        vm.count(&Decision::Refuse(Refusal::Unknown.into()));
        let sent = batch(&vm.report_within(1000).unwrap());
        let [first, second, refused] = sent.keys.as_slice() else { panic!("{sent:?}") };
        assert_eq!((first.key_id.as_str(), first.secret_id.as_str()), ("key_1", "sec_1"));
        assert_eq!(first.verdicts, verdicts(&[("allow", 2), ("rate_limited", 1)]));
        assert_eq!((first.credits, first.last_used_ms), (7, Some(WALL_MS + 1010)));
        assert_eq!((second.secret_id.as_str(), second.credits), ("sec_2", 1));
        assert_eq!((refused.key_id.as_str(), refused.secret_id.as_str()), ("key_2", ""));
        assert_eq!((refused.credits, refused.last_used_ms), (0, None), "a refused request does not count as use");
        assert_eq!(sent.others, verdicts(&[("public", 2), ("delegated", 1), ("unknown", 1)]));
        assert_eq!((sent.dropped, sent.requests()), (0, 9));
    }

    #[test]
    fn no_usage_sends_no_report() {
        let mut vm = Vm::new();
        assert_eq!(vm.report_within(200_000), None);
        vm.count(&Decision::Public);
        let report = vm.report_within(1000).expect("the first within a second");
        assert_eq!(vm.accept(&report), None);
        assert_eq!(vm.report_within(200_000), None);
        assert_eq!(vm.events, [Event::Taken { recovered: false }]);
    }

    /// The next batch is sent after the interval that the response requests, within bounds.
    #[test]
    fn next_batch_follows_after_the_returned_interval() {
        for (named, bounds) in [(5000, 2500..=5000), (1, 100..=200), (u64::MAX, 30_000..=60_000)] {
            let mut vm = Vm::new();
            vm.count(&Decision::Public);
            let report = vm.report_within(1000).unwrap();
            let receipt = Receipt { interval_ms: named }.encode();
            assert_eq!(vm.answer(report.id, Answer::Receipt(&receipt)), None);
            let answered_ms = vm.now_ms;
            while vm.report_within(25).is_none() {
                vm.count(&Decision::Public);
                assert!(vm.now_ms < answered_ms + 100_000);
            }
            let pause = vm.now_ms - answered_ms;
            // After a quiet time, a second of traffic is gathered, however short the interval.
            let longest = (bounds.end() + 25).max(1000);
            assert!((*bounds.start()..=longest).contains(&pause), "{pause} where {named} was named");
        }
    }

    #[test]
    fn failed_batch_is_sent_again_while_counting() {
        let mut vm = Vm::new();
        vm.count(&allow("key_1", "sec_1", 1));
        let mut report = vm.report_within(1000).unwrap();
        let first = report.clone();
        for answer in [
            Answer::Failed { status: 503 },
            Answer::Failed { status: 0 },
            Answer::Receipt(b"<html>"),
            Answer::Failed { status: 404 },
        ] {
            vm.count(&allow("key_1", "sec_1", 1));
            assert_eq!(vm.answer(report.id, answer), None, "not at once");
            report = vm.report_within(60_025).unwrap();
            assert_eq!(report.body, first.body);
        }
        assert_eq!(vm.accept(&report), None);
        let next = vm.report_within(5025).unwrap();
        assert_ne!(batch(&next).id, batch(&first).id);
        assert_eq!(batch(&next).keys[0].verdicts, verdicts(&[("allow", 4)]));
        let news = |failure| Event::Failed { failure, news: true };
        let failures = [Failure::Status(503), Failure::Status(0), Failure::NoReceipt, Failure::Status(404)].map(news);
        assert_eq!(vm.events[..4], failures);
        assert_eq!(vm.events[4..], [Event::Taken { recovered: true }]);
    }

    #[test]
    fn repeated_failure_is_news_once() {
        let mut vm = Vm::new();
        vm.count(&Decision::Public);
        for _ in 0..5 {
            let report = vm.report_within(11_000).unwrap();
            vm.answer(report.id, Answer::Failed { status: 503 });
        }
        let news = vm.events.iter().map(|event| matches!(event, Event::Failed { news: true, .. }));
        assert_eq!(news.collect::<Vec<_>>(), [true, false, false, false, false]);
    }

    /// A control plane that rejects usage is retried after half a minute to a minute.
    #[test]
    fn rejecting_control_plane_is_retried_after_a_minute() {
        for status in [401, 403, 404] {
            let mut vm = Vm::new();
            vm.count(&Decision::Public);
            let report = vm.report_within(1000).unwrap();
            vm.answer(report.id, Answer::Failed { status });
            assert_eq!(vm.report_within(29_950), None, "{status}");
            assert_eq!(vm.report_within(30_100).unwrap().body, report.body, "{status}");
        }
    }

    /// A batch that the control plane cannot parse is given up, and its requests are reported as dropped.
    #[test]
    fn unreadable_batch_is_dropped_and_reported_so() {
        let mut vm = Vm::new();
        vm.count(&allow("key_1", "sec_1", 1));
        vm.count(&Decision::Public);
        let report = vm.report_within(1000).unwrap();
        vm.answer(report.id, Answer::Failed { status: 400 });
        let next = vm.report_within(1000).unwrap();
        assert_eq!((batch(&next).keys.len(), batch(&next).dropped), (0, 2));
        assert_ne!(batch(&next).id, batch(&report).id);
        assert!(vm.events.contains(&Event::Dropped { requests: 2 }));
        vm.answer(next.id, Answer::Failed { status: 400 });
        assert_eq!(batch(&vm.report_within(2000).unwrap()).dropped, 2, "reported until accepted");
        assert_eq!(vm.events.iter().filter(|event| matches!(event, Event::Dropped { .. })).count(), 1);
    }

    #[test]
    fn missing_response_times_out_and_late_one_is_ignored() {
        let mut vm = Vm::new();
        vm.count(&Decision::Public);
        let lost = vm.report_within(1000).unwrap();
        assert_eq!(vm.report_within(5975), None);
        let again = vm.report_within(1000).unwrap();
        assert!(vm.events.contains(&Event::Failed { failure: Failure::Lost, news: true }));
        assert_eq!(again.body, lost.body);
        assert_eq!(vm.accept(&lost), None);
        assert!(!vm.events.contains(&Event::Taken { recovered: true }), "the outcome of the lost batch is unknown");
        vm.accept(&again);
        assert!(vm.events.contains(&Event::Taken { recovered: true }));
    }

    #[test]
    fn batch_of_a_destroyed_context_is_sent_by_another() {
        let mut vm = Vm::new();
        vm.count(&Decision::Public);
        let report = vm.report_within(1000).unwrap();
        vm.reporter.release(report.id + 1);
        assert_eq!(vm.tick(), None, "the response belongs to another context");
        vm.reporter.release(report.id);
        assert_eq!(vm.tick().unwrap().body, report.body);
        assert_eq!(vm.events, [], "nothing failed");
    }

    /// What does not fit into one batch follows at once, even if the first keys are used again.
    #[test]
    fn overflow_of_a_batch_follows_at_once() {
        let mut vm = Vm::new();
        let keys: Vec<_> = (0..2 * MAX_KEYS + 1).map(|n| allow(&format!("key_{n:03}"), "sec", 1)).collect();
        keys.iter().for_each(|key| vm.count(key));
        let mut report = vm.report_within(1000);
        let (mut batches, mut reported) = (0, BTreeMap::new());
        while let Some(sent) = report {
            batches += 1;
            for key in batch(&sent).keys {
                *reported.entry(key.key_id).or_insert(0) += key.credits;
            }
            // These sort before the others.
            keys.iter().take(50).for_each(|key| vm.count(key));
            report = vm.accept(&sent);
        }
        assert_eq!(batches, 3);
        assert_eq!((reported.len(), reported.values().sum::<u64>()), (keys.len(), 201));
        let later = batch(&vm.report_within(5025).unwrap());
        assert_eq!((later.keys.len(), later.requests()), (50, 150));
    }

    #[test]
    fn requests_beyond_the_bound_are_counted_as_dropped() {
        let mut vm = Vm::with_bound(2);
        for key in ["key_1", "key_2", "key_3", "key_1", "key_3"] {
            vm.count(&allow(key, "sec", 1));
        }
        vm.count(&allow("an id with spaces", "sec", 1));
        vm.count(&allow("key_1", &"s".repeat(65), 1));
        let sent = batch(&vm.report_within(1000).unwrap());
        assert_eq!((sent.keys.len(), sent.dropped, sent.requests()), (2, 4, 7));
        assert_eq!(vm.events, [Event::Dropped { requests: 4 }]);
    }

    #[test]
    fn without_an_id_nothing_is_sent_or_lost() {
        let mut vm = Vm::new();
        vm.count(&Decision::Public);
        for _ in 0..100 {
            vm.now_ms += 25;
            assert_eq!(vm.reporter.tick(vm.now_ms, || None, &mut vm.events), None);
        }
        assert_eq!(batch(&vm.tick().unwrap()).requests(), 1);
    }

    /// Requests are reported exactly once, whatever the responses.
    #[test]
    fn requests_are_reported_exactly_once() {
        use proptest::prelude::*;
        let step = prop_oneof![
            4 => (0..5_u32).prop_map(Some),
            3 => Just(None),
        ];
        let answers = prop::sample::select(vec![200, 200, 503, 0, 404, 400, 1]);
        proptest!(|(steps in prop::collection::vec((step, answers), 1..200))| {
            let mut vm = Vm::with_bound(3);
            // A control plane that adds up each id once.
            let (mut taken, mut sent) = (BTreeMap::new(), 0);
            let mut out: Option<Report> = None;
            for (request, status) in steps {
                if let Some(n) = request {
                    vm.count(&allow(&format!("key_{n}"), "sec", 1));
                    sent += 1;
                    continue;
                }
                if out.is_none() {
                    out = vm.report_within(61_000);
                }
                let Some(report) = out.take() else { continue };
                // A control plane that accepted a batch does not reject its repetition.
                let status = if status == 400 && taken.contains_key(&batch(&report).id) { 200 } else { status };
                // 1 stands for a response that is lost on the way back: the batch was accepted.
                if status == 200 || status == 1 {
                    let delivered = batch(&report);
                    let before = taken.insert(delivered.id, delivered.clone());
                    prop_assert!(before.is_none_or(|before| before == delivered));
                }
                out = match status {
                    200 => vm.accept(&report),
                    1 => { vm.now_ms += 6000; vm.tick() }
                    status => vm.answer(report.id, Answer::Failed { status }),
                };
            }
            for _ in 0..3 {
                while let Some(report) = out.take().or_else(|| vm.report_within(61_000)) {
                    let delivered = batch(&report);
                    taken.insert(delivered.id, delivered);
                    out = vm.accept(&report);
                }
            }
            prop_assert_eq!(taken.values().map(Batch::requests).sum::<u64>(), sent);
        });
    }
}
