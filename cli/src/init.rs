//! `keyward init`: writes a configuration of Envoy for one gateway, a service file of the control plane, and the edge token for
//! Envoy, and checks what it has written.
//!
//! The configuration is the shipped `envoy/envoy.yaml` with the answers put in, so that its hardening and its comments exist
//! once.

mod answers;
mod envoy_yaml;
mod questions;
mod service;
mod validation;

use super::CliError;
use super::control_plane::{data_dir, first_line};
use super::output::{OutputFormat, print, printable};
use answers::Answers;
use clap::Args;
use keyward_server::auth::tokens::file::Audience;
use questions::Terminal;
use serde_json::json;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The gateway to set up. What is not given is asked for on a terminal, and else has its default.
#[derive(Clone, Debug, Default, Args)]
#[command(
    after_help = "Writes envoy.yaml, keyward.service, and edge.env with the edge token if this machine has it (mode 600). No existing \
                  file is replaced without --force. Exit codes: 0 written, 1 the configuration has mistakes or a file exists, 2 wrong \
                  usage, 4 a file cannot be read or written."
)]
pub(super) struct InitArguments {
    /// URL of the upstream: http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Certificates in PEM of the authorities to trust for an https upstream [default: those of the system]
    #[arg(long, value_name = "FILE")]
    upstream_ca_file: Option<PathBuf>,
    /// Address of the listener [default: 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// Certificate chain of the listener, in PEM [default: no TLS]
    #[arg(long, value_name = "FILE", requires = "tls_private_key")]
    tls_certificate: Option<PathBuf>,
    /// Private key of the listener's certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_private_key: Option<PathBuf>,
    /// Address of Envoy's admin interface, on loopback [default: 127.0.0.1:9901]
    #[arg(long, value_name = "IP:PORT")]
    admin: Option<String>,
    /// Built-in dialect [default: keyward]
    #[arg(long, value_name = "NAME")]
    dialect: Option<String>,
    /// Rules: health-public (all paths but the health check need a key), all-keys, read-write (the permission read for GET, else
    /// write) [default: health-public]
    #[arg(long, value_name = "PRESET")]
    rules: Option<String>,
    /// Path of the health check that needs no key [default: /health]
    #[arg(long, value_name = "PATH")]
    health_path: Option<String>,
    /// URL of the control plane [default: http://127.0.0.1:8081]
    #[arg(long, value_name = "URL")]
    control_plane: Option<String>,
    /// Certificates in PEM of the authorities to trust for an https control plane [default: those of the system]
    #[arg(long, value_name = "FILE")]
    control_plane_ca_file: Option<PathBuf>,
    /// Host of the filter: wasm, or native, a dynamic module for the Envoy that it is built for [default: wasm]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Module of the filter, as Envoy finds it [default: keyward_filter.wasm or the dynamic module in /etc/keyward]
    #[arg(long, value_name = "FILE", alias = "wasm")]
    module: Option<PathBuf>,
    /// Envoy to validate the configuration with [default: the one in PATH]
    #[arg(long, value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// Directory for the files [default: the current one]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace existing files
    #[arg(long)]
    force: bool,
    /// Ask nothing; use the defaults
    #[arg(long)]
    no_input: bool,
}

/// A file to write.
struct Written {
    name: &'static str,
    content: String,
    mode: u32,
}

