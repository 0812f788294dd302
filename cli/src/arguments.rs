//! What may be written on the command line. No token: arguments are seen by everyone on the machine.

use super::audit::AuditArguments;
use super::keys::KeysCommand;
use super::owners::OwnersCommand;
use super::plans::PlansCommand;
use super::tokens::TokensCommand;
use super::{BackupArguments, CheckArguments, CliError, MeasureArguments, RulesCommand, UsageArguments};
use clap::builder::{FalseyValueParser, NonEmptyStringValueParser};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use ipnet::IpNet;
use keyward_core::key::secret::Secret;
use keyward_server::model::OnLeak;
use keyward_server::relay::POLL_WAITS;
use std::ffi::OsString;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// API keys that are checked inside Envoy: the control plane, and the command line over it.
#[derive(Debug, Parser)]
#[command(name = "keyward", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `main` ends with.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused, or failed: the control plane refused or could not be reached, `serve` or `relay` could not start, or
     a configuration has mistakes
  2  wrong usage: nothing was asked of the control plane
  3  some rows of an import failed, or some lines of a leak report held no key of this server; the others were taken
  4  a local file could not be read: missing, no permission, a directory, empty";

/// What there is to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the control plane
    Serve(ServeArguments),
    /// Serve the feed of another control plane, or of another relay, and go on without it
    Relay(RelayArguments),
    /// Work on keys
    Keys {
        /// Where the control plane is.
        #[command(flatten)]
        server: ControlPlane,
        /// What to do.
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Work on owners
    Owners {
        /// Where the control plane is.
        #[command(flatten)]
        server: ControlPlane,
        /// What to do.
        #[command(subcommand)]
        command: OwnersCommand,
    },
    /// Work on the tokens of operators and edges
    Tokens {
        /// Where the control plane is.
        #[command(flatten)]
        server: ControlPlane,
        /// What to do.
        #[command(subcommand)]
        command: TokensCommand,
    },
    /// Work on plans
    Plans {
        /// Where the control plane is.
        #[command(flatten)]
        server: ControlPlane,
        /// What to do.
        #[command(subcommand)]
        command: PlansCommand,
    },
    /// Show who did what
    Audit {
        /// Where the control plane is.
        #[command(flatten)]
        server: ControlPlane,
        /// Which entries.
        #[command(flatten)]
        arguments: AuditArguments,
    },
    /// Show how often keys were used
    Usage(UsageArguments),
    /// Copy the SQLite database of a control plane, also while the server runs
    Backup(BackupArguments),
    /// Measure how many first uses of keys with password hashes this machine can check
    MeasureVerifications(MeasureArguments),
    /// Check a configuration of the filter, and what stands beside it in a configuration of Envoy
    CheckConfig(CheckArguments),
    /// Explain what the rules of a configuration ask of requests
    Rules {
        /// What to do.
        #[command(subcommand)]
        command: RulesCommand,
    },
    /// Print the description of the API: OpenAPI, as JSON
    Openapi {
        /// What keys look like: a dialect that comes with Keyward, or a file
        #[arg(long, env = "KEYWARD_DIALECT", default_value = "keyward", value_name = "NAME_OR_FILE")]
        dialect: String,
    },
    /// Print a script that completes this command line
    Completions {
        /// For which shell
        shell: Shell,
    },
}

