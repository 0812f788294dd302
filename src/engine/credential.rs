//! The credential of a request. The parser lives in `keyward-core`, since the control plane reads the credentials of
//! self-service requests in the same way.

pub use keyward_core::dialect::credential::*;
