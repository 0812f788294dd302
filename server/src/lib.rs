//! The control plane of Keyward: creates, rotates and revokes API keys, and feeds every change to the edge.
//!
//! [`serve`] puts the parts together: [`api`] answers HTTP, [`store`] holds the state and commits each change together
//! with its entries of the feed, [`hub`] keeps the recent ones in memory, [`feed`] answers an edge from whichever of
//! the two has what it asks for. [`cli`] is the command line; it talks to a server over HTTP and shares no state with
//! one. [`relay`] serves the feed of another control plane. No plaintext key outlives the request that makes it.

pub mod auth;
pub mod clock;
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
