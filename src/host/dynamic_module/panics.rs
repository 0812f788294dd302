//! Panics of the module: caught before they reach Envoy, and logged in a line.

use crate::host::Level;
use crate::host::dynamic_module::abi;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};

/// Runs a hook, or `otherwise` if it panics.
pub(super) fn guard<T>(name: &str, hook: impl FnOnce() -> T, otherwise: impl FnOnce() -> T) -> T {
    // The caller discards or resets what a panic may have left in disorder.
    catch_unwind(AssertUnwindSafe(hook)).unwrap_or_else(|_| {
        abi::log(Level::Error, &format!("keyward: hook panicked  hook={name}"));
        otherwise()
    })
}

/// Has panics logged without a backtrace, which would hold up a worker for a tenth of a second, and without their text, which
/// can quote what was being read.
pub(super) fn log_briefly() {
    set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        abi::log(Level::Error, &format!("keyward: panicked  at={at}"));
    }));
}