/// How to run the control plane.
#[derive(Debug, Args)]
#[command(
    after_help = "The state is in SQLite in the data directory, unless KEYWARD_DATABASE_URL names a PostgreSQL database: \
                  postgres://USER:PASSWORD@HOST/DATABASE. There is no argument for it, as everyone on the machine sees \
                  arguments. KEYWARD_HMAC_PEPPER is the pepper of keys that were imported as HMAC-SHA-256, so that leaked \
                  ones are found."
)]
pub struct ServeArguments {
    /// Where to listen; port 0 is any that is free
    #[arg(long, env = "KEYWARD_LISTEN", default_value = "127.0.0.1:8081", value_parser = listen, value_name = "HOST:PORT")]
    pub listen: String,
    /// Where the database and the tokens are
    #[arg(long, env = "KEYWARD_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// What keys look like: a dialect that comes with Keyward, or a file
    #[arg(long, env = "KEYWARD_DIALECT", default_value = "keyward", value_name = "NAME_OR_FILE")]
    pub dialect: String,
    /// How often edges are to tell of the use of keys, from 1s to 1min
    #[arg(long, env = "KEYWARD_USAGE_INTERVAL", default_value = "5s", value_parser = usage_interval, value_name = "DURATION")]
    pub usage_interval: Duration,
    /// How long edges know a key that has ended, from 1s to 1year; a backup that is older can bring revoked keys back
    #[arg(long, env = "KEYWARD_RETENTION", default_value = "30d", value_parser = retention, value_name = "DURATION")]
    pub retention: Duration,
    /// How many keys are checked against password hashes at once [default: one for each processor]
    #[arg(long, env = "KEYWARD_MAX_VERIFICATIONS", value_name = "N")]
    pub max_verifications: Option<NonZeroUsize>,
    /// A proxy whose X-Forwarded-For says from where a request comes; can be repeated
    #[arg(long, env = "KEYWARD_TRUSTED_PROXIES", value_delimiter = ',', value_parser = network, value_name = "CIDR")]
    pub trusted_proxy: Vec<IpNet>,
    /// Let users list, make, rotate and revoke their owner's keys with a key, at /api-keys
    #[arg(long, env = "KEYWARD_SELF_SERVICE", value_parser = FalseyValueParser::new())]
    pub self_service: bool,
    /// The permission that a key needs for self-service [default: none]
    #[arg(
        long,
        env = "KEYWARD_SELF_SERVICE_SCOPE",
        requires = "self_service",
        value_parser = NonEmptyStringValueParser::new(),
        value_name = "SCOPE"
    )]
    pub self_service_scope: Option<String>,
    /// What becomes of a key that was found in public: revoke or flag
    #[arg(long, env = "KEYWARD_ON_LEAK", default_value = "revoke", value_parser = on_leak, value_name = "revoke|flag")]
    pub on_leak: OnLeak,
    /// GitHub's public keys of secret scanning; with them its alerts are taken
    #[arg(long, env = "KEYWARD_GITHUB_KEYS", value_name = "FILE")]
    pub github_keys: Option<PathBuf>,
}

/// How to run a relay.
#[derive(Debug, Args)]
#[command(after_help = "The files with tokens must be readable by their owner alone. On SIGHUP they are read again.")]
pub struct RelayArguments {
    /// Whom to follow: the URL of a control plane or of another relay
    #[arg(long, env = "KEYWARD_UPSTREAM", hide_env_values = true, value_name = "URL")]
    pub upstream: String,
    /// The file with the edge token to show there
    #[arg(long, env = "KEYWARD_UPSTREAM_TOKEN_FILE", value_name = "FILE")]
    pub upstream_token_file: PathBuf,
    /// Where to listen; port 0 is any that is free
    #[arg(long, env = "KEYWARD_LISTEN", default_value = "127.0.0.1:8081", value_parser = listen, value_name = "HOST:PORT")]
    pub listen: String,
    /// Where the relay's database is
    #[arg(long, env = "KEYWARD_DATA_DIR", default_value = ".keyward-relay", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The file with the tokens of the edges that the relay serves [default: edge-token in the data directory, made if it is
    /// not there]
    #[arg(long, env = "KEYWARD_EDGE_TOKEN_FILE", value_name = "FILE")]
    pub edge_token_file: Option<PathBuf>,
    /// How long the upstream is let wait for news, from 1s to 1min in whole seconds; so much older edges can take what they
    /// have to be
    #[arg(long, env = "KEYWARD_POLL_WAIT", default_value = "2s", value_parser = poll_wait, value_name = "DURATION")]
    pub poll_wait: Duration,
}

impl RelayArguments {
    /// The URL of the upstream, without a slash at the end. Read here and not as the argument is parsed, as a refusal there
    /// repeats it.
    ///
    /// # Errors
    /// If it cannot be meant.
    pub fn upstream(&self) -> Result<String, CliError> {
        url(&self.upstream).map_err(CliError::Usage)
    }
}

