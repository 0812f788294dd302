//! The command line over the API. It prints what a person reads, or what the server said.

mod arguments;
mod client;
mod leaks;
mod output;
mod transfer;

pub use arguments::{Arguments, Command, ServeArguments};

use arguments::{ControlPlane, KeysCommand, OwnersCommand};
pub use arguments::{database_url, hmac_pepper};
use client::{Client, ClientError};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// The command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The server cannot be asked, or has refused.
    #[error(transparent)]
    Client(ClientError),
    /// What was typed cannot be meant. The message does not repeat it.
    #[error("{0}")]
    Usage(&'static str),
    /// A key was made that nobody will see.
    #[error("{what}{id} was made and could not be shown ({source}); {remedy}")]
    NotShown {
        /// What of it was made, in words before the id.
        what: &'static str,
        /// The key's id.
        id: String,
        /// Why.
        source: io::Error,
        /// What is to be done.
        remedy: &'static str,
    },
    /// Some of what was sent was refused, as was told.
    #[error("{0}")]
    Refused(String),
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer cannot be printed.
    #[error("cannot write the answer: {0}")]
    Print(#[from] io::Error),
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Url(expected) => Self::Usage(expected),
            other => Self::Client(other),
        }
    }
}

/// Works on keys.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub fn keys(server: &ControlPlane, command: KeysCommand) -> Result<(), CliError> {
    if let KeysCommand::Show { id, .. } | KeysCommand::Revoke { id, .. } | KeysCommand::Rotate { id, .. } = &command {
        check_key_id(id)?;
    }
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
            shown_once(&key, json, &CREATED)
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
            shown_once(&key, json, &ROTATED)
        }
        KeysCommand::Import(arguments) => transfer::import(&client, server, &arguments),
        KeysCommand::Export(arguments) => transfer::export(server, &arguments),
        KeysCommand::ReportLeak(arguments) => leaks::report(&client, &arguments),
    }
}

/// Works on owners.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub fn owners(server: &ControlPlane, command: OwnersCommand) -> Result<(), CliError> {
    let client = Client::new(server)?;
    let (id, change, json) = match command {
        OwnersCommand::Show { id, json } => (id, None, json),
        OwnersCommand::Disable { id, json } => (id, Some(json!({"disabled": true})), json),
        OwnersCommand::Enable { id, json } => (id, Some(json!({"disabled": false})), json),
        OwnersCommand::Permit { id, any: true, json, .. } => (id, Some(json!({"permissions": null})), json),
        OwnersCommand::Permit { id, scope, json, .. } => (id, Some(json!({"permissions": scope})), json),
    };
    let path = format!("/v1/owners/{}", escaped(&id));
    let owner = match change {
        None => client.get(&path)?,
        Some(change) => client.patch(&path, &change)?,
    };
    print(&if json { output::line(&owner) } else { output::owner(&owner) })
}

/// A key that was pasted for its id must go nowhere: not into a URL, and not into a message.
fn check_key_id(id: &str) -> Result<(), CliError> {
    if id.starts_with("key_") { Ok(()) } else { Err(CliError::Usage("the id of a key begins with key_")) }
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

/// What has become of a key that is shown once.
struct Made {
    what_happened: &'static str,
    what: &'static str,
    remedy: &'static str,
}

const CREATED: Made = Made { what_happened: "created", what: "", remedy: "revoke it" };
const ROTATED: Made =
    Made { what_happened: "rotated", what: "a new secret of ", remedy: "rotate it again, or revoke it" };

/// The key goes to the standard output alone, so that it can be taken from there; words about it to the other one.
fn shown_once(key: &Value, json: bool, made: &Made) -> Result<(), CliError> {
    let id = output::text(key, "id");
    let text = if json { output::line(key) } else { format!("{}\n", output::text(key, "key")) };
    if let Err(source) = write(&text) {
        return Err(CliError::NotShown { what: made.what, id, source, remedy: made.remedy });
    }
    if !json {
        // The key was shown, so all is well, whoever reads this or not.
        let _ = writeln!(io::stderr(), "{id} {}. Keep the key: it is shown only this once.", made.what_happened);
    }
    Ok(())
}

/// A reader that has seen enough is no error.
fn print(text: &str) -> Result<(), CliError> {
    match write(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(CliError::Print),
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn escaped(part: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(part, NON_ALPHANUMERIC)
}
