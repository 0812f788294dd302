//! All commands.

use super::CliError;
use super::audit::{self, AuditArguments};
use super::backup::{self, BackupArguments};
use super::config::{self, CheckArguments, RulesCommand};
use super::control_plane::ControlPlane;
use super::doctor::{self, DoctorArguments};
use super::init::{self, InitArguments};
use super::keys::{self, KeysCommand};
use super::man_pages::{self, ManPagesArguments};
use super::measure::{self, MeasureArguments};
use super::openapi::{self, OpenapiArguments};
use super::output::{OutputFormat, print};
use super::owners::{self, OwnersCommand};
use super::plans::{self, PlansCommand};
use super::prove::{self, ProveArguments};
use super::relay::{self, RelayArguments};
use super::serve::{self, ServeArguments};
use super::sessions::{self, SessionsCommand};
use super::tokens::{self, TokensCommand};
use super::usage::{self, UsageArguments};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

/// API keys verified inside Envoy: the control plane, and the command line for it.
#[derive(Debug, Parser)]
#[command(name = "keyward", version, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Output JSON
    #[arg(long, global = true)]
    json: bool,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  refused, or failed: the control plane refused or could not be reached, `serve` or `relay` could not start, a
     configuration has mistakes, a check of `prove` or `doctor` failed, or `init` would replace a file
  2  wrong usage: nothing was sent to the control plane
  3  some rows of an import failed, or some lines of a leak report held no key of this server; the others were processed
  4  a local file could not be read or written: missing, no permission, a directory, empty";

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the control plane
    Serve(ServeArguments),
    /// Serve the feed of a control plane or another relay, also while it cannot be reached
    Relay(RelayArguments),
    /// Manage keys
    Keys {
        #[command(flatten)]
        server: ControlPlane,
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Manage owners
    Owners {
        #[command(flatten)]
        server: ControlPlane,
        #[command(subcommand)]
        command: OwnersCommand,
    },
    /// Manage the tokens of operators and edges
    Tokens {
        #[command(flatten)]
        server: ControlPlane,
        #[command(subcommand)]
        command: TokensCommand,
    },
    /// Manage sessions of the console
    Sessions {
        #[command(flatten)]
        server: ControlPlane,
        #[command(subcommand)]
        command: SessionsCommand,
    },
    /// Manage plans
    Plans {
        #[command(flatten)]
        server: ControlPlane,
        #[command(subcommand)]
        command: PlansCommand,
    },
    /// Show the audit log, newest entries first
    Audit {
        #[command(flatten)]
        server: ControlPlane,
        #[command(flatten)]
        arguments: AuditArguments,
    },
    /// Show usage, by hour and verdict
    Usage {
        #[command(flatten)]
        server: ControlPlane,
        #[command(flatten)]
        arguments: UsageArguments,
    },
    /// Copy the SQLite database of a control plane, also while the server runs
    Backup(BackupArguments),
    /// Measure how many first uses of keys with password hashes this machine can verify
    MeasureVerifications(MeasureArguments),
    /// Check a configuration of the filter, and of Envoy around it
    CheckConfig(CheckArguments),
    /// Explain the rules of a configuration
    Rules {
        #[command(subcommand)]
        command: RulesCommand,
    },
    /// Write the configuration of a gateway, and the service of the control plane
    Init(Box<InitArguments>),
    /// Test an installation from outside, with keys that are created and revoked
    Prove {
        #[command(flatten)]
        server: ControlPlane,
        #[command(flatten)]
        arguments: ProveArguments,
    },
    /// Find what is wrong with an installation, and say what to do about it
    Doctor {
        #[command(flatten)]
        server: ControlPlane,
        #[command(flatten)]
        arguments: DoctorArguments,
    },
    /// Print the OpenAPI description of the API, as JSON
    Openapi(OpenapiArguments),
    /// Print shell completions
    Completions {
        /// Shell
        shell: Shell,
    },
    /// Write manual pages
    ManPages(ManPagesArguments),
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<(), CliError> {
        let output = if self.json { OutputFormat::Json } else { OutputFormat::Text };
        match self.command {
            Command::Serve(arguments) => serve::run(arguments),
            Command::Relay(arguments) => relay::run(arguments),
            Command::Keys { server, command } => keys::run(&server, command, output),
            Command::Owners { server, command } => owners::run(&server, command, output),
            Command::Tokens { server, command } => tokens::run(&server, command, output),
            Command::Sessions { server, command } => sessions::run(&server, command, output),
            Command::Plans { server, command } => plans::run(&server, command, output),
            Command::Audit { server, arguments } => audit::run(&server, arguments, output),
            Command::Usage { server, arguments } => usage::run(&server, arguments, output),
            Command::Backup(arguments) => backup::run(&arguments, output),
            Command::MeasureVerifications(arguments) => measure::run(&arguments, output),
            Command::CheckConfig(arguments) => config::check(&arguments, output),
            Command::Rules { command } => config::rules(command, output),
            Command::Init(arguments) => init::run(&arguments, output),
            Command::Prove { server, arguments } => prove::run(&server, &arguments, output),
            Command::Doctor { server, arguments } => doctor::run(&server, &arguments, output),
            Command::Openapi(arguments) => openapi::run(&arguments),
            Command::Completions { shell } => completions(shell),
            Command::ManPages(arguments) => man_pages::run(&arguments),
        }
    }
}

