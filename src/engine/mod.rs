//! Pure decisions: what a request may do, and how the snapshot that says so is kept current.
//!
//! Nothing here knows Envoy or reads a clock. Storage shared by all workers is a trait ([`store::SharedStore`]), so
//! that every safeguard can be tested natively against a model.

pub mod audit;
pub mod backoff;
pub mod bucket;
pub mod cache;
pub mod cells;
pub mod credential;
pub mod decide;
pub mod digests;
pub mod feed;
pub mod fetcher;
pub mod guessing;
pub mod header_map;
pub mod identity;
pub mod lease;
pub mod limiter;
pub mod rate_limit_headers;
pub mod readiness;
pub mod redaction;
pub mod rules;
pub mod snapshot;
pub mod store;
pub mod usage;
pub mod verified;
pub mod verifier;

#[cfg(test)]
mod feed_model;
#[cfg(test)]
mod totality;
#[cfg(test)]
mod verification;
