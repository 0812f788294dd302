//! What the control plane knows: keys with their secrets, and owners. Types only; nothing here stores or sends.

mod audit;
mod key;
mod owner;
mod request;

pub use audit::{Actor, AuditEntry};
pub use key::{Key, PasswordHash, Secret, State};
pub use owner::{Owner, OwnerKind};
pub use request::{NewKey, OwnerChange, Rotation, document, is_owner_id, schema};
