//! One stream: what Envoy's hooks do.

use crate::engine::upstream_headers::Change;
use crate::engine::verification::queue::{Busy, Unverified};
use crate::host::dynamic_module::Process;
use crate::host::dynamic_module::abi::{BodyStatus, FieldMap, Fields, Filter, HeadersStatus, TrailersStatus};
use crate::host::dynamic_module::gateway::ProcessGateway;
use crate::host::dynamic_module::worker::ThreadWorker;
use crate::host::request::read_address;
use crate::host::{Action, Map, NotDone, State, Stream};
use keyward_core::dialect::rate_limit_fields::Window;
use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// The name in Envoy's response details, for `%RESPONSE_CODE_DETAILS%`.
const DETAILS: &str = "keyward";

/// One stream.
pub(super) struct StreamContext {
    worker: Rc<ThreadWorker>,
    /// The number under which it waits for a verification, if it does.
    waiting: Cell<Option<u32>>,
    /// Whether it was answered or reset here.
    has_ended: Cell<bool>,
    /// The windows to report in the response.
    windows: Cell<Vec<Window>>,
}

thread_local! {
    /// Memory for the header fields of a stream, used again for the next.
    static FIELDS: Cell<Fields> = Cell::default();
}

impl StreamContext {
    pub(super) fn new(gateway: &Arc<ProcessGateway>) -> Option<Self> {
        let worker = ThreadWorker::of(gateway)?;
        Some(Self { worker, waiting: Cell::new(None), has_ended: Cell::new(false), windows: Cell::default() })
    }

    pub(super) fn on_request_headers(&self, filter: &Filter) -> HeadersStatus {
        self.worker.catch_up();
        let stream = Active { filter, context: self };
        let action = with_fields(filter, FieldMap::RequestHeaders, |fields| {
            let headers = fields.and_then(Fields::get);
            self.worker.worker.on_request_headers(&stream, headers.as_deref())
        });
        match action {
            Action::Continue => HeadersStatus::Continue,
            Action::Wait => HeadersStatus::StopAllIterationAndWatermark,
            Action::End => {
                self.has_ended.set(true);
                self.worker.share_failures();
                HeadersStatus::StopIteration
            }
        }
    }

    /// Envoy passes on no body while the headers wait, nor after a response; this makes sure of it.
    pub(super) fn on_request_body(&self, _filter: &Filter) -> BodyStatus {
        let is_held = self.has_ended.get() || self.waiting.get().is_some();
        if is_held { BodyStatus::StopIterationNoBuffer } else { BodyStatus::Continue }
    }

    pub(super) fn on_request_trailers(&self, filter: &Filter) -> TrailersStatus {
        if self.has_ended.get() || self.waiting.get().is_some() {
            return TrailersStatus::StopIteration;
        }
        let stream = Active { filter, context: self };
        let action = with_fields(filter, FieldMap::RequestTrailers, |fields| {
            let trailers = fields.and_then(Fields::get);
            self.worker.worker.on_request_trailers(&stream, trailers.as_deref())
        });
        match action {
            Action::Continue => TrailersStatus::Continue,
            Action::Wait | Action::End => {
                self.has_ended.set(true);
                TrailersStatus::StopIteration
            }
        }
    }

    pub(super) fn on_response_headers(&self, filter: &Filter) {
        let windows = self.windows.take();
        if windows.is_empty() {
            return;
        }
        let stream = Active { filter, context: self };
        with_fields(filter, FieldMap::ResponseHeaders, |fields| {
            if let Some(headers) = fields.and_then(Fields::get) {
                self.worker.worker.on_response_headers(&stream, &headers, &windows);
            }
        });
    }

    /// Decides again after a verification.
    pub(super) fn on_scheduled(&self, filter: &Filter) {
        if self.has_ended.get() {
            return;
        }
        let Some(ended) = self.waiting.get().and_then(|number| self.worker.gateway.take_ended(number)) else { return };
        self.waiting.set(None);
        // A panic may have discarded the worker with which the stream began.
        let Some(worker) = ThreadWorker::of(&self.worker.gateway) else { return self.on_panic(filter) };
        worker.catch_up();
        let stream = Active { filter, context: self };
        let action = with_fields(filter, FieldMap::RequestHeaders, |fields| {
            let headers = fields.and_then(Fields::get);
            worker.worker.on_resumed(&stream, headers.as_deref(), &ended)
        });
        match action {
            Action::Continue => filter.continue_decoding(),
            Action::Wait => {}
            Action::End => {
                self.has_ended.set(true);
                worker.share_failures();
            }
        }
    }

