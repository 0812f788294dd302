//! A directory for one test's logs and state.

use crate::Result;
use crate::failure::Context as _;
use std::path::Path;
use tempfile::TempDir;

/// Removed with its contents, unless the test fails: then it is kept, and its path is printed.
#[derive(Debug)]
pub struct TestDir(TempDir);

impl TestDir {
    /// Creates a directory.
    pub fn new() -> Result<Self> {
        tempfile::Builder::new()
            .prefix("keyward-test-")
            .tempdir()
            .map(Self)
            .context(|| "a directory for the test".into())
    }

    /// The path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            eprintln!("logs and state are kept in {}", self.0.path().display());
        }
    }
}
