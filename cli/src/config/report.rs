//! Mistakes and warnings, and how they are printed.

use crate::output::printable;
use keyward_core::document::Problem;
use std::path::Path;

/// The mistakes and warnings about one filter's configuration and what is around it.
pub(super) struct Report {
    pub(super) at: String,
    pub(super) mistakes: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

pub(super) fn problem(path: impl Into<String>, message: impl Into<String>) -> Problem {
    Problem { path: path.into(), message: message.into() }
}

pub(super) fn mistakes_in(mistakes: usize, file: &Path) -> String {
    format!("{} in {}", counted(mistakes, "mistake"), file.display())
}

pub(super) fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

pub(super) fn line(problem: &Problem) -> String {
    let path = if problem.path.is_empty() { String::new() } else { format!("{}: ", problem.path) };
    printable(&format!("{path}{}", problem.message))
}
