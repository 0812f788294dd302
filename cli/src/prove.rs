//! `keyward prove`: tests an installation from outside, with keys that it creates and revokes.
//!
//! It changes nothing else. What it sends is said before it begins, bounded, and named `keyward-prove`. A check passes, fails,
//! or says why it could not be made.

mod checks;
mod plan;
mod shape;
mod spellings;
mod test_keys;
mod window;

use super::CliError;
use super::control_plane::ControlPlane;
use super::envoy_admin::EnvoyAdmin;
use super::findings::{Check, Outcome, summary, summary_text};
use super::gateway::Gateway;
use super::output::{OutputFormat, print, printable, remark};
use checks::Run;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use plan::Plan;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use test_keys::{Removal, TestKeys};
use tokio::signal::unix::{SignalKind, signal};

/// What to test.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 no check failed (with --strict: all passed), 1 a check failed, or the control plane refused, 2 wrong \
                  usage, 4 a file cannot be read. With --json the report is one JSON document."
)]
pub(super) struct ProveArguments {
    /// URL of the gateway
    #[arg(long, value_name = "URL")]
    gateway: String,
    /// Configuration of Envoy with the filter, or of the filter alone: its dialect, its rules, and the guard behind it
    #[arg(long, visible_alias = "rules", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// URL of Envoy's admin interface: the configuration that it runs, and its workers
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Path that requires a key [default: one by the rules, else /]
    #[arg(long, value_parser = path)]
    pub(super) path: Option<String>,
    /// Method of requests
    #[arg(long, default_value = "GET", value_parser = NonEmptyStringValueParser::new())]
    pub(super) method: String,
    /// Host of requests [default: that of the URL]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    host: Option<String>,
    /// The upstream at the path echoes the header fields that it receives in the body of its response
    #[arg(long)]
    echo: bool,
    /// Dialect: the name of a built-in one, or a file [default: that of the configuration, else keyward]
    #[arg(long, value_name = "NAME_OR_FILE")]
    pub(super) dialect: Option<String>,
    /// Kind of the keys [default: one that the path accepts]
    #[arg(long)]
    pub(super) kind: Option<String>,
    /// Environment of the keys (live or test)
    #[arg(long, value_name = "live|test")]
    pub(super) env: Option<String>,
    /// Owner of the keys
    #[arg(long)]
    pub(super) owner: Option<String>,
    /// Permission of the keys, besides those of the path's rule; repeatable
    #[arg(long)]
    pub(super) scope: Vec<String>,
    /// Certificates in PEM of the authorities to trust for the gateway [default: the public ones]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Connections that requests are sent on, so that every worker is met
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=512), value_name = "N")]
    connections: u16,
    /// Longest time for which a revoked key may be accepted
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    max_revocation: Duration,
    /// Fail also if something could not be checked
    #[arg(long)]
    strict: bool,
}

fn path(text: &str) -> Result<String, &'static str> {
    if text.starts_with('/') && !text.contains(['?', '#']) {
        Ok(text.to_owned())
    } else {
        Err("expected a path that begins with /, without a query")
    }
}

/// Tests the installation and prints the report.
pub(super) fn run(server: &ControlPlane, arguments: &ProveArguments, output: OutputFormat) -> Result<(), CliError> {
    let client = server.client()?;
    let gateway = Gateway::new(&arguments.gateway, arguments.host.as_deref(), arguments.ca_file.as_deref())?;
    let admin = arguments.admin.as_deref().map(EnvoyAdmin::new).transpose()?;
    let plan = Plan::new(arguments, admin.as_ref(), gateway.host())?;
    let started = SystemTime::now();
    let name = keyward_server::random::base62(12).map_err(|error| CliError::Mistakes(error.to_string()))?;
    let keys = TestKeys::new(&client, format!("keyward-prove-{name}"), plan.key_fields());
    remark(&announcement(arguments, &plan, &gateway, &keys.name));

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(CliError::Signals)?;
    let run = Run::new(&gateway, &plan, &keys, admin.as_ref(), arguments);
    let is_interrupted = runtime.block_on(until_signal(run.all()));
    let removal = keys.remove_all();
    let mut checks = run.into_checks();
    checks.push(removal_check(&removal));

    let report = Report { arguments, started, keys: &keys.name, removal: &removal, checks: &checks };
    print(&match output {
        OutputFormat::Json => format!("{:#}\n", report.json()),
        OutputFormat::Text => report.text(),
    })?;
    let failed = checks.iter().any(|check| check.outcome() == Outcome::Failed);
    let is_complete = checks.iter().all(|check| check.outcome() == Outcome::Passed);
    if is_interrupted? {
        return Err(CliError::Mistakes("interrupted: the report is not complete".to_owned()));
    }
    if failed || (arguments.strict && !is_complete) {
        return Err(CliError::Mistakes(summary_text(&checks)));
    }
    Ok(())
}

