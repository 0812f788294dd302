//! Files that only their owner may read: created atomically, and refused if others can read them.

use crate::random::{self, RngError};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Creates the file with these contents unless it exists, so that no reader sees a part of it and nothing is overwritten.
pub(crate) fn create(path: &Path, contents: &str) -> Result<(), CreateError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!(".{name}.{}", random::base62(8)?));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| {
            file.write_all(contents.as_bytes())?;
            file.sync_all()
        })
        // Unlike a rename, a link does not replace a file that another process has created meanwhile.
        .and_then(|()| match fs::hard_link(&unfinished, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
    let removed = fs::remove_file(&unfinished);
    Ok(written.and(removed)?)
}

/// The file cannot be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No name for the temporary file can be drawn.
    #[error(transparent)]
    Random(#[from] RngError),
}

/// The permission bits of the file, if they let others read or write it.
pub(crate) fn open_to_others(path: &Path) -> io::Result<Option<u32>> {
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    Ok(Some(mode).filter(|mode| mode & 0o077 != 0))
}
