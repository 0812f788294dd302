//! Errors of commands, and the exit code of each.

use super::typed_secrets::TypedSecret;
use keyward_client::{ClientError, RetryError};
use keyward_server::auth::password::HashError;
use keyward_server::keys::github::GithubKeysError;
use keyward_server::serve::{DialectError, StartError};
use keyward_server::store::BackupError;
use keyward_server::text::visible;
use std::io;
use std::path::PathBuf;

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The server refused, or cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// There is no token for the server.
    #[error(
        "no admin token: KEYWARD_ADMIN_TOKEN is not set, and {} cannot be read: {source}. Set KEYWARD_ADMIN_TOKEN, or \
         KEYWARD_DATA_DIR to the data directory of the server",
        path.display()
    )]
    NoToken {
        /// The file that would have it.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// Wrong usage. The message does not repeat the argument.
    #[error("{0}")]
    Usage(&'static str),
    /// An argument holds a secret. The message does not repeat it.
    #[error(transparent)]
    TypedSecret(#[from] TypedSecret),
    /// A secret was created that cannot be printed.
    #[error("{what}{id} was created but cannot be printed: {source}; {remedy}")]
    NotPrinted {
        /// What of the key or token, in words before the id.
        what: &'static str,
        /// The id of the key or token.
        id: String,
        /// Why.
        source: io::Error,
        /// What to do next.
        remedy: &'static str,
    },
    /// The request may have been carried out, and its response is lost.
    #[error("{source}\noutcome unknown: the response to an earlier attempt was lost. {remedy}")]
    OutcomeUnknown {
        /// The last error.
        source: Box<ClientError>,
        /// What to do next.
        remedy: String,
    },
    /// The server or relay cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The dialect cannot be used.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// GitHub's public keys cannot be used.
    #[error(transparent)]
    GithubKeys(#[from] GithubKeysError),
    /// The process cannot log.
    #[error("cannot log: {0}")]
    Logging(String),
    /// The process cannot handle signals.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    /// There is no memory for password hashes.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// There is no backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// Some rows or lines of a file were refused, as was reported.
    #[error("{0}")]
    Partial(String),
    /// A configuration has mistakes, or there is none in the file.
    #[error("{0}")]
    Mistakes(String),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    NotWritten {
        /// The file or its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The result cannot be printed.
    #[error("cannot write to standard output: {0}")]
    Print(#[source] io::Error),
}

impl CliError {
    /// The error of a request that was repeated, with what to do next if its outcome is unknown.
    pub(super) fn of_retry(RetryError { error, outcome_unknown }: RetryError, remedy: String) -> Self {
        if outcome_unknown { Self::OutcomeUnknown { source: error.into(), remedy } } else { error.into() }
    }

    /// The exit code, as `--help` says.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::TypedSecret(_) => 2,
            Self::Partial(_) => 3,
            Self::File { .. } | Self::NotWritten { .. } => 4,
            _ => 1,
        }
    }

    /// The message for a terminal, which may have several lines.
    pub fn printable(&self) -> String {
        self.to_string().lines().map(visible).collect::<Vec<_>>().join("\n")
    }
}
