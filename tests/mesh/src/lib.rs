//! Runs the resources of `envoy/mesh` in the programs for which they are written: func-e, Envoy Gateway and
//! Istio, each with a real Envoy.
//!
//! `tools/go-tool` builds the programs, and `tools/mesh-sandbox` runs the tests in a network namespace: Envoy Gateway
//! and Istio listen on fixed ports, which no other process must use or reach.

pub mod istio;
pub mod kubernetes;
pub mod load;
pub mod registry;
pub mod report;
pub mod resources;
pub mod tools;
