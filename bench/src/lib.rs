//! Shared parts of the benchmarks: a load generator, resource usage of processes, order statistics, and results files.
//!
//! Each binary in `src/bin` measures one thing, prints it, and writes `.keyward/bench/NAME.json`; `tools/bench-report`
//! generates the tables and plots of `docs/reference/benchmarks.md` from those files.

pub mod load;
pub mod process;
pub mod results;
pub mod stats;
