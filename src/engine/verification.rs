//! Keys of which only a password hash is kept: asked about at the server, and remembered.

pub mod cache;
pub mod queue;
