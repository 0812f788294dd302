//! End-to-end tests: the product with a real Envoy, as a client and an operator see it. `make e2e` builds what they
//! need.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "e2e/accepted_until_revoked.rs"]
mod accepted_until_revoked;
#[path = "e2e/bad_feed.rs"]
mod bad_feed;
#[path = "e2e/bad_input.rs"]
mod bad_input;
#[path = "e2e/bounds.rs"]
mod bounds;
#[path = "e2e/browsers.rs"]
mod browsers;
#[path = "e2e/common.rs"]
mod common;
#[path = "e2e/control_plane_unavailable.rs"]
mod control_plane_unavailable;
#[path = "e2e/custom_dialect.rs"]
mod custom_dialect;
#[path = "e2e/dialects.rs"]
mod dialects;
#[path = "e2e/doctor.rs"]
mod doctor;
#[path = "e2e/dynamic_module.rs"]
mod dynamic_module;
#[path = "e2e/fails_closed.rs"]
mod fails_closed;
#[path = "e2e/feed_double.rs"]
mod feed_double;
#[path = "e2e/imported_keys.rs"]
mod imported_keys;
#[path = "e2e/init.rs"]
mod init;
#[path = "e2e/kept_credential.rs"]
mod kept_credential;
#[path = "e2e/key_lifecycle.rs"]
mod key_lifecycle;
#[path = "e2e/limits.rs"]
mod limits;
#[path = "e2e/listener_replaced.rs"]
mod listener_replaced;
#[path = "e2e/live_and_test.rs"]
mod live_and_test;
// Reads the memory of a process, which requires Linux.
#[cfg(target_os = "linux")]
#[path = "e2e/many_keys.rs"]
mod many_keys;
#[path = "e2e/path_spellings.rs"]
mod path_spellings;
#[path = "e2e/prove.rs"]
mod prove;
#[path = "e2e/relay.rs"]
mod relay;
#[path = "e2e/secrets.rs"]
mod secrets;
#[path = "e2e/self_service.rs"]
mod self_service;
#[path = "e2e/usage.rs"]
mod usage;
#[path = "e2e/verification.rs"]
mod verification;
#[path = "e2e/within_100_ms.rs"]
mod within_100_ms;
