//! The adapter to proxy-wasm: passes bytes and clocks to the engine, and the engine's decisions to Envoy.
//!
//! Only the SDK's `_bytes` getters and `hostcalls` are used. The string getters panic on some client input, and a panic
//! destroys a worker's VM with every request in it.

mod clock;
mod control_plane;
#[cfg(feature = "fault-injection")]
mod fault;
mod headers;
mod http;
mod metrics;
mod root;
mod shared;
mod usage;
mod verify;
mod worker;

use proxy_wasm::types::LogLevel;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|context_id| Box::new(root::Root::new(context_id)));
}}

/// Logs a line, which Envoy prefixes with the filter's name. A failure to log is ignored.
fn log(level: LogLevel, message: &str) {
    let _ = proxy_wasm::hostcalls::log(level, message);
}
