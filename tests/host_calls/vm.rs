//! The built filter in a VM with a fake Envoy, which counts every host call of the filter, every callback into it, and
//! the WebAssembly instructions that it executes.
//!
//! Callbacks follow Envoy's (`proxy-wasm-cpp-host`, `src/context.cc`; Envoy,
//! `source/extensions/common/wasm/context.cc`): a callback is made only if the module exports it, and otherwise Envoy's
//! default result applies.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::OnceLock;
use wasmtime::{
    Caller, Config, Engine, Extern, ExternType, Func, Instance, Linker, Memory, Module, Store, Strategy, Val,
};

/// A filter, started and configured as Envoy does it.
pub(crate) struct Vm {
    store: Store<Host>,
    instance: Instance,
    root: i32,
    next_context: i32,
}

/// The state of the fake Envoy.
#[derive(Default)]
struct Host {
    configuration: Vec<u8>,
    environment: Vec<u8>,
    monotonic_ns: u64,
    wall_ns: u64,
    shared: HashMap<Vec<u8>, (Vec<u8>, u32)>,
    next_tag: u32,
    /// The headers of each stream, and the stream whose headers were last given or set.
    headers: HashMap<i32, Vec<Pair>>,
    last_stream: i32,
    /// The only property; empty for none.
    client: Vec<u8>,
    callout_status: Vec<u8>,
    callout_body: Vec<u8>,
    properties: BTreeMap<String, String>,
    sent: Vec<Callout>,
    callouts: i32,
    refuses_calls: bool,
    effective_context: i32,
    continued: Vec<i32>,
    answer: Option<(i32, Vec<u8>)>,
    calls: BTreeMap<String, usize>,
    callbacks: BTreeMap<String, usize>,
    log: Vec<String>,
}

type Pair = (Vec<u8>, Vec<u8>);

/// A request sent by the filter.
#[derive(Clone, Debug)]
pub(crate) struct Callout {
    pub(crate) number: i32,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// The outcome of a request.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The local response; `None` if the request was forwarded.
    pub(crate) answer: Option<(i32, String)>,
    /// The request's headers as the upstream would receive them.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) properties: BTreeMap<String, String>,
    /// The streams that were resumed after waiting.
    pub(crate) continued: Vec<i32>,
    /// The number of calls of each host function.
    pub(crate) calls: BTreeMap<String, usize>,
    /// The number of calls of each export of the filter.
    pub(crate) callbacks: BTreeMap<String, usize>,
    /// The number of WebAssembly instructions executed, as wasmtime counts fuel.
    pub(crate) instructions: u64,
}

const OK: i32 = 0;
const NOT_FOUND: i32 = 1;
const BAD_ARGUMENT: i32 = 2;
const CAS_MISMATCH: i32 = 8;
/// The context of the first configuration.
pub(crate) const ROOT: i32 = 1;

struct Filter {
    module: Module,
    toolchain: String,
}

/// The built filter, compiled once per process; the variant for response headers if the configuration needs it.
fn filter(configuration: &str) -> &'static Filter {
    static FILTERS: [OnceLock<Filter>; 2] = [const { OnceLock::new() }; 2];
    let changes_responses = configuration.contains(r#""always""#);
    FILTERS[usize::from(changes_responses)].get_or_init(|| {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/wasm32-wasip1/release/keyward_filter.wasm");
        let mut path = std::env::var_os("KEYWARD_WASM").map_or(built, Into::into);
        if changes_responses {
            path.set_file_name("keyward_filter_response_headers.wasm");
        }
        let wasm = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `make build`", path.display()));
        let mut config = Config::new();
        // Winch's code is slower than Cranelift's but is compiled sooner, which matters in a test.
        config.strategy(Strategy::Winch).consume_fuel(true);
        let module = Engine::new(&config).and_then(|engine| Module::new(&engine, &wasm)).expect("a module");
        Filter { module, toolchain: toolchain(&wasm) }
    })
}

