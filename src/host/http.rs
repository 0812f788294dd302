//! The context of one request.

use crate::engine::credential::Header;
use crate::engine::decide::{self, Decision, Refused};
use crate::engine::identity::{self, Strip};
use crate::engine::readiness::Readiness;
use crate::host::shared::SharedData;
use crate::host::worker::Worker;
use keyward_contract::verdict::Refusal;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, MapType, Status};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

pub(super) struct Stream {
    /// Absent if the VM was never configured; nothing passes then.
    worker: Option<Rc<Worker>>,
}

impl Stream {
    pub(super) fn new(worker: Option<Rc<Worker>>) -> Self {
        Self { worker }
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _headers: usize, _end_of_stream: bool) -> Action {
        let Some(worker) = &self.worker else {
            let _ = hostcalls::send_http_response(503, Vec::new(), None);
            return Action::Pause;
        };
        let Ok(headers) = hostcalls::get_map_bytes(MapType::HttpRequestHeaders) else {
            return worker.refuse(Refusal::Unavailable.into(), &[]);
        };
        #[cfg(feature = "fault-injection")]
        crate::host::fault::on_request(&headers);
        if worker.is_readiness(&headers) {
            return worker.tell_readiness();
        }
        let decision = decide::decide(
            &worker.config,
            &mut worker.snapshot.borrow_mut(),
            &SharedData,
            &headers,
            worker.clock.now(),
            client_address,
        );
        match worker.pass(&decision, &headers) {
            Some(action) => action,
            // What cannot be marked as passed would be stopped by the guard behind; this says why.
            None => worker.refuse(Refusal::Unavailable.into(), &headers),
        }
    }
}

impl Worker {
    /// Carries a decision out; `None` if Envoy does not let it.
    fn pass(&self, decision: &Decision, headers: &[Header]) -> Option<Action> {
        let (strip, identity) = match decision {
            Decision::Allow(holder) => (Strip::IdentityAndCredentials, identity::headers_of(holder)),
            Decision::Public => (Strip::IdentityAndCredentials, Vec::new()),
            Decision::Delegated => (Strip::Identity, Vec::new()),
            Decision::Refuse(refused) => return Some(self.refuse(refused.clone(), headers)),
        };
        if let Some(forwarded) = identity::forwarded(headers, &self.config.dialect.sources, strip, &identity) {
            hostcalls::set_map_bytes(MapType::HttpRequestHeaders, forwarded).ok()?;
        }
        mark(decision).ok()?;
        self.metrics.borrow_mut().count_verdict(decision.verdict());
        Some(Action::Continue)
    }

    fn refuse(&self, refused: Refused, headers: &[Header]) -> Action {
        let rendered = refused.render(&self.config, headers);
        let decision = Decision::Refuse(refused);
        let _ = mark(&decision);
        self.metrics.borrow_mut().count_verdict(decision.verdict());
        let fields = rendered.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        answer(u32::from(rendered.status), fields, &rendered.body)
    }

    fn is_readiness(&self, headers: &[Header]) -> bool {
        let Some(readiness_path) = &self.config.readiness_path else { return false };
        let path = decide::header(headers, ":path").unwrap_or_default();
        path.split(|&c| c == b'?').next() == Some(readiness_path.as_bytes())
    }

    fn tell_readiness(&self) -> Action {
        let now = self.clock.now();
        let mut snapshot = self.snapshot.borrow_mut();
        snapshot.refresh(&SharedData, now.monotonic_ms);
        let readiness = Readiness::of(&snapshot, now.monotonic_ms, self.config.control_plane.max_staleness_ms);
        answer(readiness.status_code(), vec![("content-type", "application/json")], &readiness.body())
    }
}

/// Writes the verdict where the guard and the access log find it.
fn mark(decision: &Decision) -> Result<(), Status> {
    if let Some(key_id) = decision.key_id() {
        hostcalls::set_property(vec!["keyward.key_id"], Some(key_id.as_bytes()))?;
    }
    hostcalls::set_property(vec!["keyward.verdict"], Some(decision.verdict().as_bytes()))
}

fn answer(status: u32, headers: Vec<(&str, &str)>, body: &str) -> Action {
    if hostcalls::send_http_response(status, headers, Some(body.as_bytes())).is_err() {
        let _ = hostcalls::reset_http_request();
    }
    Action::Pause
}

/// The client's address as Envoy's trusted-hop settings give it.
fn client_address() -> Option<IpAddr> {
    let address = hostcalls::get_property(vec!["source", "address"]).ok()??;
    let address = std::str::from_utf8(&address).ok()?;
    address.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| address.parse()).ok()
}