/// Where the control plane is, and the data directory that has its token.
#[derive(Debug, Args)]
#[command(
    after_help = "The token is taken from KEYWARD_ADMIN_TOKEN, else from the file admin-token in KEYWARD_DATA_DIR \
                        (.keyward unless set)."
)]
pub struct ControlPlane {
    /// Where the control plane is [default: http://127.0.0.1 with the port in KEYWARD_CONTROL_PORT, or 8081]
    #[arg(long, env = "KEYWARD_URL", hide_env_values = true, global = true)]
    url: Option<String>,
}

/// The URL of the PostgreSQL database that the environment names. One that is set to nothing was meant to name one, and a
/// server that took SQLite instead would look as if it had lost everything.
///
/// # Errors
/// If it is set and names none.
pub fn database_url() -> Result<Option<Secret>, CliError> {
    read_database_url(std::env::var_os("KEYWARD_DATABASE_URL"))
}

fn read_database_url(url: Option<OsString>) -> Result<Option<Secret>, CliError> {
    let Some(url) = url else { return Ok(None) };
    match url.into_string() {
        Ok(url) if !url.trim().is_empty() => Ok(Some(Secret::new(url))),
        Ok(_) => Err(CliError::Usage(
            "KEYWARD_DATABASE_URL is set and empty: unset it for SQLite in the data directory, or let it name a PostgreSQL database",
        )),
        Err(_) => Err(CliError::Usage("KEYWARD_DATABASE_URL is no UTF-8")),
    }
}

/// The pepper of keys that were imported as HMAC-SHA-256, so that leaked ones are found.
pub fn hmac_pepper() -> Option<Secret> {
    std::env::var("KEYWARD_HMAC_PEPPER").ok().filter(|pepper| !pepper.is_empty()).map(Secret::new)
}

fn on_leak(name: &str) -> Result<OnLeak, &'static str> {
    OnLeak::from_name(name).ok_or("expected revoke or flag")
}

pub(super) const DATA_DIR: &str = ".keyward";
const RETENTIONS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(366 * 86_400);
const USAGE_INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

impl ControlPlane {
    /// The URL of its root, without a slash at the end. Read here and not as the argument is parsed, since a refusal there
    /// repeats it, and it can hold a password.
    pub(super) fn url(&self) -> Result<String, &'static str> {
        if let Some(text) = &self.url {
            return url(text);
        }
        let port = std::env::var("KEYWARD_CONTROL_PORT").ok().filter(|port| !port.is_empty());
        let port = port.unwrap_or_else(|| "8081".to_owned());
        Ok(format!("http://127.0.0.1:{port}"))
    }

    /// The directory with the token.
    pub(super) fn data_dir(&self) -> PathBuf {
        std::env::var_os("KEYWARD_DATA_DIR").map_or_else(|| PathBuf::from(DATA_DIR), PathBuf::from)
    }
}

/// The URL of a server, without a slash at the end. One with a password in it would be repeated in messages.
fn url(text: &str) -> Result<String, &'static str> {
    let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match authority {
        Some(rest) if !rest.is_empty() && !rest.contains(['@', '?', '#', ' ']) => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("the URL of the control plane is to be http://HOST:PORT or https://HOST:PORT"),
    }
}

/// A host and a port; whether there is such a host is asked when it listens.
fn listen(text: &str) -> Result<String, &'static str> {
    let is_meant = |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok();
    let told = text.rsplit_once(':').filter(|parts| is_meant(*parts));
    told.map(|_| text.to_owned()).ok_or("expected HOST:PORT, such as 127.0.0.1:8081 or [::1]:8081")
}

fn network(text: &str) -> Result<IpNet, &'static str> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| address()).map_err(|_| "expected an IP address or a network in CIDR notation")
}

pub(super) fn whole_seconds(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.subsec_nanos() == 0 { Ok(duration) } else { Err("expected whole seconds".to_owned()) }
}

fn poll_wait(text: &str) -> Result<Duration, String> {
    let duration = whole_seconds(text)?;
    if POLL_WAITS.contains(&duration) { Ok(duration) } else { Err("expected 1s to 1min".to_owned()) }
}

fn retention(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if RETENTIONS.contains(&duration) { Ok(duration) } else { Err("expected 1s to 1year".to_owned()) }
}

