//! `keyward plans`.

use super::CliError;
use super::control_plane::ControlPlane;
use super::output::{self, OutputFormat};
use super::request::document;
use clap::Subcommand;
use keyward_client::escape;

/// The commands on plans.
#[derive(Debug, Subcommand)]
pub(super) enum PlansCommand {
    /// List plans
    List,
    /// Show a plan
    Show {
        /// Plan's id
        id: String,
    },
    /// Create or replace a plan
    Set {
        /// Plan's id
        id: String,
        /// Rate limit of each key on the plan, such as 10/s; repeatable [default: the limits of the dialect]
        #[arg(long, value_name = "LIMIT")]
        limit: Vec<String>,
        /// Total credits of each key created on the plan from now on [default: unlimited]
        #[arg(long)]
        credits: Option<u64>,
    },
    /// Delete a plan that no key is on
    Delete {
        /// Plan's id
        id: String,
    },
}

const FIELDS: [&str; 4] = ["id", "limits", "credits", "created_at"];

pub(super) fn run(server: &ControlPlane, command: PlansCommand, format: OutputFormat) -> Result<(), CliError> {
    let client = server.client()?;
    let path = |id: &str| format!("/v1/plans/{}", escape(id));
    let plan = match command {
        PlansCommand::List => {
            let plans = client.list("/v1/plans", "plans", &[])?;
            return format.print_list("plans", plans, |plans| output::table(&FIELDS, plans));
        }
        PlansCommand::Delete { id } => {
            client.delete(&path(&id))?;
            output::remark(&format!("{} deleted.\n", output::printable(&id)));
            return Ok(());
        }
        PlansCommand::Show { id } => client.get(&path(&id))?,
        PlansCommand::Set { id, limit, credits } => {
            let limits = (!limit.is_empty()).then(|| limit.into());
            client.put(&path(&id), &document([("limits", limits), ("credits", credits.map(Into::into))]))?
        }
    };
    format.print(&plan, |plan| output::fields(plan, &FIELDS))
}
