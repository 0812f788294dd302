//! Calls to the control plane that verify credentials, and the requests that wait for them.
//!
//! The calls are sent on tick, in the name of the configuration: a call made by a stream would be lost with the stream
//! for all others that wait. So the first request with a key waits up to one tick longer.

use crate::engine::verification::queue::{CALL_TIMEOUT_MS, Outcome};
use crate::host::control_plane::{Call, Response, read_answer, retry_after_s, status_error};
use crate::host::{Gateway, Host, Level, NotDone, clock};
use keyward_core::key::secret::Secret;
use keyward_core::wire::verify::{Answer, MAX_VERIFY_ANSWER_BYTES, VERIFY_PATH, VERIFY_REQUEST_TYPE};
use std::collections::BTreeMap;

/// The calls in flight, by Envoy's id.
#[derive(Default)]
pub(super) struct Calls {
    questions: BTreeMap<u64, u64>,
    is_failing: bool,
}

impl Calls {
    /// Sends pending verifications, times out old ones, and resumes requests.
    pub(super) fn tick<G: Gateway>(&mut self, gateway: &G, token: Option<&Secret>) {
        let now_ms = clock::monotonic_ms::<G::Host>();
        gateway.verifier(|verifier| verifier.tick(now_ms));
        while let Some((question, credential)) = gateway.verifier(|verifier| verifier.to_send(G::Host::STORE, now_ms)) {
            match send(gateway, token, &credential) {
                Ok(call) => {
                    self.questions.insert(call, question);
                }
                Err(_) => {
                    let problem = "the question cannot be sent".to_owned();
                    self.ended(gateway, question, Outcome::Unavailable { retry_after_s: 1 }, Some(problem));
                }
            }
        }
        if !self.questions.is_empty() {
            gateway.verifier(|verifier| self.questions.retain(|_, question| verifier.is_open(*question)));
        }
        resume(gateway);
    }

    /// Handles the response to a callout; returns whether the callout is a verification.
    pub(super) fn answer<G: Gateway>(&mut self, gateway: &G, callout: u64, response: &impl Response) -> bool {
        let Some(question) = self.questions.remove(&callout) else { return false };
        let (outcome, problem) = outcome_of(response, &gateway.worker().config.control_plane.cluster);
        self.ended(gateway, question, outcome, problem);
        resume(gateway);
        true
    }

    fn ended<G: Gateway>(&mut self, gateway: &G, question: u64, outcome: Outcome, problem: Option<String>) {
        let worker = gateway.worker();
        worker.counts.count_verification(&outcome);
        let is_answer = matches!(outcome, Outcome::Answered(_));
        let mut verified = worker.verified.borrow_mut();
        let now_ms = clock::monotonic_ms::<G::Host>();
        gateway.verifier(|verifier| verifier.ended(G::Host::STORE, &mut verified, question, outcome, now_ms));
        match problem {
            Some(problem) if !std::mem::replace(&mut self.is_failing, true) => {
                G::Host::log(Level::Warn, &format!("password-hash verification failed  error={problem:?}"));
            }
            None if is_answer && std::mem::take(&mut self.is_failing) => {
                G::Host::log(Level::Info, "password-hash verification recovered");
            }
            _ => {}
        }
    }
}

fn send(gateway: &impl Gateway, token: Option<&Secret>, credential: &Secret) -> Result<u64, NotDone> {
    gateway.call(&Call {
        control_plane: &gateway.worker().config.control_plane,
        token,
        method: "POST",
        path: VERIFY_PATH,
        body: Some((VERIFY_REQUEST_TYPE, credential.expose().as_bytes())),
        timeout_ms: CALL_TIMEOUT_MS,
    })
}

/// The control plane's answer, and the problem to log if there is none and the control plane was not merely busy.
fn outcome_of(response: &impl Response, cluster: &str) -> (Outcome, Option<String>) {
    let nothing = |problem| (Outcome::Unavailable { retry_after_s: 1 }, Some(problem));
    match read_answer(response, MAX_VERIFY_ANSWER_BYTES) {
        Ok(body) => match Answer::decode(&body) {
            Ok(answer) => (Outcome::Answered(answer), None),
            Err(error) => nothing(error.to_string()),
        },
        Err(503) if let Some(retry_after_s) = retry_after_s(response) => (Outcome::Busy { retry_after_s }, None),
        Err(status) => nothing(status_error(status, cluster)),
    }
}

fn resume<G: Gateway>(gateway: &G) {
    let ready = gateway.verifier(|verifier| verifier.take_ready(G::RESUMED_AT_ONCE));
    if !ready.is_empty() {
        gateway.resume(ready);
    }
}
