//! Online backup of an SQLite database: complete as of one moment, checked, and renamed into place when finished.

use super::DATABASE_FILE;
use super::database::application_id;
use crate::random::{self, RngError};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use sqlx::any::install_default_drivers;
use sqlx::{AnyConnection, Connection};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The backup failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to copy.
    #[error("{}: expected the SQLite database of a control plane, found none; --data-dir says where it is", path.display())]
    NoDatabase {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The database is not a control plane's.
    #[error("{} is not a database of a Keyward control plane", path.display())]
    OtherApplication {
        /// The file.
        path: PathBuf,
    },
    /// The copy would replace a file.
    #[error("{} exists: name another file, or pass --overwrite", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The copy would replace a file of the database.
    #[error("{} is a file of the database itself; name another file", path.display())]
    OfTheDatabase {
        /// The file.
        path: PathBuf,
    },
    /// The copy is not whole.
    #[error("the copy did not pass its check, so the database may be damaged: {0}")]
    Damaged(String),
    /// A file cannot be made.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite refused.
    #[error("{place}: {}", super::describe_error(source))]
    Database {
        /// The database that it was about.
        place: String,
        /// Why.
        source: sqlx::Error,
    },
    /// There is no randomness for the name under which it is written.
    #[error(transparent)]
    Random(#[from] RngError),
}

/// Copies the database in the directory to the file, and returns the size of the copy.
///
/// # Errors
/// If there is no database, or if no whole copy can be made.
pub async fn back_up(data_dir: &Path, file: &Path, overwrite: bool) -> Result<u64, BackupError> {
    let database = data_dir.join(DATABASE_FILE);
    if !fs::metadata(&database).is_ok_and(|found| found.len() > 0) {
        return Err(BackupError::NoDatabase { path: database });
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::File { path, source }
    };
    let name = file.file_name().ok_or_else(|| failed(file)(io::ErrorKind::IsADirectory.into()))?;
    let target = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let is_in_data_dir = match (target.canonicalize(), data_dir.canonicalize()) {
        (Ok(target), Ok(data_dir)) => target == data_dir,
        _ => false,
    };
    if is_in_data_dir && name.as_encoded_bytes().starts_with(DATABASE_FILE.as_bytes()) {
        return Err(BackupError::OfTheDatabase { path: file.to_owned() });
    }
    if !overwrite && file.symlink_metadata().is_ok() {
        return Err(BackupError::Exists { path: file.to_owned() });
    }
    let unfinished = target.join(format!(".{}.{}", name.to_string_lossy(), random::base62(8)?));
    // SQLite takes an empty file that is there, and leaves its permissions.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished);
    drop(made.map_err(failed(&unfinished))?);
    let finished = match copy(&database, &unfinished).await {
        Ok(()) => finish(&unfinished, file, target, overwrite).map_err(failed(file)),
        Err(error) => Err(error),
    };
    let _ = fs::remove_file(&unfinished);
    finished
}

async fn copy(database: &Path, copy: &Path) -> Result<(), BackupError> {
    install_default_drivers();
    let refused = |path: &Path| {
        let place = path.display().to_string();
        move |source| BackupError::Database { place, source }
    };
    let mut source = connect(database).await.map_err(refused(database))?;
    let id = sqlx::query_scalar::<_, i64>("PRAGMA application_id").fetch_one(&mut source).await;
    // Those of earlier versions have none.
    if ![0, application_id(DATABASE_FILE)].contains(&id.map_err(refused(database))?) {
        return Err(BackupError::OtherApplication { path: database.to_owned() });
    }
    let name = copy.to_string_lossy().into_owned();
    let copied = sqlx::query("VACUUM INTO $1").bind(name).execute(&mut source).await;
    copied.map_err(refused(copy))?;
    source.close().await.map_err(refused(database))?;

    let mut made = connect(copy).await.map_err(refused(copy))?;
    let checked = sqlx::query_scalar::<_, String>("PRAGMA integrity_check").fetch_one(&mut made).await;
    let checked = checked.map_err(refused(copy))?;
    if checked != "ok" {
        return Err(BackupError::Damaged(checked));
    }
    // No server uses the copy.
    sqlx::raw_sql("PRAGMA user_version = 0").execute(&mut made).await.map_err(refused(copy))?;
    made.close().await.map_err(refused(copy))
}

async fn connect(path: &Path) -> Result<AnyConnection, sqlx::Error> {
    let path = percent_encode(path.as_os_str().as_bytes(), NON_ALPHANUMERIC);
    let mut connection = AnyConnection::connect(&format!("sqlite:{path}")).await?;
    sqlx::raw_sql("PRAGMA busy_timeout = 5000; PRAGMA temp_store = MEMORY").execute(&mut connection).await?;
    Ok(connection)
}

fn finish(unfinished: &Path, file: &Path, directory: &Path, overwrite: bool) -> io::Result<u64> {
    let made = File::open(unfinished)?;
    made.sync_all()?;
    if overwrite {
        fs::rename(unfinished, file)?;
    } else {
        // Unlike a rename, a link replaces nothing.
        fs::hard_link(unfinished, file)?;
    }
    File::open(directory)?.sync_all()?;
    Ok(made.metadata()?.len())
}
