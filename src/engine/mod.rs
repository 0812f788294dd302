//! Pure decisions: what a request may do, and how the snapshot behind that is kept current.
//!
//! This module knows neither Envoy nor a clock. Storage shared by all workers is a trait ([`store::SharedStore`]), so
//! that every safeguard can be tested natively against a model.

pub mod audit;
pub mod auth_throttle;
pub mod backoff;
pub mod bucket;
pub mod cache;
pub mod credential;
pub mod decide;
pub mod digests;
pub mod feed;
pub mod fetcher;
pub mod header_map;
pub mod leader;
pub mod limiter;
pub mod policy;
pub mod rate_limit_headers;
pub mod readiness;
pub mod redaction;
pub mod rules;
pub mod shared_state;
pub mod snapshot;
pub mod store;
pub mod upstream_headers;
pub mod usage;
pub mod verification;

#[cfg(test)]
mod tests;
