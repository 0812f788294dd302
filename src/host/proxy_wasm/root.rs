//! The root context of one configuration in one VM: configuration, ticks, and responses of the control plane.

use crate::engine::verification::queue::Verifier;
use crate::host::background::Background;
use crate::host::configuration::Configuration;
use crate::host::proxy_wasm::Vm;
use crate::host::proxy_wasm::gateway::{self, CalloutResponse, Shared};
use crate::host::proxy_wasm::stream::StreamContext;
use crate::host::worker::Worker;
use crate::host::{Host as _, Level, usage};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{BufferType, ContextType};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

pub(super) struct Root {
    context_id: u32,
    running: Option<Running>,
}

struct Running {
    shared: Rc<Shared>,
    background: Background,
    /// The tick period set in Envoy.
    period: Duration,
}

impl Root {
    pub(super) fn new(context_id: u32) -> Self {
        Self { context_id, running: None }
    }

    fn configure(&mut self) -> Result<(), String> {
        let text = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX)
            .map_err(|status| format!("failed to read the configuration: {status:?}"))?
            .unwrap_or_default();
        let configuration = Configuration::read::<Vm>(&text)?;
        if cfg!(not(feature = "response-headers")) && configuration.config.policy.rate_limit_headers.are_on_allowed() {
            return Err("the configuration has mistakes: rate_limit_headers: `always` needs \
                        keyward_filter_response_headers.wasm, which Envoy calls for responses, too"
                .to_owned());
        }
        #[cfg(feature = "fault-injection")]
        crate::host::fault::on_configure(Vm::STORE)?;
        let (names, token, seed) = (configuration.names(), configuration.token.clone(), seed(self.context_id));
        let reporter = usage::reported_to(&configuration.config.control_plane);
        let reporter = reporter.map(|control_plane| gateway::reporter_to(control_plane, seed));
        let shared = Rc::new(Shared {
            root: self.context_id,
            verifier: RefCell::new(Verifier::new(&names)),
            worker: Worker::new::<Vm>(configuration, names.clone(), reporter),
            windows: RefCell::default(),
        });
        let background = Background::new(&*shared, names, token, seed);
        let period = background.period();
        self.running = Some(Running { shared, background, period });
        hostcalls::set_tick_period(period).map_err(|status| format!("failed to set the tick period: {status:?}"))
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _configuration_size: usize) -> bool {
        match self.configure() {
            Ok(()) => true,
            Err(problem) => {
                Vm::log(Level::Error, &problem);
                false
            }
        }
    }

    fn on_tick(&mut self) {
        if let Some(running) = &mut self.running {
            running.background.tick(&*running.shared, gateway::serves());
            running.keep_pace();
        }
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        gateway::note_request();
        let shared = self.running.as_ref().map(|running| Rc::clone(&running.shared));
        Some(Box::new(StreamContext::new(context_id, shared)))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, callout: u32, headers: usize, body_size: usize, _trailers: usize) {
        if let Some(running) = &mut self.running {
            let response = CalloutResponse { headers, body_size };
            running.background.answer(&*running.shared, u64::from(callout), &response);
            running.keep_pace();
        }
    }
}

impl Running {
    /// Shortens the tick period while a page is being applied.
    fn keep_pace(&mut self) {
        let period = self.background.period();
        if period != self.period && hostcalls::set_tick_period(period).is_ok() {
            self.period = period;
        }
    }
}

impl Drop for Running {
    /// The configuration is being replaced. (Not in `on_done`, which Envoy would call for every stream as well.)
    fn drop(&mut self) {
        self.background.release(&*self.shared);
    }
}

/// A number that differs between VMs.
fn seed(context_id: u32) -> u64 {
    let mut bytes = [0; 8];
    if getrandom::fill(&mut bytes).is_err() {
        // Without entropy, two VMs may both hold the lease, which costs extra work but is harmless.
        return coarsetime::Instant::now_without_cache_update().as_ticks() ^ u64::from(context_id);
    }
    u64::from_le_bytes(bytes)
}
