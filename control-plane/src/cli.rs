//! The command line over the API. It prints what a person reads, or what the server said.

mod arguments;
mod client;
mod output;

pub use arguments::{Arguments, Command, ServeArguments};

use arguments::{ControlPlane, KeysCommand, OwnersCommand};
use client::{Client, ClientError};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// The command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The server cannot be asked, or has refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer cannot be printed.
    #[error("cannot write the answer: {0}")]
    Print(#[from] io::Error),
}

/// Works on keys.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub fn keys(server: &ControlPlane, command: KeysCommand) -> Result<(), CliError> {
    let client = Client::new(server)?;
    match command {
        KeysCommand::Create { name, owner, kind, env, scope, allow_ip, limit, expires_in, json } => {
            let mut request = Map::from_iter([("name".to_owned(), json!(name))]);
            let given = [
                ("owner", owner.map(Value::from)),
                ("kind", kind.map(Value::from)),
                ("environment", env.map(Value::from)),
                ("scopes", Some(Value::from(scope))),
                ("allow_ip", Some(Value::from(allow_ip))),
                ("limits", (!limit.is_empty()).then(|| Value::from(limit))),
                ("expires_in_s", expires_in.map(|lifetime| Value::from(lifetime.as_secs()))),
            ];
            request.extend(given.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?))));
            let key = client.post("/v1/keys", &Value::Object(request))?;
            shown_once(&key, json, "created")
        }
        KeysCommand::List { owner, state, json } => {
            let keys = all_keys(&client, owner.as_deref(), state.as_deref())?;
            print(&if json { output::line(&json!({"keys": keys, "next": null})) } else { output::table(&keys) })
        }
        KeysCommand::Show { id, json } => {
            let key = client.get(&format!("/v1/keys/{}", escaped(&id)))?;
            print(&if json { output::line(&key) } else { output::key(&key) })
        }
        KeysCommand::Revoke { id, json } => {
            let key = client.delete(&format!("/v1/keys/{}", escaped(&id)))?;
            print(&if json { output::line(&key) } else { output::key(&key) })
        }
        KeysCommand::Rotate { id, grace, json } => {
            let request = grace.map_or_else(|| json!({}), |grace| json!({"grace_s": grace.as_secs()}));
            let key = client.post(&format!("/v1/keys/{}/rotate", escaped(&id)), &request)?;
            shown_once(&key, json, "rotated")
        }
    }
}

/// Works on owners.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub fn owners(server: &ControlPlane, command: OwnersCommand) -> Result<(), CliError> {
    let client = Client::new(server)?;
    let (id, change, json) = match command {
        OwnersCommand::Disable { id, json } => (id, json!({"disabled": true}), json),
        OwnersCommand::Enable { id, json } => (id, json!({"disabled": false}), json),
        OwnersCommand::Permit { id, scope, json } => (id, json!({"permissions": scope}), json),
    };
    let owner = client.patch(&format!("/v1/owners/{}", escaped(&id)), &change)?;
    print(&if json { output::line(&owner) } else { output::owner(&owner) })
}

fn all_keys(client: &Client, owner: Option<&str>, state: Option<&str>) -> Result<Vec<Value>, ClientError> {
    let mut filters = String::new();
    for (name, value) in [("owner", owner), ("state", state)] {
        if let Some(value) = value {
            filters += &format!("&{name}={}", escaped(value));
        }
    }
    let mut keys = Vec::new();
    let mut path = format!("/v1/keys?limit=100{filters}");
    loop {
        let mut page = client.get(&path)?;
        if let Some(Value::Array(more)) = page.get_mut("keys").map(Value::take) {
            keys.extend(more);
        }
        let Some(next) = page.get("next").and_then(Value::as_str) else { return Ok(keys) };
        path = format!("/v1/keys?limit=100&after={}{filters}", escaped(next));
    }
}

/// The key goes to the standard output alone, so that it can be taken from there; words about it to the other one.
fn shown_once(key: &Value, json: bool, what_happened: &str) -> Result<(), CliError> {
    if json {
        return print(&output::line(key));
    }
    print(&format!("{}\n", output::text(key, "key")))?;
    let id = output::text(key, "id");
    writeln!(io::stderr(), "{id} {what_happened}. Keep the key: it is shown only this once.").map_err(CliError::Print)
}

/// A reader that has seen enough is no error.
fn print(text: &str) -> Result<(), CliError> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(CliError::Print),
    }
}

fn escaped(part: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(part, NON_ALPHANUMERIC)
}
