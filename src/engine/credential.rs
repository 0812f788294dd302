//! Finding the one credential of a request: in the contract, as the control plane reads those of self-service in the
//! same way.

pub use keyward_core::dialect::credential::*;
