//! Listening, connections and their timeouts, fair queues, and the limit of open files.

pub(crate) mod connections;
pub mod fair_queue;
pub(crate) mod listener;
pub mod rlimit;
