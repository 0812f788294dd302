//! A relay serves the feed of an upstream, a control plane or another relay, from its own database, also while the upstream is
//! unavailable.
//!
//! [`follow`] replicates the upstream's feed into the database, from which pages are served as by a control plane. Usage reports and
//! verifications are forwarded to the [`upstream`]. A relay stores no keys and decides nothing.

pub(crate) mod follow;
pub mod upstream;

use keyward_core::MAX_WAIT_SECONDS;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The permitted wait of a long poll to the upstream.
pub const POLL_WAITS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(MAX_WAIT_SECONDS as u64);
