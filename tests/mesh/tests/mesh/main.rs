//! Keyward in func-e, Envoy Gateway and Istio: `make test-mesh`.
//!
//! One test after the other: the programs listen on fixed ports.

mod common;
mod envoy_gateway;
mod func_e;
mod istio;