impl Vm {
    pub(crate) fn start(configuration: &str, environment: &[(&str, &str)]) -> Self {
        let (vm, configured) = Self::configured(configuration, environment);
        assert!(configured, "{:?}", vm.log());
        vm
    }

    /// The log of a filter that rejects its configuration.
    pub(crate) fn refused(configuration: &str, environment: &[(&str, &str)]) -> Vec<String> {
        let (vm, configured) = Self::configured(configuration, environment);
        assert!(!configured, "{:?}", vm.log());
        vm.log().to_vec()
    }

    /// A filter, and whether it accepts its configuration.
    fn configured(configuration: &str, environment: &[(&str, &str)]) -> (Self, bool) {
        let module = &filter(configuration).module;
        let engine = module.engine();
        let host = Host {
            configuration: configuration.as_bytes().to_vec(),
            environment: environment
                .iter()
                .flat_map(|(name, value)| format!("{name}={value}\0").into_bytes())
                .collect(),
            monotonic_ns: 1_000_000_000,
            wall_ns: 1_800_000_000_000_000_000,
            ..Host::default()
        };
        let mut store = Store::new(engine, host);
        store.set_fuel(u64::MAX).expect("fuel is counted");
        let mut linker: Linker<Host> = Linker::new(engine);
        for import in module.imports() {
            let ExternType::Func(ty) = import.ty() else { panic!("{} is not a function", import.name()) };
            let name = import.name().to_owned();
            let returns = ty.results().len() > 0;
            linker
                .func_new(
                    import.module(),
                    import.name(),
                    ty.clone(),
                    move |mut caller: Caller<'_, Host>, arguments, results| {
                        *caller.data_mut().calls.entry(name.clone()).or_default() += 1;
                        let arguments: Vec<i64> = arguments.iter().map(number).collect();
                        let result = host_call(&mut caller, &name, &arguments);
                        if returns {
                            results[0] = Val::I32(result);
                        }
                        Ok(())
                    },
                )
                .expect("an import");
        }
        let instance = linker.instantiate(&mut store, module).expect("an instance");
        let mut vm = Self { store, instance, root: ROOT, next_context: ROOT + 1 };
        vm.call("_initialize", &[]);
        let configured = vm.configure();
        (vm, configured)
    }

    /// Whether a new root context accepts the configuration.
    fn configure(&mut self) -> bool {
        let root = self.root;
        self.call("proxy_on_context_create", &[root, 0]);
        assert_ne!(self.call("proxy_on_vm_start", &[root, 0]), Some(0), "{:?}", self.log());
        let length = i32::try_from(self.store.data().configuration.len()).unwrap();
        self.call("proxy_on_configure", &[root, length]) != Some(0)
    }

    /// Replaces the listener: a new root context in the same VM, and the old one is destroyed without responses to its
    /// callouts.
    pub(crate) fn replace_listener(&mut self) {
        let old = std::mem::replace(&mut self.root, self.next_context);
        self.next_context += 1;
        assert!(self.configure(), "{:?}", self.log());
        assert_ne!(self.call("proxy_on_done", &[old]), Some(0));
        self.call("proxy_on_delete", &[old]);
    }

    pub(crate) fn tick(&mut self) {
        self.call("proxy_on_tick", &[self.root]);
    }

    /// Ticks as Envoy does during this time.
    pub(crate) fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms / 25 {
            let host = self.store.data_mut();
            host.monotonic_ns += 25_000_000;
            host.wall_ns += 25_000_000;
            self.tick();
        }
    }

    /// The effect of a tick on streams.
    pub(crate) fn tick_with_outcome(&mut self) -> Outcome {
        self.forget();
        self.tick();
        self.outcome()
    }

    /// The effect of the ticks during this time.
    pub(crate) fn run_ms_with_outcome(&mut self, ms: u64) -> Outcome {
        self.forget();
        self.run_ms(ms);
        self.outcome()
    }

    /// Rejects all callouts from now on, as if the cluster did not exist.
    pub(crate) fn refuse_calls(&mut self) {
        self.store.data_mut().refuses_calls = true;
    }

    /// Delivers the failure of a callout.
    pub(crate) fn fail_callout(&mut self, number: i32) -> Outcome {
        self.forget();
        self.call("proxy_on_http_call_response", &[self.root, number, 0, 0, 0]);
        self.outcome()
    }

    /// The requests that the filter has sent since the last call.
    pub(crate) fn sent(&mut self) -> Vec<Callout> {
        std::mem::take(&mut self.store.data_mut().sent)
    }

    /// Delivers the response to a callout; returns the effect on the streams that waited for it.
    pub(crate) fn answer_callout(&mut self, number: i32, status: &str, body: &[u8]) -> Outcome {
        self.forget();
        let host = self.store.data_mut();
        host.callout_status = status.as_bytes().to_vec();
        host.callout_body = body.to_vec();
        let length = i32::try_from(body.len()).unwrap();
        self.call("proxy_on_http_call_response", &[self.root, number, 1, length, 0]);
        self.outcome()
    }

    pub(crate) fn request(&mut self, headers: &[(&str, &str)]) -> Outcome {
        self.stream("proxy_on_request_headers", headers)
    }

    /// The upstream's response to such a request, as the client would receive it.
    pub(crate) fn answer(&mut self, headers: &[(&str, &str)], answer: &[(&str, &str)]) -> Outcome {
        let context = self.begin("proxy_on_request_headers", headers);
        self.answer_to(context, answer)
    }

    /// The response to an open request, which is closed afterwards.
    pub(crate) fn answer_to(&mut self, context: i32, answer: &[(&str, &str)]) -> Outcome {
        self.forget();
        let host = self.store.data_mut();
        (host.effective_context, host.last_stream) = (context, context);
        host.headers.insert(context, pairs(answer));
        let count = i32::try_from(answer.len()).unwrap();
        self.call("proxy_on_response_headers", &[context, count, 1]);
        self.close(context);
        self.outcome()
    }

    /// Sets the address of clients from now on.
    pub(crate) fn set_client(&mut self, address: &str) {
        self.store.data_mut().client = address.as_bytes().to_vec();
    }

    /// A stream with only its trailers passed to the filter.
    pub(crate) fn trailers(&mut self, trailers: &[(&str, &str)]) -> Outcome {
        self.stream("proxy_on_request_trailers", trailers)
    }

    fn stream(&mut self, callback: &str, headers: &[(&str, &str)]) -> Outcome {
        let context = self.begin(callback, headers);
        self.close(context);
        self.outcome()
    }

    /// Opens a request; returns its context.
    pub(crate) fn open(&mut self, headers: &[(&str, &str)]) -> (i32, Outcome) {
        let context = self.begin("proxy_on_request_headers", headers);
        (context, self.outcome())
    }

    /// Whether the filter lets a part of the body, or the trailers, of an open request pass.
    pub(crate) fn lets_more_through(&mut self, context: i32) -> bool {
        let body = self.call("proxy_on_request_body", &[context, 1, 0]);
        let (trailers, _) = self.trailers_of(context, &[]);
        body.is_none_or(|action| action == 0) && trailers
    }

    /// Passes the trailers of an open request to the filter; returns whether they may pass, and what remains of them.
    pub(crate) fn trailers_of(&mut self, context: i32, trailers: &[(&str, &str)]) -> (bool, Outcome) {
        let pairs = trailers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        self.forget();
        let host = self.store.data_mut();
        (host.effective_context, host.last_stream) = (context, context);
        let headers = host.headers.insert(context, pairs.collect()).unwrap();
        let action = self.call("proxy_on_request_trailers", &[context, i32::try_from(trailers.len()).unwrap()]);
        let outcome = self.outcome();
        self.store.data_mut().headers.insert(context, headers);
        (action.is_none_or(|action| action == 0), outcome)
    }

    /// The whole life of a stream: a request over HTTP/1.1 without a body, and a response with one, the upstream's or
    /// the filter's own. The outcome covers all of it.
    pub(crate) fn life(&mut self, headers: &[(&str, &str)]) -> Outcome {
        let context = self.begin("proxy_on_request_headers", headers);
        let body = self.store.data().answer.as_ref().map(|(_, body)| body.len());
        // Envoy's codec signals the end of an HTTP/1.1 upstream's body separately; a local response's body is one
        // piece.
        let pieces: &[(usize, bool)] = match body {
            Some(length) => &[(length, true)],
            None => &[(100, false), (0, true)],
        };
        let host = self.store.data_mut();
        host.effective_context = context;
        host.headers.insert(context, pairs(&[(":status", "200"), ("content-type", "application/json")]));
        self.call("proxy_on_response_headers", &[context, 2, 0]);
        for &(length, end) in pieces {
            self.call("proxy_on_response_body", &[context, i32::try_from(length).unwrap(), end.into()]);
        }
        self.close(context);
        self.outcome()
    }

    /// Closes a stream as Envoy does it.
    pub(crate) fn close(&mut self, context: i32) {
        self.call("proxy_on_log", &[context]);
        self.call("proxy_on_done", &[context]);
        self.call("proxy_on_delete", &[context]);
    }

    fn begin(&mut self, callback: &str, headers: &[(&str, &str)]) -> i32 {
        let context = self.next_context;
        self.next_context += 1;
        self.forget();
        let host = self.store.data_mut();
        (host.effective_context, host.last_stream) = (context, context);
        host.headers.insert(context, pairs(headers));
        self.call("proxy_on_context_create", &[context, self.root]);
        let count = i32::try_from(headers.len()).unwrap();
        let arguments = [context, count, 1];
        let taken = if callback == "proxy_on_request_headers" { 3 } else { 2 };
        self.call(callback, &arguments[..taken]);
        context
    }

    /// The context of host calls; Envoy resets it after each call into the filter.
    pub(crate) fn effective_context(&self) -> i32 {
        self.store.data().effective_context
    }

    pub(crate) fn log(&self) -> &[String] {
        &self.store.data().log
    }

    /// The result of an export, if the module exports it with a result.
    fn call(&mut self, name: &str, arguments: &[i32]) -> Option<i32> {
        let function = self.instance.get_func(&mut self.store, name)?;
        *self.store.data_mut().callbacks.entry(name.to_owned()).or_default() += 1;
        let arguments: Vec<Val> = arguments.iter().map(|argument| Val::I32(*argument)).collect();
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        if let Err(trap) = function.call(&mut self.store, &arguments, &mut results) {
            panic!("{name}: {trap:?}\n{:?}", self.log());
        }
        results.first().map(|result| i32::try_from(number(result)).unwrap())
    }

    /// Resets the counts.
    fn forget(&mut self) {
        self.store.set_fuel(u64::MAX).expect("fuel is counted");
        let host = self.store.data_mut();
        host.calls.clear();
        host.callbacks.clear();
        host.properties.clear();
        host.continued.clear();
        host.answer = None;
    }

    fn outcome(&self) -> Outcome {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let host = self.store.data();
        Outcome {
            answer: host.answer.as_ref().map(|(status, body)| (*status, text(body))),
            headers: host
                .headers
                .get(&host.last_stream)
                .into_iter()
                .flatten()
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
            properties: host.properties.clone(),
            continued: host.continued.clone(),
            calls: host.calls.clone(),
            callbacks: host.callbacks.clone(),
            instructions: u64::MAX - self.store.get_fuel().expect("fuel is counted"),
        }
    }
}

