//! The tokens of operators and edges, on the command line.

use super::arguments::{ControlPlane, whole_seconds};
use super::client::Client;
use super::{CliError, all, escaped, output, print, write};
use clap::Subcommand;
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::time::Duration;

/// What there is to do with tokens.
#[derive(Debug, Subcommand)]
pub enum TokensCommand {
    /// Make a token; it is shown once
    Create {
        /// What its users call it
        #[arg(long)]
        name: String,
        /// What it opens: looking at everything, doing everything, or what edges ask for
        #[arg(long, value_name = "read|write|edge")]
        scope: String,
        /// After how long it ends by itself, such as 30d
        #[arg(long, value_parser = whole_seconds, value_name = "DURATION")]
        expires_in: Option<Duration>,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// List tokens, the newest first
    List {
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Show one token
    Show {
        /// Its id
        id: String,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// End a token at once and for good
    Revoke {
        /// Its id
        id: String,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
}

/// Works on tokens.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub fn run(server: &ControlPlane, command: TokensCommand) -> Result<(), CliError> {
    if let TokensCommand::Show { id, .. } | TokensCommand::Revoke { id, .. } = &command {
        check_token_id(id)?;
    }
    let client = Client::new(server)?;
    match command {
        TokensCommand::Create { name, scope, expires_in, json } => {
            let mut request = Map::from_iter([("name".to_owned(), json!(name)), ("scope".to_owned(), json!(scope))]);
            if let Some(lifetime) = expires_in {
                request.insert("expires_in_s".to_owned(), json!(lifetime.as_secs()));
            }
            shown_once(&client.post("/v1/tokens", &Value::Object(request))?, json)
        }
        TokensCommand::List { json } => {
            let tokens = all(&client, "/v1/tokens", "tokens", &[])?;
            print(&if json { output::line(&json!({"tokens": tokens, "next": null})) } else { output::tokens(&tokens) })
        }
        TokensCommand::Show { id, json } => {
            let token = client.get(&format!("/v1/tokens/{}", escaped(&id)))?;
            print(&if json { output::line(&token) } else { output::token(&token) })
        }
        TokensCommand::Revoke { id, json } => {
            let token = client.delete(&format!("/v1/tokens/{}", escaped(&id)))?;
            print(&if json { output::line(&token) } else { output::token(&token) })
        }
    }
}

/// A token that was pasted for its id must go nowhere: not into a URL, and not into a message.
fn check_token_id(id: &str) -> Result<(), CliError> {
    if id.starts_with("tok_") { Ok(()) } else { Err(CliError::Usage("the id of a token begins with tok_")) }
}

/// The token goes to the standard output alone, so that it can be taken from there; words about it to the other one.
fn shown_once(token: &Value, json: bool) -> Result<(), CliError> {
    let id = output::text(token, "id");
    let text = if json { output::line(token) } else { format!("{}\n", output::text(token, "token")) };
    if let Err(source) = write(&text) {
        return Err(CliError::NotShown { what: "", id, source, remedy: "revoke it" });
    }
    if !json {
        // The token was shown, so all is well, whoever reads this or not.
        let _ = writeln!(io::stderr(), "{id} created. Keep the token: it is shown only this once.");
    }
    Ok(())
}
