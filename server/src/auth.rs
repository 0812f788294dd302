//! Authentication: tokens and keys, client addresses behind proxies, and the throttle on failures.

pub mod auth_throttle;
pub mod client_ip;
pub mod hash_pool;
pub mod key_auth;
pub mod password;
mod recent_credentials;
pub mod self_service;
pub mod tokens;
