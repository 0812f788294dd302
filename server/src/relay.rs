//! A relay: serves edges what another control plane, or another relay, has in its feed, and goes on without it.
//!
//! [`follow`] reads the upstream's feed into a database of the relay's own; from there on everything is what a control
//! plane does. What edges tell and ask beside the feed is handed to the upstream as it is. A relay knows no keys and
//! decides nothing.

pub(crate) mod follow;
pub mod upstream;

use keyward_core::MAX_WAIT_SECONDS;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How long the upstream may be let wait.
pub const POLL_WAITS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(MAX_WAIT_SECONDS as u64);
