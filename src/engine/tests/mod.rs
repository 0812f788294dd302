//! Models that the engine as a whole is held to.

mod feed_model;
mod totality;
mod verification;
