//! `keyward owners`.

use super::arguments::ControlPlane;
use super::client::Client;
use super::{CliError, all, document, escaped, output, print};
use clap::Subcommand;
use serde_json::json;

/// What there is to do with owners.
#[derive(Debug, Subcommand)]
pub enum OwnersCommand {
    /// List owners
    List {
        /// Only those of this kind
        #[arg(long, value_name = "user|team|organization")]
        kind: Option<String>,
        /// Only those that are disabled, or that are not
        #[arg(long, value_name = "true|false")]
        disabled: Option<bool>,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Show one owner
    Show {
        /// The owner's id
        id: String,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Make an owner, or say anew all that it is
    Set {
        /// The owner's id
        id: String,
        /// What it is
        #[arg(long, value_name = "user|team|organization")]
        kind: Option<String>,
        /// What its keys may do at most; can be repeated
        #[arg(long)]
        scope: Vec<String>,
        /// Refuse all its keys
        #[arg(long)]
        disabled: bool,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Refuse all keys of an owner
    Disable {
        /// The owner's id
        id: String,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Say what an owner's keys may do at most, instead of what was said before
    Permit {
        /// The owner's id
        id: String,
        /// What they may do; can be repeated, and without any they may do nothing
        #[arg(long)]
        scope: Vec<String>,
        /// Let the keys do whatever their own scopes say
        #[arg(long, conflicts_with = "scope")]
        any: bool,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Accept the keys of an owner again
    Enable {
        /// The owner's id
        id: String,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Revoke every active key of an owner at once and for good
    RevokeKeys {
        /// The owner's id
        id: String,
        /// Only those for this member
        #[arg(long)]
        member: Option<String>,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
}

/// Works on owners.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub fn run(server: &ControlPlane, command: OwnersCommand) -> Result<(), CliError> {
    let client = Client::new(server)?;
    let path = |id: &str| format!("/v1/owners/{}", escaped(id));
    let (owner, json) = match command {
        OwnersCommand::List { kind, disabled, json } => {
            let filters = [("kind", kind), ("disabled", disabled.map(|disabled| disabled.to_string()))];
            let owners = all(&client, "/v1/owners", "owners", &filters)?;
            let list = || output::table(&["id", "kind", "disabled", "permissions", "created_at"], &owners);
            return print(&if json { output::line(&json!({"owners": owners, "next": null})) } else { list() });
        }
        OwnersCommand::RevokeKeys { id, member, json } => {
            let request = document([("member", member.map(Into::into))]);
            let revoked = client.post(&format!("{}/revoke-keys", path(&id)), &request)?;
            return print(&if json { output::line(&revoked) } else { output::fields(&revoked, &["revoked"]) });
        }
        OwnersCommand::Set { id, kind, scope, disabled, json } => {
            let permissions = (!scope.is_empty()).then(|| scope.into());
            let settings = document([
                ("kind", kind.map(Into::into)),
                ("disabled", Some(disabled.into())),
                ("permissions", permissions),
            ]);
            (client.put(&path(&id), &settings)?, json)
        }
        OwnersCommand::Show { id, json } => (client.get(&path(&id))?, json),
        OwnersCommand::Disable { id, json } => (client.patch(&path(&id), &json!({"disabled": true}))?, json),
        OwnersCommand::Enable { id, json } => (client.patch(&path(&id), &json!({"disabled": false}))?, json),
        OwnersCommand::Permit { id, any: true, json, .. } => {
            (client.patch(&path(&id), &json!({"permissions": null}))?, json)
        }
        OwnersCommand::Permit { id, scope, json, .. } => {
            (client.patch(&path(&id), &json!({"permissions": scope}))?, json)
        }
    };
    print(&if json { output::line(&owner) } else { output::owner(&owner) })
}
