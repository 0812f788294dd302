//! Keys outside the database: issuing secrets, reading imports, identifying leaks.

pub mod csv;
pub mod github;
pub mod import;
pub mod issue;
pub mod leaks;
pub mod replay_seed;
