//! `keyward keys report-leak`: reports keys that were found in public, from a file or standard input and never from an argument.

use super::CliError;
use super::file::Input;
use super::output::{self, OutputFormat, print};
use clap::Args;
use keyward_client::Client;
use keyward_server::keys::leaks::candidates;
use keyward_server::text::{Line, Lines};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::Read;
use std::path::PathBuf;

/// The keys, and where they were found.
#[derive(Debug, Args)]
#[command(
    after_help = "Keys are also found inside other text: in quotes, after NAME=, in JSON. The exit code is 0 if every line that \
                  is not empty has a key of this server, and 3 otherwise."
)]
pub(super) struct ReportLeakArguments {
    /// Text file with keys, or - for standard input
    file: PathBuf,
    /// Person or program that reported the keys
    #[arg(long)]
    source: Option<String>,
    /// URL at which the keys were found
    #[arg(long, value_name = "URL")]
    found_at: Option<String>,
}

/// Lines whose keys are reported in the next requests.
#[derive(Default)]
struct Batch {
    lines: Vec<Found>,
    keys: usize,
    bytes: usize,
}

/// The keys found on a line.
struct Found {
    number: u64,
    keys: Result<Vec<String>, String>,
}

/// The number of lines so far, with and without a key of this server.
#[derive(Default)]
struct Counts {
    known: u64,
    others: u64,
}

/// The maximum number of keys in a request, and of their bytes together.
const MAX_KEYS: usize = 100;
const MAX_BYTES: usize = 32 << 10;
/// The maximum length of a line, in bytes.
const MAX_LINE_BYTES: usize = 64 << 10;

pub(super) fn run(client: &Client, arguments: &ReportLeakArguments, format: OutputFormat) -> Result<(), CliError> {
    let path = &arguments.file;
    let (mut reader, _) = Input::open(path)?.into_reader();
    let (mut lines, mut found) = (Lines::new(MAX_LINE_BYTES), VecDeque::new());
    let (mut batch, mut counts) = (Batch::default(), Counts::default());
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = reader.read(&mut buffer).map_err(|source| CliError::File { path: path.clone(), source })?;
        match buffer.get(..read).filter(|piece| !piece.is_empty()) {
            Some(piece) => lines.push(piece, &mut found),
            None => lines.finish(&mut found),
        }
        for line in found.drain(..) {
            batch.take(line);
            if batch.is_full() {
                std::mem::take(&mut batch).report(client, arguments, format, &mut counts)?;
            }
        }
        if read == 0 {
            break;
        }
    }
    batch.report(client, arguments, format, &mut counts)?;
    match counts {
        Counts { known: 0, others: 0 } => {
            Err(CliError::Partial("expected lines with keys, got only empty lines".into()))
        }
        Counts { others: 0, .. } => Ok(()),
        Counts { known, others } => Err(CliError::Partial(format!(
            "lines without a key of this server: {others} of {}; the keys on the other lines were reported",
            known + others
        ))),
    }
}

impl Batch {
    fn take(&mut self, Line { number, text, .. }: Line) {
        let keys = match text {
            Err(why) => Err(why.to_string()),
            // Keys are ASCII, so what is around them may be in any encoding.
            Ok(text) => {
                let text = String::from_utf8_lossy(&text);
                if text.trim().is_empty() {
                    return;
                }
                Ok(candidates(&text).into_iter().map(str::to_owned).collect::<Vec<_>>())
            }
        };
        self.keys += keys.as_ref().map_or(0, Vec::len);
        self.bytes += keys.iter().flatten().map(String::len).sum::<usize>();
        self.lines.push(Found { number, keys });
    }

    fn is_full(&self) -> bool {
        self.keys >= MAX_KEYS || self.bytes >= MAX_BYTES || self.lines.len() >= 10 * MAX_KEYS
    }

    /// Reports the keys, and prints the outcome for each line.
    fn report(
        self,
        client: &Client,
        arguments: &ReportLeakArguments,
        format: OutputFormat,
        counts: &mut Counts,
    ) -> Result<(), CliError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let keys: Vec<&String> = self.lines.iter().flat_map(|line| line.keys.iter().flatten()).collect();
        let mut reports = Vec::with_capacity(keys.len());
        let mut rest = keys.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |key: &&&String| {
                bytes += key.len();
                bytes <= MAX_BYTES
            };
            let count = rest.iter().take(MAX_KEYS).take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            let request = json!({"keys": now, "source": arguments.source, "url": arguments.found_at});
            let mut response = client.post("/v1/leaks", &request)?;
            match response.get_mut("keys").map(Value::take) {
                Some(Value::Array(some)) if some.len() == count => reports.extend(some),
                _ => {
                    return Err(CliError::Partial(
                        "expected an outcome for each key from the server, got another number of them".into(),
                    ));
                }
            }
            rest = later;
        }
        let mut reports = reports.into_iter();
        let mut outcomes = Vec::new();
        for line in &self.lines {
            let of_line: Vec<_> = reports.by_ref().take(line.keys.as_ref().map_or(0, Vec::len)).collect();
            let mut known: Vec<Value> = Vec::new();
            for report in of_line.into_iter().filter(is_known) {
                // One key can be found in several parts of a line.
                if !known.iter().any(|other| other.get("key_id") == report.get("key_id")) {
                    known.push(report);
                }
            }
            match known.is_empty() {
                true => counts.others += 1,
                false => counts.known += 1,
            }
            outcomes.push((line, known));
        }
        print(&match format {
            OutputFormat::Json => json_line(&outcomes),
            OutputFormat::Text => outcomes.iter().map(text_lines).collect(),
        })
    }
}

fn is_known(report: &Value) -> bool {
    report.get("known") == Some(&Value::Bool(true))
}

/// The outcomes in the format of the API, each with its line.
fn json_line(outcomes: &[(&Found, Vec<Value>)]) -> String {
    let mut keys = Vec::new();
    for (line, known) in outcomes {
        for mut report in known.iter().cloned() {
            if let Value::Object(fields) = &mut report {
                fields.insert("line".to_owned(), line.number.into());
            }
            keys.push(report);
        }
        if known.is_empty() {
            keys.push(json!({"known": false, "action": "none", "line": line.number}));
        }
    }
    output::line(&json!({"keys": keys}))
}

/// The outcome for the keys on a line, whose text is not repeated.
fn text_lines((line, known): &(&Found, Vec<Value>)) -> String {
    let number = line.number;
    let why = match &line.keys {
        Err(why) => why,
        Ok(keys) if keys.is_empty() => "no key found on this line",
        Ok(_) => "not a key of this server",
    };
    if known.is_empty() {
        return format!("line {number}  {why}\n");
    }
    let outcome =
        |report| format!("line {number}  {}  {}\n", output::text(report, "key_id"), output::text(report, "action"));
    known.iter().map(outcome).collect()
}
