//! The limit of open files, which bounds the number of edges: each edge that polls has a connection.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The open files reserved for the database, the listener and other clients.
const RESERVED: u64 = 128;

/// Raises the soft limit to the hard one, and returns the new limit; `None` if unlimited. Service managers and administrators set
/// the hard limit; the soft one is often 1024, for programs that use `select`.
pub fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "failed to raise the limit of open files");
            limit.current
        }
    }
}

/// The number of edges for that many open files.
pub fn edges(open_files: u64) -> u64 {
    open_files.saturating_sub(RESERVED)
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
