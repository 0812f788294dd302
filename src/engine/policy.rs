//! What one gateway decides by.

use crate::engine::rate_limit_headers::RateLimitHeaders;
use crate::engine::redaction::Redaction;
use crate::engine::rules::Rules;
use keyward_core::dialect::Dialect;

/// What a gateway asks, and how it answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The system whose keys are checked and whose refusals are sent.
    pub dialect: Dialect,
    /// What each route asks for.
    pub rules: Rules,
    /// How old the last answer of the feed may be before requests are refused, in milliseconds; `None` serves on.
    pub max_staleness_ms: Option<u64>,
    /// The header fields that tell the upstream who is calling.
    pub identity: Vec<&'static str>,
    /// What clients are told of limits.
    pub rate_limit_headers: RateLimitHeaders,
    /// What the access log does not show of a path.
    pub redaction: Redaction,
}
