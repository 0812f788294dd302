//! Fault injection for the end-to-end tests, which show that nothing passes a worker whose filter is broken. Built only
//! with the feature `fault-injection`.

use crate::engine::credential::Header;
use crate::engine::store::{SharedStore, update};

/// Traps on a request with the fault header.
#[expect(clippy::panic, reason = "the trap is the purpose")]
pub(super) fn on_request(headers: &[Header<'_>]) {
    if headers.iter().any(|(name, _)| *name == "x-fault-trap") {
        panic!("a request asked for a trap");
    }
}

/// Fails the configuration from the n-th VM on, if the variable `KEYWARD_FAULT_CONFIGURE` is n: the first two are the
/// canary and the main thread, followed by the workers.
pub(super) fn on_configure(store: &impl SharedStore) -> Result<(), String> {
    let Some(from) = std::env::var("KEYWARD_FAULT_CONFIGURE").ok().and_then(|n| n.parse::<u64>().ok()) else {
        return Ok(());
    };
    let count = update(store, "keyward.fault.configured", |current| {
        let count = 1 + current.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        (Some(count.to_le_bytes().to_vec()), count)
    });
    if count >= from { Err(format!("configuration number {count} was made to fail")) } else { Ok(()) }
}
