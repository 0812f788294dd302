//! `keyward keys import` and `keyward keys export`. Both stream, so that memory does not grow with the number of keys.

use super::CliError;
use super::file::Input;
use super::output::{self, OutputFormat, printable};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use keyward_client::{Client, DownloadError};
use keyward_server::keys::csv::Separator;
use keyward_server::keys::import::Format;
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

/// What to import, and how.
#[derive(Debug, Args)]
#[command(
    after_help = "The fields of a row are in docs/guides/migrating-existing-keys.md. Rows with mistakes are reported and skipped; \
                  the others are imported. The whole file can be imported again with --on-conflict skip."
)]
pub(super) struct ImportArguments {
    /// File, or - for standard input
    file: PathBuf,
    /// Format of the file [default: by its extension, such as .csv, .tsv, .jsonl or .json, else by its first character]
    #[arg(long, value_name = "jsonl|csv", value_parser = format)]
    format: Option<Format>,
    /// Separator of CSV cells [default: that of the header]
    #[arg(long, value_name = "comma|semicolon|tab", value_parser = separator)]
    separator: Option<Separator>,
    /// Check the file and import nothing
    #[arg(long)]
    dry_run: bool,
    /// What happens to keys that exist already
    #[arg(long, value_name = "fail|skip", value_parser = ["fail", "skip"], default_value = "fail")]
    on_conflict: String,
}

/// How to export keys.
#[derive(Debug, Args)]
pub(super) struct ExportArguments {
    /// Format of the output
    #[arg(long, value_name = "jsonl|csv", value_parser = format, default_value = "jsonl")]
    format: Format,
}

fn format(name: &str) -> Result<Format, &'static str> {
    Format::from_name(name).ok_or("expected jsonl or csv")
}

fn separator(name: &str) -> Result<Separator, &'static str> {
    Separator::from_name(name).ok_or("expected comma, semicolon or tab")
}

pub(super) fn import(client: &Client, arguments: &ImportArguments, output: OutputFormat) -> Result<(), CliError> {
    let path = &arguments.file;
    let input = Input::open(path)?;
    let by_name = || path.extension().and_then(OsStr::to_str).and_then(Format::from_extension);
    let format = arguments.format.or_else(by_name).unwrap_or_else(|| Format::of_beginning(input.beginning()));
    // A server that refuses the token responds before it reads, and a client that is still sending loses that response.
    client.get("/v1/keys?limit=1")?;
    let mut address = format!("/v1/keys/import?dry_run={}&on_conflict={}", arguments.dry_run, arguments.on_conflict);
    if let Some(separator) = arguments.separator {
        address += &format!("&separator={}", separator.name());
    }
    let progress = progress(input.length());
    let (reader, failure) = input.into_reader();
    let report = client.upload(&address, format.media_type(), progress.wrap_read(reader));
    progress.finish_and_clear();
    // An error of the file would look like one of the connection.
    if let Some(error) = failure.error(path) {
        return Err(error);
    }
    let report = report?;
    let name = if path.as_os_str() == "-" { "-".into() } else { path.to_string_lossy() };
    output::remark(&(read_as(&name, &report) + &mistakes(&name, &report)));
    output.print(&report, summary)?;
    match report.get("failed").and_then(Value::as_u64) {
        Some(0) => Ok(()),
        _ => Err(CliError::Partial(
            "some rows were not imported: correct them, and import the file again with --on-conflict skip".to_owned(),
        )),
    }
}

pub(super) fn export(client: &Client, arguments: &ExportArguments) -> Result<(), CliError> {
    let address = format!("/v1/keys/export?format={}", arguments.format.name());
    match client.download(&address, &mut io::stdout().lock()) {
        Ok(_) => Ok(()),
        Err(DownloadError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(DownloadError::Write(error)) => Err(CliError::Print(error)),
        Err(DownloadError::Client(error)) => Err(error.into()),
    }
}

/// A bar on a terminal, and nothing elsewhere.
fn progress(length: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{wide_bar} {bytes} of {total_bytes}, {eta} left"),
        None => (ProgressBar::no_length(), "{spinner} {bytes} in {elapsed}"),
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The encoding and separator that were found in the file, unless they are the usual ones.
fn read_as(file: &str, report: &Value) -> String {
    let (encoding, separator) = (output::text(report, "encoding"), output::text(report, "separator"));
    let encoding = if encoding.is_empty() { None } else { Some(format!("decoded from {encoding}")) };
    let separator =
        if matches!(separator.as_str(), "" | "comma") { None } else { Some(format!("separator: {separator}")) };
    let read: Vec<_> = encoding.into_iter().chain(separator).collect();
    if read.is_empty() { String::new() } else { format!("{}: {}\n", printable(file), read.join(", ")) }
}

/// A line for each mistake, in the format of compilers.
fn mistakes(file: &str, report: &Value) -> String {
    let mut out = String::new();
    for error in report.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let field = output::text(error, "field");
        let separator = if field.is_empty() { "" } else { ": " };
        let (line, message) = (output::text(error, "line"), output::text(error, "message"));
        out += &format!("{}:{line}: {field}{separator}{message}\n", printable(file));
    }
    match report.get("more_errors").and_then(Value::as_u64) {
        None | Some(0) => {}
        Some(more) => out += &format!("{}: and {more} more mistakes\n", printable(file)),
    }
    out
}

fn summary(report: &Value) -> String {
    let [imported, skipped, failed] = ["imported", "skipped", "failed"].map(|field| output::text(report, field));
    let would = if report.get("dry_run") == Some(&Value::Bool(true)) { "would be " } else { "" };
    format!("{would}imported {imported}, skipped {skipped}, failed {failed}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_mistake_is_a_line_with_its_place() {
        let report = json!({"errors": [
            {"line": 3, "field": "sha256", "message": "expected\u{1b}[2J"}, {"line": 4, "field": "", "message": "m"},
        ], "more_errors": 7});
        assert_eq!(
            mistakes("a.csv", &report),
            "a.csv:3: sha256: expected\\u{1b}[2J\na.csv:4: m\na.csv: and 7 more mistakes\n"
        );
    }

    #[test]
    fn unusual_encoding_and_separator_are_reported() {
        assert_eq!(read_as("a", &json!({"separator": "comma"})), "");
        let both = json!({"separator": "semicolon", "encoding": "UTF-16LE"});
        assert_eq!(read_as("a", &both), "a: decoded from UTF-16LE, separator: semicolon\n");
    }

    #[test]
    fn summary_of_a_dry_run_says_so() {
        let report = json!({"imported": 2, "skipped": 1, "failed": 0, "dry_run": true});
        assert_eq!(summary(&report), "would be imported 2, skipped 1, failed 0\n");
    }
}
