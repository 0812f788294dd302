//! `keyward owners`.

use super::CliError;
use super::control_plane::ControlPlane;
use super::output::{self, OutputFormat};
use super::request::document;
use clap::Subcommand;
use keyward_client::escape;
use serde_json::json;

/// The commands on owners.
#[derive(Debug, Subcommand)]
pub(super) enum OwnersCommand {
    /// List owners
    List {
        /// Only owners of this kind
        #[arg(long, value_name = "user|team|organization")]
        kind: Option<String>,
        /// Only disabled owners, or only enabled ones
        #[arg(long, value_name = "true|false")]
        disabled: Option<bool>,
    },
    /// Show an owner
    Show {
        /// Owner's id
        id: String,
    },
    /// Create or replace an owner
    Set {
        /// Owner's id
        id: String,
        /// Kind of the owner
        #[arg(long, value_name = "user|team|organization")]
        kind: Option<String>,
        /// Maximum permission of the owner's keys; repeatable [default: no maximum]
        #[arg(long)]
        scope: Vec<String>,
        /// Refuse all keys of the owner
        #[arg(long)]
        disabled: bool,
    },
    /// Refuse all keys of an owner
    Disable {
        /// Owner's id
        id: String,
    },
    /// Replace the maximum permissions of an owner's keys
    Permit {
        /// Owner's id
        id: String,
        /// Maximum permission; repeatable, and without any the keys have none
        #[arg(long)]
        scope: Vec<String>,
        /// Remove the maximum: keys have the permissions of their own scopes
        #[arg(long, conflicts_with = "scope")]
        any: bool,
    },
    /// Accept the keys of an owner again
    Enable {
        /// Owner's id
        id: String,
    },
    /// Revoke all active keys of an owner immediately and permanently
    RevokeKeys {
        /// Owner's id
        id: String,
        /// Only keys of this member
        #[arg(long)]
        member: Option<String>,
    },
}

const FIELDS: [&str; 5] = ["id", "kind", "disabled", "permissions", "created_at"];

pub(super) fn run(server: &ControlPlane, command: OwnersCommand, format: OutputFormat) -> Result<(), CliError> {
    let client = server.client()?;
    let path = |id: &str| format!("/v1/owners/{}", escape(id));
    let owner = match command {
        OwnersCommand::List { kind, disabled } => {
            let filters = [("kind", kind), ("disabled", disabled.map(|disabled| disabled.to_string()))];
            let owners = client.list("/v1/owners", "owners", &filters)?;
            return format.print_list("owners", owners, |owners| output::table(&FIELDS, owners));
        }
        OwnersCommand::RevokeKeys { id, member } => {
            let request = document([("member", member.map(Into::into))]);
            let revoked = client.post(&format!("{}/revoke-keys", path(&id)), &request)?;
            return format.print(&revoked, |revoked| output::fields(revoked, &["revoked"]));
        }
        OwnersCommand::Set { id, kind, scope, disabled } => {
            let permissions = (!scope.is_empty()).then(|| scope.into());
            let settings = document([
                ("kind", kind.map(Into::into)),
                ("disabled", Some(disabled.into())),
                ("permissions", permissions),
            ]);
            client.put(&path(&id), &settings)?
        }
        OwnersCommand::Show { id } => client.get(&path(&id))?,
        OwnersCommand::Disable { id } => client.patch(&path(&id), &json!({"disabled": true}))?,
        OwnersCommand::Enable { id } => client.patch(&path(&id), &json!({"disabled": false}))?,
        OwnersCommand::Permit { id, any: true, .. } => client.patch(&path(&id), &json!({"permissions": null}))?,
        OwnersCommand::Permit { id, scope, .. } => client.patch(&path(&id), &json!({"permissions": scope}))?,
    };
    format.print(&owner, |owner| output::fields(owner, &FIELDS))
}
