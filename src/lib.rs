//! The Keyward filter: API-key authentication inside Envoy.
//!
//! [`engine`] decides and knows nothing of Envoy: time, bytes and shared storage are passed in. [`policy`] turns what
//! an operator wrote into values that cannot be wrong. `host` (built for wasm only) is the one place that speaks
//! to Envoy. `docs/explanation/architecture.md` shows how a request walks through them.

pub mod engine;
#[cfg(target_family = "wasm")]
mod host;
pub mod policy;
