//! A double of Envoy for this thread: it implements the functions that the module calls, and calls the module's hooks. It
//! says that it only validates, so that no thread ticks in between, unless [`Gateway::open_with_ticker`] opens the configuration.

#![expect(unsafe_code, reason = "the other side of a C interface")]

use crate::host::dynamic_module::abi::{self, Buffer, Field, Raw};
use crate::host::dynamic_module::panics::guard;
use crate::host::dynamic_module::stream::{DROPPED, StreamContext};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What one thread's Envoy has seen.
#[derive(Default)]
struct Double {
    /// The functions that were called, in order.
    calls: Vec<&'static str>,
    /// Request headers, request trailers, response headers.
    fields: [Vec<(Vec<u8>, Vec<u8>)>; 3],
    state: BTreeMap<String, String>,
    answer: Option<Answer>,
    callouts: Vec<Callout>,
    metrics: Vec<(String, u64)>,
    logs: Vec<String>,
    wake_ups: usize,
    is_continued: bool,
    is_reset: bool,
    /// The stream that the next response ends, as one outside of decoding does.
    ends_with_response: Option<*const StreamContext>,
}

/// A local reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u32,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: String,
}

/// A request to the control plane.
#[derive(Clone, Debug)]
pub(super) struct Callout {
    pub(super) id: u64,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Callout {
    pub(super) fn path(&self) -> &str {
        self.fields.iter().find(|(name, _)| name == ":path").map_or("", |(_, path)| path)
    }
}

thread_local! {
    static DOUBLE: RefCell<Double> = RefCell::default();
}

fn called<T>(name: &'static str, act: impl FnOnce(&mut Double) -> T) -> T {
    DOUBLE.with_borrow_mut(|double| {
        double.calls.push(name);
        act(double)
    })
}

thread_local! {
    /// Whether the next configuration has a thread that calls the main thread.
    static HAS_TICKER: Cell<bool> = const { Cell::new(false) };
}

/// How often the thread of the only configuration that has one has called the main thread.
static COMMITS: AtomicUsize = AtomicUsize::new(0);

/// Any pointer will do, as the module only passes it back.
const SOME: Raw = 8 as Raw;

/// One filter configuration in the double.
pub(super) struct Gateway(*const crate::host::dynamic_module::gateway::ProcessGateway);

/// What became of a request.
#[derive(Debug)]
pub(super) struct Outcome {
    /// What the hook returned.
    pub(super) status: u32,
    pub(super) answer: Option<Answer>,
    pub(super) calls: Vec<&'static str>,
    /// The request's header fields afterwards.
    pub(super) fields: Vec<(String, String)>,
    pub(super) state: BTreeMap<String, String>,
}

impl Outcome {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

/// A stream that is open.
pub(super) struct Stream(*const StreamContext);

impl Gateway {
    /// `None` if the module refuses the configuration.
    pub(super) fn open(text: &str) -> Option<Self> {
        // SAFETY: the texts live during the call.
        let gateway = unsafe {
            abi::envoy_dynamic_module_on_http_filter_config_new(SOME, Buffer::NONE, Buffer::new(text.as_bytes()))
        };
        (!gateway.is_null()).then_some(Self(gateway))
    }

    /// One whose thread calls the main thread; for one test, since [`commits`] counts for all.
    pub(super) fn open_with_ticker(text: &str) -> Option<Self> {
        HAS_TICKER.set(true);
        let gateway = Self::open(text);
        HAS_TICKER.set(false);
        gateway
    }

    pub(super) fn tick(&self) {
        // SAFETY: the configuration is open.
        unsafe { abi::envoy_dynamic_module_on_http_filter_config_scheduled(SOME, self.0, 0) }
    }

    /// Panics in the background work.
    pub(super) fn panic_in_background(&self) {
        // SAFETY: the configuration is open.
        let gateway = unsafe { &*self.0 };
        guard("test", || gateway.with_background(|_, _| panic!("as the test wants")), || ());
    }

