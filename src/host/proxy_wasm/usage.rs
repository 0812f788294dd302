//! Sends the engine's usage reports, and passes the responses to the engine.
//!
//! Counts belong to the VM rather than to a configuration: contexts are replaced with their listeners, and the next
//! context reports what a previous one has counted or sent without a response.

use crate::engine::usage::{Answer, Event, Failure, MAX_SECRETS, Report, Reporter};
use crate::host::proxy_wasm::clock;
use crate::host::proxy_wasm::control_plane::{Call, read_answer, status_error};
use crate::host::proxy_wasm::log;
use crate::host::proxy_wasm::worker::{SharedReporter, Worker};
use crate::policy::ControlPlane;
use keyward_core::USAGE_PATH;
use keyward_core::key::secret::Secret;
use keyward_core::wire::usage::BatchId;
use proxy_wasm::types::LogLevel;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The maximum length of a receipt, in bytes.
const MAX_RECEIPT_BYTES: usize = 4096;

thread_local! {
    /// One reporter per control plane, by cluster and authority. Survives a change of configuration.
    static REPORTERS: RefCell<BTreeMap<(String, String), SharedReporter>> = const { RefCell::new(BTreeMap::new()) };
}

/// This VM's reporter for that control plane; `None` if usage is not reported.
pub(super) fn reporter_to(control_plane: &ControlPlane, seed: u64) -> Option<SharedReporter> {
    if !control_plane.usage {
        return None;
    }
    let name = (control_plane.cluster.clone(), control_plane.authority.clone());
    let new = || Rc::new(RefCell::new(Reporter::new(MAX_SECRETS, seed)));
    Some(REPORTERS.with_borrow_mut(|reporters| Rc::clone(reporters.entry(name).or_insert_with(new))))
}

/// The reports sent by one context.
#[derive(Default)]
pub(super) struct Reports {
    /// Envoy's id of the callout in flight, and the id of the report.
    callout: Option<(u32, u64)>,
}

impl Reports {
    pub(super) fn tick(&mut self, worker: &Worker, token: Option<&Secret>, now_ms: u64) {
        let Some(reporter) = &worker.usage else { return };
        let mut events = Vec::new();
        let report = reporter.borrow_mut().tick(now_ms, draw_id, &mut events);
        note(worker, &events);
        self.send(worker, token, report);
    }

    /// Handles the response to a callout; returns whether the callout is a usage report.
    pub(super) fn answer(
        &mut self,
        worker: &Worker,
        token: Option<&Secret>,
        callout: u32,
        headers: usize,
        body_size: usize,
    ) -> bool {
        let Some((_, id)) = self.callout.take_if(|(sent, _)| *sent == callout) else { return false };
        let Some(reporter) = &worker.usage else { return true };
        let body = read_answer(headers, body_size, MAX_RECEIPT_BYTES);
        let answer = match &body {
            Ok(body) => Answer::Receipt(body),
            Err(status) => Answer::Failed { status: *status },
        };
        let mut events = Vec::new();
        let next = reporter.borrow_mut().answer(clock::monotonic_ms(), id, answer, draw_id, &mut events);
        note(worker, &events);
        self.send(worker, token, next);
        true
    }

    /// Handles the end of the context, after which responses no longer arrive.
    pub(super) fn release(&mut self, worker: &Worker) {
        if let (Some(reporter), Some((_, id))) = (&worker.usage, self.callout.take()) {
            reporter.borrow_mut().release(id);
        }
    }

    fn send(&mut self, worker: &Worker, token: Option<&Secret>, report: Option<Report>) {
        let (Some(reporter), Some(report)) = (&worker.usage, report) else { return };
        let body = Some(("application/json", report.body.as_slice()));
        let call = Call { method: "POST", path: USAGE_PATH, body, timeout_ms: report.timeout_ms };
        match call.send(&worker.config.control_plane, token) {
            Ok(callout) => self.callout = Some((callout, report.id)),
            Err(_) => {
                let mut events = Vec::new();
                reporter.borrow_mut().not_sent(clock::monotonic_ms(), &mut events);
                note(worker, &events);
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

fn note(worker: &Worker, events: &[Event]) {
    for event in events {
        worker.metrics.borrow_mut().count_usage(event);
        match *event {
            Event::Taken { recovered: true } => log(LogLevel::Info, "usage reporting recovered"),
            Event::Failed { failure, news: true } => log(
                LogLevel::Warn,
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
