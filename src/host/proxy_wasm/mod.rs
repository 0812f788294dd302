//! The host proxy-wasm: each worker, and the main thread, runs the filter in a VM of its own.
//!
//! Only the SDK's `_bytes` getters and `hostcalls` are used. The string getters panic on some client input, and a panic
//! destroys a worker's VM with every request in it.

mod gateway;
mod headers;
mod root;
mod shared;
mod stream;

use crate::host::{Host, Level};
use proxy_wasm::types::LogLevel;
use shared::SharedData;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|context_id| Box::new(root::Root::new(context_id)));
}}

/// This VM.
struct Vm;

impl Host for Vm {
    type Store = SharedData;

    const STORE: &'static SharedData = &SharedData;

    const ENVIRONMENT: &'static str =
        "Envoy's environment or not listed in vm_config.environment_variables.host_env_keys";

    /// WASI's `CLOCK_MONOTONIC`, one clock for all VMs of a process. `std`'s `Instant` is the same clock but cannot be
    /// stored in shared data.
    fn monotonic_us() -> u64 {
        let ticks = coarsetime::Instant::now_without_cache_update().as_ticks();
        coarsetime::Duration::from_ticks(ticks).as_micros()
    }

    fn log(level: Level, message: &str) {
        let level = match level {
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        let _ = proxy_wasm::hostcalls::log(level, message);
    }
}