    /// The requests to the control plane since the last call.
    pub(super) fn take_callouts(&self) -> Vec<Callout> {
        DOUBLE.with_borrow_mut(|double| std::mem::take(&mut double.callouts))
    }

    pub(super) fn respond(&self, callout: &Callout, status: &str, body: &[u8]) {
        let (first, second) = body.split_at(body.len() / 2);
        let fields = [Field::new(b":status", status.as_bytes())];
        let chunks = [Buffer::new(first), Buffer::new(second)];
        // SAFETY: the configuration is open, and the response lives during the call.
        unsafe {
            abi::envoy_dynamic_module_on_http_filter_config_http_callout_done(
                SOME,
                self.0,
                callout.id,
                0,
                fields.as_ptr(),
                fields.len(),
                chunks.as_ptr(),
                chunks.len(),
            );
        }
    }

    /// Sends the header fields of a request.
    pub(super) fn request(&self, fields: &[(&str, &str)]) -> (Stream, Outcome) {
        DOUBLE.with_borrow_mut(|double| {
            *double = Double {
                metrics: std::mem::take(&mut double.metrics),
                callouts: std::mem::take(&mut double.callouts),
                ..Double::default()
            };
            let owned = fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
            double.fields[0] = owned.collect();
        });
        // SAFETY: the configuration is open, and the stream is destroyed once.
        let (stream, status) = unsafe {
            let stream = abi::envoy_dynamic_module_on_http_filter_new(self.0, SOME);
            (stream, abi::envoy_dynamic_module_on_http_filter_request_headers(SOME, stream, false))
        };
        (Stream(stream), outcome(status))
    }

    /// The value of a metric.
    pub(super) fn metric(&self, name: &str) -> Option<u64> {
        DOUBLE.with_borrow(|double| double.metrics.iter().find(|(of, _)| of == name).map(|(_, value)| *value))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // SAFETY: the configuration is open.
        unsafe { abi::envoy_dynamic_module_on_http_filter_config_destroy(self.0) }
    }
}

impl Stream {
    /// How often the module wants the stream to be woken up.
    pub(super) fn wake_ups(&self) -> usize {
        DOUBLE.with_borrow(|double| double.wake_ups)
    }

    /// Wakes the stream up as Envoy does outside of decoding: a response ends the stream before the hook returns.
    pub(super) fn wake_up_and_end(self) -> Outcome {
        let stream = std::mem::ManuallyDrop::new(self);
        DOUBLE.with_borrow_mut(|double| double.ends_with_response = Some(stream.0));
        stream.wake_up()
    }

    pub(super) fn wake_up(&self) -> Outcome {
        // SAFETY: the stream is open.
        unsafe { abi::envoy_dynamic_module_on_http_filter_scheduled(SOME, self.0, 0) }
        outcome(0)
    }

    pub(super) fn body(&self) -> u32 {
        // SAFETY: the stream is open.
        unsafe { abi::envoy_dynamic_module_on_http_filter_request_body(SOME, self.0, true) }
    }

    pub(super) fn trailers(&self, fields: &[(&str, &str)]) -> (u32, Vec<(String, String)>) {
        let owned = fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        DOUBLE.with_borrow_mut(|double| double.fields[1] = owned.collect());
        // SAFETY: the stream is open.
        let status = unsafe { abi::envoy_dynamic_module_on_http_filter_request_trailers(SOME, self.0) };
        (status, DOUBLE.with_borrow(|double| texts(&double.fields[1])))
    }

    pub(super) fn response(&self, fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        DOUBLE.with_borrow_mut(|double| double.fields[2] = owned.collect());
        // SAFETY: the stream is open.
        unsafe { abi::envoy_dynamic_module_on_http_filter_response_headers(SOME, self.0, false) };
        DOUBLE.with_borrow(|double| texts(&double.fields[2]))
    }

