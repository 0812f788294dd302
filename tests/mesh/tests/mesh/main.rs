//! Keyward in func-e and Envoy Gateway: `make test-mesh`.
//!
//! One test after the other: the programs listen on fixed ports.

mod common;
mod envoy_gateway;
mod func_e;