/// Whether a signal came before the end.
async fn until_signal(all: impl Future<Output = ()>) -> Result<bool, CliError> {
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt()).map_err(CliError::Signals)?,
        signal(SignalKind::terminate()).map_err(CliError::Signals)?,
    );
    Ok(tokio::select! {
        () = all => false,
        _ = interrupt.recv() => true,
        _ = terminate.recv() => true,
    })
}

/// What will be sent, before it is.
fn announcement(arguments: &ProveArguments, plan: &Plan, gateway: &Gateway, keys: &str) -> String {
    let place = if gateway.is_loopback() { "on this machine" } else { "which is NOT on this machine" };
    let text = format!(
        "keyward prove sends requests to {}, {place}: {} {} and spellings of it, at most {} a second over {} connections, usually \
         for less than half a minute. It creates keys named {keys} at the control plane, and revokes them at the end.",
        arguments.gateway,
        plan.method,
        plan.path,
        checks::MAX_REQUESTS_PER_SECOND,
        arguments.connections,
    );
    format!("{}\n", printable(&text))
}

fn removal_check(removal: &Removal) -> Check {
    let mut check = Check::new("keys_removed", "All keys of this run are revoked");
    check.measure("created", removal.created);
    match &removal.error {
        None => check.pass(format!("{} keys were created, and none is active", removal.created)),
        Some(error) => check.fail(
            format!("the keys could not be revoked: {error}"),
            "revoke them with `keyward keys list --name keyward-prove --state active` and `keyward keys revoke ID`; they expire by \
             themselves",
        ),
    }
    check
}

/// The report.
struct Report<'a> {
    arguments: &'a ProveArguments,
    started: SystemTime,
    keys: &'a str,
    removal: &'a Removal,
    checks: &'a [Check],
}

impl Report<'_> {
    fn json(&self) -> Value {
        json!({
            "report": "keyward-prove",
            "schema_version": 1,
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": self.started_at(),
            "gateway": self.arguments.gateway,
            "checks": self.checks.iter().map(Check::json).collect::<Value>(),
            "summary": summary(self.checks),
            "keys": {"name": self.keys, "created": self.removal.created, "all_revoked": self.removal.error.is_none()},
        })
    }

    fn text(&self) -> String {
        let gateway = printable(&self.arguments.gateway);
        let mut text = format!("keyward prove {}, {gateway}, {}\n\n", env!("CARGO_PKG_VERSION"), self.started_at());
        self.checks.iter().for_each(|check| text.push_str(&check.text()));
        let _ = writeln!(text, "\n{}", summary_text(self.checks));
        text
    }

    fn started_at(&self) -> String {
        humantime::format_rfc3339_seconds(self.started).to_string()
    }
}

#[cfg(test)]
impl ProveArguments {
    fn for_test() -> Self {
        Self {
            gateway: "http://h".to_owned(),
            config: None,
            admin: None,
            path: None,
            method: "GET".to_owned(),
            host: None,
            echo: false,
            dialect: None,
            kind: None,
            env: None,
            owner: None,
            scope: Vec::new(),
            ca_file: None,
            connections: 1,
            max_revocation: Duration::from_secs(1),
            strict: false,
        }
    }
}
