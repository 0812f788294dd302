//! The control plane of Keyward: creates, rotates and revokes API keys, and feeds every change to the edge.
//!
//! [`serve`] puts the parts together: [`api`] answers HTTP, [`store`] holds the state and commits each change together
//! with its entries of the feed, [`hub`] keeps the recent ones in memory, [`feed`] answers an edge from whichever of
//! the two has what it asks for. [`cli`] is the command line; it talks to a server over HTTP and shares no state with
//! one. [`relay`] serves the feed of another control plane. No plaintext key outlives the request that makes it.

pub mod api;
pub mod cli;
pub mod clients;
pub mod clock;
mod connections;
pub mod csv;
pub mod failures;
pub mod fair_queue;
pub mod feed;
pub mod github;
pub mod hub;
pub mod import;
pub mod issue;
pub mod issued_tokens;
pub mod leaks;
pub mod logging;
pub mod model;
pub mod open_files;
pub mod page;
pub mod password;
pub mod pepper;
mod private_file;
pub mod random;
pub mod relay;
pub mod serve;
pub mod store;
pub mod text;
pub mod tokens;
pub mod verifier;
pub mod verify;
