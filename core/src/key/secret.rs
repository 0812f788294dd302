//! A plaintext key or token, wrapped so that it cannot be printed by accident.

use std::fmt;

/// A plaintext key or token. `Debug` redacts it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a plaintext.
    pub fn new(plaintext: String) -> Self {
        Self(plaintext)
    }

    /// The plaintext, for the one place that must have it: a digest, an answer shown once, an `authorization` header.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Secret::new("kw_live_x".to_owned())), "Secret(redacted)");
    }
}
