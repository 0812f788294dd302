//! Envoy's C interface for dynamic modules, as far as this module uses it, and the only unsafe code of this host.
//!
//! Declared by hand after `source/extensions/dynamic_modules/abi/abi.h` of Envoy 1.40.0, which calls it [`VERSION`]. Envoy
//! promises that a module built for one minor version works in that one and the next. In an older Envoy the module does
//! not load, since [`envoy_dynamic_module_callback_log_v2`] is new in 1.40.
//!
//! The handles here are safe to use as long as Envoy keeps its promises: a [`Filter`] is borrowed for the duration of a
//! hook, a [`Config`] is dropped by the hook that ends it, and a scheduler is freed by its owner.
//!
//! Every hook catches panics, since none may unwind into Envoy. What panicked refuses.

#![expect(unsafe_code, reason = "a C interface")]

use crate::engine::credential::Header;
use crate::host::Level;
use crate::host::dynamic_module::gateway::{CalloutResponse, ProcessGateway};
use crate::host::dynamic_module::panics::guard;
use crate::host::dynamic_module::stream::StreamContext;
use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::{NonNull, null};
use std::rc::Rc;
use std::slice;
use std::sync::Arc;

/// The version of the interface, for which Envoy asks.
pub(super) const VERSION: &CStr = c"v0.2.0";

/// Bytes of either side. What Envoy hands out is valid until the hook returns, and until a header field changes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Buffer<'a> {
    data: *const u8,
    length: usize,
    of: PhantomData<&'a [u8]>,
}

/// A header field of either side, under the same rules.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    name: *const u8,
    name_length: usize,
    value: *const u8,
    value_length: usize,
    of: PhantomData<&'a [u8]>,
}

impl<'a> Buffer<'a> {
    pub(super) const NONE: Self = Self { data: null(), length: 0, of: PhantomData };

    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { data: bytes.as_ptr(), length: bytes.len(), of: PhantomData }
    }

    /// # Safety
    ///
    /// The bytes must be valid for `'a`.
    pub(super) unsafe fn get(self) -> &'a [u8] {
        // SAFETY: as the caller says.
        unsafe { bytes(self.data, self.length) }
    }
}

impl<'a> Field<'a> {
    pub(super) const fn new(name: &'a [u8], value: &'a [u8]) -> Self {
        Self {
            name: name.as_ptr(),
            name_length: name.len(),
            value: value.as_ptr(),
            value_length: value.len(),
            of: PhantomData,
        }
    }

    /// # Safety
    ///
    /// The field must be valid for `'a`.
    pub(super) unsafe fn get(&self) -> (&'a [u8], &'a [u8]) {
        // SAFETY: as the caller says.
        unsafe { (bytes(self.name, self.name_length), bytes(self.value, self.value_length)) }
    }
}

/// # Safety
///
/// The bytes must be valid for `'a`.
unsafe fn bytes<'a>(data: *const u8, length: usize) -> &'a [u8] {
    // SAFETY: as the caller says.
    if data.is_null() { &[] } else { unsafe { slice::from_raw_parts(data, length) } }
}

/// # Safety
///
/// The elements must be valid for `'a`.
unsafe fn elements<'a, T>(first: *const T, count: usize) -> &'a [T] {
    // SAFETY: as the caller says.
    if first.is_null() { &[] } else { unsafe { slice::from_raw_parts(first, count) } }
}

/// A pointer that only Envoy understands.
pub(super) type Raw = *mut c_void;

