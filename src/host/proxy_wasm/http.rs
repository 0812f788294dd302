//! The context of one request.

use crate::engine::credential::Header;
use crate::engine::decide::{self, Authorizer, Decision, Refused};
use crate::engine::readiness::Readiness;
use crate::engine::rules::{ProtectedResource, Strip};
use crate::engine::upstream_headers;
use crate::engine::verification::queue::{Busy, Ended, Outcome};
use crate::host::proxy_wasm::headers::{self, HeaderBytes};
use crate::host::proxy_wasm::shared::SharedData;
use crate::host::proxy_wasm::worker::Worker;
use keyward_core::dialect::error_shape::Rendered;
use keyward_core::refusal::Refusal;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, GrpcStatusCode, MapType, Status};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

pub(super) struct Stream {
    context_id: u32,
    /// Absent if the VM was never configured; all requests are refused then.
    worker: Option<Rc<Worker>>,
}

impl Stream {
    pub(super) fn new(context_id: u32, worker: Option<Rc<Worker>>) -> Self {
        Self { context_id, worker }
    }

    fn waits(&self) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.verifier.borrow().waits(self.context_id))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(worker) = &self.worker {
            worker.windows.borrow_mut().remove(&self.context_id);
            worker.verifier.borrow_mut().leave(self.context_id);
        }
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _headers: usize, _end_of_stream: bool) -> Action {
        let Some(worker) = &self.worker else {
            let _ = hostcalls::send_http_response(503, Vec::new(), None);
            return Action::Pause;
        };
        let bytes = HeaderBytes::get(MapType::HttpRequestHeaders);
        let Some(headers) = bytes.as_ref().and_then(HeaderBytes::fields) else {
            return worker.refuse(Refusal::Unavailable.into(), &[]);
        };
        #[cfg(feature = "fault-injection")]
        crate::host::proxy_wasm::fault::on_request(&headers);
        if worker.is_readiness(&headers) {
            return worker.send_readiness(&headers);
        }
        worker.handle(self.context_id, &headers, None)
    }

    /// Envoy forwards no body while the headers wait; if it is configured to do so, this must not let the headers pass.
    fn on_http_request_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        if self.waits() { Action::Pause } else { Action::Continue }
    }

    /// Adds the key's windows if configured, in place of the upstream's own rate-limit fields.
    #[cfg(feature = "response-headers")]
    fn on_http_response_headers(&mut self, _headers: usize, _end_of_stream: bool) -> Action {
        use crate::engine::upstream_headers::Change;
        use std::borrow::Cow;
        let Some(worker) = &self.worker else { return Action::Continue };
        let Some(windows) = worker.windows.borrow_mut().remove(&self.context_id) else { return Action::Continue };
        let bytes = HeaderBytes::get(MapType::HttpResponseHeaders);
        let Some(headers) = bytes.as_ref().and_then(HeaderBytes::fields) else { return Action::Continue };
        let fields = worker.config.policy.rate_limit_headers.on_allowed(&windows);
        let of_upstream = |name: &str| headers.iter().any(|(theirs, _)| *theirs == name);
        let names = fields.iter().map(|(name, _)| *name);
        let replaced = names.filter(|name| of_upstream(name)).map(Change::Remove);
        let ours = fields.iter().map(|(name, value)| Change::Add(name, Cow::Borrowed(value.as_bytes())));
        // A response that Envoy does not allow to be changed is forwarded unchanged.
        let _ = headers::change(MapType::HttpResponseHeaders, &replaced.chain(ours).collect::<Vec<_>>());
        Action::Continue
    }

    /// Trailers can be merged into headers, so they are filtered like headers. They arrive once, possibly while the
    /// request is still waiting.
    fn on_http_request_trailers(&mut self, _trailers: usize) -> Action {
        let action = if self.waits() { Action::Pause } else { Action::Continue };
        let Some(worker) = &self.worker else { return action };
        let bytes = HeaderBytes::get(MapType::HttpRequestTrailers);
        let Some(trailers) = bytes.as_ref().and_then(HeaderBytes::fields) else {
            let _ = hostcalls::reset_http_request();
            return Action::Pause;
        };
        let sources = &worker.config.policy.dialect.sources;
        let changes = upstream_headers::changes(&trailers, sources, Strip::IdentityAndCredentials, &[]);
        if headers::change(MapType::HttpRequestTrailers, &changes).is_err() {
            let _ = hostcalls::reset_http_request();
        }
        action
    }
}

