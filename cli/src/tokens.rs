//! `keyward tokens`: the tokens of operators and edges.

use super::CliError;
use super::arguments::whole_seconds;
use super::control_plane::ControlPlane;
use super::output::{self, Issued, OutputFormat};
use super::request::document;
use clap::Subcommand;
use keyward_client::escape;
use std::time::Duration;

/// The commands on tokens.
#[derive(Debug, Subcommand)]
pub(super) enum TokensCommand {
    /// Create a token and print it, once
    Create {
        /// Name of the token
        #[arg(long)]
        name: String,
        /// Role: see everything, also change keys and owners, also plans and tokens, or what edges need
        #[arg(long, value_name = "viewer|operator|admin|edge")]
        role: String,
        /// Lifetime, such as 30d [default: no expiry]
        #[arg(long, value_parser = whole_seconds, value_name = "DURATION")]
        expires_in: Option<Duration>,
    },
    /// List tokens, newest first
    List,
    /// Show a token, without the secret
    Show {
        /// Token's id
        id: String,
    },
    /// Revoke a token immediately and permanently
    Revoke {
        /// Token's id
        id: String,
    },
}

const ISSUED: Issued = Issued { field: "token", what: "", action: "created", remedy: "revoke it" };

pub(super) fn run(server: &ControlPlane, command: TokensCommand, format: OutputFormat) -> Result<(), CliError> {
    if let TokensCommand::Show { id, .. } | TokensCommand::Revoke { id, .. } = &command {
        check_token_id(id)?;
    }
    let client = server.client()?;
    let path = |id: &str| format!("/v1/tokens/{}", escape(id));
    let token = match command {
        TokensCommand::Create { name, role, expires_in } => {
            let request = document([
                ("name", Some(name.into())),
                ("role", Some(role.into())),
                ("expires_in_s", expires_in.map(|lifetime| lifetime.as_secs().into())),
            ]);
            return format.print_issued(&client.post("/v1/tokens", &request)?, &ISSUED);
        }
        TokensCommand::List => {
            let tokens = client.list("/v1/tokens", "tokens", &[])?;
            let columns = ["id", "name", "role", "state", "created_at", "expires_at", "last_used_at"];
            return format.print_list("tokens", tokens, |tokens| output::table(&columns, tokens));
        }
        TokensCommand::Show { id } => client.get(&path(&id))?,
        TokensCommand::Revoke { id } => client.delete(&path(&id))?,
    };
    let fields = ["id", "name", "role", "state", "created_at", "expires_at", "revoked_at", "last_used_at"];
    format.print(&token, |token| output::fields(token, &fields))
}

/// Refuses what is not the id of a token: a token pasted by mistake must reach neither a URL nor a message.
fn check_token_id(id: &str) -> Result<(), CliError> {
    if id.starts_with("tok_") {
        return Ok(());
    }
    Err(CliError::Usage("expected the id of a token, which begins with tok_: `keyward tokens list` shows it"))
}
