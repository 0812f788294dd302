//! An owner, who decides for all its keys.

use crate::clock::Timestamp;
use keyward_core::wire::entry::OwnerRecord;
use utoipa::ToSchema;

/// A user, team or organization. The control plane learns of one when a key first names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id, in the words of whoever runs the service.
    pub id: String,
    /// What it is, where somebody has said.
    pub kind: Option<OwnerKind>,
    /// Whether all its keys are refused.
    pub disabled: bool,
    /// The most its keys may do; `None` does not bound them.
    pub permissions: Option<Vec<String>>,
    /// When a key first named it.
    pub created_at: Timestamp,
    /// Counts the changes to it, for conditional requests.
    pub version: u64,
}

/// What an owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum OwnerKind {
    /// One person.
    User,
    /// Some who work together.
    Team,
    /// All of a company.
    Organization,
}

impl OwnerKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::User, Self::Team, Self::Organization];

    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Team => "team",
            Self::Organization => "organization",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Owner {
    /// An owner as it begins: enabled and unbounded.
    pub fn new(id: String, now: Timestamp) -> Self {
        Self { id, kind: None, disabled: false, permissions: None, created_at: now, version: 1 }
    }

    /// What an edge is told about it.
    pub fn record(&self) -> OwnerRecord {
        OwnerRecord { disabled: self.disabled, permissions: self.permissions.clone() }
    }
}
