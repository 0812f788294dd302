//! `keyward usage`: requests by hour and verdict, and the reports of edges.

use super::CliError;
use super::control_plane::ControlPlane;
use super::output::{self, OutputFormat};
use super::request::check_key_id;
use clap::{Args, Subcommand};
use keyward_client::{escape, with_query};
use serde_json::{Value, json};

/// Which usage to show.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct UsageArguments {
    #[command(subcommand)]
    command: Option<UsageCommand>,
    /// Key's id [default: all keys, and the requests without a known key]
    #[arg(value_name = "KEY_ID")]
    key: Option<String>,
    #[command(flatten)]
    period: Period,
}

/// The other commands on usage.
#[derive(Debug, Subcommand)]
enum UsageCommand {
    /// List how much each edge token has reported
    Reports {
        /// Only reports of this key
        #[arg(long, value_name = "KEY_ID")]
        key: Option<String>,
        #[command(flatten)]
        period: Period,
    },
    /// Undo the reports of an edge token
    Undo {
        /// Id of the edge token; token-file for the tokens of the file in the data directory
        #[arg(long, value_name = "TOKEN_ID")]
        reporter: String,
        /// Start, such as 2030-01-31T08:00:00Z; its whole hour is undone
        #[arg(long, value_name = "TIME")]
        since: String,
    },
}

/// A period of time.
#[derive(Debug, Args)]
struct Period {
    /// Start, such as 2030-01-31T08:00:00Z [default: a day before the end]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// End, at most 31 days later [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

pub(super) fn run(server: &ControlPlane, arguments: UsageArguments, format: OutputFormat) -> Result<(), CliError> {
    match arguments.command {
        None => show(server, arguments.key, arguments.period, format),
        Some(UsageCommand::Reports { key, period }) => reports(server, key, period, format),
        Some(UsageCommand::Undo { reporter, since }) => undo(server, &reporter, &since, format),
    }
}

fn show(server: &ControlPlane, key: Option<String>, period: Period, format: OutputFormat) -> Result<(), CliError> {
    let path = match key {
        Some(id) => {
            check_key_id(&id)?;
            format!("/v1/keys/{}/usage", escape(&id))
        }
        None => "/v1/usage".to_owned(),
    };
    let path = with_query(path, &[("from", period.from), ("to", period.to)]);
    format.print(&server.client()?.get(&path)?, usage_text)
}

fn reports(server: &ControlPlane, key: Option<String>, period: Period, format: OutputFormat) -> Result<(), CliError> {
    key.as_deref().map_or(Ok(()), check_key_id)?;
    let parameters = [("key", key), ("from", period.from), ("to", period.to)];
    let path = with_query("/v1/usage/reports".to_owned(), &parameters);
    format.print(&server.client()?.get(&path)?, reports_text)
}

fn undo(server: &ControlPlane, reporter: &str, since: &str, format: OutputFormat) -> Result<(), CliError> {
    // A token pasted by mistake must reach neither a URL nor a message.
    if !(reporter.starts_with("tok_") || reporter == "token-file") {
        return Err(CliError::Usage(
            "expected the id of a token, which begins with tok_, or token-file for the tokens of the file",
        ));
    }
    let undone = server.client()?.post("/v1/usage/undo", &json!({"token": reporter, "since": since}))?;
    format.print(&undone, |undone| {
        let text = |name| output::text(undone, name);
        format!("undone since {}: {} requests, {} credits\n", text("since"), text("requests"), text("credits"))
    })
}

fn reports_text(reports: &Value) -> String {
    let tokens = reports.get("tokens").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if tokens.is_empty() {
        return "no reports\n".to_owned();
    }
    output::table(&["token", "keys", "requests", "credits", "last_reported_at"], tokens)
}

fn usage_text(usage: &Value) -> String {
    match (usage.get("keys"), usage.get("others")) {
        (Some(keys), Some(others)) => format!("{}\nWITHOUT A KNOWN KEY\n{}", table(keys), table(others)),
        _ => table(usage),
    }
}

/// A row for each hour and a column for each verdict, the allowed requests first.
fn table(usage: &Value) -> String {
    let totals = usage.get("totals").and_then(Value::as_object);
    let mut verdicts: Vec<&str> = totals.into_iter().flatten().map(|(verdict, _)| verdict.as_str()).collect();
    if verdicts.is_empty() {
        return "no requests\n".to_owned();
    }
    verdicts.sort_by_key(|verdict| (*verdict != "allow", *verdict));
    let row = |name: String, counts: Option<&Value>| {
        let count = |verdict: &&str| counts.map(|counts| output::text(counts, verdict)).unwrap_or_default();
        [name].into_iter().chain(verdicts.iter().map(count)).collect::<Vec<_>>()
    };
    let hours = usage.get("hours").and_then(Value::as_array).into_iter().flatten();
    let hours = hours.map(|hour| row(output::text(hour, "hour"), hour.get("verdicts")));
    let total = row("total".to_owned(), usage.get("totals"));
    let columns: Vec<&str> = ["hour"].into_iter().chain(verdicts.iter().copied()).collect();
    output::rows_under(&columns, hours.chain([total]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_a_table_of_tokens() {
        let reports = json!({"tokens": [{"token": "tok_1", "keys": 2, "requests": 30, "credits": 40,
                                         "last_reported_at": "2030-01-01T00:00:00.000Z"}]});
        let expected = "TOKEN  KEYS  REQUESTS  CREDITS  LAST REPORTED AT\n\
                        tok_1  2     30        40       2030-01-01T00:00:00.000Z\n";
        assert_eq!(reports_text(&reports), expected);
        assert_eq!(reports_text(&json!({"tokens": []})), "no reports\n");
    }

    #[test]
    fn usage_is_a_table_of_hours_and_verdicts() {
        let usage = json!({"totals": {"allow": 12, "blocked": 1}, "hours": [
            {"hour": "2030-01-01T00:00:00.000Z", "verdicts": {"allow": 2, "blocked": 1}},
            {"hour": "2030-01-01T01:00:00.000Z", "verdicts": {"allow": 10}}]});
        assert_eq!(
            usage_text(&usage),
            "HOUR                      ALLOW  BLOCKED\n\
             2030-01-01T00:00:00.000Z  2      1\n\
             2030-01-01T01:00:00.000Z  10\n\
             total                     12     1\n"
        );
        let nothing = json!({"totals": {}, "hours": []});
        assert_eq!(
            usage_text(&json!({"keys": nothing, "others": {"totals": {"missing": 1}, "hours": []}})),
            "no requests\n\nWITHOUT A KNOWN KEY\nHOUR   MISSING\ntotal  1\n"
        );
    }
}
