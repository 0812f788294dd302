//! `keyward man-pages`: writes the manual pages, one for each command, as packages install them.

use super::CliError;
use super::command::Arguments;
use clap::{Args, CommandFactory};
use std::fs;
use std::path::PathBuf;

/// Where to.
#[derive(Debug, Args)]
pub(super) struct ManPagesArguments {
    /// Directory to write to, which is created if absent
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(super) fn run(arguments: &ManPagesArguments) -> Result<(), CliError> {
    let directory = &arguments.directory;
    fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), directory))
        .map_err(|source| CliError::NotWritten { path: directory.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        fn names(command: &clap::Command, prefix: &str) -> Vec<String> {
            let name = format!("{prefix}{}", command.get_name());
            let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
            let below = shown.flat_map(|command| names(command, &format!("{name}-")));
            below.chain([format!("{name}.1")]).collect()
        }
        let directory = tempfile::tempdir().unwrap().path().join("man1");
        run(&ManPagesArguments { directory: directory.clone() }).unwrap();
        for name in names(&Arguments::command(), "") {
            let page = fs::read_to_string(directory.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}");
        }
        let page = fs::read_to_string(directory.join("keyward-serve.1")).unwrap();
        assert!(page.contains("\\-\\-data\\-dir") && page.contains("KEYWARD_DATA_DIR"));
    }
}
