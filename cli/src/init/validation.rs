//! Checks what was written: by the code of `keyward check-config`, and by Envoy.

use super::answers::Answers;
use crate::CliError;
use crate::config::{line, problems, read_filters};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Debug, Default)]
pub(super) struct Validation {
    pub(super) mistakes: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) checked: Vec<String>,
    pub(super) not_checked: Vec<String>,
}

/// How many lines of Envoy's log are shown.
const LOG_LINES: usize = 5;

pub(super) fn validate(file: &Path, answers: &Answers, envoy: Option<&Path>) -> Result<Validation, CliError> {
    let mut validation = Validation::default();
    for filter in read_filters(file)? {
        let (mistakes, warnings) = problems(&filter);
        validation.mistakes.extend(mistakes.iter().map(line));
        validation.warnings.extend(warnings.iter().map(line));
    }
    validation.checked.push("the rules, the guard and the clusters, as `keyward check-config` does".to_owned());
    let missing = missing_files(answers);
    let envoy = envoy.map(Path::to_owned).or_else(|| in_path("envoy"));
    match envoy {
        None => {
            validation.not_checked.push("Envoy's own validation: no envoy is in PATH; name one with --envoy".to_owned())
        }
        Some(_) if !missing.is_empty() => {
            validation.not_checked.push(format!("Envoy's own validation: not on this machine: {}", missing.join(", ")));
        }
        Some(envoy) => run_envoy(&mut validation, &envoy, file),
    }
    validation
        .not_checked
        .push("whether the upstream and the control plane answer: `keyward doctor` and `keyward prove` do".to_owned());
    Ok(validation)
}

/// The files that Envoy opens, and that are not here.
fn missing_files(answers: &Answers) -> Vec<String> {
    let mut files = vec![&answers.module];
    if let Some((certificate, key)) = &answers.tls {
        files.extend([certificate, key]);
    }
    files.extend([&answers.upstream.ca_file, &answers.control_plane.ca_file].into_iter().flatten());
    files.into_iter().filter(|file| !file.exists()).map(|file| file.display().to_string()).collect()
}

fn run_envoy(validation: &mut Validation, envoy: &Path, file: &Path) {
    let output = Command::new(envoy)
        .args(["--mode", "validate", "--log-level", "warning", "--config-path"])
        .arg(file)
        // The filter does not start without a token; nothing is sent while Envoy validates.
        .env("KEYWARD_EDGE_TOKEN", "validation")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            validation.checked.push(format!("the configuration, by {} --mode validate", envoy.display()))
        }
        Ok(output) => {
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
            let last = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
            validation.mistakes.push(format!("{} refuses the configuration: {}", envoy.display(), last.join(" ")));
        }
        Err(error) => validation.not_checked.push(format!("Envoy's own validation: {}: {error}", envoy.display())),
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}
