//! The control plane from outside: over HTTP, over the command line, and through restarts.

// The attribute tells clippy that helpers may panic as tests may.
#[cfg(test)]
mod cli;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod feed;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod operation;
#[cfg(test)]
mod owners;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod self_service;
#[cfg(test)]
mod tokens;
#[cfg(test)]
mod usage;
#[cfg(test)]
mod verify;
