//! The program: parses the command line, runs the command, and turns its error into an exit code.

use clap::{CommandFactory, Parser};
use keyward_cli::{Arguments, CliError, refuse_typed_secrets};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    // If stderr is closed, nothing more can be done.
    let _ = writeln!(std::io::stderr(), "keyward: {}", error.printable());
    ExitCode::from(error.exit_code())
}

fn run() -> Result<(), CliError> {
    // Before clap, which repeats arguments that it refuses.
    let variable = |name: &std::ffi::OsStr| std::env::var_os(name);
    refuse_typed_secrets(&Arguments::command(), std::env::args_os().skip(1), variable)?;
    Arguments::parse().run()
}
