//! Connections, their limits, and the order in which requests are served.

pub(crate) mod connections;
pub mod fair_queue;
pub(crate) mod listener;
pub mod rlimit;
