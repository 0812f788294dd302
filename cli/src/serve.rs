//! `keyward serve`: runs the control plane.

use super::CliError;
use super::arguments::{DATA_DIR, database_url, duration_within, listen_address};
use super::process::{Signals, log_reload, start_logging};
use clap::Args;
use clap::builder::{FalseyValueParser, NonEmptyStringValueParser};
use ipnet::IpNet;
use keyward_core::key::secret::Secret;
use keyward_server::auth::tokens::file::Audience;
use keyward_server::clock;
use keyward_server::console::ConsoleConfig;
use keyward_server::keys::github::GithubKeys;
use keyward_server::keys::leaks::Leaks;
use keyward_server::model::OnLeak;
use keyward_server::serve::{Config, RETENTION_INTERVAL, SelfService, Server, default_max_verifications, dialect};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// How to run the control plane.
#[derive(Debug, Args)]
#[command(
    after_help = "The state is in SQLite in the data directory, or in the PostgreSQL database that KEYWARD_DATABASE_URL names: \
                  postgres://USER:PASSWORD@HOST/DATABASE. It is a variable and not an option, as every user of the machine \
                  sees arguments. KEYWARD_HMAC_PEPPER is the pepper of keys imported as HMAC-SHA-256; with it the server \
                  recognizes leaked ones. On SIGHUP the token files and GitHub's keys are reloaded."
)]
pub(super) struct ServeArguments {
    /// Address to listen on; port 0 is any free port
    #[arg(long, env = "KEYWARD_LISTEN", default_value = "127.0.0.1:8081", value_parser = listen_address, value_name = "HOST:PORT")]
    listen: String,
    /// Directory of the database and the token files
    #[arg(long, env = "KEYWARD_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// Dialect: the name of a built-in one, or a file
    #[arg(long, env = "KEYWARD_DIALECT", default_value = "keyward", value_name = "NAME_OR_FILE")]
    dialect: String,
    /// How often edges report usage, from 1s to 1min
    #[arg(long, env = "KEYWARD_USAGE_INTERVAL", default_value = "5s", value_parser = usage_interval, value_name = "DURATION")]
    usage_interval: Duration,
    /// How long edges know a revoked or expired key, from 1s to 1year; restoring an older backup can make revoked keys
    /// valid again
    #[arg(long, env = "KEYWARD_RETENTION", default_value = "30d", value_parser = retention, value_name = "DURATION")]
    retention: Duration,
    /// Simultaneous verifications of password hashes [default: one for each processor]
    #[arg(long, env = "KEYWARD_MAX_VERIFICATIONS", value_name = "N")]
    max_verifications: Option<NonZeroUsize>,
    /// Proxy whose X-Forwarded-For names the client; repeatable
    #[arg(long, env = "KEYWARD_TRUSTED_PROXIES", value_delimiter = ',', value_parser = network, value_name = "CIDR")]
    trusted_proxy: Vec<IpNet>,
    /// Let users list, create, rotate and revoke the keys of their owner with a key, at /api-keys
    #[arg(long, env = "KEYWARD_SELF_SERVICE", value_parser = FalseyValueParser::new())]
    self_service: bool,
    /// Permission that a key needs for self-service [default: none]
    #[arg(
        long,
        env = "KEYWARD_SELF_SERVICE_SCOPE",
        requires = "self_service",
        value_parser = NonEmptyStringValueParser::new(),
        value_name = "SCOPE"
    )]
    self_service_scope: Option<String>,
    /// Do not serve the console at /console
    #[arg(long, env = "KEYWARD_NO_CONSOLE", value_parser = FalseyValueParser::new())]
    no_console: bool,
    /// Serve the console on an address of its own [default: the address of the API]
    #[arg(long, env = "KEYWARD_CONSOLE_LISTEN", value_parser = listen_address, conflicts_with = "no_console", value_name = "HOST:PORT")]
    console_listen: Option<String>,
    /// URL of the gateway, for the examples in the console
    #[arg(long, env = "KEYWARD_GATEWAY_URL", value_parser = NonEmptyStringValueParser::new(), value_name = "URL")]
    gateway_url: Option<String>,
    /// What happens to a leaked key: revoke or flag
    #[arg(long, env = "KEYWARD_ON_LEAK", default_value = "revoke", value_parser = on_leak, value_name = "revoke|flag")]
    on_leak: OnLeak,
    /// GitHub's public keys of secret scanning; enables its alerts
    #[arg(long, env = "KEYWARD_GITHUB_KEYS", value_name = "FILE")]
    github_keys: Option<PathBuf>,
}

const RETENTIONS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(366 * 86_400);
const USAGE_INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

fn retention(text: &str) -> Result<Duration, String> {
    duration_within(text, &RETENTIONS, "1s to 1year")
}

fn usage_interval(text: &str) -> Result<Duration, String> {
    duration_within(text, &USAGE_INTERVALS, "1s to 1min")
}

fn on_leak(name: &str) -> Result<OnLeak, &'static str> {
    OnLeak::from_name(name).ok_or("expected revoke or flag")
}

fn network(text: &str) -> Result<IpNet, &'static str> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| address()).map_err(|_| "expected an IP address, or a network in CIDR notation")
}

fn hmac_pepper() -> Option<Secret> {
    std::env::var("KEYWARD_HMAC_PEPPER").ok().filter(|pepper| !pepper.is_empty()).map(Secret::new)
}

#[tokio::main]
pub(super) async fn run(arguments: ServeArguments) -> Result<(), CliError> {
    let database_url = database_url()?;
    start_logging()?;
    let dialect = dialect(&arguments.dialect)?;
    let github_keys = arguments.github_keys.as_deref().map(GithubKeys::load).transpose()?;
    let signals = Signals::listen()?;
    let server = Server::start(Config {
        listen: arguments.listen,
        data_dir: arguments.data_dir,
        database_url,
        dialect,
        leaks: Leaks { on_leak: arguments.on_leak, github_keys, hmac_pepper: hmac_pepper() },
        clock: clock::system(),
        retention: arguments.retention,
        retention_interval: RETENTION_INTERVAL.min(arguments.retention),
        usage_interval: arguments.usage_interval,
        max_verifications: arguments.max_verifications.unwrap_or_else(default_max_verifications),
        trusted_proxies: arguments.trusted_proxy,
        self_service: arguments.self_service.then_some(SelfService { scope: arguments.self_service_scope }),
        console: (!arguments.no_console)
            .then_some(ConsoleConfig { listen: arguments.console_listen, gateway_url: arguments.gateway_url }),
    })
    .await?;
    let (tokens, leaks) = (server.tokens(), server.leaks());
    let shutdown = signals.shutdown(move || {
        for audience in Audience::ALL {
            log_reload(audience.file_name(), tokens.reload(audience));
        }
        if let Some(keys) = &leaks.github_keys {
            log_reload("github-keys", keys.reload());
        }
    });
    server.run(shutdown).await;
    Ok(())
}

#[cfg(test)]
impl ServeArguments {
    pub(super) fn retention(&self) -> Duration {
        self.retention
    }
}