fn usage_interval(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if USAGE_INTERVALS.contains(&duration) { Ok(duration) } else { Err("expected 1s to 1min".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_command_line_has_no_contradiction() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_permission_for_self_service_without_self_service_is_a_mistake() {
        let parse = |arguments: &[&str]| Arguments::try_parse_from([&["keyward", "serve"], arguments].concat()).is_ok();
        assert!(parse(&["--self-service", "--self-service-scope", "keys:manage"]));
        assert!(!parse(&["--self-service-scope", "keys:manage"]));
        assert!(!parse(&["--self-service", "--self-service-scope", ""]));
        assert!(parse(&["--trusted-proxy", "10.0.0.0/8,::1"]) && !parse(&["--trusted-proxy", "localhost"]));
    }

    /// The ids of all arguments of a command and of those below it.
    fn ids(command: &clap::Command) -> Vec<String> {
        let own = command.get_arguments().map(|argument| argument.get_id().to_string());
        own.chain(command.get_subcommands().flat_map(ids)).collect()
    }

    #[test]
    fn no_argument_takes_a_secret_as_everybody_on_the_machine_can_list_them() {
        let words = ["token", "secret", "password", "pepper", "key", "database"];
        let mut found = ids(&Arguments::command());
        found.retain(|id| words.iter().any(|word| id.contains(word)));
        // GitHub's public keys, files with tokens, the ids of keys, and the id of a secret, which is checked to be one.
        assert_eq!(found, ["github_keys", "upstream_token_file", "edge_token_file", "secret", "key", "key"]);
    }

    #[test]
    fn where_to_listen_is_a_host_and_a_port() {
        let parse = |listen: &str| Arguments::try_parse_from(["keyward", "serve", "--listen", listen]);
        for good in ["127.0.0.1:0", "[::1]:8081", "localhost:8081"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["8081", ":8081", "localhost", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http", ""] {
            assert!(parse(bad).unwrap_err().to_string().contains("HOST:PORT"), "{bad}");
        }
    }

    #[test]
    fn a_database_url_that_is_set_to_nothing_is_a_mistake() {
        let read = |url: &str| read_database_url(Some(url.into()));
        assert!(read_database_url(None).unwrap().is_none());
        assert_eq!(read("postgres://h/d").unwrap().unwrap().expose(), "postgres://h/d");
        for bad in ["", " ", "\n"] {
            assert!(read(bad).unwrap_err().to_string().contains("set and empty"), "{bad:?}");
        }
        let bytes = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
        assert!(read_database_url(Some(bytes)).is_err());
    }

    #[test]
    fn a_url_has_a_scheme_and_no_password() {
        assert_eq!(url("http://127.0.0.1:8081/"), Ok("http://127.0.0.1:8081".to_owned()));
        assert!(url("https://keyward.example").is_ok());
        for bad in ["127.0.0.1:8081", "ftp://x", "http://", "http://user:password@host"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_interval_of_usage_has_bounds() {
        let parse = |interval| Arguments::try_parse_from(["keyward", "serve", "--usage-interval", interval]);
        assert!(parse("1s").is_ok() && parse("1500ms").is_ok() && parse("1min").is_ok());
        assert!(parse("999ms").is_err() && parse("61s").is_err() && parse("5").is_err());
        assert!(Arguments::try_parse_from(["keyward", "serve", "--max-verifications", "0"]).is_err());
    }

    #[test]
    fn the_retention_has_bounds_and_is_thirty_days_unless_said() {
        let parse = |retention| Arguments::try_parse_from(["keyward", "serve", "--retention", retention]);
        assert!(parse("1s").is_ok() && parse("1year").is_ok());
        assert!(parse("0s").is_err() && parse("2years").is_err());
        let Command::Serve(serve) = Arguments::try_parse_from(["keyward", "serve"]).unwrap().command else {
            panic!("another command");
        };
        assert_eq!(serve.retention, keyward_server::store::RETENTION);
    }

    #[test]
    fn durations_are_written_with_their_unit() {
        let parse = |grace| Arguments::try_parse_from(["keyward", "keys", "rotate", "key_1", "--grace", grace]);
        assert!(parse("24h").is_ok() && parse("0s").is_ok());
        assert!(parse("24").is_err());
        assert!(parse("999ms").is_err() && parse("1s 1ns").is_err(), "less than a second would be dropped");
    }
}
