//! The configuration of self-service.

/// What users of keys may do with them by showing one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfService {
    /// The permission that a key needs for it; `None` if it needs none.
    pub scope: Option<String>,
}
