//! How many requests were certainly admitted within one window, by the times at which a client sent and received.
//!
//! A request is admitted somewhere between its sending and its response. Requests that were all sent after one time and
//! answered before another were admitted within that span, whatever the network did; so more of them than the limit is
//! proof that the limit was not kept.

use std::time::{Duration, Instant};

/// An admitted request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted {
    pub(super) sent: Instant,
    pub(super) answered: Instant,
}

/// The most requests that were certainly admitted within less than a window.
pub(super) fn most_in_a_window(admitted: &[Admitted], window: Duration) -> usize {
    let within = |from: Instant| {
        let is_within = |one: &&Admitted| one.sent >= from && one.answered < from + window;
        admitted.iter().filter(is_within).count()
    };
    admitted.iter().map(|one| within(one.sent)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certain_admissions_count() {
        let start = Instant::now();
        let at = |sent: u64, answered: u64| Admitted {
            sent: start + Duration::from_millis(sent),
            answered: start + Duration::from_millis(answered),
        };
        let window = Duration::from_secs(1);
        assert_eq!(most_in_a_window(&[], window), 0);
        assert_eq!(most_in_a_window(&[at(0, 1), at(500, 501), at(998, 999)], window), 3);
        // The last may have been admitted after the window has passed.
        assert_eq!(most_in_a_window(&[at(0, 1), at(500, 501), at(999, 1001)], window), 2);
        assert_eq!(most_in_a_window(&[at(0, 1), at(600, 601), at(1100, 1101), at(1500, 1501)], window), 3);
    }
}
