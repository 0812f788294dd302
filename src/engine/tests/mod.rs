//! Property tests of the engine as a whole.

mod feed_model;
mod totality;
mod verification;
