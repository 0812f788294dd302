//! What the control plane knows: keys with their secrets, owners and plans. Types only; nothing here stores or sends.

mod audit;
mod key;
mod owner;
mod plan;
mod request;
mod target;

pub use audit::{Actor, AuditEntry};
pub use key::{Key, MAX_METADATA, PasswordHash, Secret, State};
pub use owner::{Owner, OwnerKind};
pub use plan::Plan;
pub use request::{
    KeyChange, KeysToRevoke, MetadataChange, NewKey, OwnerChange, OwnerSettings, PlanSettings, Rotation, document,
};
pub use target::{Expected, Target};
