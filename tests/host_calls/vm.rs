//! The built filter in an interpreter with a fake Envoy around it, which counts every call that the filter makes.

use std::collections::{BTreeMap, HashMap};
use wasmi::{Caller, Engine, Extern, ExternType, Func, Instance, Linker, Memory, Module, Store, Val};

/// A filter that was started and configured as Envoy does it.
pub(crate) struct Vm {
    store: Store<Host>,
    instance: Instance,
    root: i32,
    next_context: i32,
}

/// What the fake Envoy keeps.
#[derive(Default)]
struct Host {
    configuration: Vec<u8>,
    environment: Vec<u8>,
    monotonic_ns: u64,
    wall_ns: u64,
    shared: HashMap<Vec<u8>, (Vec<u8>, u32)>,
    next_tag: u32,
    /// Of each stream; and the stream whose headers were given or set last.
    headers: HashMap<i32, Vec<Pair>>,
    last_stream: i32,
    /// The only property that there is; empty for none.
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
    log: Vec<String>,
}

type Pair = (Vec<u8>, Vec<u8>);

/// A request that the filter sent.
#[derive(Clone, Debug)]
pub(crate) struct Callout {
    pub(crate) number: i32,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The local answer; `None` if the request went on.
    pub(crate) answer: Option<(i32, String)>,
    /// The request's headers as the upstream would see them.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) properties: BTreeMap<String, String>,
    /// The streams that were let go on after they had waited.
    pub(crate) continued: Vec<i32>,
    /// How often each host function was called.
    pub(crate) calls: BTreeMap<String, usize>,
}

const OK: i32 = 0;
const NOT_FOUND: i32 = 1;
const BAD_ARGUMENT: i32 = 2;
const CAS_MISMATCH: i32 = 8;
/// The context of the first configuration.
pub(crate) const ROOT: i32 = 1;

impl Vm {
    pub(crate) fn start(wasm: &[u8], configuration: &str, environment: &[(&str, &str)]) -> Self {
        let (vm, configured) = Self::configured(wasm, configuration, environment);
        assert!(configured, "{:?}", vm.log());
        vm
    }

    /// The log of a filter that does not take its configuration.
    pub(crate) fn refused(wasm: &[u8], configuration: &str, environment: &[(&str, &str)]) -> Vec<String> {
        let (vm, configured) = Self::configured(wasm, configuration, environment);
        assert!(!configured, "{:?}", vm.log());
        vm.log().to_vec()
    }

    /// A filter, and whether it takes its configuration.
    fn configured(wasm: &[u8], configuration: &str, environment: &[(&str, &str)]) -> (Self, bool) {
        let engine = Engine::default();
        let module = Module::new(&engine, wasm).expect("a module");
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
        let mut store = Store::new(&engine, host);
        let mut linker: Linker<Host> = Linker::new(&engine);
        for import in module.imports() {
            let ExternType::Func(ty) = import.ty() else { panic!("{} is no function", import.name()) };
            let name = import.name().to_owned();
            let returns = !ty.results().is_empty();
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
        let instance = linker.instantiate_and_start(&mut store, &module).expect("an instance");
        let mut vm = Self { store, instance, root: ROOT, next_context: ROOT + 1 };
        vm.call("_initialize", &[]);
        let configured = vm.configure();
        (vm, configured)
    }

    /// Whether a new root context takes the configuration.
    fn configure(&mut self) -> bool {
        let root = self.root;
        self.call("proxy_on_context_create", &[root, 0]);
        assert_eq!(self.call("proxy_on_vm_start", &[root, 0]), Some(1), "{:?}", self.log());
        let length = i32::try_from(self.store.data().configuration.len()).unwrap();
        self.call("proxy_on_configure", &[root, length]) == Some(1)
    }

    /// The listener is replaced: a new root context in the same VM, and the old one goes, with no word of its callouts.
    pub(crate) fn replace_listener(&mut self) {
        let old = std::mem::replace(&mut self.root, self.next_context);
        self.next_context += 1;
        assert!(self.configure(), "{:?}", self.log());
        assert_eq!(self.call("proxy_on_done", &[old]), Some(1));
        self.call("proxy_on_delete", &[old]);
    }

    pub(crate) fn tick(&mut self) {
        self.call("proxy_on_tick", &[self.root]);
    }

    /// Ticks as Envoy does while so much time passes.
    pub(crate) fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms / 25 {
            let host = self.store.data_mut();
            host.monotonic_ns += 25_000_000;
            host.wall_ns += 25_000_000;
            self.tick();
        }
    }

