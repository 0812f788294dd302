//! Reads which responses carry rate-limit headers, and how many bad keys a client may send.

use crate::engine::rate_limit_headers::{RateLimitHeaders, When};
use keyward_core::document::Node;
use keyward_core::key::limit::Limit;

const WHEN: [(&str, When); 3] = [("never", When::Never), ("refused", When::Refused), ("always", When::Always)];

const MINUTE_MS: u64 = 60_000;

/// The responses that carry rate-limit headers; absent fields keep their defaults.
pub(super) fn read_headers(node: &Node<'_>) -> Option<RateLimitHeaders> {
    let usual = RateLimitHeaders::default();
    let mut fields = node.fields()?;
    let standard = fields.optional("standard").map_or(Some(usual.standard), |n| n.one_of(&WHEN));
    let x = fields.optional("x").map_or(Some(usual.x), |n| n.one_of(&WHEN));
    fields.finish();
    Some(RateLimitHeaders { standard: standard?, x: x? })
}

/// How many bad keys a client may send in a minute.
pub(super) fn read_guessing(node: &Node<'_>) -> Option<Limit> {
    let mut fields = node.fields()?;
    let failures = fields.required("failures_per_minute").and_then(|n| n.number(1..=u64::from(u32::MAX)));
    fields.finish();
    Limit::new(u32::try_from(failures?).ok()?, MINUTE_MS).ok()
}
