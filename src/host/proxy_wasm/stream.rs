//! The context of one request.

use crate::engine::upstream_headers::Change;
use crate::engine::verification::queue::{Busy, Unverified};
use crate::host::proxy_wasm::Vm;
use crate::host::proxy_wasm::gateway::Shared;
use crate::host::proxy_wasm::headers::{self, HeaderBytes};
use crate::host::request::read_address;
use crate::host::{self, Host as _, Map, NotDone, State, Stream};
use keyward_core::dialect::rate_limit_fields::Window;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, GrpcStatusCode, MapType};
use std::net::IpAddr;
use std::rc::Rc;

pub(super) struct StreamContext {
    context: u32,
    /// Absent if the VM was never configured; all requests are refused then.
    shared: Option<Rc<Shared>>,
}

impl StreamContext {
    pub(super) fn new(context: u32, shared: Option<Rc<Shared>>) -> Self {
        Self { context, shared }
    }

    fn waits(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.verifier.borrow().waits(self.context))
    }
}

impl Drop for StreamContext {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.windows.borrow_mut().remove(&self.context);
            shared.verifier.borrow_mut().leave(self.context);
        }
    }
}

impl Context for StreamContext {}

impl HttpContext for StreamContext {
    fn on_http_request_headers(&mut self, _headers: usize, _end_of_stream: bool) -> Action {
        let Some(shared) = &self.shared else {
            let _ = hostcalls::send_http_response(503, Vec::new(), None);
            return Action::Pause;
        };
        let bytes = HeaderBytes::get(MapType::HttpRequestHeaders);
        let headers = bytes.as_ref().and_then(HeaderBytes::fields);
        let stream = Effective { context: self.context, shared };
        action(shared.worker.on_request_headers(&stream, headers.as_deref()))
    }

    /// Envoy forwards no body while the headers wait; if it is configured to do so, this must not let the headers pass.
    fn on_http_request_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        if self.waits() { Action::Pause } else { Action::Continue }
    }

    /// Trailers arrive once, possibly while the request is still waiting.
    fn on_http_request_trailers(&mut self, _trailers: usize) -> Action {
        let waits = self.waits();
        let Some(shared) = &self.shared else { return Action::Continue };
        let bytes = HeaderBytes::get(MapType::HttpRequestTrailers);
        let trailers = bytes.as_ref().and_then(HeaderBytes::fields);
        let stream = Effective { context: self.context, shared };
        let filtered = shared.worker.on_request_trailers(&stream, trailers.as_deref());
        if waits { Action::Pause } else { action(filtered) }
    }

    #[cfg(feature = "response-headers")]
    fn on_http_response_headers(&mut self, _headers: usize, _end_of_stream: bool) -> Action {
        let Some(shared) = &self.shared else { return Action::Continue };
        let Some(windows) = shared.windows.borrow_mut().remove(&self.context) else { return Action::Continue };
        let bytes = HeaderBytes::get(MapType::HttpResponseHeaders);
        if let Some(headers) = bytes.as_ref().and_then(HeaderBytes::fields) {
            let stream = Effective { context: self.context, shared };
            shared.worker.on_response_headers(&stream, &headers, &windows);
        }
        Action::Continue
    }
}

fn action(action: host::Action) -> Action {
    match action {
        host::Action::Continue => Action::Continue,
        host::Action::Wait | host::Action::End => Action::Pause,
    }
}

/// The stream that is the effective context.
pub(super) struct Effective<'a> {
    pub(super) context: u32,
    pub(super) shared: &'a Shared,
}

impl Stream for Effective<'_> {
    type Host = Vm;

    fn client_address(&self) -> Option<IpAddr> {
        read_address(&hostcalls::get_property(vec!["source", "address"]).ok()??)
    }

    fn change(&self, map: Map, changes: &[Change<'_>]) -> Result<(), NotDone> {
        let map = match map {
            Map::RequestHeaders => MapType::HttpRequestHeaders,
            Map::RequestTrailers => MapType::HttpRequestTrailers,
            #[cfg(feature = "response-headers")]
            Map::ResponseHeaders => MapType::HttpResponseHeaders,
        };
        headers::change(map, changes).map_err(|_| NotDone)
    }

    /// Envoy puts `wasm.` before the name.
    fn set_state(&self, name: State, value: &[u8]) -> Result<(), NotDone> {
        let name = match name {
            State::Verdict => "keyward.verdict",
            State::Reason => "keyward.reason",
            State::Path => "keyward.path",
        };
        hostcalls::set_property(vec![name], Some(value)).map_err(|_| NotDone)
    }

    fn reply(&self, status: u32, headers: &[(&str, &str)], body: &str) -> Result<(), NotDone> {
        hostcalls::send_http_response(status, headers.to_vec(), Some(body.as_bytes())).map_err(|_| NotDone)
    }

    fn reply_grpc(&self, grpc_status: u32, message: &str, headers: &[(&str, &str)]) -> Result<(), NotDone> {
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        hostcalls::send_grpc_response(grpc_code(grpc_status), Some(message), headers).map_err(|_| NotDone)
    }

    fn reset(&self) {
        let _ = hostcalls::reset_http_request();
    }

    fn wait(&self, what: &Unverified, client: Option<IpAddr>, now_ms: u64) -> Result<(), Busy> {
        self.shared.verifier.borrow_mut().wait(Vm::STORE, what, client, self.context, now_ms)
    }

    fn keep_windows(&self, windows: &[Window]) {
        self.shared.windows.borrow_mut().insert(self.context, windows.to_vec());
    }
}

fn grpc_code(status: u32) -> GrpcStatusCode {
    match status {
        16 => GrpcStatusCode::Unauthenticated,
        7 => GrpcStatusCode::PermissionDenied,
        8 => GrpcStatusCode::ResourceExhausted,
        _ => GrpcStatusCode::Unavailable,
    }
}