/// The compiler of the filter according to its `producers` section; Debian's Rust writes it too.
pub(crate) fn toolchain_of_filter() -> &'static str {
    &filter("").toolchain
}

fn toolchain(wasm: &[u8]) -> String {
    const FIELD: &[u8] = b"\x05rustc";
    let field = wasm.windows(FIELD.len()).rposition(|bytes| bytes == FIELD);
    let version = field.and_then(|at| {
        let (&length, rest) = wasm[at + FIELD.len()..].split_first()?;
        std::str::from_utf8(rest.get(..length.into())?).ok()
    });
    version.map_or_else(|| "unknown".to_owned(), |version| format!("rustc {version}"))
}

/// The host functions of proxy-wasm 0.2.1 and WASI that the filter may call.
fn host_call(caller: &mut Caller<'_, Host>, name: &str, arguments: &[i64]) -> i32 {
    let a = |n: usize| usize::try_from(arguments[n] & 0xffff_ffff).unwrap();
    match name {
        "proxy_log" => {
            let line = read(caller, a(1), a(2));
            caller.data_mut().log.push(String::from_utf8(line).unwrap());
            OK
        }
        "proxy_set_tick_period_milliseconds" | "proxy_increment_metric" | "proxy_record_metric" => OK,
        "proxy_set_effective_context" => {
            caller.data_mut().effective_context = i32::try_from(a(0)).unwrap();
            OK
        }
        "proxy_continue_stream" => {
            let host = caller.data_mut();
            host.continued.push(host.effective_context);
            OK
        }
        "proxy_define_metric" => {
            write(caller, a(3), &1u32.to_le_bytes());
            OK
        }
        "proxy_get_buffer_bytes" => {
            const CALLOUT_BODY: usize = 4;
            const CONFIGURATION: usize = 7;
            let bytes = match a(0) {
                CALLOUT_BODY => caller.data().callout_body.clone(),
                CONFIGURATION => caller.data().configuration.clone(),
                other => panic!("buffer {other}"),
            };
            give(caller, &bytes, a(3), a(4))
        }
        "proxy_get_shared_data" => {
            let key = read(caller, a(0), a(1));
            let Some((value, tag)) = caller.data().shared.get(&key).cloned() else { return NOT_FOUND };
            write(caller, a(4), &tag.to_le_bytes());
            give(caller, &value, a(2), a(3))
        }
        "proxy_set_shared_data" => {
            let (key, value) = (read(caller, a(0), a(1)), read(caller, a(2), a(3)));
            let tag = u32::try_from(a(4)).unwrap();
            let host = caller.data_mut();
            if host.shared.get(&key).is_some_and(|(_, current)| tag != 0 && tag != *current) {
                return CAS_MISMATCH;
            }
            host.next_tag += 1;
            host.shared.insert(key, (value, host.next_tag));
            OK
        }
        "proxy_get_header_map_pairs" => {
            let host = caller.data();
            let pairs = encode_pairs(host.headers.get(&host.effective_context).map_or(&[], Vec::as_slice));
            give(caller, &pairs, a(1), a(2))
        }
        "proxy_add_header_map_value" | "proxy_replace_header_map_value" | "proxy_remove_header_map_value" => {
            let field = read(caller, a(1), a(2));
            let value = (name != "proxy_remove_header_map_value").then(|| read(caller, a(3), a(4)));
            let host = caller.data_mut();
            host.last_stream = host.effective_context;
            let headers = host.headers.entry(host.effective_context).or_default();
            if name != "proxy_add_header_map_value" {
                headers.retain(|(other, _)| *other != field);
            }
            headers.extend(value.map(|value| (field, value)));
            OK
        }
        "proxy_get_header_map_value" => {
            let status = caller.data().callout_status.clone();
            give(caller, &status, a(3), a(4))
        }
        "proxy_get_property" => {
            let client = caller.data().client.clone();
            if client.is_empty() { NOT_FOUND } else { give(caller, &client, a(2), a(3)) }
        }
        "proxy_set_property" => {
            let (path, value) = (read(caller, a(0), a(1)), read(caller, a(2), a(3)));
            let text = |bytes| String::from_utf8(bytes).unwrap();
            caller.data_mut().properties.insert(text(path), text(value));
            OK
        }
        "proxy_http_call" if caller.data().refuses_calls => BAD_ARGUMENT,
        "proxy_http_call" => {
            let headers = decode_pairs(&read(caller, a(2), a(3)));
            let text = |bytes| String::from_utf8(bytes).unwrap();
            let headers = headers.into_iter().map(|(name, value)| (text(name), text(value))).collect();
            let body = read(caller, a(4), a(5));
            let host = caller.data_mut();
            host.callouts += 1;
            let number = host.callouts;
            host.sent.push(Callout { number, headers, body });
            write(caller, a(9), &number.to_le_bytes());
            OK
        }
        "proxy_send_local_response" => {
            let body = read(caller, a(3), a(4));
            caller.data_mut().answer = Some((i32::try_from(a(0)).unwrap(), body));
            OK
        }
        "clock_time_get" => {
            let host = caller.data();
            let ns = if a(0) == 0 { host.wall_ns } else { host.monotonic_ns };
            write(caller, a(2), &ns.to_le_bytes());
            OK
        }
        "random_get" => {
            write(caller, a(0), &vec![7; a(1)]);
            OK
        }
        "environ_sizes_get" => {
            let environment = &caller.data().environment;
            let count = environment.iter().filter(|&&c| c == 0).count();
            let length = environment.len();
            write(caller, a(0), &u32::try_from(count).unwrap().to_le_bytes());
            write(caller, a(1), &u32::try_from(length).unwrap().to_le_bytes());
            OK
        }
        "environ_get" => {
            let environment = caller.data().environment.clone();
            let mut pointer = a(1);
            for (n, variable) in environment.split_inclusive(|&c| c == 0).enumerate() {
                write(caller, a(0) + 4 * n, &u32::try_from(pointer).unwrap().to_le_bytes());
                pointer += variable.len();
            }
            write(caller, a(1), &environment);
            OK
        }
        other => panic!("the filter called {other}, which is not allowed"),
    }
}

