//! What may be written on the command line. No token: arguments are seen by everyone on the machine.

use super::leaks::ReportLeakArguments;
use super::transfer::{ExportArguments, ImportArguments};
use crate::model::OnLeak;
use clap::{Args, Parser, Subcommand};
use keyward_contract::secret::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// API keys that are checked inside Envoy: the control plane, and the command line over it.
#[derive(Debug, Parser)]
#[command(name = "keyward", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the control plane
    Serve(ServeArguments),
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
    #[arg(long, env = "KEYWARD_LISTEN", default_value = "127.0.0.1:8081", value_name = "HOST:PORT")]
    pub listen: String,
    /// Where the database and the tokens are
    #[arg(long, env = "KEYWARD_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// What keys look like: a dialect that comes with Keyward, or a file
    #[arg(long, env = "KEYWARD_DIALECT", default_value = "keyward", value_name = "NAME_OR_FILE")]
    pub dialect: String,
    /// What becomes of a key that was found in public: revoke or flag
    #[arg(long, env = "KEYWARD_ON_LEAK", default_value = "revoke", value_parser = on_leak, value_name = "revoke|flag")]
    pub on_leak: OnLeak,
    /// GitHub's public keys of secret scanning; with them its alerts are taken
    #[arg(long, env = "KEYWARD_GITHUB_KEYS", value_name = "FILE")]
    pub github_keys: Option<PathBuf>,
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

/// What there is to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key; it is shown once
    Create {
        /// What its users call it
        #[arg(long)]
        name: String,
        /// Whose it is
        #[arg(long)]
        owner: Option<String>,
        /// What sort of key, in the dialect's words
        #[arg(long)]
        kind: Option<String>,
        /// Whether its requests are real
        #[arg(long, value_name = "live|test")]
        env: Option<String>,
        /// What it may do; can be repeated
        #[arg(long)]
        scope: Vec<String>,
        /// Where it may be used from; can be repeated
        #[arg(long, value_name = "CIDR")]
        allow_ip: Vec<String>,
        /// How much it may be used, such as 10/s or 200/min; can be repeated
        #[arg(long, value_name = "LIMIT")]
        limit: Vec<String>,
        /// After how long it ends by itself, such as 30d
        #[arg(long, value_parser = whole_seconds, value_name = "DURATION")]
        expires_in: Option<Duration>,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// List keys, the newest first
    List {
        /// Only those of this owner
        #[arg(long)]
        owner: Option<String>,
        /// Only those in this state
        #[arg(long, value_name = "active|revoked|expired")]
        state: Option<String>,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Show one key
    Show {
        /// Its id
        id: String,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// End a key at once and for good
    Revoke {
        /// Its id
        id: String,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Give a key a new secret, shown once, and end those it has
    Rotate {
        /// Its id
        id: String,
        /// How long the secrets so far stay valid, such as 24h or 0s [default: a day]
        #[arg(long, value_parser = whole_seconds, value_name = "DURATION")]
        grace: Option<Duration>,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Take in keys of another system, as plaintext or as hashes
    Import(ImportArguments),
    /// Print every key, without secrets, digests and hashes
    Export(ExportArguments),
    /// Report keys that were found in public
    ReportLeak(ReportLeakArguments),
}

/// What there is to do with owners.
#[derive(Debug, Subcommand)]
pub enum OwnersCommand {
    /// Show one owner
    Show {
        /// The owner's id
        id: String,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Refuse all keys of an owner
    Disable {
        /// The owner's id
        id: String,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Say what an owner's keys may do at most, instead of what was said before
    Permit {
        /// The owner's id
        id: String,
        /// What they may do; can be repeated, and without any they may do nothing
        #[arg(long)]
        scope: Vec<String>,
        /// Let the keys do whatever their own scopes say
        #[arg(long, conflicts_with = "scope")]
        any: bool,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Accept the keys of an owner again
    Enable {
        /// The owner's id
        id: String,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
}

/// The URL of the PostgreSQL database that the environment names; set to nothing is as good as not set.
pub fn database_url() -> Option<Secret> {
    std::env::var("KEYWARD_DATABASE_URL").ok().filter(|url| !url.is_empty()).map(Secret::new)
}

/// The pepper of keys that were imported as HMAC-SHA-256, so that leaked ones are found.
pub fn hmac_pepper() -> Option<Secret> {
    std::env::var("KEYWARD_HMAC_PEPPER").ok().filter(|pepper| !pepper.is_empty()).map(Secret::new)
}

fn on_leak(name: &str) -> Result<OnLeak, &'static str> {
    OnLeak::from_name(name).ok_or("expected revoke or flag")
}

const DATA_DIR: &str = ".keyward";

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

fn whole_seconds(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.subsec_nanos() == 0 { Ok(duration) } else { Err("expected whole seconds".to_owned()) }
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
    fn a_url_has_a_scheme_and_no_password() {
        assert_eq!(url("http://127.0.0.1:8081/"), Ok("http://127.0.0.1:8081".to_owned()));
        assert!(url("https://keyward.example").is_ok());
        for bad in ["127.0.0.1:8081", "ftp://x", "http://", "http://user:password@host"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_written_with_their_unit() {
        let parse = |grace| Arguments::try_parse_from(["keyward", "keys", "rotate", "key_1", "--grace", grace]);
        assert!(parse("24h").is_ok() && parse("0s").is_ok());
        assert!(parse("24").is_err());
        assert!(parse("999ms").is_err() && parse("1s 1ns").is_err(), "less than a second would be dropped");
    }
}
