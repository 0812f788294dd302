//! `keys report-leak`: keys that were found in public, from a file or the standard input and never from an argument.

use super::client::Client;
use super::{CliError, output, print};
use clap::Args;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

/// Which keys were found, and where.
#[derive(Debug, Args)]
pub struct ReportLeakArguments {
    /// A file with a key on each line, or - for the standard input
    file: PathBuf,
    /// Who found them, or in what
    #[arg(long)]
    source: Option<String>,
    /// Where they were found
    #[arg(long, value_name = "URL")]
    found_at: Option<String>,
    /// Print what the server says
    #[arg(long)]
    json: bool,
}

/// The most keys of a request.
const BATCH: usize = 100;
/// The longest line, in bytes.
const MAX_LINE_BYTES: u64 = 16 << 10;

pub(super) fn report(client: &Client, arguments: &ReportLeakArguments) -> Result<(), CliError> {
    let unreadable = |source| CliError::File { path: arguments.file.clone(), source };
    let mut reader: Box<dyn BufRead> = if arguments.file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(&arguments.file).map_err(unreadable)?))
    };
    let mut line = 0;
    loop {
        let mut keys = Vec::new();
        let mut lines = Vec::new();
        while keys.len() < BATCH {
            let mut text = String::new();
            if reader.by_ref().take(MAX_LINE_BYTES).read_line(&mut text).map_err(unreadable)? == 0 {
                break;
            }
            line += 1;
            if !text.trim().is_empty() {
                keys.push(text.trim().to_owned());
                lines.push(line);
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        let request = json!({"keys": keys, "source": arguments.source, "url": arguments.found_at});
        let answer = client.post("/v1/leaks", &request)?;
        let reports = answer.get("keys").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if arguments.json {
            print(&output::line(&answer))?;
        } else {
            print(&lines.iter().zip(reports).map(|(line, report)| told(*line, report)).collect::<String>())?;
        }
    }
}

/// What became of the key on that line, which is not repeated.
fn told(line: u64, report: &Value) -> String {
    match report.get("known") {
        Some(Value::Bool(true)) => {
            format!("line {line}  {}  {}\n", output::text(report, "key_id"), output::text(report, "action"))
        }
        _ => format!("line {line}  not a key of this server\n"),
    }
}
