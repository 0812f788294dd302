//! The Keyward filter: API-key authentication inside Envoy.
//!
//! [`engine`] decides and knows nothing of Envoy: time, bytes and shared storage are passed in. [`policy`] turns what
//! an operator wrote into values that cannot be wrong. `host` is the one place that speaks to Envoy: built for
//! wasm, as a dynamic module, and for its tests. `docs/explanation/architecture.md` shows how a request walks through them.

#[cfg(all(feature = "dynamic-module", not(panic = "unwind")))]
compile_error!("a dynamic module has to unwind: a panic would end Envoy");

pub mod engine;
#[cfg(any(target_family = "wasm", feature = "dynamic-module", test))]
mod host;
pub mod policy;