fn completions(shell: Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "keyward", &mut script);
    print(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_of_the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    fn parses(arguments: &[&str]) -> bool {
        Arguments::try_parse_from([&["keyward"], arguments].concat()).is_ok()
    }

    #[test]
    fn json_and_url_are_accepted_at_every_level() {
        for arguments in [
            &["--json", "keys", "list"][..],
            &["keys", "--json", "list", "--url", "http://h"],
            &["keys", "list", "--json"],
            &["--json", "usage", "reports"],
            &["usage", "reports", "--json", "--url", "http://h"],
            &["usage", "key_1", "--json"],
        ] {
            assert!(Arguments::try_parse_from([&["keyward"], arguments].concat()).unwrap().json, "{arguments:?}");
        }
    }

    #[test]
    fn self_service_scope_requires_self_service() {
        assert!(parses(&["serve", "--self-service", "--self-service-scope", "keys:manage"]));
        assert!(!parses(&["serve", "--self-service-scope", "keys:manage"]));
        assert!(!parses(&["serve", "--self-service", "--self-service-scope", ""]));
        assert!(parses(&["serve", "--trusted-proxy", "10.0.0.0/8,::1"]));
        assert!(!parses(&["serve", "--trusted-proxy", "localhost"]));
    }

    /// The ids of all arguments of a command and of its subcommands.
    fn ids(command: &clap::Command) -> Vec<String> {
        let own = command.get_arguments().map(|argument| argument.get_id().to_string());
        own.chain(command.get_subcommands().flat_map(ids)).collect()
    }

    #[test]
    fn no_argument_takes_a_secret() {
        let words = ["token", "secret", "password", "pepper", "key", "database"];
        let mut found = ids(&Arguments::command());
        found.retain(|id| words.iter().any(|word| id.contains(word)));
        // GitHub's public keys, files with tokens or a private key, the ids of keys, and the id of a secret, which is checked to be one.
        assert_eq!(
            found,
            ["github_keys", "upstream_token_file", "edge_token_file", "secret", "key", "key", "tls_private_key"]
        );
    }

    #[test]
    fn listen_address_is_a_host_and_a_port() {
        let parse = |listen: &str| Arguments::try_parse_from(["keyward", "serve", "--listen", listen]);
        for good in ["127.0.0.1:0", "[::1]:8081", "localhost:8081"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["8081", ":8081", "localhost", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http", ""] {
            assert!(parse(bad).unwrap_err().to_string().contains("HOST:PORT"), "{bad}");
        }
    }

    #[test]
    fn usage_interval_has_bounds() {
        let accepts = |interval| parses(&["serve", "--usage-interval", interval]);
        assert!(accepts("1s") && accepts("1500ms") && accepts("1min"));
        assert!(!accepts("999ms") && !accepts("61s") && !accepts("5"));
        assert!(!parses(&["serve", "--max-verifications", "0"]));
    }

    #[test]
    fn retention_has_bounds_and_is_thirty_days_by_default() {
        let accepts = |retention| parses(&["serve", "--retention", retention]);
        assert!(accepts("1s") && accepts("1year"));
        assert!(!accepts("0s") && !accepts("2years"));
        let Command::Serve(serve) = Arguments::try_parse_from(["keyward", "serve"]).unwrap().command else {
            panic!("another command");
        };
        assert_eq!(serve.retention(), keyward_server::store::RETENTION);
    }

    #[test]
    fn durations_have_a_unit_and_whole_seconds() {
        let accepts = |grace| parses(&["keys", "rotate", "key_1", "--grace", grace]);
        assert!(accepts("24h") && accepts("0s"));
        assert!(!accepts("24"));
        assert!(!accepts("999ms") && !accepts("1s 1ns"), "a part of a second would be dropped");
    }
}
