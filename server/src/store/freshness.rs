//! As of when the hub is known to have all that was committed.
//!
//! Where several servers share a database, one that cannot look at it does not know what the others commit. Whoever is told
//! that there is nothing new is told how long ago that was so.

use super::database::Engine;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// When the database was last looked at, by any part of this process.
#[derive(Clone, Debug)]
pub(super) struct Freshness(Option<Arc<watch::Sender<Instant>>>);

impl Freshness {
    /// A sight that begins with a look of that moment. Of an SQLite database nobody else is a writer, so nothing is needed.
    pub(super) fn new(engine: Engine, looked: Instant) -> Self {
        Self((engine == Engine::Postgres).then(|| Arc::new(watch::Sender::new(looked))))
    }

    /// The hub has all that was committed before that moment, which is when the database was asked.
    pub(super) fn note(&self, asked: Instant) {
        if let Some(seen_at) = &self.0 {
            // Looks can overlap, and the one that began first can end last.
            seen_at.send_modify(|seen_at| *seen_at = asked.max(*seen_at));
        }
    }

    /// The latest such moment; `None` where it is always the present one.
    pub(super) fn seen_at(&self) -> Option<Instant> {
        self.0.as_ref().map(|seen_at| *seen_at.borrow())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_look_that_began_earlier_and_ends_later_takes_nothing_away() {
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
