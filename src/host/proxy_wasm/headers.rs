//! The header fields of a stream, read with one host call and one allocation. The SDK's getter allocates for each name
//! and value, which cost more per request than the decision (docs/reference/hot-path.md).

#![expect(unsafe_code, reason = "the SDK offers no call that hands over the bytes as they are")]

use crate::engine::credential::Header;
use crate::engine::header_map;
use crate::engine::upstream_headers::Change;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{MapType, Status};
use std::ptr::null_mut;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    /// proxy-wasm ABI 0.2.1. The host allocates the result with `proxy_on_memory_allocate`, and the caller owns it.
    safe fn proxy_get_header_map_pairs(map: u32, data: &mut *mut u8, size: &mut usize) -> u32;
}

/// Header fields in Envoy's encoding.
pub(super) struct HeaderBytes(Vec<u8>);

impl HeaderBytes {
    /// The header fields of the effective context.
    pub(super) fn get(map: MapType) -> Option<Self> {
        let (mut data, mut size) = (null_mut(), 0);
        if proxy_get_header_map_pairs(map as u32, &mut data, &mut size) != Status::Ok as u32 {
            return None;
        }
        if data.is_null() {
            return Some(Self(Vec::new()));
        }
        // SAFETY: the host has called `proxy_on_memory_allocate` of the SDK with this size, which makes a boxed slice with the
        // global allocator and gives it away; the host has filled it and keeps no pointer to it.
        Some(Self(unsafe { Vec::from_raw_parts(data, size, size) }))
    }

    /// The fields; `None` if malformed.
    pub(super) fn fields(&self) -> Option<Vec<Header<'_>>> {
        header_map::read(&self.0)
    }
}

/// Changes the header fields of the effective context.
pub(super) fn change(map: MapType, changes: &[Change<'_>]) -> Result<(), Status> {
    changes.iter().try_for_each(|change| match change {
        Change::Remove(name) => hostcalls::set_map_value_bytes(map, name, None),
        Change::Replace(name, value) => hostcalls::set_map_value_bytes(map, name, Some(value)),
        Change::Add(name, value) => hostcalls::add_map_value_bytes(map, name, value),
    })
}
