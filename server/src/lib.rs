//! The control plane of Keyward: creates, rotates and revokes API keys, and feeds every change to the edge.
//!
//! [`serve`] starts and stops a control plane or a relay, with the loops of [`jobs`]. [`console`] are web pages over the API, which
//! is [`http`]. Behind it are the
//! features: [`auth`], [`keys`], [`feed`] and [`relay`], which serves the feed of another control plane. [`store`] holds the
//! state; it commits each change together with its feed entries, and keeps recent changes in its hub. Below are [`model`],
//! [`net`], and the modules for clock, randomness, logs and text. Imports point down in this order. No plaintext key outlives the
//! request that issues it.

pub mod auth;
pub mod clock;
pub mod console;
pub mod feed;
pub mod http;
mod jobs;
pub mod keys;
pub mod logging;
pub mod model;
pub mod net;
mod private_file;
pub mod random;
pub mod relay;
pub mod serve;
pub mod store;
pub mod text;
