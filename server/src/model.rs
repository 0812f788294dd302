//! What the control plane knows: keys with their secrets, owners, plans and tokens. Types only; nothing here stores or
//! sends.

mod audit;
mod delegate;
mod import;
mod key;
mod key_view;
mod leak;
mod owner;
mod pause;
mod plan;
pub mod precondition;
mod reader;
mod request;
mod role;
mod session;
mod token;

pub use audit::{Actor, AuditEntry};
pub use delegate::Delegator;
pub use import::{COLUMNS, Column, IdSeries, Ids, ImportedKey, SECRET_FIELDS, series_of, without_names};
pub use key::{
    FieldChanges, FieldSpec, Key, KeyFields, MetadataChange, PasswordHash, Secret, SelfService, Shape, State, Stored,
    write_cell,
};
pub use key_view::{is_active, key_view};
pub use leak::{LeakAction, LeakReport, MAX_KEY_BYTES, MAX_REPORTED_KEYS, OnLeak};
pub use owner::{Owner, OwnerKind};
pub use pause::{Pause, PausedBy};
pub use plan::Plan;
pub use precondition::{Expected, Target};
pub use reader::{MAX_CREDITS, MAX_METADATA, is_id, schema};
pub use request::{
    KeyChange, KeysToRevoke, NewKey, OwnerChange, OwnerSettings, PlanSettings, Rotation, UsageToUndo, document,
    documents,
};
pub use role::Role;
pub use session::{SESSION_IDLE, SESSION_LIFETIME, Session, SessionCredential};
pub use token::{NewToken, Token};
