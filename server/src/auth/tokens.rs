//! Tokens of operators and edges, in files and in the database.

pub mod db;
pub mod file;