unsafe extern "C" {
    fn envoy_dynamic_module_callback_log_v2(level: u32, message: Buffer<'_>, file: Buffer<'_>, line: u32);
    safe fn envoy_dynamic_module_callback_is_validation_mode() -> bool;

    fn envoy_dynamic_module_callback_http_filter_config_define_counter(
        config: Raw,
        name: Buffer<'_>,
        labels: *const Buffer<'_>,
        labels_count: usize,
        id: *mut usize,
    ) -> u32;
    fn envoy_dynamic_module_callback_http_filter_config_define_gauge(
        config: Raw,
        name: Buffer<'_>,
        labels: *const Buffer<'_>,
        labels_count: usize,
        id: *mut usize,
    ) -> u32;
    fn envoy_dynamic_module_callback_http_filter_config_define_histogram(
        config: Raw,
        name: Buffer<'_>,
        labels: *const Buffer<'_>,
        labels_count: usize,
        id: *mut usize,
    ) -> u32;
    fn envoy_dynamic_module_callback_http_filter_config_increment_counter(
        config: Raw,
        id: usize,
        labels: *const Buffer<'_>,
        labels_count: usize,
        by: u64,
    ) -> u32;
    fn envoy_dynamic_module_callback_http_filter_config_set_gauge(
        config: Raw,
        id: usize,
        labels: *const Buffer<'_>,
        labels_count: usize,
        value: u64,
    ) -> u32;
    fn envoy_dynamic_module_callback_http_filter_config_record_histogram_value(
        config: Raw,
        id: usize,
        labels: *const Buffer<'_>,
        labels_count: usize,
        value: u64,
    ) -> u32;
    fn envoy_dynamic_module_callback_http_filter_config_http_callout(
        config: Raw,
        id: *mut u64,
        cluster: Buffer<'_>,
        fields: *const Field<'_>,
        fields_count: usize,
        body: Buffer<'_>,
        timeout_ms: u64,
    ) -> u32;
    fn envoy_dynamic_module_callback_http_filter_config_scheduler_new(config: Raw) -> Raw;
    fn envoy_dynamic_module_callback_http_filter_config_scheduler_commit(scheduler: Raw, event: u64);
    fn envoy_dynamic_module_callback_http_filter_config_scheduler_delete(scheduler: Raw);

    fn envoy_dynamic_module_callback_http_get_headers_size(filter: Raw, map: u32) -> usize;
    fn envoy_dynamic_module_callback_http_get_headers(filter: Raw, map: u32, fields: *mut Field<'_>) -> bool;
    fn envoy_dynamic_module_callback_http_set_header(
        filter: Raw,
        map: u32,
        name: Buffer<'_>,
        value: Buffer<'_>,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_add_header(
        filter: Raw,
        map: u32,
        name: Buffer<'_>,
        value: Buffer<'_>,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_send_response(
        filter: Raw,
        status: u32,
        fields: *const Field<'_>,
        fields_count: usize,
        body: Buffer<'_>,
        details: Buffer<'_>,
    );
    fn envoy_dynamic_module_callback_http_filter_reset_stream(filter: Raw, reason: u32, details: Buffer<'_>);
    fn envoy_dynamic_module_callback_http_set_filter_state_bytes(
        filter: Raw,
        name: Buffer<'_>,
        value: Buffer<'_>,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_filter_get_attribute_string(
        filter: Raw,
        attribute: u32,
        value: *mut Buffer<'_>,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_clear_route_cache(filter: Raw);
    fn envoy_dynamic_module_callback_http_filter_continue_decoding(filter: Raw);
    fn envoy_dynamic_module_callback_http_filter_scheduler_new(filter: Raw) -> Raw;
    fn envoy_dynamic_module_callback_http_filter_scheduler_commit(scheduler: Raw, event: u64);
    fn envoy_dynamic_module_callback_http_filter_scheduler_delete(scheduler: Raw);
}

/// Which header fields, in the order of `envoy_dynamic_module_type_http_header_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldMap {
    RequestHeaders = 0,
    RequestTrailers = 1,
    ResponseHeaders = 2,
}

/// What `envoy_dynamic_module_on_http_filter_request_headers` returns, as far as it is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadersStatus {
    Continue = 0,
    StopIteration = 1,
    /// Body and trailers wait as well, in Envoy's buffers.
    StopAllIterationAndWatermark = 4,
}

/// What `envoy_dynamic_module_on_http_filter_request_body` returns, as far as it is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyStatus {
    Continue = 0,
    StopIterationNoBuffer = 3,
}

/// What `envoy_dynamic_module_on_http_filter_request_trailers` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TrailersStatus {
    Continue = 0,
    StopIteration = 1,
}

/// `envoy_dynamic_module_type_attribute_id_SourceAddress`.
const SOURCE_ADDRESS: u32 = 24;

/// `envoy_dynamic_module_type_http_filter_stream_reset_reason_LocalReset`.
const LOCAL_RESET: u32 = 0;

/// The result of a call that has succeeded.
const SUCCESS: u32 = 0;

