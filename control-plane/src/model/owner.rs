//! An owner, who decides for all its keys.

use crate::clock::Timestamp;
use keyward_contract::entry::OwnerRecord;

/// A user, team or organization. The control plane learns of one when a key first names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id, in the words of whoever runs the service.
    pub id: String,
    /// Whether all its keys are refused.
    pub disabled: bool,
    /// The most its keys may do; `None` does not bound them.
    pub permissions: Option<Vec<String>>,
    /// When a key first named it.
    pub created_at: Timestamp,
}

impl Owner {
    /// An owner as it begins: enabled and unbounded.
    pub fn new(id: String, now: Timestamp) -> Self {
        Self { id, disabled: false, permissions: None, created_at: now }
    }

    /// What an edge is told about it.
    pub fn record(&self) -> OwnerRecord {
        OwnerRecord { disabled: self.disabled, permissions: self.permissions.clone() }
    }
}
