//! `keyward check-config`.

use super::document::{self, FilterConfig};
use super::envoy;
use super::report::{Report, counted, line, mistakes_in};
use crate::CliError;
use crate::output::{OutputFormat, print};
use clap::Args;
use keyward_core::document::Problem;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The configuration to check.
#[derive(Debug, Args)]
#[command(
    after_help = "FILE is a configuration of Envoy with the filter, or the configuration of the filter alone, in YAML or JSON. \
                  Exit codes: 0 the filter starts with the configuration (there may be warnings), 1 it has mistakes, 2 wrong \
                  usage, 4 the file cannot be read."
)]
pub(crate) struct CheckArguments {
    /// Configuration
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Checks a configuration and reports every mistake.
pub(crate) fn check(arguments: &CheckArguments, output: OutputFormat) -> Result<(), CliError> {
    let filters = document::read(&arguments.file)?;
    let reports: Vec<Report> = filters.iter().map(report).collect();
    let count = |of: fn(&Report) -> &Vec<Problem>| reports.iter().map(|report| of(report).len()).sum::<usize>();
    let (mistakes, warnings) = (count(|report| &report.mistakes), count(|report| &report.warnings));
    print(&match output {
        OutputFormat::Json => format!("{:#}\n", as_json(&arguments.file, &reports)),
        OutputFormat::Text => as_text(&arguments.file, &reports, mistakes, warnings),
    })?;
    if mistakes == 0 { Ok(()) } else { Err(CliError::Mistakes(mistakes_in(mistakes, &arguments.file))) }
}

fn report(filter: &FilterConfig) -> Report {
    let mut report = Report { at: filter.at.clone(), mistakes: Vec::new(), warnings: Vec::new() };
    match filter.parse() {
        Ok(config) => envoy::check(&config, filter, &mut report),
        Err(problems) => report.mistakes = problems,
    }
    report
}

fn as_text(file: &Path, reports: &[Report], mistakes: usize, warnings: usize) -> String {
    let mut text = String::new();
    for report in reports {
        for (word, problems) in [("error", &report.mistakes), ("warning", &report.warnings)] {
            for problem in problems {
                let _ = writeln!(text, "{word}: {}", line(problem));
            }
        }
        if reports.len() > 1 || !(report.mistakes.is_empty() && report.warnings.is_empty()) {
            let _ = writeln!(text, "  in {}{}", file.display(), located(&report.at));
        }
    }
    let outcome = if mistakes == 0 { "no mistakes".to_owned() } else { counted(mistakes, "mistake") };
    let _ = writeln!(text, "{}: {outcome}, {}", file.display(), counted(warnings, "warning"));
    text
}

fn located(at: &str) -> String {
    if at.is_empty() { String::new() } else { format!(", at {at}") }
}

fn as_json(file: &Path, reports: &[Report]) -> Value {
    let listed = |problems: &[Problem]| -> Value {
        problems.iter().map(|problem| json!({"path": problem.path, "message": problem.message})).collect()
    };
    let filters = reports.iter().map(
        |report| json!({"at": report.at, "mistakes": listed(&report.mistakes), "warnings": listed(&report.warnings)}),
    );
    let is_ok = reports.iter().all(|report| report.mistakes.is_empty());
    json!({"file": file.display().to_string(), "ok": is_ok, "filters": filters.collect::<Value>()})
}
