//! Envoy's shared data as the engine's store.

use crate::engine::store::{Conflict, SharedStore, Stored};
use proxy_wasm::hostcalls;

/// The shared data of this vm_id.
pub(super) struct SharedData;

/// Envoy ignores the tag of a missing name, and compares it otherwise: with a tag that no value has, a write creates a
/// name only if it is absent. (Tags count up from 1; this one is the last before they wrap.)
const ABSENT: u32 = u32::MAX;

impl SharedStore for SharedData {
    fn get(&self, name: &str) -> Option<Stored> {
        // An emptied value is returned as nothing with a tag; a missing name as nothing without one.
        match hostcalls::get_shared_data(name) {
            Ok((bytes, Some(tag))) => Some(Stored { bytes: bytes.unwrap_or_default(), tag }),
            _ => None,
        }
    }

    fn put(&self, name: &str, value: &[u8], expected: Option<u32>) -> Result<(), Conflict> {
        hostcalls::set_shared_data(name, Some(value), Some(expected.unwrap_or(ABSENT))).map_err(|_| Conflict)
    }
}
