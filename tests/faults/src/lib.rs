//! Faults under load: a real control plane, clients that change data constantly, edges that follow, and an oracle of
//! the acknowledged changes.
//!
//! A seed determines the faults, their times and the clients' requests, so that a campaign can be repeated; the
//! interleaving of processes and threads is not determined, so a failure may need several repetitions. Nothing here
//! knows how the server stores its data.

pub mod campaign;
pub mod fault;
pub mod machine;
pub mod observe;
pub mod oracle;
pub mod proxy;
pub mod workload;
