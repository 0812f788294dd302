//! When a key ends by itself: a time, or how long from now, within what the dialect allows.

use super::nullable;
use crate::clock::Timestamp;
use keyward_core::dialect::Dialect;
use keyward_core::document::{Fields, Node};
use std::time::Duration;

/// A hundred years.
pub(super) const MAX_LIFETIME_S: u64 = 100 * 365 * 86_400;

/// Reads `expires_at` and `expires_in_s`, of which one may be given, for a key made at that time. `None` if there is a
/// mistake, `Some(None)` if neither is there, and inside that `None` for never.
pub(crate) fn expiry(
    fields: &mut Fields<'_>,
    dialect: &Dialect,
    created_at: Timestamp,
    now: Timestamp,
) -> Option<Option<Option<Timestamp>>> {
    let after = nullable(fields, "expires_in_s", |n| {
        let time = now.plus(lifetime(n)?);
        Some((within(n, time, dialect, created_at)?, n.clone()))
    });
    let at = nullable(fields, "expires_at", |n| {
        let time = time(n)?;
        if time <= now {
            n.problem("expected a time in the future");
            return None;
        }
        within(n, time, dialect, created_at)
    });
    match (after?, at?) {
        (Some(Some((_, node))), Some(Some(_))) => {
            node.problem("expected this or expires_at, not both");
            None
        }
        (Some(Some((time, _))), _) => Some(Some(Some(time))),
        (after, at) => Some(at.or(after.map(|_| None))),
    }
}

/// A date and time.
pub(crate) fn time(node: &Node<'_>) -> Option<Timestamp> {
    let time = Timestamp::parse_rfc3339(node.string()?);
    if time.is_none() {
        node.problem("expected a date and time as RFC 3339 writes them");
    }
    time
}

/// A whole number of seconds after which something ends by itself.
pub(crate) fn lifetime(node: &Node<'_>) -> Option<Duration> {
    node.number(1..=MAX_LIFETIME_S).map(Duration::from_secs)
}

/// The time, if the dialect allows a key that was made then to end there.
fn within(node: &Node<'_>, time: Timestamp, dialect: &Dialect, created_at: Timestamp) -> Option<Timestamp> {
    let Some(days) = &dialect.expiry_days else { return Some(time) };
    let (first, last) = (created_at.plus(DAY * small(*days.start())), created_at.plus(DAY * small(*days.end())));
    if !(first..=last).contains(&time) {
        node.problem(format!(
            "expected {} to {} days from the making of the key: {first} to {last}",
            days.start(),
            days.end()
        ));
        return None;
    }
    Some(time)
}

const DAY: Duration = Duration::from_secs(86_400);

/// A dialect's days are far fewer than fit.
fn small(days: u64) -> u32 {
    u32::try_from(days).unwrap_or(u32::MAX)
}
