//! A directory for one test's logs and state.

use crate::Result;
use crate::failure::Context as _;
use std::path::Path;
use tempfile::TempDir;

/// Removed with all in it, except when the test fails: then it stays, and its path is printed.
#[derive(Debug)]
pub struct TestDir(TempDir);

impl TestDir {
    /// Makes one.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn new() -> Result<Self> {
        tempfile::Builder::new()
            .prefix("keyward-test-")
            .tempdir()
            .map(Self)
            .context(|| "a directory for the test".into())
    }

    /// Where it is.
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
