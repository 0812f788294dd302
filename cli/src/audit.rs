//! `keyward audit`.

use super::arguments::ControlPlane;
use super::client::Client;
use super::{CliError, escaped, output, print};
use clap::Args;

/// Which entries of the audit log are shown, the newest first.
#[derive(Debug, Args)]
pub struct AuditArguments {
    /// Only those about the key, owner or plan of this id
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only those before the one of this number
    #[arg(long, value_name = "SEQUENCE")]
    before: Option<u64>,
    /// Print what the server says
    #[arg(long)]
    json: bool,
}

/// Shows the audit log.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub fn run(server: &ControlPlane, arguments: AuditArguments) -> Result<(), CliError> {
    let AuditArguments { subject, limit, before, json } = arguments;
    let mut path = format!("/v1/audit?limit={limit}");
    for (name, value) in [("subject", subject), ("before", before.map(|before| before.to_string()))] {
        if let Some(value) = value {
            path += &format!("&{name}={}", escaped(&value));
        }
    }
    let page = Client::new(server)?.get(&path)?;
    let entries = page.get("entries").and_then(|entries| entries.as_array()).map_or(&[][..], Vec::as_slice);
    let table = || output::table(&["sequence", "at", "actor", "action", "subject", "details"], entries);
    print(&if json { output::line(&page) } else { table() })
}