    pub(super) fn is_continued(&self) -> bool {
        DOUBLE.with_borrow(|double| double.is_continued)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the stream is open.
        unsafe { abi::envoy_dynamic_module_on_http_filter_destroy(self.0) }
    }
}

/// The status of a request to a stream that the module could not make.
pub(super) fn request_without_stream() -> Outcome {
    DOUBLE.take();
    // SAFETY: the module has to cope with a null stream.
    outcome(unsafe { abi::envoy_dynamic_module_on_http_filter_request_headers(SOME, null(), false) })
}

/// Whether the module accepts a configuration for a route.
pub(super) fn accepts_route_configuration() -> bool {
    !abi::envoy_dynamic_module_on_http_filter_per_route_config_new(Buffer::NONE, Buffer::NONE).is_null()
}

/// How often the thread of the only configuration that has one has called the main thread.
pub(super) fn commits() -> usize {
    COMMITS.load(Ordering::Relaxed)
}

/// What was logged since the last request.
pub(super) fn logs() -> Vec<String> {
    DOUBLE.with_borrow(|double| double.logs.clone())
}

fn outcome(status: u32) -> Outcome {
    DOUBLE.with_borrow(|double| Outcome {
        status,
        answer: double.answer.clone(),
        calls: double.calls.clone(),
        fields: texts(&double.fields[0]),
        state: double.state.clone(),
    })
}

fn texts(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn text(buffer: Buffer<'_>) -> String {
    // SAFETY: the module's texts live during the call.
    String::from_utf8_lossy(unsafe { buffer.get() }).into_owned()
}

/// # Safety
///
/// The fields must live during the call.
unsafe fn pairs(fields: *const Field<'_>, count: usize) -> Vec<(String, String)> {
    if count == 0 {
        return Vec::new();
    }
    // SAFETY: as the caller says.
    let fields = unsafe { std::slice::from_raw_parts(fields, count) };
    // SAFETY: as the caller says.
    let pairs = fields.iter().map(|field| unsafe { field.get() });
    pairs.map(|(name, value)| (String::from_utf8_lossy(name).into(), String::from_utf8_lossy(value).into())).collect()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_log_v2(_level: u32, message: Buffer<'_>, _file: Buffer<'_>, _line: u32) {
    // Not counted: a request logs nothing.
    DOUBLE.with_borrow_mut(|double| double.logs.push(text(message)));
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_is_validation_mode() -> bool {
    !HAS_TICKER.get()
}

fn define(name: Buffer<'_>, id: *mut usize) -> u32 {
    called("define", |double| {
        double.metrics.push((text(name), 0));
        // SAFETY: the module waits for the id there.
        unsafe { *id = double.metrics.len() - 1 };
        0
    })
}

macro_rules! defining {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name(_config: Raw, name: Buffer<'_>, _labels: Raw, _count: usize, id: *mut usize) -> u32 {
            define(name, id)
        }
    )*};
}

defining!(
    envoy_dynamic_module_callback_http_filter_config_define_counter,
    envoy_dynamic_module_callback_http_filter_config_define_gauge,
    envoy_dynamic_module_callback_http_filter_config_define_histogram
);

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_increment_counter(
    _config: Raw,
    id: usize,
    _labels: Raw,
    _count: usize,
    by: u64,
) -> u32 {
    called("increment_counter", |double| double.metrics[id].1 += by);
    0
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_set_gauge(
    _config: Raw,
    id: usize,
    _labels: Raw,
    _count: usize,
    value: u64,
) -> u32 {
    called("set_gauge", |double| double.metrics[id].1 = value);
    0
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_record_histogram_value(
    _config: Raw,
    _id: usize,
    _labels: Raw,
    _count: usize,
    _value: u64,
) -> u32 {
    called("record_histogram_value", |_| 0)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_http_filter_config_http_callout(
    _config: Raw,
    id: *mut u64,
    _cluster: Buffer<'_>,
    fields: *const Field<'_>,
    count: usize,
    body: Buffer<'_>,
    _timeout_ms: u64,
) -> u32 {
    thread_local!(static LAST: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
    LAST.set(LAST.get() + 1);
    called("http_callout", |double| {
        // SAFETY: what the module passes lives during the call.
        let (fields, body) = unsafe {
            *id = LAST.get();
            (pairs(fields, count), body.get().to_vec())
        };
        double.callouts.push(Callout { id: LAST.get(), fields, body });
    });
    0
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_scheduler_new(_config: Raw) -> Raw {
    SOME
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_scheduler_commit(_scheduler: Raw, _event: u64) {
    COMMITS.fetch_add(1, Ordering::Relaxed);
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_scheduler_delete(_scheduler: Raw) {}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_headers_size(_filter: Raw, map: u32) -> usize {
    called("get_headers_size", |double| double.fields[map as usize].len())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_http_get_headers(
    _filter: Raw,
    map: u32,
    out: *mut Field<'_>,
) -> bool {
    called("get_headers", |double| {
        for (n, (name, value)) in double.fields[map as usize].iter().enumerate() {
            // SAFETY: the module has room for as many as it was told.
            unsafe { out.add(n).cast::<Field<'_>>().write(Field::new(name, value)) };
        }
        true
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_set_header(
    _filter: Raw,
    map: u32,
    name: Buffer<'_>,
    value: Buffer<'_>,
) -> bool {
    called("set_header", |double| {
        // SAFETY: what the module passes lives during the call.
        let (name, value) = unsafe { (name.get().to_vec(), value.get().to_vec()) };
        let fields = &mut double.fields[map as usize];
        // What the module has read must not be used again.
        fields.iter_mut().for_each(|(name, _)| *name = name.clone());
        fields.retain(|(of, _)| *of != name);
        if !value.is_empty() {
            fields.push((name, value));
        }
        true
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_add_header(
    _filter: Raw,
    map: u32,
    name: Buffer<'_>,
    value: Buffer<'_>,
) -> bool {
    called("add_header", |double| {
        // SAFETY: what the module passes lives during the call.
        let (name, value) = unsafe { (name.get().to_vec(), value.get().to_vec()) };
        let is_possible = !value.is_empty();
        if is_possible {
            double.fields[map as usize].push((name, value));
        }
        is_possible
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_callback_http_send_response(
    _filter: Raw,
    status: u32,
    fields: *const Field<'_>,
    count: usize,
    body: Buffer<'_>,
    _details: Buffer<'_>,
) {
    let ending = called("send_response", |double| {
        // SAFETY: what the module passes lives during the call.
        double.answer = Some(Answer { status, fields: unsafe { pairs(fields, count) }, body: text(body) });
        double.ends_with_response.take()
    });
    if let Some(stream) = ending {
        let dropped = DROPPED.get();
        // SAFETY: the stream is open, and destroyed once.
        unsafe { abi::envoy_dynamic_module_on_http_filter_destroy(stream) };
        assert_eq!(DROPPED.get(), dropped, "the stream lives until its hook has returned");
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_reset_stream(_filter: Raw, _reason: u32, _: Buffer<'_>) {
    called("reset_stream", |double| double.is_reset = true);
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_set_filter_state_bytes(
    _filter: Raw,
    name: Buffer<'_>,
    value: Buffer<'_>,
) -> bool {
    called("set_filter_state_bytes", |double| double.state.insert(text(name), text(value)));
    true
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_get_attribute_string(
    _filter: Raw,
    attribute: u32,
    value: *mut Buffer<'_>,
) -> bool {
    called("get_attribute_string", |_| {
        assert_eq!(attribute, 24);
        // SAFETY: the module waits for the text there.
        unsafe { *value = Buffer::new(b"192.0.2.1:1234") };
        true
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_clear_route_cache(_filter: Raw) {
    called("clear_route_cache", |_| ());
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_continue_decoding(_filter: Raw) {
    called("continue_decoding", |double| double.is_continued = true);
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_new(_filter: Raw) -> Raw {
    called("scheduler_new", |_| SOME)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_commit(_scheduler: Raw, _event: u64) {
    called("scheduler_commit", |double| double.wake_ups += 1);
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_delete(scheduler: Raw) {
    assert_ne!(scheduler, null_mut());
}
