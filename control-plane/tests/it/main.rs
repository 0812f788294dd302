//! The control plane from outside: over HTTP, over the command line, and through restarts.

// The attribute tells clippy that helpers may panic as tests may.
#[cfg(test)]
mod cli;
#[cfg(test)]
mod database;
#[cfg(test)]
mod feed;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod history;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod load;
#[cfg(test)]
mod operation;
#[cfg(test)]
mod owners;
#[cfg(test)]
mod postgres;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod sqlite;