    /// Answers after a panic, and has this thread begin anew.
    pub(super) fn on_panic(&self, filter: &Filter) {
        ThreadWorker::discard(&self.worker.gateway);
        if !self.has_ended.replace(true) {
            Self::refuse_all(filter);
        }
    }

    /// Answers where nothing can be decided.
    pub(super) fn refuse_all(filter: &Filter) {
        filter.respond(503, &[("grpc-status", "14")], "", "keyward_panic");
    }
}

impl Drop for StreamContext {
    fn drop(&mut self) {
        if let Some(number) = self.waiting.get() {
            self.worker.gateway.leave(number);
        }
        #[cfg(test)]
        DROPPED.set(DROPPED.get() + 1);
    }
}

#[cfg(test)]
thread_local! {
    /// How many streams of this thread were dropped.
    pub(super) static DROPPED: Cell<usize> = const { Cell::new(0) };
}

/// Reads header fields into this thread's memory for them.
fn with_fields<T>(filter: &Filter, map: FieldMap, see: impl FnOnce(Option<&Fields>) -> T) -> T {
    let mut fields = FIELDS.take();
    let is_read = filter.read(map, &mut fields);
    let result = see(is_read.then_some(&fields));
    FIELDS.set(fields);
    result
}

/// A stream during a hook.
struct Active<'a> {
    filter: &'a Filter,
    context: &'a StreamContext,
}

impl Stream for Active<'_> {
    type Host = Process;

    fn client_address(&self) -> Option<IpAddr> {
        self.filter.source_address(read_address)
    }

    fn change(&self, map: Map, changes: &[Change<'_>]) -> Result<(), NotDone> {
        let fields = match map {
            Map::RequestHeaders => FieldMap::RequestHeaders,
            Map::RequestTrailers => FieldMap::RequestTrailers,
            Map::ResponseHeaders => FieldMap::ResponseHeaders,
        };
        for change in changes {
            let is_done = match change {
                Change::Remove(name) => self.filter.set(fields, name, b""),
                Change::Replace(name, value) => self.filter.set(fields, name, value),
                // Envoy adds no empty field. To an upstream, it says as little as none.
                Change::Add(name, value) => value.is_empty() || self.filter.add(fields, name, value),
            };
            if !is_done {
                return Err(NotDone);
            }
        }
        // As the Wasm host of Envoy does: routes can match on the identity.
        if map == Map::RequestHeaders && !changes.is_empty() {
            self.filter.clear_route_cache();
        }
        Ok(())
    }

    fn set_state(&self, name: State, value: &[u8]) -> Result<(), NotDone> {
        let name = match name {
            State::Verdict => "wasm.keyward.verdict",
            State::Reason => "wasm.keyward.reason",
            State::Path => "wasm.keyward.path",
        };
        if self.filter.set_state(name, value) { Ok(()) } else { Err(NotDone) }
    }

    fn reply(&self, status: u32, headers: &[(&str, &str)], body: &str) -> Result<(), NotDone> {
        self.filter.respond(status, headers, body, DETAILS);
        Ok(())
    }

    /// Without the field `grpc-status`, Envoy would tell the client that the call has succeeded.
    fn reply_grpc(&self, grpc_status: u32, message: &str, headers: &[(&str, &str)]) -> Result<(), NotDone> {
        let status = grpc_status.to_string();
        let headers: Vec<_> = headers.iter().copied().chain([("grpc-status", status.as_str())]).collect();
        self.filter.respond(200, &headers, message, DETAILS);
        Ok(())
    }

    fn reset(&self) {
        self.filter.reset(DETAILS);
    }

    fn wait(&self, what: &Unverified, client: Option<IpAddr>, now_ms: u64) -> Result<(), Busy> {
        let number = self.context.worker.gateway.wait(self.filter, what, client, now_ms)?;
        self.context.waiting.set(Some(number));
        Ok(())
    }

    fn keep_windows(&self, windows: &[Window]) {
        self.context.windows.set(windows.to_vec());
    }
}
