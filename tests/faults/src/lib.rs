//! Faults under load: a real control plane, clients that change things all the while, edges that follow, and an oracle of what
//! was acknowledged.
//!
//! A seed draws the faults, their times and what clients ask, so that a campaign can be repeated; how processes and threads
//! interleave is not drawn, so a failure may need several repetitions. Nothing here knows how the server stores anything.

pub mod campaign;
pub mod fault;
pub mod machine;
pub mod observe;
pub mod oracle;
pub mod proxy;
pub mod workload;
