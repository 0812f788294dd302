//! `keyward plans`.

use super::arguments::ControlPlane;
use super::client::Client;
use super::{CliError, all, document, escaped, output, print};
use clap::Subcommand;
use serde_json::json;
use std::io::{self, Write};

/// What there is to do with plans.
#[derive(Debug, Subcommand)]
pub enum PlansCommand {
    /// List plans
    List {
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Show one plan
    Show {
        /// The plan's id
        id: String,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Make a plan, or say anew all that it is
    Set {
        /// The plan's id
        id: String,
        /// How much each of its keys may be used, such as 10/s; can be repeated [default: what the dialect says]
        #[arg(long, value_name = "LIMIT")]
        limit: Vec<String>,
        /// How much a key made later may spend altogether [default: unbounded]
        #[arg(long)]
        credits: Option<u64>,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Remove a plan that no key is on
    Delete {
        /// The plan's id
        id: String,
    },
}

/// Works on plans.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub fn run(server: &ControlPlane, command: PlansCommand) -> Result<(), CliError> {
    let client = Client::new(server)?;
    let path = |id: &str| format!("/v1/plans/{}", escaped(id));
    let (plan, json) = match command {
        PlansCommand::List { json } => {
            let plans = all(&client, "/v1/plans", "plans", &[])?;
            let list = || output::table(&["id", "limits", "credits", "created_at"], &plans);
            return print(&if json { output::line(&json!({"plans": plans, "next": null})) } else { list() });
        }
        PlansCommand::Delete { id } => {
            client.delete(&path(&id))?;
            // It is gone, whoever reads this or not.
            let _ = writeln!(io::stderr(), "{} deleted.", output::printable(&id));
            return Ok(());
        }
        PlansCommand::Show { id, json } => (client.get(&path(&id))?, json),
        PlansCommand::Set { id, limit, credits, json } => {
            let limits = (!limit.is_empty()).then(|| limit.into());
            (client.put(&path(&id), &document([("limits", limits), ("credits", credits.map(Into::into))]))?, json)
        }
    };
    print(&if json { output::line(&plan) } else { output::fields(&plan, &["id", "limits", "credits", "created_at"]) })
}
