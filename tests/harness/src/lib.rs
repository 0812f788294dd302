//! Runs the product as a user would: the built filter in a real Envoy with the shipped configuration, the built control
//! plane, and an upstream that tells what reached it. For the end-to-end tests and for `make run`.
//!
//! Nothing here knows how the filter decides; a test that passes by knowing more than a client does proves little.
//!
//! Processes are children of the test in its own process group, so that they end with it even if it is killed by its
//! runner, which signals the group; otherwise each ends when its owner is dropped.

pub mod artifacts;
mod attempt;
pub mod config;
pub mod control_plane;
pub mod echo;
pub mod edges;
pub mod envoy;
mod failure;
pub mod fleet;
pub mod gateway;
pub mod http;
mod left_out;
pub mod ports;
mod postgres;
pub mod process;
pub mod relay;
mod test_dir;
mod until;
pub mod workers;

pub use attempt::Attempt;
pub use config::EnvoyConfig;
pub use control_plane::{ControlPlane, CreatedKey};
pub use echo::Echo;
pub use edges::Edges;
pub use envoy::Envoy;
pub use failure::{Failure, Result};
pub use fleet::Fleet;
pub use gateway::Gateway;
pub use http::{Request, Response};
pub use left_out::left_out;
pub use postgres::Postgres;
pub use relay::Relay;
pub use test_dir::TestDir;
pub use until::until;
pub use workers::WorkerConnections;