    /// What a tick did to streams.
    pub(crate) fn tick_with_outcome(&mut self) -> Outcome {
        self.store.data_mut().forget();
        self.tick();
        self.store.data().outcome()
    }

    /// From now on, as if the cluster did not exist.
    pub(crate) fn refuse_calls(&mut self) {
        self.store.data_mut().refuses_calls = true;
    }

    /// What happens to a callout that got no answer.
    pub(crate) fn fail_callout(&mut self, number: i32) -> Outcome {
        self.store.data_mut().forget();
        self.call("proxy_on_http_call_response", &[self.root, number, 0, 0, 0]);
        self.store.data().outcome()
    }

    /// The requests that the filter has sent since the last call.
    pub(crate) fn sent(&mut self) -> Vec<Callout> {
        std::mem::take(&mut self.store.data_mut().sent)
    }

    /// Hands the answer to a callout over; what became of the streams that waited for it.
    pub(crate) fn answer_callout(&mut self, number: i32, status: &str, body: &[u8]) -> Outcome {
        let host = self.store.data_mut();
        host.forget();
        host.callout_status = status.as_bytes().to_vec();
        host.callout_body = body.to_vec();
        let length = i32::try_from(body.len()).unwrap();
        self.call("proxy_on_http_call_response", &[self.root, number, 1, length, 0]);
        self.store.data().outcome()
    }

    pub(crate) fn request(&mut self, headers: &[(&str, &str)]) -> Outcome {
        self.stream("proxy_on_request_headers", headers)
    }

    /// The answer of the upstream to such a request, as the client would see it.
    pub(crate) fn answer(&mut self, headers: &[(&str, &str)], answer: &[(&str, &str)]) -> Outcome {
        let context = self.begin("proxy_on_request_headers", headers);
        self.answer_to(context, answer)
    }

    /// The same for an open request, which this ends.
    pub(crate) fn answer_to(&mut self, context: i32, answer: &[(&str, &str)]) -> Outcome {
        let host = self.store.data_mut();
        host.forget();
        (host.effective_context, host.last_stream) = (context, context);
        host.headers.insert(context, pairs(answer));
        let count = i32::try_from(answer.len()).unwrap();
        self.call("proxy_on_response_headers", &[context, count, 1]);
        self.close(context);
        self.store.data().outcome()
    }

    /// From now on the address of clients.
    pub(crate) fn set_client(&mut self, address: &str) {
        self.store.data_mut().client = address.as_bytes().to_vec();
    }

    /// A stream of which the filter is only handed the trailers.
    pub(crate) fn trailers(&mut self, trailers: &[(&str, &str)]) -> Outcome {
        self.stream("proxy_on_request_trailers", trailers)
    }

    fn stream(&mut self, callback: &str, headers: &[(&str, &str)]) -> Outcome {
        let context = self.begin(callback, headers);
        self.close(context);
        self.store.data().outcome()
    }

    /// A request that stays open; its context.
    pub(crate) fn open(&mut self, headers: &[(&str, &str)]) -> (i32, Outcome) {
        let context = self.begin("proxy_on_request_headers", headers);
        (context, self.store.data().outcome())
    }

    /// Whether the filter lets a part of the body, or the trailers, of an open request go on.
    pub(crate) fn lets_more_through(&mut self, context: i32) -> bool {
        let body = self.call("proxy_on_request_body", &[context, 1, 0]);
        let (trailers, _) = self.trailers_of(context, &[]);
        body == Some(0) && trailers
    }

