//! The configuration of self-service.

/// Self-service is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfService {
    /// The permission that the calling key requires; `None` if any key will do.
    pub scope: Option<String>,
}
