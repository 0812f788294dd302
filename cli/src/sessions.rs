//! `keyward sessions`: the sessions of the console.

use super::CliError;
use super::control_plane::ControlPlane;
use super::output::{self, OutputFormat};
use clap::Subcommand;
use keyward_client::escape;

/// The commands on sessions.
#[derive(Debug, Subcommand)]
pub(super) enum SessionsCommand {
    /// List sessions, newest first
    List,
    /// End a session immediately, at all servers
    End {
        /// Session's id
        id: String,
    },
}

pub(super) fn run(server: &ControlPlane, command: SessionsCommand, format: OutputFormat) -> Result<(), CliError> {
    let columns = ["id", "token", "created_at", "last_seen_at", "expires_at", "user_agent"];
    match command {
        SessionsCommand::List => {
            let sessions = server.client()?.list("/v1/sessions", "sessions", &[])?;
            format.print_list("sessions", sessions, |sessions| output::table(&columns, sessions))
        }
        SessionsCommand::End { id } => {
            // What is not the id of a session may be a secret, which must reach neither a URL nor a message.
            if !id.starts_with("sess_") {
                let message = "expected the id of a session, which begins with sess_: `keyward sessions list` shows it";
                return Err(CliError::Usage(message));
            }
            let session = server.client()?.delete(&format!("/v1/sessions/{}", escape(&id)))?;
            format.print(&session, |session| output::fields(session, &columns))
        }
    }
}
