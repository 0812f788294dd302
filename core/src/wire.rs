//! What the server sends to edges and edges send to the server, byte by byte. Pinned by the golden files in `core/tests/golden`.

pub mod age;
pub(crate) mod codec;
pub mod cursor;
pub mod entry;
mod limits;
pub mod page;
pub mod summary;
pub mod usage;
pub mod verify;
