//! The life of keys outside the database: issuing, importing, leaks.

pub mod csv;
pub mod github;
pub mod import;
pub mod issue;
pub mod leaks;
pub mod replay_seed;
pub mod text;
