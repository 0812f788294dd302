//! `keyward doctor`: looks at each part of an installation, and says what is wrong and what to do about it.
//!
//! It changes nothing. It sends the tokens that it finds to the control plane alone, and no key to anybody.

mod control_plane;
mod envoy;
mod files;
mod gateway;

use super::CliError;
use super::config::FilterConfig;
use super::control_plane::ControlPlane;
use super::envoy_admin::EnvoyAdmin;
use super::findings::{Check, Outcome, summary, summary_text};
use super::gateway::Gateway;
use super::output::{OutputFormat, print};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// What to look at.
#[derive(Debug, Args)]
#[command(
    after_help = "What is not named is not looked at. Exit codes: 0 nothing failed (there may be warnings), 1 something failed, 2 wrong \
                  usage, 4 a file cannot be read."
)]
pub(super) struct DoctorArguments {
    /// URL of a gateway
    #[arg(long, value_name = "URL")]
    gateway: Option<String>,
    /// Configuration of Envoy with the filter, or of the filter alone
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// URL of Envoy's admin interface
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Host of requests to the gateway [default: that of the URL]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    host: Option<String>,
    /// Certificates in PEM of the authorities to trust for the gateway [default: the public ones]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// From how much on two clocks differ. `Date` has whole seconds, and a response takes time.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

const CLOCK_ACTION: &str = "set both clocks with NTP: when a key expires is decided by the clock of each machine";

/// Looks at the installation and prints the report.
pub(super) fn run(server: &ControlPlane, arguments: &DoctorArguments, output: OutputFormat) -> Result<(), CliError> {
    let url = server.url()?;
    let admin = arguments.admin.as_deref().map(EnvoyAdmin::new).transpose()?;
    let gateway = match &arguments.gateway {
        Some(url) => Some(Gateway::new(url, arguments.host.as_deref(), arguments.ca_file.as_deref())?),
        None => None,
    };
    let (check, filters) = files::configuration(arguments.config.as_deref())?;
    let mut checks = vec![files::data_directory(), check];
    checks.extend(control_plane::checks(&url));
    checks.push(gateway::check(gateway.as_ref(), readiness_path(&filters).as_deref())?);
    checks.extend(envoy::checks(admin.as_ref()));
    checks.sort_by_key(|check| check.outcome() == Outcome::NotChecked);

    print(&match output {
        OutputFormat::Json => format!("{:#}\n", json_report(&url, &checks)),
        OutputFormat::Text => text_report(&checks),
    })?;
    if checks.iter().any(|check| check.outcome() == Outcome::Failed) {
        return Err(CliError::Mistakes(summary_text(&checks)));
    }
    Ok(())
}

fn json_report(url: &str, checks: &[Check]) -> Value {
    json!({
        "report": "keyward-doctor",
        "schema_version": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "control_plane": url,
        "checks": checks.iter().map(Check::json).collect::<Value>(),
        "summary": summary(checks),
    })
}

fn text_report(checks: &[Check]) -> String {
    let parts: String = checks.iter().map(Check::text).collect();
    format!("{parts}\n{}\n", summary_text(checks))
}

/// The path on which the filter says whether it is ready, by the first configuration that has one.
fn readiness_path(filters: &[FilterConfig]) -> Option<String> {
    filters.iter().find_map(|filter| filter.parse().ok()?.readiness_path)
}

/// Compares the clock of a server with that of this machine, by the `Date` field of a response that came just now.
fn compare_clock(check: &mut Check, whose: &str, date: Option<&str>, now: SystemTime) {
    let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else {
        check.cannot(format!("the response of {whose} has no Date"), "compare its clock by hand");
        return;
    };
    // The date is that of the second's beginning.
    let difference = now.duration_since(date).unwrap_or_else(|error| error.duration());
    check.measure("clock_difference_s", difference.as_secs());
    if difference > CLOCK_TOLERANCE {
        check.fail(
            format!("the clock of {whose} differs from that of this machine by {} s", difference.as_secs()),
            CLOCK_ACTION,
        );
    } else {
        check.pass(format!("the clock of {whose} agrees with that of this machine"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_by_more_than_seconds_fail() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let outcome = |date| {
            let mut check = Check::new("clock", "");
            compare_clock(&mut check, "h", date, now);
            check.outcome()
        };
        assert_eq!(outcome(Some("Sun, 06 Nov 1994 08:49:37 GMT")), Outcome::Passed);
        assert_eq!(outcome(Some("Sun, 06 Nov 1994 08:49:34 GMT")), Outcome::Passed);
        assert_eq!(outcome(Some("Sun, 06 Nov 1994 08:49:30 GMT")), Outcome::Failed);
        assert_eq!(outcome(Some("Sun, 06 Nov 1994 08:50:37 GMT")), Outcome::Failed);
        assert_eq!(outcome(Some("nonsense")), Outcome::NotChecked);
        assert_eq!(outcome(None), Outcome::NotChecked);
    }
}
