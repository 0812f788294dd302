//! One request, from its header fields to its response.
//!
//! What a host hands over of a stream is copied before it is changed, so header fields stay readable after a change.

use crate::engine::credential::Header;
use crate::engine::decide::{self, Authorizer, Decision, Refused};
use crate::engine::readiness::Readiness;
use crate::engine::rules::{ProtectedResource, Strip};
use crate::engine::upstream_headers;
use crate::engine::verification::queue::{Busy, Ended, Outcome};
use crate::host::worker::Worker;
use crate::host::{Action, Host, Map, NotDone, State, Stream};
use keyward_core::dialect::error_shape::Rendered;
use keyward_core::refusal::Refusal;
use std::net::{IpAddr, SocketAddr};

impl Worker {
    /// Handles the header fields of a request; `None` if they cannot be read.
    pub(super) fn on_request_headers<S: Stream>(&self, stream: &S, headers: Option<&[Header<'_>]>) -> Action {
        let Some(headers) = headers else { return self.refuse(stream, Refusal::Unavailable.into(), &[]) };
        #[cfg(feature = "fault-injection")]
        crate::host::fault::on_request(headers);
        if self.is_readiness(headers) {
            return self.send_readiness(stream, headers);
        }
        self.handle(stream, headers, None)
    }

    /// Decides again on a request that waited.
    pub(super) fn on_resumed<S: Stream>(&self, stream: &S, headers: Option<&[Header<'_>]>, ended: &Ended) -> Action {
        match headers {
            Some(headers) => self.handle(stream, headers, Some(ended)),
            None => self.refuse(stream, Refusal::Unavailable.into(), &[]),
        }
    }

    /// Handles the trailers of a request, which can be merged into headers, and so are filtered like headers.
    pub(super) fn on_request_trailers<S: Stream>(&self, stream: &S, trailers: Option<&[Header<'_>]>) -> Action {
        let sources = &self.config.policy.dialect.sources;
        let changes =
            trailers.map(|fields| upstream_headers::changes(fields, sources, Strip::IdentityAndCredentials, &[]));
        if changes.is_some_and(|changes| stream.change(Map::RequestTrailers, &changes).is_ok()) {
            return Action::Continue;
        }
        stream.reset();
        Action::End
    }

    /// Decides on a request, and applies the decision. `ended` is the result of the verification that it waited for, if
    /// any.
    fn handle<S: Stream>(&self, stream: &S, headers: &[Header<'_>], ended: Option<&Ended>) -> Action {
        let Some(decision) = self.decide(stream, headers, ended) else {
            remove_key_id(stream, headers);
            return Action::Wait;
        };
        if let Decision::Allow { windows, .. } = &decision
            && !windows.is_empty()
        {
            stream.keep_windows(windows);
        }
        match self.pass(stream, &decision, headers) {
            Some(action) => action,
            // The guard behind this filter would stop a request that cannot be marked as allowed; this refusal states
            // the reason.
            None => self.refuse(stream, Refusal::Unavailable.into(), headers),
        }
    }

    /// The decision; `None` if the request waits for a verification. What it borrows is free again before the host is asked to
    /// answer, which can have it handle another request of this thread first.
    fn decide<S: Stream>(&self, stream: &S, headers: &[Header<'_>], ended: Option<&Ended>) -> Option<Decision> {
        let now = self.clock.now::<S::Host>();
        let client_address = || stream.client_address();
        let mut edge = Authorizer {
            policy: &self.config.policy,
            digests: &self.digests,
            snapshot: &mut self.snapshot.borrow_mut(),
            limiter: &self.limiter,
            guessing: self.guessing.as_ref(),
            verified: &mut self.verified.borrow_mut(),
            store: S::Host::STORE,
        };
        let mut decision = edge.decide_after(headers, now, client_address, ended);
        if let Decision::Verify(what) = &decision {
            let Err(Busy { retry_after_s }) = stream.wait(what, client_address(), now.monotonic_ms) else {
                return None;
            };
            // Refused like every other request, so that the response has the shape of the route.
            let ended = Ended { digest: what.digest, outcome: Outcome::Unavailable { retry_after_s } };
            decision = edge.decide_after(headers, now, client_address, Some(&ended));
        }
        Some(decision)
    }

    /// Applies a decision; `None` if Envoy rejects the changes.
    fn pass<S: Stream>(&self, stream: &S, decision: &Decision, headers: &[Header<'_>]) -> Option<Action> {
        let (strip, identity) = match decision {
            Decision::Allow { holder, strip, .. } => (*strip, holder.identity(&self.config.policy)),
            Decision::Public => (Strip::IdentityAndCredentials, &[][..]),
            Decision::Delegated => (Strip::Identity, &[][..]),
            Decision::Refuse(refused) => return Some(self.refuse(stream, refused.clone(), headers)),
            Decision::Metadata(resource) => return Some(self.send_metadata(stream, decision, resource, headers)),
            Decision::Verify(_) => return None,
        };
        let changes = upstream_headers::changes(headers, &self.config.policy.dialect.sources, strip, identity);
        stream.change(Map::RequestHeaders, &changes).ok()?;
        self.mark(stream, decision, headers).ok()?;
        self.count(decision);
        Some(Action::Continue)
    }

    fn refuse<S: Stream>(&self, stream: &S, refused: Refused, headers: &[Header<'_>]) -> Action {
        let rendered = refused.render(&self.config.policy, headers);
        let decision = Decision::Refuse(refused);
        let _ = stream.change(Map::RequestHeaders, &upstream_headers::of_refused(headers, decision.key_id()));
        let _ = self.mark(stream, &decision, headers);
        if let Some(reason) = decision.reason() {
            let _ = stream.set_state(State::Reason, reason.as_bytes());
        }
        self.count(&decision);
        if is_grpc(headers) {
            return answer_grpc(stream, &rendered, decision.verdict());
        }
        let fields: Vec<_> = rendered.headers.iter().map(|(name, value)| (name.as_ref(), value.as_str())).collect();
        answer(stream, u32::from(rendered.status), &fields, &rendered.body)
    }

    fn send_metadata<S: Stream>(
        &self,
        stream: &S,
        decision: &Decision,
        resource: &ProtectedResource,
        headers: &[Header<'_>],
    ) -> Action {
        remove_key_id(stream, headers);
        let _ = self.mark(stream, decision, headers);
        self.count(decision);
        answer(stream, 200, &[("content-type", "application/json")], &resource.metadata)
    }

    /// Writes the verdict for the guard and the access log, and a redacted path for the latter if needed. The path
    /// comes first: the access log takes the verdict to mean that no redacted path follows.
    fn mark<S: Stream>(&self, stream: &S, decision: &Decision, headers: &[Header<'_>]) -> Result<(), NotDone> {
        let path = decide::header(headers, ":path").unwrap_or_default();
        if let Some(redacted) = self.config.policy.redaction.redact(path) {
            stream.set_state(State::Path, &redacted)?;
        }
        stream.set_state(State::Verdict, decision.verdict().as_bytes())
    }

    fn is_readiness(&self, headers: &[Header<'_>]) -> bool {
        let Some(readiness_path) = &self.config.readiness_path else { return false };
        let path = decide::header(headers, ":path").unwrap_or_default();
        path.split(|&c| c == b'?').next() == Some(readiness_path.as_bytes())
    }

    fn send_readiness<S: Stream>(&self, stream: &S, headers: &[Header<'_>]) -> Action {
        remove_key_id(stream, headers);
        let now = self.clock.now::<S::Host>();
        let mut snapshot = self.snapshot.borrow_mut();
        let max_staleness_ms = self.config.policy.max_staleness_ms;
        let readiness = Readiness::of(&mut snapshot, S::Host::STORE, now.monotonic_ms, max_staleness_ms);
        answer(stream, readiness.status_code(), &[("content-type", "application/json")], &readiness.body())
    }
}

/// Removes a client's forged key id, which the access log would show.
fn remove_key_id(stream: &impl Stream, headers: &[Header<'_>]) {
    let _ = stream.change(Map::RequestHeaders, &upstream_headers::of_refused(headers, None));
}

fn answer(stream: &impl Stream, status: u32, headers: &[(&str, &str)], body: &str) -> Action {
    if stream.reply(status, headers, body).is_err() {
        stream.reset();
    }
    Action::End
}

/// Answers a gRPC request with a gRPC status, since Envoy would choose a different one for 429, and the verdict as the
/// message.
fn answer_grpc(stream: &impl Stream, rendered: &Rendered, verdict: &str) -> Action {
    let fields = rendered.headers.iter().filter(|(name, _)| name != "content-type");
    let fields: Vec<_> = fields.map(|(name, value)| (name.as_ref(), value.as_str())).collect();
    if stream.reply_grpc(rendered.grpc_status(), verdict, &fields).is_err() {
        stream.reset();
    }
    Action::End
}

/// Whether Envoy treats the request as gRPC: `application/grpc`, optionally with `+` and a message format.
fn is_grpc(headers: &[Header<'_>]) -> bool {
    let media_type = decide::header(headers, "content-type").unwrap_or_default();
    media_type.strip_prefix(b"application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
}

/// Reads an address as Envoy writes it, with or without a port.
pub(super) fn read_address(address: &[u8]) -> Option<IpAddr> {
    let address = std::str::from_utf8(address).ok()?;
    address.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| address.parse()).ok()
}
