//! What the control plane knows: keys with their secrets, and owners. Types only; nothing here stores or sends.

mod audit;
mod import;
mod key;
mod leak;
mod owner;
mod request;

pub use audit::{Actor, AuditEntry};
pub use import::{COLUMNS, Column, IdSeries, Ids, ImportedKey};
pub use key::{Key, PasswordHash, Secret, State};
pub use leak::{LeakAction, LeakReport, MAX_REPORTED_KEYS, OnLeak};
pub use owner::{Owner, OwnerKind};
pub use request::{NewKey, OwnerChange, Rotation, document};
