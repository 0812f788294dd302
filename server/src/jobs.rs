//! What runs in the background for as long as the server does.

pub(crate) mod retention;
pub(crate) mod revocations;
