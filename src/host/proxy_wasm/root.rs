//! The root context of one configuration in one VM: configuration, ticks, and calls to the control plane.

use crate::engine::auth_throttle::AuthThrottle;
use crate::engine::digests::{Digests, HmacKey, KeyDigest};
use crate::engine::feed::NotApplied;
use crate::engine::fetcher::{Answer, Event, Fetcher, Poll};
use crate::engine::limiter::Limiter;
use crate::engine::snapshot::Snapshot;
use crate::engine::store::Names;
use crate::engine::verification::cache::{HASH_KEY_LENGTH, Verified};
use crate::engine::verification::queue::Verifier;
use crate::host::proxy_wasm::clock::{self, Clock};
use crate::host::proxy_wasm::control_plane::{Call, feed_age, read_answer, status_error};
use crate::host::proxy_wasm::http::Stream;
use crate::host::proxy_wasm::log;
use crate::host::proxy_wasm::metrics::Metrics;
use crate::host::proxy_wasm::shared::SharedData;
use crate::host::proxy_wasm::usage::{self, Reports};
use crate::host::proxy_wasm::verify::Calls;
use crate::host::proxy_wasm::worker::{self, Worker};
use crate::policy::{Config, ControlPlane, DigestSetting};
use keyward_core::MAX_PAGE_BYTES;
use keyward_core::key::secret::Secret;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{BufferType, ContextType, LogLevel};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// The interval at which the status is polled and the fetcher continues.
const TICK: Duration = Duration::from_millis(25);

/// The interval while a page is being applied.
const BUSY_TICK: Duration = Duration::from_millis(1);

/// The interval at which the gauges are set, in ticks.
const TICKS_PER_GAUGE: u64 = 40;

pub(super) struct Root {
    context_id: u32,
    running: Option<Running>,
}

struct Running {
    context_id: u32,
    worker: Rc<Worker>,
    fetcher: Fetcher,
    token: Option<Secret>,
    /// Envoy's id of the callout in flight, and the id of the poll.
    callout: Option<(u32, u64)>,
    verifications: Calls,
    last_failure: Option<Failure>,
    reports: Reports,
    ticks: u64,
    /// The tick period set in Envoy.
    period: Duration,
}

/// A failure of the feed; logged when it starts and when the feed recovers, not on each attempt.
#[derive(Clone, Copy, PartialEq)]
enum Failure {
    Status(u32),
    Lost,
    Page(NotApplied),
}

impl Root {
    pub(super) fn new(context_id: u32) -> Self {
        Self { context_id, running: None }
    }

    /// Runs `work`, and records how long it has blocked the thread, which serves no request meanwhile.
    fn timed(&mut self, work: impl FnOnce(&mut Running)) {
        let Some(running) = &mut self.running else { return };
        let began_us = clock::monotonic_us();
        work(running);
        running.keep_pace();
        running.worker.metrics.borrow().record_tick(clock::monotonic_us().saturating_sub(began_us));
    }

