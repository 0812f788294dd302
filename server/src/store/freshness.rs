//! Freshness: when the hub last had everything that was committed.
//!
//! A server that cannot read a shared database does not know what other servers commit, so responses without changes carry the age of
//! that knowledge.

use super::database::Engine;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// The time of the last read without a gap, by any task of this process.
#[derive(Clone, Debug)]
pub(super) struct Freshness(Option<Arc<watch::Sender<Instant>>>);

impl Freshness {
    /// Starts with a read at that moment. An SQLite database has no other writers, and is always fresh.
    pub(super) fn new(engine: Engine, looked: Instant) -> Self {
        Self((engine == Engine::Postgres).then(|| Arc::new(watch::Sender::new(looked))))
    }

    /// The hub has everything that was committed before that moment, when the query was sent.
    pub(super) fn note(&self, asked: Instant) {
        if let Some(seen_at) = &self.0 {
            // Reads can overlap, and the first to start can be the last to end.
            seen_at.send_modify(|seen_at| *seen_at = asked.max(*seen_at));
        }
    }

    /// The latest such moment; `None` if the database is always fresh.
    pub(super) fn seen_at(&self) -> Option<Instant> {
        self.0.as_ref().map(|seen_at| *seen_at.borrow())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn overlapping_reads_keep_the_latest_time() {
        let begin = Instant::now();
        let freshness = Freshness::new(Engine::Postgres, begin);
        assert_eq!(freshness.seen_at(), Some(begin));
        for (asked_s, seen_s) in [(3, 3), (2, 3), (4, 4)] {
            freshness.note(begin + Duration::from_secs(asked_s));
            assert_eq!(freshness.seen_at(), Some(begin + Duration::from_secs(seen_s)));
        }
        assert_eq!(Freshness::new(Engine::Sqlite, begin).seen_at(), None);
    }
}
