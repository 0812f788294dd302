//! What the control plane knows: keys with their secrets, and owners. Types only; nothing here stores or sends.

mod key;
mod owner;
mod request;

pub use key::{Key, Secret, State};
pub use owner::Owner;
pub use request::{NewKey, OwnerChange, Rotation, document};
