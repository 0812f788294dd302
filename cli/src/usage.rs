//! `keyward usage`: who asked how often, and how it ended.

use super::arguments::ControlPlane;
use super::client::Client;
use super::{CliError, check_key_id, escaped, output, print};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Whose usage is wanted, and of when.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct UsageArguments {
    /// What else there is to do with usage.
    #[command(subcommand)]
    command: Option<UsageCommand>,
    /// Where the control plane is.
    #[command(flatten)]
    server: ControlPlane,
    /// The id of a key; without it, all of them and the requests without a known key
    #[arg(value_name = "KEY_ID")]
    key: Option<String>,
    /// From when, such as 2030-01-31T08:00:00Z [default: a day before the end]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Until when, at most 31 days later [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Print what the server says
    #[arg(long)]
    json: bool,
}

/// What else there is to do with usage.
#[derive(Debug, Subcommand)]
enum UsageCommand {
    /// List which edge token has reported how much
    Reports(ReportsArguments),
    /// Undo what was reported with an edge token
    Undo(UndoArguments),
}

/// Which reports are wanted.
#[derive(Debug, Args)]
struct ReportsArguments {
    /// Where the control plane is.
    #[command(flatten)]
    server: ControlPlane,
    /// Only what was reported of this key
    #[arg(long, value_name = "KEY_ID")]
    key: Option<String>,
    /// From when, such as 2030-01-31T08:00:00Z [default: a day before the end]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Until when, at most 31 days later [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Print what the server says
    #[arg(long)]
    json: bool,
}

/// Which reports are to be undone.
#[derive(Debug, Args)]
struct UndoArguments {
    /// Where the control plane is.
    #[command(flatten)]
    server: ControlPlane,
    /// The id of the edge token; token-file for those of the data directory's file
    #[arg(long, value_name = "TOKEN_ID")]
    reporter: String,
    /// From when on, such as 2030-01-31T08:00:00Z; the whole hour of it is undone
    #[arg(long, value_name = "TIME")]
    since: String,
    /// Print what the server says
    #[arg(long)]
    json: bool,
}

/// Tells of the use of keys.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub fn usage(arguments: &UsageArguments) -> Result<(), CliError> {
    match &arguments.command {
        Some(UsageCommand::Reports(arguments)) => return reports(arguments),
        Some(UsageCommand::Undo(arguments)) => return undo(arguments),
        None => {}
    }
    let path = match &arguments.key {
        Some(id) => {
            check_key_id(id)?;
            format!("/v1/keys/{}/usage", escaped(id))
        }
        None => "/v1/usage".to_owned(),
    };
    let path = with_query(path, &[("from", &arguments.from), ("to", &arguments.to)]);
    let told = Client::new(&arguments.server)?.get(&path)?;
    print(&if arguments.json { output::line(&told) } else { text(&told) })
}

fn reports(arguments: &ReportsArguments) -> Result<(), CliError> {
    if let Some(id) = &arguments.key {
        check_key_id(id)?;
    }
    let query = [("key", &arguments.key), ("from", &arguments.from), ("to", &arguments.to)];
    let told = Client::new(&arguments.server)?.get(&with_query("/v1/usage/reports".to_owned(), &query))?;
    print(&if arguments.json { output::line(&told) } else { reports_table(&told) })
}

fn undo(arguments: &UndoArguments) -> Result<(), CliError> {
    // A token that was pasted for its id goes nowhere.
    if !(arguments.reporter.starts_with("tok_") || arguments.reporter == "token-file") {
        return Err(CliError::Usage("the id of a token begins with tok_; token-file stands for those of the file"));
    }
    let request = json!({"token": arguments.reporter, "since": arguments.since});
    let told = Client::new(&arguments.server)?.post("/v1/usage/undo", &request)?;
    let text = |name| output::text(&told, name);
    print(&if arguments.json {
        output::line(&told)
    } else {
        format!("undone since {}: {} requests, {} credits\n", text("since"), text("requests"), text("credits"))
    })
}

fn with_query(mut path: String, query: &[(&str, &Option<String>)]) -> String {
    for (name, value) in query.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        path += if path.contains('?') { "&" } else { "?" };
        path += &format!("{name}={}", escaped(value));
    }
    path
}

fn reports_table(told: &Value) -> String {
    let tokens: Vec<_> = told.get("tokens").and_then(Value::as_array).into_iter().flatten().collect();
    if tokens.is_empty() {
        return "no reports\n".to_owned();
    }
    let columns = ["token", "keys", "requests", "credits", "last_reported_at"];
    let mut rows = vec![columns.map(output::head).to_vec()];
    rows.extend(tokens.into_iter().map(|token| columns.map(|column| output::text(token, column)).to_vec()));
    output::rows(&rows)
}

fn text(told: &Value) -> String {
    match (told.get("keys"), told.get("others")) {
        (Some(keys), Some(others)) => format!("{}\nWITHOUT A KNOWN KEY\n{}", table(keys), table(others)),
        _ => table(told),
    }
}

/// A row for each hour and a column for each verdict, the allowed ones first.
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
    let mut rows = vec![["hour"].iter().chain(&verdicts).map(|name| output::head(name)).collect()];
    for hour in usage.get("hours").and_then(Value::as_array).into_iter().flatten() {
        rows.push(row(output::text(hour, "hour"), hour.get("verdicts")));
    }
    rows.push(row("total".to_owned(), usage.get("totals")));
    output::rows(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reports_are_a_table_of_tokens() {
        let told = json!({"tokens": [{"token": "tok_1", "keys": 2, "requests": 30, "credits": 40,
                                      "last_reported_at": "2030-01-01T00:00:00.000Z"}]});
        let expected = "TOKEN  KEYS  REQUESTS  CREDITS  LAST REPORTED AT\n\
                        tok_1  2     30        40       2030-01-01T00:00:00.000Z\n";
        assert_eq!(reports_table(&told), expected);
        assert_eq!(reports_table(&json!({"tokens": []})), "no reports\n");
    }

    #[test]
    fn usage_is_a_table_of_hours_and_verdicts() {
        let usage = json!({"totals": {"allow": 12, "blocked": 1}, "hours": [
            {"hour": "2030-01-01T00:00:00.000Z", "verdicts": {"allow": 2, "blocked": 1}},
            {"hour": "2030-01-01T01:00:00.000Z", "verdicts": {"allow": 10}}]});
        assert_eq!(
            text(&usage),
            "HOUR                      ALLOW  BLOCKED\n\
             2030-01-01T00:00:00.000Z  2      1\n\
             2030-01-01T01:00:00.000Z  10\n\
             total                     12     1\n"
        );
        let nothing = json!({"totals": {}, "hours": []});
        assert_eq!(
            text(&json!({"keys": nothing, "others": {"totals": {"missing": 1}, "hours": []}})),
            "no requests\n\nWITHOUT A KNOWN KEY\nHOUR   MISSING\ntotal  1\n"
        );
    }
}
