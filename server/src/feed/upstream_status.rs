//! How old what a relay serves can be: when the control plane was last known to have nothing beyond it.
//!
//! While the process runs that is measured by a clock that nobody sets. Over a restart there is only the machine's clock;
//! where that contradicts itself, the age is not known and counts as longer than any bound.

use crate::clock::Timestamp;
use crate::store::Standing;
use keyward_core::wire::cursor::Position;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// What a relay knows of whom it follows, for all who wait for it.
#[derive(Debug)]
pub struct UpstreamStatus {
    state: watch::Sender<State>,
    hurry: Notify,
}

#[derive(Clone, Copy, Debug)]
struct State {
    current: Current,
    is_complete: bool,
    upstream: Health,
    head: u64,
}

/// When everything that is served was known to be all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// When the upstream was asked.
    asked: Instant,
    /// When it has answered.
    answered: Instant,
    /// How old its answer was by its own account.
    age: Duration,
}

/// How the upstream answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Nothing was heard of it since the start.
    NotAsked,
    /// With pages.
    Answers,
    /// It refuses the token.
    RefusesToken,
    /// With what cannot be used, or not at all.
    Fails,
}

impl Health {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NotAsked => "not_asked",
            Self::Answers => "answers",
            Self::RefusesToken => "refuses_token",
            Self::Fails => "fails",
        }
    }
}

impl Current {
    pub(crate) fn new(asked: Instant, answered: Instant, age: Duration) -> Self {
        Self { asked, answered, age }
    }

    /// How long before `now` that was.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.answered).saturating_add(self.age)
    }

    /// Whether it is about a moment after this one.
    pub fn is_later_than(&self, moment: Instant) -> bool {
        self.asked.checked_sub(self.age).is_some_and(|as_of| as_of > moment)
    }
}

impl UpstreamStatus {
    /// The contact that a relay had when it ended.
    pub fn new(standing: &Standing, now: Timestamp, started: Instant) -> Self {
        let age = match standing.current_at {
            Some(at) if at <= now => Duration::from_millis(now.as_ms() - at.as_ms()),
            _ => Duration::MAX,
        };
        let current = Current::new(started, started, age);
        let head = match standing.position {
            Position::Changes { seen, .. } | Position::Snapshot { seen, .. } => seen.sequence,
            Position::Nothing => 0,
        };
        let state = State { current, is_complete: standing.is_complete, upstream: Health::NotAsked, head };
        Self { state: watch::Sender::new(state), hurry: Notify::new() }
    }

    /// As of when what is served is all there is.
    pub fn current(&self) -> Current {
        self.state.borrow().current
    }

    /// Whether there is anything to serve.
    pub fn is_complete(&self) -> bool {
        self.state.borrow().is_complete
    }

    /// How the upstream answers.
    pub(crate) fn upstream(&self) -> Health {
        self.state.borrow().upstream
    }

    /// The last change that the upstream is known to have.
    pub(crate) fn upstream_sequence(&self) -> u64 {
        self.state.borrow().head
    }

    /// A bell that rings when more is known.
    pub(crate) fn subscribe(&self) -> watch::Receiver<impl Sized + use<>> {
        self.state.subscribe()
    }

    /// Asks for the upstream to be asked at once.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Waits for somebody who is in a hurry.
    pub(crate) async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// The upstream has answered with a page that was taken.
    pub(crate) fn note(&self, standing: &Standing, current: Option<Current>) {
        self.state.send_modify(|state| {
            state.is_complete = standing.is_complete;
            state.upstream = Health::Answers;
            if let Position::Changes { seen, .. } | Position::Snapshot { seen, .. } = standing.position {
                state.head = seen.sequence;
            }
            // An answer can come later than another and be older.
            if let Some(current) = current
                && current.age(current.answered) <= state.current.age(current.answered)
            {
                state.current = current;
            }
        });
    }

    /// It has not.
    pub(crate) fn fail(&self, health: Health) {
        self.state.send_modify(|state| state.upstream = health);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn standing(current_at: Option<u64>) -> Standing {
        Standing { position: Position::Nothing, is_complete: true, current_at: current_at.map(Timestamp::from_ms) }
    }

    #[test]
    fn the_age_goes_on_from_what_was_stored_and_a_clock_that_was_set_back_makes_it_endless() {
        let (wall, now) = (Timestamp::from_ms(100_000), Instant::now());
        let age = |current_at| UpstreamStatus::new(&standing(current_at), wall, now).current().age(now + SECOND);
        assert_eq!(age(Some(70_000)), 31 * SECOND);
        for unknown in [None, Some(100_001)] {
            assert_eq!(age(unknown), Duration::MAX);
        }
    }

    #[test]
    fn an_answer_is_as_old_as_its_upstream_says_and_older_every_moment() {
        let begin = Instant::now();
        let upstream_status = UpstreamStatus::new(&standing(None), Timestamp::from_ms(0), begin);
        upstream_status.note(&standing(None), Some(Current::new(begin, begin, 3 * SECOND)));
        let later = begin + SECOND;
        assert_eq!(upstream_status.current().age(later), 4 * SECOND);
        upstream_status.note(&standing(None), Some(Current::new(begin, later, 9 * SECOND)));
        assert_eq!(upstream_status.current().age(later), 4 * SECOND, "what is older takes nothing away");
        upstream_status.note(&standing(None), None);
        assert_eq!(upstream_status.current().age(later), 4 * SECOND);
    }

    #[test]
    fn an_answer_is_about_the_moment_at_which_it_was_asked_for_at_the_earliest() {
        let begin = Instant::now();
        let asked = begin + 2 * SECOND;
        let fresh = Current::new(asked, asked + 2 * SECOND, Duration::ZERO);
        assert!(fresh.is_later_than(begin));
        assert!(!fresh.is_later_than(asked), "it may have been on its way for as long");
        assert!(!Current::new(asked, asked, 2 * SECOND).is_later_than(begin));
        assert!(!Current::new(asked, asked, Duration::MAX).is_later_than(begin));
    }
}
