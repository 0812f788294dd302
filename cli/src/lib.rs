//! The command line over the API. It prints what a person reads, or what the server said.

mod again;
mod arguments;
pub mod audit;
mod backup;
mod client;
mod config;
mod file;
pub mod keys;
mod leaks;
mod measure;
mod output;
pub mod owners;
pub mod plans;
pub mod tokens;
mod transfer;
mod typed_secrets;
mod usage;

pub use arguments::{Arguments, Command, RelayArguments, ServeArguments, database_url, hmac_pepper};
pub use backup::{BackupArguments, backup};
pub use config::{CheckArguments, RulesCommand, check, rules};
pub use measure::{MeasureArguments, measure};
pub use typed_secrets::{TypedSecret, refuse as refuse_typed_secrets};
pub use usage::{UsageArguments, usage};

use clap::CommandFactory;
use clap_complete::Shell;
use client::{Client, ClientError};
use keyward_core::key::id::is_key_id;
use keyward_server::auth::password::HashError;
use keyward_server::random::RngError;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use std::io::{self, Write};

/// The command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The server cannot be asked, or has refused.
    #[error(transparent)]
    Client(ClientError),
    /// What was typed cannot be meant. The message does not repeat it.
    #[error("{0}")]
    Usage(&'static str),
    /// A secret was typed where none belongs. The message does not repeat it.
    #[error(transparent)]
    TypedSecret(#[from] TypedSecret),
    /// A key was made that nobody will see.
    #[error("{what}{id} was made and could not be shown ({source}); {remedy}")]
    NotShown {
        /// What of it was made, in words before the id.
        what: &'static str,
        /// The key's id.
        id: String,
        /// Why.
        source: io::Error,
        /// What is to be done.
        remedy: &'static str,
    },
    /// What was asked for may have been done, and nobody will see what it made.
    #[error(
        "{source}\nwhether it was done is not known, though it was asked for again: an answer was lost before. {remedy}"
    )]
    MayBeDone {
        /// What came in the end.
        source: Box<ClientError>,
        /// How to go on.
        remedy: String,
    },
    /// There is no memory to measure with.
    #[error(transparent)]
    NotMeasured(HashError),
    /// No backup was made.
    #[error(transparent)]
    NoBackup(#[from] keyward_server::store::BackupError),
    /// There is no randomness for an Idempotency-Key.
    #[error(transparent)]
    Random(#[from] RngError),
    /// Some rows or lines of a file were refused, as was reported.
    #[error("{0}")]
    Partial(String),
    /// A configuration has mistakes, or none is in the file.
    #[error("{0}")]
    Mistakes(String),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer cannot be printed.
    #[error("cannot write the answer: {0}")]
    Print(#[from] io::Error),
}

impl CliError {
    /// The exit code, as `--help` says.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::TypedSecret(_) => 2,
            Self::Partial(_) => 3,
            Self::File { .. } => 4,
            _ => 1,
        }
    }
}

/// The message for a terminal, which may have several lines.
pub fn printable_message(message: &str) -> String {
    message.lines().map(output::printable).collect::<Vec<_>>().join("\n")
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Url(expected) => Self::Usage(expected),
            other => Self::Client(other),
        }
    }
}

/// A key that was pasted for its id must go nowhere: not into a URL, and not into a message.
fn check_key_id(id: &str) -> Result<(), CliError> {
    if is_key_id(id) {
        Ok(())
    } else {
        Err(CliError::Usage("expected the id of a key: key_ and letters, digits, _ and -"))
    }
}

/// Every element of the list `name`, from all its pages; filters without a value do not count.
fn all(client: &Client, path: &str, name: &str, filters: &[(&str, Option<String>)]) -> Result<Vec<Value>, ClientError> {
    let mut query = String::from("?limit=100");
    for (filter, value) in filters {
        if let Some(value) = value {
            query += &format!("&{filter}={}", escaped(value));
        }
    }
    let mut elements = Vec::new();
    let mut page = client.get(&format!("{path}{query}"))?;
    loop {
        if let Some(Value::Array(more)) = page.get_mut(name).map(Value::take) {
            elements.extend(more);
        }
        let Some(next) = page.get("next").and_then(Value::as_str) else { return Ok(elements) };
        page = client.get(&format!("{path}{query}&after={}", escaped(next)))?;
    }
}

/// The fields that have a value.
fn document<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let given = fields.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?)));
    Value::Object(Map::from_iter(given))
}

/// Prints the script that completes the command line in that shell.
///
/// # Errors
/// If it cannot be printed.
pub fn completions(shell: Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "keyward", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints to the standard output. A reader that has seen enough is no error.
///
/// # Errors
/// If it cannot be printed for another reason.
pub fn print(text: &str) -> Result<(), CliError> {
    match write(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(CliError::Print),
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn escaped(part: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(part, NON_ALPHANUMERIC)
}