impl Worker {
    /// Stores the windows for the response to an allowed request.
    fn remember_windows(&self, stream: u32, decision: &Decision) {
        if let Decision::Allow { windows, .. } = decision
            && !windows.is_empty()
        {
            self.windows.borrow_mut().insert(stream, windows.clone());
        }
    }

    /// Decides on a stream, which is the effective context, and applies the decision. `ended` is the result of the
    /// verification that the request waited for, if any.
    fn handle(&self, stream: u32, headers: &[Header<'_>], ended: Option<&Ended>) -> Action {
        let now = self.clock.now();
        let mut edge = Authorizer {
            policy: &self.config.policy,
            digests: &self.digests,
            snapshot: &mut self.snapshot.borrow_mut(),
            limiter: &self.limiter,
            guessing: self.guessing.as_ref(),
            verified: &mut self.verified.borrow_mut(),
            store: &SharedData,
        };
        let mut decision = edge.decide_after(headers, now, client_address, ended);
        if let Decision::Verify(what) = &decision {
            let waits = self.verifier.borrow_mut().wait(&SharedData, what, client_address(), stream, now.monotonic_ms);
            let Err(Busy { retry_after_s }) = waits else {
                remove_key_id(headers);
                return Action::Pause;
            };
            // Refused like every other request, so that the response has the shape of the route.
            let ended = Ended { digest: what.digest, outcome: Outcome::Unavailable { retry_after_s } };
            decision = edge.decide_after(headers, now, client_address, Some(&ended));
        }
        self.remember_windows(stream, &decision);
        match self.pass(&decision, headers) {
            Some(action) => action,
            // The guard behind this filter would stop a request that cannot be marked as allowed; this refusal states
            // the reason.
            None => self.refuse(Refusal::Unavailable.into(), headers),
        }
    }

    /// Decides again on a stream that waited, from another context, which must restore itself as the effective one.
    pub(super) fn resume(&self, stream: u32, ended: &Ended) {
        if hostcalls::set_effective_context(stream).is_err() {
            return;
        }
        let bytes = HeaderBytes::get(MapType::HttpRequestHeaders);
        let Some(headers) = bytes.as_ref().and_then(HeaderBytes::fields) else {
            self.refuse(Refusal::Unavailable.into(), &[]);
            return;
        };
        if self.handle(stream, &headers, Some(ended)) == Action::Continue {
            let _ = hostcalls::resume_http_request();
        }
    }

    /// Applies a decision; `None` if Envoy rejects the changes.
    fn pass(&self, decision: &Decision, headers: &[Header<'_>]) -> Option<Action> {
        let (strip, identity) = match decision {
            Decision::Allow { holder, strip, .. } => (*strip, holder.identity(&self.config.policy)),
            Decision::Public => (Strip::IdentityAndCredentials, &[][..]),
            Decision::Delegated => (Strip::Identity, &[][..]),
            Decision::Refuse(refused) => return Some(self.refuse(refused.clone(), headers)),
            Decision::Metadata(resource) => return Some(self.send_metadata(decision, resource, headers)),
            Decision::Verify(_) => return None,
        };
        let changes = upstream_headers::changes(headers, &self.config.policy.dialect.sources, strip, identity);
        headers::change(MapType::HttpRequestHeaders, &changes).ok()?;
        self.mark(decision, headers).ok()?;
        self.count(decision);
        Some(Action::Continue)
    }

    fn refuse(&self, refused: Refused, headers: &[Header<'_>]) -> Action {
        let rendered = refused.render(&self.config.policy, headers);
        let decision = Decision::Refuse(refused);
        let _ = headers::change(MapType::HttpRequestHeaders, &upstream_headers::of_refused(headers, decision.key_id()));
        let _ = self.mark(&decision, headers);
        if let Some(reason) = decision.reason() {
            let _ = hostcalls::set_property(vec!["keyward.reason"], Some(reason.as_bytes()));
        }
        self.count(&decision);
        if is_grpc(headers) {
            return answer_grpc(&rendered, decision.verdict());
        }
        let fields = rendered.headers.iter().map(|(name, value)| (name.as_ref(), value.as_str())).collect();
        answer(u32::from(rendered.status), fields, &rendered.body)
    }

    fn send_metadata(&self, decision: &Decision, resource: &ProtectedResource, headers: &[Header<'_>]) -> Action {
        remove_key_id(headers);
        let _ = self.mark(decision, headers);
        self.count(decision);
        answer(200, vec![("content-type", "application/json")], &resource.metadata)
    }

    /// Writes the verdict for the guard and the access log, and a redacted path for the latter if needed. The path
    /// comes first: the access log takes the verdict to mean that no redacted path follows.
    fn mark(&self, decision: &Decision, headers: &[Header<'_>]) -> Result<(), Status> {
        let path = decide::header(headers, ":path").unwrap_or_default();
        if let Some(redacted) = self.config.policy.redaction.redact(path) {
            hostcalls::set_property(vec!["keyward.path"], Some(&redacted))?;
        }
        hostcalls::set_property(vec!["keyward.verdict"], Some(decision.verdict().as_bytes()))
    }

    fn is_readiness(&self, headers: &[Header<'_>]) -> bool {
        let Some(readiness_path) = &self.config.readiness_path else { return false };
        let path = decide::header(headers, ":path").unwrap_or_default();
        path.split(|&c| c == b'?').next() == Some(readiness_path.as_bytes())
    }

    fn send_readiness(&self, headers: &[Header<'_>]) -> Action {
        remove_key_id(headers);
        let now = self.clock.now();
        let mut snapshot = self.snapshot.borrow_mut();
        let max_staleness_ms = self.config.policy.max_staleness_ms;
        let readiness = Readiness::of(&mut snapshot, &SharedData, now.monotonic_ms, max_staleness_ms);
        answer(readiness.status_code(), vec![("content-type", "application/json")], &readiness.body())
    }
}

/// Removes a client's forged key id, which the access log would show.
fn remove_key_id(headers: &[Header<'_>]) {
    let _ = headers::change(MapType::HttpRequestHeaders, &upstream_headers::of_refused(headers, None));
}

fn answer(status: u32, headers: Vec<(&str, &str)>, body: &str) -> Action {
    if hostcalls::send_http_response(status, headers, Some(body.as_bytes())).is_err() {
        let _ = hostcalls::reset_http_request();
    }
    Action::Pause
}

/// Answers a gRPC request with a gRPC status, since Envoy would choose a different one for 429, and the verdict as the
/// message.
fn answer_grpc(rendered: &Rendered, verdict: &str) -> Action {
    let fields = rendered.headers.iter().filter(|(name, _)| name != "content-type");
    let fields = fields.map(|(name, value)| (name.as_ref(), value.as_bytes())).collect();
    if hostcalls::send_grpc_response(grpc_code(rendered.grpc_status()), Some(verdict), fields).is_err() {
        let _ = hostcalls::reset_http_request();
    }
    Action::Pause
}

fn grpc_code(status: u32) -> GrpcStatusCode {
    match status {
        16 => GrpcStatusCode::Unauthenticated,
        7 => GrpcStatusCode::PermissionDenied,
        8 => GrpcStatusCode::ResourceExhausted,
        _ => GrpcStatusCode::Unavailable,
    }
}

/// Whether Envoy treats the request as gRPC: `application/grpc`, optionally with `+` and a message format.
fn is_grpc(headers: &[Header<'_>]) -> bool {
    let media_type = decide::header(headers, "content-type").unwrap_or_default();
    media_type.strip_prefix(b"application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
}

/// The client's address according to Envoy's trusted-hop settings.
fn client_address() -> Option<IpAddr> {
    let address = hostcalls::get_property(vec!["source", "address"]).ok()??;
    let address = std::str::from_utf8(&address).ok()?;
    address.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| address.parse()).ok()
}
