//! Sends the engine's usage reports, and passes the responses to the engine.
//!
//! Counts belong to the VM or the process rather than to a configuration: configurations are replaced with their
//! listeners, and the next one reports what a previous one has counted or sent without a response.

use crate::engine::usage::{Answer, Event, Failure, Report, Reporter};
use crate::host::control_plane::{Call, Response, read_answer, status_error};
use crate::host::{Gateway, Host, Level, clock};
use crate::policy::ControlPlane;
use keyward_core::USAGE_PATH;
use keyward_core::key::secret::Secret;
use keyward_core::wire::usage::BatchId;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The maximum length of a receipt, in bytes.
const MAX_RECEIPT_BYTES: usize = 4096;

/// A reporter that outlives configurations. Locked for moments, and rarely by two threads at once: a worker counts, and
/// every 25 ms its counts are looked at from elsewhere.
pub(super) type SharedReporter = Arc<Mutex<Reporter>>;

/// What identifies the control plane that counts are for.
pub(super) type ReportedTo = (String, String);

/// Where the usage under this configuration is reported; `None` if it is not.
pub(super) fn reported_to(control_plane: &ControlPlane) -> Option<ReportedTo> {
    control_plane.usage.then(|| (control_plane.cluster.clone(), control_plane.authority.clone()))
}

/// The reporter, for this thread alone while the guard lives.
pub(super) fn lock(reporter: &SharedReporter) -> MutexGuard<'_, Reporter> {
    reporter.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reports in flight.
#[derive(Default)]
pub(super) struct Reports(Vec<Sent>);

struct Sent {
    callout: u64,
    reporter: SharedReporter,
    report: u64,
}

impl Reports {
    pub(super) fn tick<G: Gateway>(&mut self, gateway: &G, token: Option<&Secret>, now_ms: u64) {
        for reporter in gateway.reporters() {
            let mut events = Vec::new();
            let report = lock(&reporter).tick(now_ms, draw_id, &mut events);
            note(gateway, &events);
            self.send(gateway, token, reporter, report);
        }
    }

    /// Handles the response to a callout; returns whether the callout is a usage report.
    pub(super) fn answer<G: Gateway>(
        &mut self,
        gateway: &G,
        token: Option<&Secret>,
        callout: u64,
        response: &impl Response,
    ) -> bool {
        let Some(index) = self.0.iter().position(|sent| sent.callout == callout) else { return false };
        let Sent { reporter, report, .. } = self.0.swap_remove(index);
        let body = read_answer(response, MAX_RECEIPT_BYTES);
        let answer = match &body {
            Ok(body) => Answer::Receipt(body),
            Err(status) => Answer::Failed { status: *status },
        };
        let mut events = Vec::new();
        let now_ms = clock::monotonic_ms::<G::Host>();
        let next = lock(&reporter).answer(now_ms, report, answer, draw_id, &mut events);
        note(gateway, &events);
        self.send(gateway, token, reporter, next);
        true
    }

    /// Handles the end of the configuration, after which responses no longer arrive.
    pub(super) fn release(&mut self) {
        for sent in self.0.drain(..) {
            lock(&sent.reporter).release(sent.report);
        }
    }

    fn send<G: Gateway>(
        &mut self,
        gateway: &G,
        token: Option<&Secret>,
        reporter: SharedReporter,
        report: Option<Report>,
    ) {
        let Some(report) = report else { return };
        let call = Call {
            control_plane: &gateway.worker().config.control_plane,
            token,
            method: "POST",
            path: USAGE_PATH,
            body: Some(("application/json", report.body.as_slice())),
            timeout_ms: report.timeout_ms,
        };
        match gateway.call(&call) {
            Ok(callout) => {
                // What was sent before by the same reporter has timed out.
                self.0.retain(|sent| !Arc::ptr_eq(&sent.reporter, &reporter));
                self.0.push(Sent { callout, reporter, report: report.id });
            }
            Err(_) => {
                let mut events = Vec::new();
                lock(&reporter).not_sent(clock::monotonic_ms::<G::Host>(), &mut events);
                note(gateway, &events);
            }
        }
    }
}

/// Without entropy nothing is sent: two batches with one id would be counted once.
fn draw_id() -> Option<BatchId> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).ok()?;
    Some(BatchId(id))
}

fn note<G: Gateway>(gateway: &G, events: &[Event]) {
    let worker = gateway.worker();
    for event in events {
        worker.counts.count_usage(event);
        match *event {
            Event::Taken { recovered: true } => G::Host::log(Level::Info, "usage reporting recovered"),
            Event::Failed { failure, news: true } => G::Host::log(
                Level::Warn,
                &format!(
                    "failed to report usage; will retry  error={:?}",
                    describe_error(failure, &worker.config.control_plane.cluster)
                ),
            ),
            Event::Taken { .. } | Event::Failed { .. } | Event::Dropped { .. } => {}
        }
    }
}

fn describe_error(failure: Failure, cluster: &str) -> String {
    match failure {
        Failure::Status(404) => "usage reports not accepted here (404)".to_owned(),
        Failure::Status(status @ (400 | 413 | 422)) => format!("usage report rejected and dropped ({status})"),
        Failure::Status(status) => status_error(status, cluster),
        Failure::NoReceipt => "unexpected response body".to_owned(),
        Failure::Lost => "timed out".to_owned(),
    }
}
