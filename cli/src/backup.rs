//! `keyward backup`: a copy of a control plane's SQLite database, made beside the running server.

use super::{CliError, arguments, print};
use clap::Args;
use keyward_server::store::back_up;
use std::path::PathBuf;

/// What to copy, and where to.
#[derive(Debug, Args)]
#[command(
    after_help = "The copy is complete and checked, of mode 600, and appears under its name only when it is finished. To restore \
                  it, stop the server and put the copy in place of keyward.db (docs/guides/backup-and-restore.md). For \
                  PostgreSQL use pg_dump."
)]
pub struct BackupArguments {
    /// The file to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where the database is
    #[arg(long, env = "KEYWARD_DATA_DIR", default_value = arguments::DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// Replace FILE if it exists
    #[arg(long)]
    overwrite: bool,
}

/// Makes the copy.
///
/// # Errors
/// If there is no database to copy, or if the copy cannot be made.
pub async fn backup(arguments: &BackupArguments) -> Result<(), CliError> {
    if arguments::database_url()?.is_some() {
        return Err(CliError::Usage(
            "KEYWARD_DATABASE_URL is set: the database is PostgreSQL, which `pg_dump --format=custom` copies",
        ));
    }
    let bytes = back_up(&arguments.data_dir, &arguments.file, arguments.overwrite).await?;
    print(&format!("{}: {bytes} bytes\n", arguments.file.display()))
}
