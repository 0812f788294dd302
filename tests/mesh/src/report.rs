//! The table of `docs/reference/mesh-compatibility.md`: written by the tests from what they saw, and compared with the
//! page at every run.
//!
//! `KEYWARD_UPDATE_MESH=1` writes the page instead of comparing.

use crate::tools::replace_file;
use keyward_harness::artifacts;
use std::fmt::Write as _;
use std::fs;

/// The page.
pub const PAGE: &str = "docs/reference/mesh-compatibility.md";

/// A section of the page: the versions, and a row for each case with its outcome.
#[derive(Debug)]
pub struct Section {
    name: String,
    versions: String,
    rows: Vec<(String, String)>,
}

impl Section {
    /// A section without rows. `versions` names the programs with their versions.
    pub fn new(name: &str, versions: &str) -> Self {
        Self { name: name.to_owned(), versions: versions.to_owned(), rows: Vec::new() }
    }

    /// Adds a case with its outcome, as seen by the test.
    pub fn row(&mut self, case: &str, outcome: impl Into<String>) {
        self.rows.push((case.to_owned(), outcome.into()));
    }

    /// Compares the section with the page, or writes it.
    ///
    /// # Panics
    /// If the page differs.
    #[track_caller]
    pub fn finish(self) {
        let path = artifacts::root().join(PAGE);
        let page = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{PAGE}: {error}"));
        let (start, end) = (format!("<!-- {}: written by make test-mesh -->\n", self.name), "<!-- end -->".to_owned());
        let (before, rest) = page.split_once(&start).unwrap_or_else(|| panic!("{PAGE}: no line {start:?}"));
        let (documented, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{PAGE}: no {end:?} after {start:?}"));
        let seen = self.render();
        if documented == seen {
            return;
        }
        assert!(
            std::env::var_os("KEYWARD_UPDATE_MESH").is_some(),
            "{PAGE} is not what this run saw; KEYWARD_UPDATE_MESH=1 make test-mesh writes it\n--- documented\n{documented}\n--- seen\n{seen}"
        );
        replace_file(&path, &format!("{before}{start}{seen}{end}{after}")).expect("the page can be written");
    }

    fn render(&self) -> String {
        let mut text = format!("\n{}\n\n| case | outcome |\n|---|---|\n", self.versions);
        for (case, outcome) in &self.rows {
            let _ = writeln!(text, "| {case} | {outcome} |");
        }
        text.push('\n');
        text
    }
}
