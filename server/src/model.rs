//! What the control plane knows: keys with their secrets, owners, plans and tokens. Types only; nothing here stores or
//! sends.

mod audit;
mod import;
mod inheritance;
mod key;
mod key_view;
mod leak;
mod owner;
mod plan;
mod request;
mod target;
mod token;

pub use audit::{Actor, AuditEntry};
pub use import::{COLUMNS, Column, IdSeries, Ids, ImportedKey, SECRET_FIELDS, series_of, without_names};
pub use inheritance::{beyond, read_inheriting};
pub use key::{Key, MAX_METADATA, PasswordHash, Secret, State};
pub use key_view::{is_active, key_view};
pub use leak::{LeakAction, LeakReport, MAX_KEY_BYTES, MAX_REPORTED_KEYS, OnLeak};
pub use owner::{Owner, OwnerKind};
pub use plan::Plan;
pub use request::{
    KeyChange, KeysToRevoke, MAX_CREDITS, MetadataChange, NewKey, OwnerChange, OwnerSettings, PlanSettings, Rotation,
    UsageToUndo, document, is_id, schema,
};
pub use target::{Expected, Target};
pub use token::{NewToken, Token, TokenScope};
