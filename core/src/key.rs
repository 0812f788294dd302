//! What a key is made of that edge and server both know.

pub mod digest;
pub mod environment;
pub mod id;
pub mod limit;
pub mod secret;
