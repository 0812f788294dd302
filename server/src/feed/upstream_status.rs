//! The status of a relay's upstream, and the age of what the relay serves.
//!
//! The age is measured by a monotonic clock while the process runs. Over a restart there is only the system clock; if that
//! contradicts itself, the age is unknown and exceeds any bound.

use crate::clock::Timestamp;
use crate::store::Standing;
use keyward_core::wire::cursor::Position;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// What a relay knows of its upstream.
#[derive(Debug)]
pub struct UpstreamStatus {
    state: watch::Sender<State>,
    poll_requests: Notify,
}

#[derive(Clone, Copy, Debug)]
struct State {
    current: Current,
    is_complete: bool,
    upstream: Health,
    head: u64,
}

/// When the relay was known to have everything that the control plane had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// When the request was sent to the upstream.
    asked: Instant,
    /// When the response arrived.
    answered: Instant,
    /// The age of the response, as the upstream says.
    age: Duration,
}

/// The state of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// No response since the start.
    Unknown,
    /// It serves pages.
    Ok,
    /// It refuses the relay's token.
    TokenRefused,
    /// It does not answer, or with an error.
    Failing,
}

impl Health {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::TokenRefused => "token_refused",
            Self::Failing => "failing",
        }
    }
}

impl Current {
    pub(crate) fn new(asked: Instant, answered: Instant, age: Duration) -> Self {
        Self { asked, answered, age }
    }

    /// The age at `now`.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.answered).saturating_add(self.age)
    }

    /// Whether that was after this moment.
    pub fn is_later_than(&self, moment: Instant) -> bool {
        self.asked.checked_sub(self.age).is_some_and(|as_of| as_of > moment)
    }
}

impl UpstreamStatus {
    /// The status from which a relay continues after a restart.
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
        let state = State { current, is_complete: standing.is_complete, upstream: Health::Unknown, head };
        Self { state: watch::Sender::new(state), poll_requests: Notify::new() }
    }

    /// As of when the relay has everything.
    pub fn current(&self) -> Current {
        self.state.borrow().current
    }

    /// Whether the relay has a complete state to serve.
    pub fn is_complete(&self) -> bool {
        self.state.borrow().is_complete
    }

    /// The state of the upstream.
    pub(crate) fn upstream(&self) -> Health {
        self.state.borrow().upstream
    }

    /// The sequence of the last change that the upstream is known to have.
    pub(crate) fn upstream_sequence(&self) -> u64 {
        self.state.borrow().head
    }

    /// Notifies when the status changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<impl Sized + use<>> {
        self.state.subscribe()
    }

    /// Requests an immediate poll of the upstream.
    pub(crate) fn request_poll(&self) {
        self.poll_requests.notify_one();
    }

    /// Waits for a request to poll immediately.
    pub(crate) async fn poll_requested(&self) {
        self.poll_requests.notified().await;
    }

    /// The upstream answered with a page that was stored.
    pub(crate) fn note(&self, standing: &Standing, current: Option<Current>) {
        self.state.send_modify(|state| {
            state.is_complete = standing.is_complete;
            state.upstream = Health::Ok;
            if let Position::Changes { seen, .. } | Position::Snapshot { seen, .. } = standing.position {
                state.head = seen.sequence;
            }
            // A later response can be older than an earlier one.
            if let Some(current) = current
                && current.age(current.answered) <= state.current.age(current.answered)
            {
                state.current = current;
            }
        });
    }

    /// The poll failed.
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
