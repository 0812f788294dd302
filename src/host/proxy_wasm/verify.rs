//! Calls to the control plane that verify credentials, and the streams that wait for them.
//!
//! The root context sends the calls on tick. Envoy makes every call in the name of the root, but the SDK delivers the
//! response to the context that was active when the call was sent, and drops it if that context no longer exists: a
//! call made by a stream would be lost with the stream for all others that wait. So the first request with a key waits
//! up to one tick longer.
//!
//! The root context outlives every waiting stream: in Envoy a stream keeps its plugin alive, and the root is destroyed
//! only after the last stream.

use crate::engine::verification::queue::{CALL_TIMEOUT_MS, Outcome};
use crate::host::proxy_wasm::control_plane::{Call, read_answer, retry_after_s, status_error};
use crate::host::proxy_wasm::shared::SharedData;
use crate::host::proxy_wasm::worker::Worker;
use crate::host::proxy_wasm::{clock, log};
use keyward_core::key::secret::Secret;
use keyward_core::wire::verify::{Answer, MAX_VERIFY_ANSWER_BYTES, VERIFY_PATH, VERIFY_REQUEST_TYPE};
use proxy_wasm::hostcalls;
use proxy_wasm::types::{LogLevel, Status};
use std::collections::BTreeMap;

/// The calls in flight, by Envoy's id.
#[derive(Default)]
pub(super) struct Calls {
    questions: BTreeMap<u32, u64>,
    is_failing: bool,
}

/// How many streams are resumed in one call into the VM. When that call returns, Envoy resumes them nested in one
/// another, because each response calls the VM, so this bounds Envoy's stack (a few hundred cause a trap); the others
/// follow with the next ticks.
const STREAMS_PER_CALL: usize = 16;

impl Calls {
    /// Sends pending verifications, times out old ones, and resumes streams.
    pub(super) fn tick(&mut self, root: u32, worker: &Worker, token: Option<&Secret>) {
        let now_ms = clock::monotonic_ms();
        worker.verifier.borrow_mut().tick(now_ms);
        loop {
            let next = worker.verifier.borrow_mut().to_send(&SharedData, now_ms);
            let Some((question, credential)) = next else { break };
            match send(worker, token, &credential) {
                Ok(call) => {
                    self.questions.insert(call, question);
                }
                Err(_) => {
                    let problem = "the question cannot be sent".to_owned();
                    self.ended(worker, question, Outcome::Unavailable { retry_after_s: 1 }, Some(problem));
                }
            }
        }
        self.questions.retain(|_, question| worker.verifier.borrow().is_open(*question));
        resume(root, worker);
    }

    /// Handles the response to a callout; returns whether the callout is a verification.
    pub(super) fn answer(
        &mut self,
        root: u32,
        worker: &Worker,
        callout: u32,
        headers: usize,
        body_size: usize,
    ) -> bool {
        let Some(question) = self.questions.remove(&callout) else { return false };
        let (outcome, problem) = outcome_of(headers, body_size, &worker.config.control_plane.cluster);
        self.ended(worker, question, outcome, problem);
        resume(root, worker);
        true
    }

    fn ended(&mut self, worker: &Worker, question: u64, outcome: Outcome, problem: Option<String>) {
        worker.metrics.borrow_mut().count_verification(&outcome);
        let is_answer = matches!(outcome, Outcome::Answered(_));
        let mut verified = worker.verified.borrow_mut();
        worker.verifier.borrow_mut().ended(&SharedData, &mut verified, question, outcome, clock::monotonic_ms());
        match problem {
            Some(problem) if !std::mem::replace(&mut self.is_failing, true) => {
                log(LogLevel::Warn, &format!("password-hash verification failed  error={problem:?}"));
            }
            None if is_answer && std::mem::take(&mut self.is_failing) => {
                log(LogLevel::Info, "password-hash verification recovered");
            }
            _ => {}
        }
    }
}

fn send(worker: &Worker, token: Option<&Secret>, credential: &Secret) -> Result<u32, Status> {
    let body = Some((VERIFY_REQUEST_TYPE, credential.expose().as_bytes()));
    let call = Call { method: "POST", path: VERIFY_PATH, body, timeout_ms: CALL_TIMEOUT_MS };
    call.send(&worker.config.control_plane, token)
}

/// The control plane's answer, and the problem to log if there is none and the control plane was not merely busy.
fn outcome_of(headers: usize, body_size: usize, cluster: &str) -> (Outcome, Option<String>) {
    let nothing = |problem| (Outcome::Unavailable { retry_after_s: 1 }, Some(problem));
    match read_answer(headers, body_size, MAX_VERIFY_ANSWER_BYTES) {
        Ok(body) => match Answer::decode(&body) {
            Ok(answer) => (Outcome::Answered(answer), None),
            Err(error) => nothing(error.to_string()),
        },
        Err(503) if let Some(retry_after_s) = retry_after_s() => (Outcome::Busy { retry_after_s }, None),
        Err(status) => nothing(status_error(status, cluster)),
    }
}

fn resume(root: u32, worker: &Worker) {
    let ready = worker.verifier.borrow_mut().take_ready(STREAMS_PER_CALL);
    if ready.is_empty() {
        return;
    }
    for (stream, ended) in &ready {
        worker.resume(*stream, ended);
    }
    let _ = hostcalls::set_effective_context(root);
}