    /// Hands the trailers of an open request to the filter: whether it lets them go on, and what it leaves of them.
    pub(crate) fn trailers_of(&mut self, context: i32, trailers: &[(&str, &str)]) -> (bool, Outcome) {
        let pairs = trailers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        let host = self.store.data_mut();
        host.forget();
        (host.effective_context, host.last_stream) = (context, context);
        let headers = host.headers.insert(context, pairs.collect()).unwrap();
        let action = self.call("proxy_on_request_trailers", &[context, i32::try_from(trailers.len()).unwrap()]);
        let outcome = self.store.data().outcome();
        self.store.data_mut().headers.insert(context, headers);
        (action == Some(0), outcome)
    }

    /// Ends a stream as Envoy does it.
    pub(crate) fn close(&mut self, context: i32) {
        self.call("proxy_on_done", &[context]);
        self.call("proxy_on_log", &[context]);
        self.call("proxy_on_delete", &[context]);
    }

    fn begin(&mut self, callback: &str, headers: &[(&str, &str)]) -> i32 {
        let context = self.next_context;
        self.next_context += 1;
        let host = self.store.data_mut();
        host.forget();
        (host.effective_context, host.last_stream) = (context, context);
        host.headers.insert(context, pairs(headers));
        self.call("proxy_on_context_create", &[context, self.root]);
        let count = i32::try_from(headers.len()).unwrap();
        let arguments = [context, count, 1];
        let taken = if callback == "proxy_on_request_headers" { 3 } else { 2 };
        self.call(callback, &arguments[..taken]);
        context
    }

    /// The context that host calls are about; Envoy forgets it after each call into the filter.
    pub(crate) fn effective_context(&self) -> i32 {
        self.store.data().effective_context
    }

    pub(crate) fn log(&self) -> &[String] {
        &self.store.data().log
    }

    fn call(&mut self, name: &str, arguments: &[i32]) -> Option<i32> {
        let function = self.instance.get_func(&self.store, name).unwrap_or_else(|| panic!("no export {name}"));
        let arguments: Vec<Val> = arguments.iter().map(|argument| Val::I32(*argument)).collect();
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        if let Err(trap) = function.call(&mut self.store, &arguments, &mut results) {
            panic!("{name}: {trap}\n{:?}", self.log());
        }
        results.first().map(|result| i32::try_from(number(result)).unwrap())
    }
}

impl Host {
    fn forget(&mut self) {
        self.calls.clear();
        self.properties.clear();
        self.continued.clear();
        self.answer = None;
    }

    fn outcome(&self) -> Outcome {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome {
            answer: self.answer.as_ref().map(|(status, body)| (*status, text(body))),
            headers: self
                .headers
                .get(&self.last_stream)
                .into_iter()
                .flatten()
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
            properties: self.properties.clone(),
            continued: self.continued.clone(),
            calls: self.calls.clone(),
        }
    }
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
        "proxy_set_header_map_pairs" => {
            let pairs = read(caller, a(1), a(2));
            let host = caller.data_mut();
            host.last_stream = host.effective_context;
            host.headers.insert(host.effective_context, decode_pairs(&pairs));
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
        other => panic!("the filter called {other}, which it should not need"),
    }
}

fn number(value: &Val) -> i64 {
    match value {
        Val::I32(number) => i64::from(*number),
        Val::I64(number) => *number,
        other => panic!("{other:?}"),
    }
}

fn memory(caller: &Caller<'_, Host>) -> Memory {
    caller.get_export("memory").and_then(Extern::into_memory).expect("a memory")
}

fn read(caller: &Caller<'_, Host>, pointer: usize, length: usize) -> Vec<u8> {
    memory(caller).data(caller)[pointer..pointer + length].to_vec()
}

fn write(caller: &mut Caller<'_, Host>, pointer: usize, bytes: &[u8]) {
    memory(caller).data_mut(caller)[pointer..pointer + bytes.len()].copy_from_slice(bytes);
}

/// Allocates in the filter's memory and hands the bytes over, as Envoy does.
fn give(caller: &mut Caller<'_, Host>, bytes: &[u8], pointer: usize, length: usize) -> i32 {
    let allocate = caller.get_export("proxy_on_memory_allocate").and_then(Extern::into_func);
    let allocate: Func = allocate.expect("an allocator");
    let mut result = [Val::I32(0)];
    let size = i32::try_from(bytes.len()).unwrap();
    if size > 0 {
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