    /// Must not depend on anything that could differ between workers: Envoy runs a worker whose filter fails to
    /// configure without the filter.
    fn configure(&mut self) -> Result<(), String> {
        let text = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX)
            .map_err(|status| format!("failed to read the configuration: {status:?}"))?
            .unwrap_or_default();
        let config = Config::parse(&text).map_err(|problems| format!("invalid configuration: {problems}"))?;
        if cfg!(not(feature = "response-headers")) && config.policy.rate_limit_headers.are_on_allowed() {
            return Err("the configuration has mistakes: rate_limit_headers: `always` needs \
                        keyward_filter_response_headers.wasm, which Envoy calls for responses, too"
                .to_owned());
        }
        let token = read_token(&config.control_plane)?;
        let digests = read_digests(&config.digests)?;
        #[cfg(feature = "fault-injection")]
        crate::host::proxy_wasm::fault::on_configure(&SharedData)?;
        let settings = config.snapshot;
        let names = Names::new(&config.control_plane.cluster, &config.control_plane.authority, settings.bucket_bits);
        let seed = seed(self.context_id);
        self.running = Some(Running {
            context_id: self.context_id,
            fetcher: Fetcher::new(names.clone(), settings.bucket_bits, config.control_plane.poll_wait_s, seed),
            worker: Rc::new(Worker {
                limiter: Limiter::new(names.limits(), settings.limit_bucket_bits),
                guessing: config.guessing.map(|threshold| AuthThrottle::new(names.guesses(), threshold)),
                windows: RefCell::default(),
                verified: RefCell::new(Verified::new(names.verified(), settings.cache_records, hash_key())),
                verifier: RefCell::new(Verifier::new(&names)),
                snapshot: RefCell::new(Snapshot::new(names, settings.bucket_bits, settings.cache_records)),
                metrics: RefCell::new(Metrics::define()),
                clock: Clock::new(),
                digests,
                usage: usage::reporter_to(&config.control_plane, seed),
                config,
            }),
            token,
            callout: None,
            verifications: Calls::default(),
            last_failure: None,
            reports: Reports::default(),
            ticks: 0,
            period: TICK,
        });
        hostcalls::set_tick_period(TICK).map_err(|status| format!("failed to set the tick period: {status:?}"))
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _configuration_size: usize) -> bool {
        match self.configure() {
            Ok(()) => true,
            Err(problem) => {
                log(LogLevel::Error, &problem);
                false
            }
        }
    }

    fn on_tick(&mut self) {
        self.timed(Running::tick);
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        worker::note_request();
        Some(Box::new(Stream::new(context_id, self.running.as_ref().map(|running| Rc::clone(&running.worker)))))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, callout: u32, headers: usize, body_size: usize, _trailers: usize) {
        self.timed(|running| running.answer(callout, headers, body_size));
    }
}

impl Drop for Running {
    /// The configuration is being replaced, and its callouts are dropped silently, so another VM should fetch at once.
    /// (Not in `on_done`, which Envoy would call for every stream as well.)
    fn drop(&mut self) {
        self.fetcher.release(&SharedData, clock::monotonic_ms());
        self.reports.release(&self.worker);
        self.worker.release();
        self.worker.metrics.borrow_mut().flush();
    }
}

impl Running {
    fn tick(&mut self) {
        let now = self.worker.clock.read_wall();
        let mut events = Vec::new();
        let poll = self.fetcher.tick(&SharedData, now, worker::serves(), &mut events);
        self.note(&events);
        self.send(poll);
        self.worker.settle(now.monotonic_ms);
        self.reports.tick(&self.worker, self.token.as_ref(), now.monotonic_ms);
        self.worker.snapshot.borrow_mut().poll(&SharedData, now.monotonic_ms);
        self.verifications.tick(self.context_id, &self.worker, self.token.as_ref());
        let mut metrics = self.worker.metrics.borrow_mut();
        metrics.flush();
        if self.ticks.is_multiple_of(TICKS_PER_GAUGE) {
            metrics.gauge(&self.worker.snapshot.borrow(), now.monotonic_ms);
        }
        self.ticks += 1;
    }

    /// Shortens the tick period while a page is being applied.
    fn keep_pace(&mut self) {
        let period = if self.fetcher.is_applying() { BUSY_TICK } else { TICK };
        if period != self.period && hostcalls::set_tick_period(period).is_ok() {
            self.period = period;
        }
    }

    fn answer(&mut self, callout: u32, headers: usize, body_size: usize) {
        let (worker, token) = (&self.worker, self.token.as_ref());
        if self.reports.answer(worker, token, callout, headers, body_size)
            || self.verifications.answer(self.context_id, worker, callout, headers, body_size)
        {
            return;
        }
        let Some((_, poll)) = self.callout.take_if(|(sent, _)| *sent == callout) else { return };
        let body = read_answer(headers, body_size, MAX_PAGE_BYTES);
        let answer = match body {
            Ok(bytes) => Answer::Page { bytes, age_ms: feed_age() },
            Err(status) => Answer::Failed { status },
        };
        let mut events = Vec::new();
        let next = self.fetcher.answer(&SharedData, self.worker.clock.now(), poll, answer, &mut events);
        self.note(&events);
        self.send(next);
    }