/// Logs a line with Envoy's logger `dynamic_modules`.
pub(super) fn log(level: Level, message: &str) {
    let level = match level {
        Level::Info => 2,
        Level::Warn => 3,
        Level::Error => 4,
    };
    // SAFETY: Envoy only reads the texts, during the call.
    unsafe { envoy_dynamic_module_callback_log_v2(level, Buffer::new(message.as_bytes()), Buffer::NONE, 0) }
}

/// Whether Envoy only validates its configuration.
pub(super) fn is_validation_mode() -> bool {
    envoy_dynamic_module_callback_is_validation_mode()
}

/// Envoy's side of a filter configuration. It stays on the main thread, where Envoy made it.
#[derive(Debug)]
pub(super) struct Config(Raw);

/// The sorts of metrics.
#[derive(Clone, Copy, Debug)]
pub(super) enum Metric {
    Counter,
    Gauge,
    Histogram,
}

impl Config {
    /// Defines a metric without labels; only while the configuration is being made.
    pub(super) fn define(&self, metric: Metric, name: &str) -> Option<usize> {
        let define = match metric {
            Metric::Counter => envoy_dynamic_module_callback_http_filter_config_define_counter,
            Metric::Gauge => envoy_dynamic_module_callback_http_filter_config_define_gauge,
            Metric::Histogram => envoy_dynamic_module_callback_http_filter_config_define_histogram,
        };
        let mut id = 0;
        // SAFETY: the configuration lives, and Envoy copies the name.
        let result = unsafe { define(self.0, Buffer::new(name.as_bytes()), null(), 0, &raw mut id) };
        (result == SUCCESS).then_some(id)
    }

    /// Adds to a counter, sets a gauge, or records a value in a histogram.
    pub(super) fn record(&self, metric: Metric, id: usize, value: u64) {
        let record = match metric {
            Metric::Counter => envoy_dynamic_module_callback_http_filter_config_increment_counter,
            Metric::Gauge => envoy_dynamic_module_callback_http_filter_config_set_gauge,
            Metric::Histogram => envoy_dynamic_module_callback_http_filter_config_record_histogram_value,
        };
        // SAFETY: the configuration lives; an id that it does not have is an error without effect.
        let _ = unsafe { record(self.0, id, null(), 0, value) };
    }

    /// Sends a request, and returns the id with which its response arrives; `None` if it cannot be sent.
    pub(super) fn call(&self, cluster: &str, fields: &[(&str, &str)], body: &[u8], timeout_ms: u64) -> Option<u64> {
        let fields: Vec<_> = fields.iter().map(|(name, value)| Field::new(name.as_bytes(), value.as_bytes())).collect();
        let mut id = 0;
        // SAFETY: the configuration lives, and Envoy copies what it is given.
        let result = unsafe {
            envoy_dynamic_module_callback_http_filter_config_http_callout(
                self.0,
                &raw mut id,
                Buffer::new(cluster.as_bytes()),
                fields.as_ptr(),
                fields.len(),
                Buffer::new(body),
                timeout_ms,
            )
        };
        (result == SUCCESS).then_some(id)
    }

    /// A scheduler that wakes up the main thread.
    pub(super) fn scheduler(&self) -> Option<Scheduler> {
        // SAFETY: the configuration lives.
        let scheduler = unsafe { envoy_dynamic_module_callback_http_filter_config_scheduler_new(self.0) };
        NonNull::new(scheduler).map(|of_envoy| Scheduler {
            of_envoy,
            commit: envoy_dynamic_module_callback_http_filter_config_scheduler_commit,
            delete: envoy_dynamic_module_callback_http_filter_config_scheduler_delete,
        })
    }
}

/// Wakes up the main thread, where the tick of a configuration follows, or a stream on its worker. That of a configuration must
/// not outlive it; that of a stream is ignored once the stream has ended.
#[derive(Debug)]
pub(super) struct Scheduler {
    of_envoy: NonNull<c_void>,
    commit: unsafe extern "C" fn(Raw, u64),
    delete: unsafe extern "C" fn(Raw),
}

// SAFETY: Envoy allows a commit from any thread, and the owner frees the scheduler once.
unsafe impl Send for Scheduler {}

