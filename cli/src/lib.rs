//! The command line: the commands that serve, and those that are a client of the API.
//!
//! `command` knows all commands. Each command's module has its arguments and uses only what several commands share:
//! `arguments`, `control_plane`, `error`, `output`, `process`, `request`.

mod arguments;
mod audit;
mod backup;
mod command;
mod config;
mod control_plane;
mod doctor;
mod envoy_admin;
mod error;
mod file;
mod findings;
mod gateway;
mod init;
mod keys;
mod man_pages;
mod measure;
mod openapi;
mod output;
mod owners;
mod plans;
mod process;
mod prove;
mod relay;
mod report_leak;
mod request;
mod serve;
mod sessions;
mod tokens;
mod transfer;
mod typed_secrets;
mod usage;

pub use command::Arguments;
pub use error::CliError;
pub use typed_secrets::{TypedSecret, refuse as refuse_typed_secrets};