/// Asks, writes the files, and checks them.
pub(super) fn run(arguments: &InitArguments, output: OutputFormat) -> Result<(), CliError> {
    let is_interactive = !arguments.no_input && io::stdin().is_terminal() && io::stderr().is_terminal();
    let arguments = if is_interactive { questions::ask(arguments.clone(), &mut Terminal)? } else { arguments.clone() };
    let answers = Answers::read(&arguments)?;
    let directory = arguments.output.clone().unwrap_or_else(|| PathBuf::from("."));
    let token = edge_token();
    let mut files = vec![
        Written { name: "envoy.yaml", content: envoy_yaml::render(&answers)?, mode: 0o644 },
        Written { name: "keyward.service", content: service::render(&answers), mode: 0o644 },
    ];
    if let Some(token) = &token {
        files.push(Written { name: "edge.env", content: format!("KEYWARD_EDGE_TOKEN={token}\n"), mode: 0o600 });
    }
    for file in &files {
        let path = directory.join(file.name);
        if !arguments.force && path.symlink_metadata().is_ok() {
            return Err(CliError::Mistakes(format!(
                "{} exists: name another directory with --output, or replace it with --force",
                path.display()
            )));
        }
    }
    let unwritable = |path: &Path| {
        let path = path.to_owned();
        move |source| CliError::NotWritten { path, source }
    };
    fs::create_dir_all(&directory).map_err(unwritable(&directory))?;
    for file in &files {
        let path = directory.join(file.name);
        write(&path, file).map_err(unwritable(&path))?;
    }

    let envoy_yaml = directory.join("envoy.yaml");
    let validation = validation::validate(&envoy_yaml, &answers, arguments.envoy.as_deref())?;
    let next = next_steps(&directory, token.is_some());
    let names: Vec<_> = files.iter().map(|file| directory.join(file.name).display().to_string()).collect();
    print(&match output {
        OutputFormat::Json => {
            let document = json!({
                "files": names,
                "mistakes": validation.mistakes,
                "warnings": validation.warnings,
                "checked": validation.checked,
                "not_checked": validation.not_checked,
                "next_steps": next,
            });
            format!("{document:#}\n")
        }
        OutputFormat::Text => text(&names, &validation, &next),
    })?;
    if validation.mistakes.is_empty() {
        Ok(())
    } else {
        Err(CliError::Mistakes(format!("{} has mistakes", envoy_yaml.display())))
    }
}

/// Writes the file under another name first, so that there is never a part of it, and no other user can read a private one.
fn write(path: &Path, file: &Written) -> io::Result<()> {
    let unfinished = path.with_file_name(format!(".{}.new", file.name));
    if let Err(error) = fs::remove_file(&unfinished)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut new = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&unfinished)?;
    new.write_all(file.content.as_bytes())?;
    new.sync_all()?;
    fs::rename(&unfinished, path)
}

/// The edge token of a control plane on this machine.
fn edge_token() -> Option<String> {
    let text = fs::read_to_string(data_dir().join(Audience::Edge.file_name())).ok()?;
    first_line(&text).filter(|token| token.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_'))
}

fn next_steps(directory: &Path, has_token: bool) -> Vec<String> {
    let in_directory = |name: &str| directory.join(name).display().to_string();
    let mut steps = Vec::new();
    if has_token {
        steps.push(format!(
            "give Envoy the edge token: {} has it, for EnvironmentFile= of Envoy's service or `set -a; . {0}; set +a`",
            in_directory("edge.env")
        ));
    } else {
        steps.push(
            "give Envoy the edge token as KEYWARD_EDGE_TOKEN in its environment: it is in edge-token of the control plane's data directory, \
             or create one with `keyward tokens create --role edge`"
                .to_owned(),
        );
    }
    steps.push(format!(
        "install {} as /etc/systemd/system/keyward.service on the machine of the control plane",
        in_directory("keyward.service")
    ));
    steps.push(format!("start Envoy: envoy -c {}", in_directory("envoy.yaml")));
    steps.push(format!("test the installation: keyward prove --gateway URL --config {}", in_directory("envoy.yaml")));
    steps
}

fn text(files: &[String], validation: &validation::Validation, next: &[String]) -> String {
    let mut text = String::new();
    let lists = [
        ("wrote", files),
        ("error:", &validation.mistakes),
        ("warning:", &validation.warnings),
        ("checked:", &validation.checked),
        ("could not check:", &validation.not_checked),
    ];
    for (word, list) in lists {
        for element in list {
            let _ = writeln!(text, "{word} {}", printable(element));
        }
    }
    text.push_str("\nNext:\n");
    for (n, step) in next.iter().enumerate() {
        let _ = writeln!(text, "{}. {}", n + 1, printable(step));
    }
    text
}
