//! The control plane from outside: over HTTP, over the command line, and through restarts.

// The attribute tells clippy that helpers may panic as tests may.
#[cfg(test)]
mod cli;
#[cfg(test)]
mod export;
#[cfg(test)]
mod feed;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod import;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod leaks;
#[cfg(test)]
mod operation;
#[cfg(test)]
mod owners;
#[cfg(test)]
mod protocol;
