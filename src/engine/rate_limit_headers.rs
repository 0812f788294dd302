//! Where clients are told how far a key's windows are used.

use keyward_core::dialect::rate_limit_fields::{self, Field, Window};

/// On which answers which header fields stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitHeaders {
    /// `RateLimit-Policy` and `RateLimit`.
    pub standard: When,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`.
    pub x: When,
}

/// On which answers fields stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// On none.
    Never,
    /// On those with status 429.
    Refused,
    /// On those, and on the upstream's answers to keys that have limits.
    Always,
}

impl RateLimitHeaders {
    /// Whether an allowed request has to remember its windows.
    pub fn are_on_allowed(&self) -> bool {
        self.standard == When::Always || self.x == When::Always
    }

    /// The fields of an answer by the upstream.
    pub fn on_allowed(&self, windows: &[Window]) -> Vec<Field> {
        self.fields(windows, When::Always)
    }

    /// The fields of a refusal beside those of its shape, which are the standard ones.
    pub fn x_on_refused(&self, windows: &[Window]) -> Vec<Field> {
        Self { standard: When::Never, ..*self }.fields(windows, When::Refused)
    }

    fn fields(&self, windows: &[Window], on: When) -> Vec<Field> {
        let mut fields = Vec::new();
        if self.standard >= on {
            fields.extend(rate_limit_fields::standard(windows));
        }
        if self.x >= on {
            fields.extend(rate_limit_fields::x(windows));
        }
        fields
    }
}

impl Default for RateLimitHeaders {
    fn default() -> Self {
        Self { standard: When::Refused, x: When::Never }
    }
}
