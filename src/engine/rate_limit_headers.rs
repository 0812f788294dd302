//! Header fields that report the use of a key's windows to clients.

use keyward_core::dialect::rate_limit_fields::{self, Field, Window};

/// Which responses carry which header fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitHeaders {
    /// `RateLimit-Policy` and `RateLimit`.
    pub standard: When,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`.
    pub x: When,
}

/// Which responses carry a group of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// None.
    Never,
    /// Responses with status 429.
    Refused,
    /// Responses with status 429, and the upstream's responses to keys that have limits.
    Always,
}

impl RateLimitHeaders {
    /// Whether an allowed request must remember its windows.
    pub fn are_on_allowed(&self) -> bool {
        self.standard == When::Always || self.x == When::Always
    }

    /// The fields of a response from the upstream.
    pub fn on_allowed(&self, windows: &[Window]) -> Vec<Field> {
        self.fields(windows, When::Always)
    }

    /// The `X-RateLimit` fields of a refusal; the refusal's shape sets the standard fields.
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
