//! Verification of keys of which only a password hash is stored: the control plane verifies them, and the results are
//! cached.

pub mod cache;
pub mod queue;