impl Scheduler {
    pub(super) fn commit(&self) {
        // SAFETY: the scheduler is freed on drop only.
        unsafe { (self.commit)(self.of_envoy.as_ptr(), 0) }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        unsafe { (self.delete)(self.of_envoy.as_ptr()) }
    }
}

/// Envoy's side of a stream, during a hook.
#[derive(Debug)]
pub(super) struct Filter(Raw);

/// Header fields, copied: a change would invalidate what lies in Envoy's memory.
#[derive(Debug, Default)]
pub(super) struct Fields {
    bytes: Vec<u8>,
    /// The lengths of each name and value.
    lengths: Vec<(usize, usize)>,
}

impl Fields {
    /// The fields; `None` if a name is not text.
    pub(super) fn get(&self) -> Option<Vec<Header<'_>>> {
        let mut rest = self.bytes.as_slice();
        let mut fields = Vec::with_capacity(self.lengths.len());
        for (name_length, value_length) in &self.lengths {
            let (name, after) = rest.split_at_checked(*name_length)?;
            let (value, after) = after.split_at_checked(*value_length)?;
            fields.push((std::str::from_utf8(name).ok()?, value));
            rest = after;
        }
        Some(fields)
    }
}

impl Filter {
    /// Reads header fields into `fields`, whose memory is used again; returns whether there are any.
    pub(super) fn read(&self, map: FieldMap, fields: &mut Fields) -> bool {
        /// As many as most requests have lie on the stack.
        const FEW: usize = 48;
        fields.bytes.clear();
        fields.lengths.clear();
        // SAFETY: the stream lives during the hook.
        let count = unsafe { envoy_dynamic_module_callback_http_get_headers_size(self.0, map as u32) };
        let mut few = [const { MaybeUninit::<Field<'_>>::uninit() }; FEW];
        let mut many = Vec::new();
        let room = match few.get_mut(..count) {
            Some(room) => room,
            None => {
                many.resize_with(count, MaybeUninit::uninit);
                many.as_mut_slice()
            }
        };
        // SAFETY: there is room for as many as Envoy has just counted.
        let is_read =
            unsafe { envoy_dynamic_module_callback_http_get_headers(self.0, map as u32, room.as_mut_ptr().cast()) };
        if !is_read {
            return false;
        }
        for field in room {
            // SAFETY: Envoy has written all of them, and no field has changed since.
            let (name, value) = unsafe { field.assume_init_ref().get() };
            fields.bytes.extend_from_slice(name);
            fields.bytes.extend_from_slice(value);
            fields.lengths.push((name.len(), value.len()));
        }
        true
    }

    /// Replaces all fields of this name by one, or removes them if the value is empty; returns whether that was done.
    pub(super) fn set(&self, map: FieldMap, name: &str, value: &[u8]) -> bool {
        let (name, value) = (Buffer::new(name.as_bytes()), Buffer::new(value));
        // SAFETY: the stream lives during the hook, and Envoy copies the texts.
        unsafe { envoy_dynamic_module_callback_http_set_header(self.0, map as u32, name, value) }
    }

    /// Adds a field, whose value must not be empty; returns whether that was done.
    pub(super) fn add(&self, map: FieldMap, name: &str, value: &[u8]) -> bool {
        let (name, value) = (Buffer::new(name.as_bytes()), Buffer::new(value));
        // SAFETY: the stream lives during the hook, and Envoy copies the texts.
        unsafe { envoy_dynamic_module_callback_http_add_header(self.0, map as u32, name, value) }
    }

    /// Has Envoy select the route again.
    pub(super) fn clear_route_cache(&self) {
        // SAFETY: the stream lives during the hook.
        unsafe { envoy_dynamic_module_callback_http_clear_route_cache(self.0) }
    }

    /// Sets a text in the stream's filter state; returns whether that was done.
    pub(super) fn set_state(&self, name: &str, value: &[u8]) -> bool {
        let (name, value) = (Buffer::new(name.as_bytes()), Buffer::new(value));
        // SAFETY: the stream lives during the hook, and Envoy copies the texts.
        unsafe { envoy_dynamic_module_callback_http_set_filter_state_bytes(self.0, name, value) }
    }

    /// Answers the request. To a gRPC request, Envoy answers with the field `grpc-status`, which must be there then, and
    /// with the body as `grpc-message`.
    pub(super) fn respond(&self, status: u32, fields: &[(&str, &str)], body: &str, details: &str) {
        let fields: Vec<_> = fields.iter().map(|(name, value)| Field::new(name.as_bytes(), value.as_bytes())).collect();
        // SAFETY: the stream lives during the hook, and Envoy copies what it is given.
        unsafe {
            envoy_dynamic_module_callback_http_send_response(
                self.0,
                status,
                fields.as_ptr(),
                fields.len(),
                Buffer::new(body.as_bytes()),
                Buffer::new(details.as_bytes()),
            );
        }
    }

    /// Resets the stream.
    pub(super) fn reset(&self, details: &str) {
        // SAFETY: the stream lives during the hook, and Envoy copies the text.
        unsafe {
            envoy_dynamic_module_callback_http_filter_reset_stream(
                self.0,
                LOCAL_RESET,
                Buffer::new(details.as_bytes()),
            );
        }
    }

    /// Hands over the client's address with its port, by Envoy's settings for proxies.
    pub(super) fn source_address<T>(&self, read: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        let mut address = Buffer::NONE;
        // SAFETY: the stream lives during the hook.
        let is_known = unsafe {
            envoy_dynamic_module_callback_http_filter_get_attribute_string(self.0, SOURCE_ADDRESS, &raw mut address)
        };
        // SAFETY: what Envoy hands out is valid during the hook, in which nothing changes before it is read.
        if is_known { read(unsafe { address.get() }) } else { None }
    }

    /// Lets a request that waits continue.
    pub(super) fn continue_decoding(&self) {
        // SAFETY: the stream lives during the hook.
        unsafe { envoy_dynamic_module_callback_http_filter_continue_decoding(self.0) }
    }

    /// A scheduler that wakes up the stream.
    pub(super) fn scheduler(&self) -> Option<Scheduler> {
        // SAFETY: the stream lives during the hook.
        let scheduler = unsafe { envoy_dynamic_module_callback_http_filter_scheduler_new(self.0) };
        NonNull::new(scheduler).map(|of_envoy| Scheduler {
            of_envoy,
            commit: envoy_dynamic_module_callback_http_filter_scheduler_commit,
            delete: envoy_dynamic_module_callback_http_filter_scheduler_delete,
        })
    }
}

// The hooks that Envoy calls. It passes back the pointers that the first two of them have returned.

#[unsafe(no_mangle)]
pub(super) extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    guard("program_init", crate::host::dynamic_module::panics::log_briefly, || ());
    VERSION.as_ptr()
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    config: Raw,
    _name: Buffer<'_>,
    text: Buffer<'_>,
) -> *const ProcessGateway {
    // SAFETY: the text is valid during the hook.
    let text = unsafe { text.get() };
    let gateway = guard("config_new", || ProcessGateway::open(Config(config), text), || None);
    gateway.map_or(null(), Arc::into_raw)
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(gateway: *const ProcessGateway) {
    if gateway.is_null() {
        return;
    }
    // SAFETY: Envoy gives back what `config_new` has returned, once.
    let gateway = unsafe { Arc::from_raw(gateway) };
    guard("config_destroy", || gateway.close(), || ());
}

/// Per-route configurations are refused rather than ignored.
#[unsafe(no_mangle)]
pub(super) extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_new(
    _name: Buffer<'_>,
    _config: Buffer<'_>,
) -> *const c_void {
    guard(
        "per_route_config_new",
        || log(Level::Error, "keyward: expected no configuration for a route; the filter's rules select by path"),
        || (),
    );
    null()
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_destroy(_config: *const c_void) {}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_scheduled(
    _config: Raw,
    gateway: *const ProcessGateway,
    _event: u64,
) {
    // SAFETY: Envoy keeps the configuration during the hook.
    if let Some(gateway) = unsafe { gateway.as_ref() } {
        guard("config_scheduled", || gateway.tick(), || ());
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_http_callout_done(
    _config: Raw,
    gateway: *const ProcessGateway,
    callout: u64,
    result: u32,
    fields: *const Field<'_>,
    fields_count: usize,
    chunks: *const Buffer<'_>,
    chunks_count: usize,
) {
    // SAFETY: Envoy keeps the configuration during the hook.
    let Some(gateway) = (unsafe { gateway.as_ref() }) else { return };
    // SAFETY: the response is valid during the hook.
    let (fields, chunks) = unsafe { (elements(fields, fields_count), elements(chunks, chunks_count)) };
    let hook = || {
        let response = CalloutResponse {
            exists: result == SUCCESS,
            // SAFETY: the response is valid during the hook.
            fields: fields.iter().map(|field| unsafe { field.get() }).collect(),
            // SAFETY: the response is valid during the hook.
            chunks: chunks.iter().map(|chunk| unsafe { chunk.get() }).collect(),
        };
        gateway.on_response(callout, &response);
    };
    guard("config_http_callout_done", hook, || ());
}

/// The returned stream is null if this panics, and Envoy then answers with 500.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_new(
    gateway: *const ProcessGateway,
    _filter: Raw,
) -> *const StreamContext {
    if gateway.is_null() {
        return null();
    }
    // SAFETY: Envoy keeps the configuration longer than its streams; the count of owners is left as it is.
    let gateway = ManuallyDrop::new(unsafe { Arc::from_raw(gateway) });
    let stream = guard("filter_new", || StreamContext::new(&gateway).map(Rc::new), || None);
    stream.map_or(null(), Rc::into_raw)
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_destroy(stream: *const StreamContext) {
    if !stream.is_null() {
        // SAFETY: Envoy gives back what `filter_new` has returned, once. A hook that is running has an owner of its own.
        let stream = unsafe { Rc::from_raw(stream) };
        guard("destroy", || drop(stream), || ());
    }
}

/// Runs a hook of a stream. One that panics answers with 503; without a stream, all are answered so.
///
/// # Safety
///
/// The pointers must be those that Envoy passes to a hook.
unsafe fn on_stream<T>(
    name: &str,
    filter: Raw,
    stream: *const StreamContext,
    hook: impl FnOnce(&StreamContext, &Filter) -> T,
    refused: T,
) -> T {
    let filter = Filter(filter);
    // SAFETY: Envoy has not destroyed the stream yet.
    let Some(stream) = (unsafe { owner_of(stream) }) else {
        guard(name, || StreamContext::refuse_all(&filter), || ());
        return refused;
    };
    let result = match guard(name, || Some(hook(&stream, &filter)), || None) {
        Some(result) => result,
        None => {
            guard(name, || stream.on_panic(&filter), || ());
            refused
        }
    };
    guard(name, || drop(stream), || ());
    result
}

/// An owner of a stream for the time of a hook: a response that is sent outside of decoding has Envoy destroy the stream before
/// the hook returns. `None` for null.
///
/// # Safety
///
/// The pointer must be one that `filter_new` has returned and Envoy has not destroyed.
unsafe fn owner_of(stream: *const StreamContext) -> Option<Rc<StreamContext>> {
    if stream.is_null() {
        return None;
    }
    // SAFETY: Envoy's own count keeps it, to which this adds one.
    unsafe {
        Rc::increment_strong_count(stream);
        Some(Rc::from_raw(stream))
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(
    filter: Raw,
    stream: *const StreamContext,
    _end_of_stream: bool,
) -> u32 {
    // SAFETY: the pointers are Envoy's.
    unsafe {
        on_stream("request_headers", filter, stream, StreamContext::on_request_headers, HeadersStatus::StopIteration)
            as u32
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_body(
    filter: Raw,
    stream: *const StreamContext,
    _end_of_stream: bool,
) -> u32 {
    // SAFETY: the pointers are Envoy's.
    unsafe {
        on_stream("request_body", filter, stream, StreamContext::on_request_body, BodyStatus::StopIterationNoBuffer)
            as u32
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_trailers(
    filter: Raw,
    stream: *const StreamContext,
) -> u32 {
    // SAFETY: the pointers are Envoy's.
    unsafe {
        on_stream("request_trailers", filter, stream, StreamContext::on_request_trailers, TrailersStatus::StopIteration)
            as u32
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_headers(
    filter: Raw,
    stream: *const StreamContext,
    _end_of_stream: bool,
) -> u32 {
    // SAFETY: Envoy has not destroyed the stream yet.
    if let Some(stream) = unsafe { owner_of(stream) } {
        // The response is not the filter's: a panic leaves it as it is.
        guard("response_headers", || stream.on_response_headers(&Filter(filter)), || ());
        guard("response_headers", || drop(stream), || ());
    }
    HeadersStatus::Continue as u32
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_scheduled(
    filter: Raw,
    stream: *const StreamContext,
    _event: u64,
) {
    // SAFETY: the pointers are Envoy's.
    unsafe { on_stream("scheduled", filter, stream, StreamContext::on_scheduled, ()) }
}

// Without these, Envoy rejects the configuration. They have nothing to do.

#[unsafe(no_mangle)]
pub(super) extern "C" fn envoy_dynamic_module_on_http_filter_response_body(
    _: Raw,
    _: Raw,
    _end_of_stream: bool,
) -> u32 {
    BodyStatus::Continue as u32
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn envoy_dynamic_module_on_http_filter_response_trailers(_: Raw, _: Raw) -> u32 {
    TrailersStatus::Continue as u32
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn envoy_dynamic_module_on_http_filter_stream_complete(_: Raw, _: Raw) {}

#[unsafe(no_mangle)]
pub(super) extern "C" fn envoy_dynamic_module_on_http_filter_http_callout_done(
    _: Raw,
    _: Raw,
    _callout: u64,
    _result: u32,
    _fields: Raw,
    _fields_count: usize,
    _chunks: Raw,
    _chunks_count: usize,
) {
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_headers(
    _: Raw,
    _: Raw,
    _id: u64,
    _fields: Raw,
    _fields_count: usize,
    _end_of_stream: bool,
) {
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_data(
    _: Raw,
    _: Raw,
    _id: u64,
    _chunks: Raw,
    _chunks_count: usize,
    _end_of_stream: bool,
) {
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_trailers(
    _: Raw,
    _: Raw,
    _id: u64,
    _fields: Raw,
    _fields_count: usize,
) {
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_complete(_: Raw, _: Raw, _id: u64) {}

#[unsafe(no_mangle)]
pub(super) extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_reset(_: Raw, _: Raw, _id: u64, _reason: u32) {
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(
    _: Raw,
    _: Raw,
) {
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(
    _: Raw,
    _: Raw,
) {
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{align_of, offset_of, size_of};

    /// Two pointers' worth of `const char* ptr; size_t length`, passed by value in two registers.
    #[test]
    fn buffer_has_the_layout_of_the_header() {
        assert_eq!((size_of::<Buffer<'_>>(), align_of::<Buffer<'_>>()), (16, 8));
        assert_eq!((offset_of!(Buffer<'_>, data), offset_of!(Buffer<'_>, length)), (0, 8));
    }

    /// `key_ptr`, `key_length`, `value_ptr`, `value_length`.
    #[test]
    fn field_has_the_layout_of_the_header() {
        assert_eq!((size_of::<Field<'_>>(), align_of::<Field<'_>>()), (32, 8));
        assert_eq!((offset_of!(Field<'_>, name), offset_of!(Field<'_>, name_length)), (0, 8));
        assert_eq!((offset_of!(Field<'_>, value), offset_of!(Field<'_>, value_length)), (16, 24));
    }

    #[test]
    fn enums_have_the_values_of_the_header() {
        assert_eq!(
            [FieldMap::RequestHeaders, FieldMap::RequestTrailers, FieldMap::ResponseHeaders].map(|map| map as u32),
            [0, 1, 2]
        );
        assert_eq!(
            [HeadersStatus::Continue, HeadersStatus::StopIteration, HeadersStatus::StopAllIterationAndWatermark]
                .map(|status| status as u32),
            [0, 1, 4]
        );
        assert_eq!([BodyStatus::Continue, BodyStatus::StopIterationNoBuffer].map(|status| status as u32), [0, 3]);
        assert_eq!([TrailersStatus::Continue, TrailersStatus::StopIteration].map(|status| status as u32), [0, 1]);
        assert_eq!(VERSION, c"v0.2.0");
    }

    #[test]
    fn copied_fields_are_read_back() {
        let fields = Fields { bytes: b":path/a".to_vec(), lengths: vec![(5, 2), (0, 0)] };
        assert_eq!(fields.get(), Some(vec![(":path", &b"/a"[..]), ("", &b""[..])]));
        let not_text = Fields { bytes: vec![0xff], lengths: vec![(1, 0)] };
        assert_eq!(not_text.get(), None);
    }
}
