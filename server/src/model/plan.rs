//! A plan: what its keys may use and how many credits they begin with, under a name of its own.

use crate::clock::Timestamp;
use keyward_core::key::limit::Limits;
use keyward_core::wire::entry::PlanRecord;

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its id, in the words of whoever runs the service.
    pub id: String,
    /// What its keys may use that have no limits of their own; `None` for the dialect's default.
    pub limits: Option<Limits>,
    /// What a key begins with that names no credits of its own; `None` does not bound it.
    pub credits: Option<u64>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Counts the changes to it, for conditional requests.
    pub version: u64,
}

impl Plan {
    /// A plan as it begins: it limits and bounds nothing of its own.
    pub fn new(id: String, now: Timestamp) -> Self {
        Self { id, limits: None, credits: None, created_at: now, version: 1 }
    }

    /// What an edge is told about it.
    pub fn record(&self) -> PlanRecord {
        PlanRecord { limits: self.limits.clone() }
    }
}
