//! What the measurements share: a load, what a process used, quartiles, and where results are written.
//!
//! Each binary in `src/bin` measures one thing, prints it, and writes `.keyward/bench/NAME.json`; `tools/bench-report`
//! makes the tables and plots of `docs/reference/benchmarks.md` from those files.

pub mod load;
pub mod process;
pub mod results;
pub mod stats;
