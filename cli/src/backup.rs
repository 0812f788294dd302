//! `keyward backup`: copies the SQLite database of a control plane, also while the server runs.

use super::CliError;
use super::arguments::{DATA_DIR, database_url};
use super::output::OutputFormat;
use clap::Args;
use keyward_server::store::back_up;
use serde_json::json;
use std::path::PathBuf;

/// What to copy, and where to.
#[derive(Debug, Args)]
#[command(
    after_help = "The copy is complete and verified, has mode 600, and appears under its name only when it is finished. To \
                  restore it, stop the server and put the copy in place of keyward.db (docs/guides/backup-and-restore.md). \
                  For PostgreSQL use pg_dump."
)]
pub(super) struct BackupArguments {
    /// File to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Directory of the database
    #[arg(long, env = "KEYWARD_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// Replace FILE if it exists
    #[arg(long)]
    overwrite: bool,
}

#[tokio::main]
pub(super) async fn run(arguments: &BackupArguments, format: OutputFormat) -> Result<(), CliError> {
    if database_url()?.is_some() {
        return Err(CliError::Usage(
            "KEYWARD_DATABASE_URL is set, so the database is PostgreSQL: back it up with `pg_dump --format=custom`",
        ));
    }
    let bytes = back_up(&arguments.data_dir, &arguments.file, arguments.overwrite).await?;
    let file = arguments.file.display().to_string();
    format.print(&json!({"file": file, "bytes": bytes}), |_| format!("{file}: {bytes} bytes\n"))
}
