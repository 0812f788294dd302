//! What the control plane knows: keys with their secrets, owners, and tokens. Types only; nothing here stores or sends.

mod audit;
mod inheritance;
mod key;
mod owner;
mod request;
mod token;

pub use audit::{Actor, AuditEntry};
pub use inheritance::{beyond, read_inheriting};
pub use key::{Key, PasswordHash, Secret, State};
pub use owner::{Owner, OwnerKind};
pub use request::{NewKey, OwnerChange, Rotation, document};
pub use token::{NewToken, Token, TokenScope};
