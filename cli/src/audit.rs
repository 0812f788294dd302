//! `keyward audit`.

use super::CliError;
use super::control_plane::ControlPlane;
use super::output::{self, OutputFormat};
use clap::Args;
use keyward_client::with_query;
use serde_json::Value;

/// Which entries of the audit log to show.
#[derive(Debug, Args)]
pub(super) struct AuditArguments {
    /// Only entries about the key, owner or plan with this id
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
    /// Only entries of this actor, such as token:tok_…
    #[arg(long)]
    actor: Option<String>,
    /// Only entries of this action, such as key.revoked
    #[arg(long)]
    action: Option<String>,
    /// Only entries of this time or later
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only entries before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Maximum number of entries
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only entries before the one with this sequence number
    #[arg(long, value_name = "SEQUENCE")]
    before: Option<u64>,
}

pub(super) fn run(server: &ControlPlane, arguments: AuditArguments, format: OutputFormat) -> Result<(), CliError> {
    let AuditArguments { subject, actor, action, since, until, limit, before } = arguments;
    let parameters = [
        ("limit", Some(limit.to_string())),
        ("subject", subject),
        ("actor", actor),
        ("action", action),
        ("since", since),
        ("until", until),
        ("before", before.map(|before| before.to_string())),
    ];
    let page = server.client()?.get(&with_query("/v1/audit".to_owned(), &parameters))?;
    format.print(&page, |page| {
        let entries = page.get("entries").and_then(Value::as_array).into_iter().flatten();
        output::table(&["sequence", "at", "actor", "action", "subject", "details"], entries)
    })
}
