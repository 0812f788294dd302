//! The hosts that run the engine, each in a folder of its own.

mod proxy_wasm;
