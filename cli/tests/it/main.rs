//! The control plane from outside: over HTTP, over the command line, and through restarts.

// The attribute tells clippy that helpers may panic as tests may.
#[cfg(test)]
mod audit;
#[cfg(test)]
mod authorization;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod config;
#[cfg(test)]
mod console;
#[cfg(test)]
mod database;
#[cfg(test)]
mod description;
#[cfg(test)]
mod diagnosis;
#[cfg(test)]
mod export;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod fairness;
#[cfg(test)]
mod feed;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod history;
#[cfg(test)]
mod idempotency;
#[cfg(test)]
mod import;
#[cfg(test)]
mod init;
#[cfg(test)]
mod key_changes;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod leaks;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod load;
#[cfg(test)]
mod mcp;
#[cfg(test)]
mod operation;
#[cfg(test)]
mod owners;
#[cfg(test)]
mod pause;
#[cfg(test)]
mod plans;
#[cfg(test)]
mod postgres;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod self_service;
#[cfg(test)]
mod sqlite;
#[cfg(test)]
mod storage;
#[cfg(test)]
mod tokens;
#[cfg(test)]
mod usage;
#[cfg(test)]
mod verify;
