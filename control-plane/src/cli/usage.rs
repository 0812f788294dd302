//! `keyward usage`: who asked how often, and how it ended.

use super::arguments::ControlPlane;
use super::client::Client;
use super::{CliError, check_key_id, escaped, output, print};
use clap::Args;
use serde_json::Value;

/// Whose usage is wanted, and of when.
#[derive(Debug, Args)]
pub struct UsageArguments {
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

/// Tells of the use of keys.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub fn usage(arguments: &UsageArguments) -> Result<(), CliError> {
    let mut path = match &arguments.key {
        Some(id) => {
            check_key_id(id)?;
            format!("/v1/keys/{}/usage", escaped(id))
        }
        None => "/v1/usage".to_owned(),
    };
    let given = [("from", &arguments.from), ("to", &arguments.to)];
    for (name, value) in given.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        path += if path.contains('?') { "&" } else { "?" };
        path += &format!("{name}={}", escaped(value));
    }
    let told = Client::new(&arguments.server)?.get(&path)?;
    print(&if arguments.json { output::line(&told) } else { text(&told) })
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
