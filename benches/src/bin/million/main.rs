//! To be measured: see the crate's documentation.

fn main() {}
