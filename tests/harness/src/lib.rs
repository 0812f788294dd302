//! Runs the product as a user would: the built filter in a real Envoy with the shipped configuration, the built control
//! plane, and an upstream that reports its requests. For the end-to-end tests and for `make run`.
//!
//! Nothing here knows how the filter decides; a test that relies on more than a client knows proves little.
//!
//! Processes are children of the test in its own process group, so that they are killed with it even if the test runner
//! kills the test by signalling the group; otherwise each is stopped when its owner is dropped.

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
