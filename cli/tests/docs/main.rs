//! The documentation: its links, and the commands, targets, variables, files and metrics that it names, exist.

// The attribute tells clippy that helpers may panic as tests may.
#[cfg(test)]
mod checks;
#[cfg(test)]
mod markdown;
#[cfg(test)]
mod shell;