    fn send(&mut self, poll: Option<Poll>) {
        let Some(poll) = poll else { return };
        let call = Call { method: "GET", path: &poll.path, body: None, timeout_ms: poll.timeout_ms };
        match call.send(&self.worker.config.control_plane, self.token.as_ref()) {
            Ok(callout) => self.callout = Some((callout, poll.id)),
            Err(_) => {
                let event = self.fetcher.not_sent(clock::monotonic_ms());
                self.note(&[event]);
            }
        }
    }

    fn note(&mut self, events: &[Event]) {
        for event in events {
            self.worker.metrics.borrow_mut().count_event(event);
            match *event {
                Event::Page => {
                    if self.last_failure.take().is_some() {
                        log(LogLevel::Info, "feed recovered");
                    }
                }
                Event::Unreadable { entries } => {
                    log(LogLevel::Warn, &format!("unknown feed entries; refusing their keys  entries={entries}"))
                }
                Event::PageRefused(NotApplied::Superseded) => {}
                Event::PageRefused(refused) => self.fail(Failure::Page(refused)),
                Event::PollFailed { status } => self.fail(Failure::Status(status)),
                Event::PollLost => self.fail(Failure::Lost),
                Event::SnapshotMismatch => log(
                    LogLevel::Warn,
                    "snapshot differs from the control plane's; fetching it again, at most once a minute and less often where \
                     that changes nothing",
                ),
            }
        }
    }

    fn fail(&mut self, failure: Failure) {
        if self.last_failure.replace(failure) == Some(failure) {
            return;
        }
        let error = match failure {
            Failure::Status(status) => status_error(status, &self.worker.config.control_plane.cluster),
            Failure::Lost => "timed out".to_owned(),
            Failure::Page(refused) => refused.to_string(),
        };
        log(LogLevel::Warn, &format!("feed request failed; serving last snapshot  error={error:?}"));
    }
}

fn read_token(control_plane: &ControlPlane) -> Result<Option<Secret>, String> {
    let Some(variable) = &control_plane.token_env else { return Ok(None) };
    match std::env::var(variable) {
        // A token must be valid in a header field (RFC 6750, section 2.1).
        Ok(token) if !token.is_empty() && token.bytes().all(|c| c.is_ascii_graphic()) => Ok(Some(Secret::new(token))),
        Ok(_) => Err(format!(
            "environment variable {variable}: expected a token of visible ASCII characters, got none or others"
        )),
        Err(_) => Err(not_set(variable, "the edge token")),
    }
}

fn read_digests(settings: &[DigestSetting]) -> Result<Digests, String> {
    let read = |setting: &DigestSetting| match setting {
        DigestSetting::Sha256 => Ok(KeyDigest::Sha256),
        DigestSetting::Sha512 => Ok(KeyDigest::Sha512),
        DigestSetting::HmacSha256 { pepper_env } => read_pepper(pepper_env).map(KeyDigest::HmacSha256),
    };
    settings.iter().map(read).collect::<Result<_, _>>().map(Digests::new)
}

/// The raw bytes of the variable: another system may have chosen any.
fn read_pepper(variable: &str) -> Result<HmacKey, String> {
    let bytes = std::env::var_os(variable).ok_or_else(|| not_set(variable, "a pepper"))?;
    HmacKey::new(bytes.as_encoded_bytes())
        .ok_or_else(|| format!("environment variable {variable}: expected a pepper, got an empty value"))
}

fn not_set(variable: &str, what: &str) -> String {
    format!(
        "environment variable {variable}: expected {what}, but the variable is not set in Envoy's environment or not listed in \
         vm_config.environment_variables.host_env_keys"
    )
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

/// The key for hashes of credentials in shared data, used if this VM is the first to need one.
fn hash_key() -> Option<[u8; HASH_KEY_LENGTH]> {
    let mut key = [0; HASH_KEY_LENGTH];
    getrandom::fill(&mut key).is_ok().then_some(key)
}
