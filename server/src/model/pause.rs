//! A pause: the key is refused until it is resumed.

use crate::clock::Timestamp;
use utoipa::ToSchema;

/// Since when a key is paused, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Since when.
    pub at: Timestamp,
    /// By whom.
    pub by: PausedBy,
}

/// Who paused a key. What an operator paused, users of self-service cannot resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum PausedBy {
    /// An operator.
    Operator,
    /// A user, with a key of the same owner.
    SelfService,
}

impl PausedBy {
    /// The name in the API and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::SelfService => "self_service",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Operator, Self::SelfService].into_iter().find(|by| by.name() == name)
    }
}
