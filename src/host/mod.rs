//! The hosts that run the engine, one module each.

mod proxy_wasm;
