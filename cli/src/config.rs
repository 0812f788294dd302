//! `keyward check-config` and `keyward rules explain`: configurations as the filter reads them, by the filter's own code.

mod document;
mod envoy;
mod explain;
mod guard;

use super::CliError;
use super::output::{OutputFormat, print, printable};
use clap::{Args, Subcommand};
use document::FilterConfig;
use keyward_core::document::Problem;
use keyward_filter::policy::Config;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use explain::ExplainArguments;

/// The configuration to check.
#[derive(Debug, Args)]
#[command(
    after_help = "FILE is a configuration of Envoy with the filter, or the configuration of the filter alone, in YAML or JSON. \
                  Exit codes: 0 the filter starts with the configuration (there may be warnings), 1 it has mistakes, 2 wrong \
                  usage, 4 the file cannot be read."
)]
pub struct CheckArguments {
    /// Configuration
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// The commands on rules.
#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// Explain which rule decides a request, and why no earlier rule does
    Explain(ExplainArguments),
}

pub(super) fn rules(command: RulesCommand, output: OutputFormat) -> Result<(), CliError> {
    match command {
        RulesCommand::Explain(arguments) => explain::explain(&arguments, output),
    }
}

/// The mistakes and warnings about one filter's configuration and what is around it.
struct Report {
    at: String,
    mistakes: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// Checks a configuration and reports every mistake.
pub(super) fn check(arguments: &CheckArguments, output: OutputFormat) -> Result<(), CliError> {
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
    match parse(filter) {
        Ok(config) => envoy::check(&config, filter, &mut report),
        Err(problems) => report.mistakes = problems,
    }
    report
}

/// The configuration as the filter reads it.
fn parse(filter: &FilterConfig) -> Result<Config, Vec<Problem>> {
    let value = filter.configuration.as_ref().map_err(|problem| vec![problem.clone()])?;
    Config::parse(value.to_string().as_bytes()).map_err(|problems| problems.0)
}

fn problem(path: impl Into<String>, message: impl Into<String>) -> Problem {
    Problem { path: path.into(), message: message.into() }
}

fn mistakes_in(mistakes: usize, file: &Path) -> String {
    format!("{} in {}", counted(mistakes, "mistake"), file.display())
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
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

fn line(problem: &Problem) -> String {
    let path = if problem.path.is_empty() { String::new() } else { format!("{}: ", problem.path) };
    printable(&format!("{path}{}", problem.message))
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
