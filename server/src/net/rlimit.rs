//! How many files the process may have open: each edge that waits for news keeps a connection, and each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the database, the listener and whoever is no edge need.
const BESIDE_EDGES: u64 = 128;

/// Raises the soft limit to the hard one, which is what a service manager or an administrator means by a limit (the soft one
/// is often 1024, for the sake of programs that use `select`), and tells how many may be open then; `None` if any number.
pub fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files stays as it is");
            limit.current
        }
    }
}

/// How many edges so many open files are good for.
pub fn edges(open_files: u64) -> u64 {
    open_files.saturating_sub(BESIDE_EDGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn afterwards_the_soft_limit_is_the_hard_one() {
        let raised = raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!((limit.current, limit.maximum), (raised, raised));
    }
}