fn number(value: &Val) -> i64 {
    match value {
        Val::I32(number) => i64::from(*number),
        Val::I64(number) => *number,
        other => panic!("{other:?}"),
    }
}

fn memory(caller: &mut Caller<'_, Host>) -> Memory {
    caller.get_export("memory").and_then(Extern::into_memory).expect("a memory")
}

fn read(caller: &mut Caller<'_, Host>, pointer: usize, length: usize) -> Vec<u8> {
    memory(caller).data(caller)[pointer..pointer + length].to_vec()
}

fn write(caller: &mut Caller<'_, Host>, pointer: usize, bytes: &[u8]) {
    memory(caller).data_mut(caller)[pointer..pointer + bytes.len()].copy_from_slice(bytes);
}

/// Allocates in the filter's memory and copies the bytes there, as Envoy does.
fn give(caller: &mut Caller<'_, Host>, bytes: &[u8], pointer: usize, length: usize) -> i32 {
    let allocators = ["malloc", "proxy_on_memory_allocate"];
    let mut exported = allocators.iter().filter_map(|name| Some((*name, caller.get_export(name)?.into_func()?)));
    let (name, allocate): (_, Func) = exported.next().expect("an allocator");
    let mut result = [Val::I32(0)];
    let size = i32::try_from(bytes.len()).unwrap();
    if size > 0 {
        *caller.data_mut().callbacks.entry(name.to_owned()).or_default() += 1;
        allocate.call(&mut *caller, &[Val::I32(size)], &mut result).expect("memory");
    }
    let address = u32::try_from(number(&result[0]) & 0xffff_ffff).unwrap();
    write(caller, address as usize, bytes);
    write(caller, pointer, &address.to_le_bytes());
    write(caller, length, &size.to_le_bytes());
    OK
}

fn pairs(headers: &[(&str, &str)]) -> Vec<Pair> {
    headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn encode_pairs(pairs: &[Pair]) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    let mut out = u32::try_from(pairs.len()).unwrap().to_le_bytes().to_vec();
    for (name, value) in pairs {
        out.extend([length(name), length(value)].concat());
    }
    for (name, value) in pairs {
        out.extend([name, &[0][..], value, &[0]].concat());
    }
    out
}

fn decode_pairs(bytes: &[u8]) -> Vec<Pair> {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let count = number(0);
    let mut at = 4 + 8 * count;
    let mut take = |length: usize| {
        let taken = bytes[at..at + length].to_vec();
        at += length + 1;
        taken
    };
    (0..count).map(|n| (take(number(4 + 8 * n)), take(number(8 + 8 * n)))).collect()
}
