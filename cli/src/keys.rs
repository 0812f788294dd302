//! `keyward keys`.

use super::arguments::{ControlPlane, whole_seconds};
use super::client::Client;
use super::leaks::{self, ReportLeakArguments};
use super::transfer::{self, ExportArguments, ImportArguments};
use super::{CliError, all, check_key_id, document, escaped, output, print, write};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::time::Duration;

/// What there is to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key; it is shown once
    Create(CreateArguments),
    /// List keys, the newest first
    List(ListArguments),
    /// Show one key
    Show {
        /// Its id
        id: String,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Change a key; what is not named stays
    Change(ChangeArguments),
    /// End a key at once and for good
    Revoke {
        /// Its id
        id: String,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Give a key a new secret, shown once, and end those it has
    Rotate {
        /// Its id
        id: String,
        /// How long the secrets so far stay valid, such as 24h or 0s [default: a day]
        #[arg(long, value_parser = whole_seconds, value_name = "DURATION")]
        grace: Option<Duration>,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// End one secret of a key at once
    EndSecret {
        /// The key's id
        id: String,
        /// The secret's id
        secret: String,
        /// Print what the server says
        #[arg(long)]
        json: bool,
    },
    /// Take in keys of another system, as plaintext or as hashes
    Import(ImportArguments),
    /// Print every key, without secrets, digests and hashes
    Export(ExportArguments),
    /// Report keys that were found in public
    ReportLeak(ReportLeakArguments),
}

/// The key that is to be made.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// What its users call it
    #[arg(long)]
    name: String,
    /// Whose it is
    #[arg(long)]
    owner: Option<String>,
    /// Who it is for, among those who belong to the owner
    #[arg(long)]
    member: Option<String>,
    /// What sort of key, in the dialect's words
    #[arg(long)]
    kind: Option<String>,
    /// Whether its requests are real
    #[arg(long, value_name = "live|test")]
    env: Option<String>,
    /// What it may do; can be repeated
    #[arg(long)]
    scope: Vec<String>,
    /// Where it may be used from; can be repeated
    #[arg(long, value_name = "CIDR")]
    allow_ip: Vec<String>,
    /// How much it may be used, such as 10/s or 200/min; can be repeated
    #[arg(long, value_name = "LIMIT")]
    limit: Vec<String>,
    /// The plan that says how much it may be used
    #[arg(long)]
    plan: Option<String>,
    /// How much it may spend altogether [default: what its plan says]
    #[arg(long)]
    credits: Option<u64>,
    /// A note about it; can be repeated
    #[arg(long, value_parser = named_value, value_name = "NAME=VALUE")]
    meta: Vec<(String, String)>,
    /// After how long it ends by itself, such as 30d
    #[arg(long, value_parser = whole_seconds, value_name = "DURATION")]
    expires_in: Option<Duration>,
    /// Print what the server says
    #[arg(long)]
    json: bool,
}

/// Which keys are listed.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Only those of this owner
    #[arg(long)]
    owner: Option<String>,
    /// Only those for this member
    #[arg(long)]
    member: Option<String>,
    /// Only those on this plan
    #[arg(long)]
    plan: Option<String>,
    /// Only those of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only those of this environment
    #[arg(long, value_name = "live|test")]
    env: Option<String>,
    /// Only those in this state
    #[arg(long, value_name = "active|revoked|expired")]
    state: Option<String>,
    /// Only those with this in their name
    #[arg(long, value_name = "PART")]
    name: Option<String>,
    /// Only those made at this time or later
    #[arg(long, value_name = "TIME")]
    created_after: Option<String>,
    /// Only those made before this time, such as 2030-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    created_before: Option<String>,
    /// Only those that end by themselves before this time
    #[arg(long, value_name = "TIME")]
    expires_before: Option<String>,
    /// Print what the server says
    #[arg(long)]
    json: bool,
}

/// What is to become of a key.
#[derive(Debug, Args)]
pub struct ChangeArguments {
    /// Its id
    id: String,
    /// What its users call it
    #[arg(long)]
    name: Option<String>,
    /// Who it is for
    #[arg(long)]
    member: Option<String>,
    /// Let it be for nobody in particular
    #[arg(long, conflicts_with = "member")]
    no_member: bool,
    /// What it may do, instead of what it could; can be repeated
    #[arg(long)]
    scope: Vec<String>,
    /// Let it do nothing in particular
    #[arg(long, conflicts_with = "scope")]
    no_scope: bool,
    /// Where it may be used from, instead of where it could; can be repeated
    #[arg(long, value_name = "CIDR")]
    allow_ip: Vec<String>,
    /// Let it be used from anywhere
    #[arg(long, conflicts_with = "allow_ip")]
    any_ip: bool,
    /// How much it may be used, instead of how much it could; can be repeated
    #[arg(long, value_name = "LIMIT")]
    limit: Vec<String>,
    /// Let its plan say how much it may be used, or else the dialect
    #[arg(long, conflicts_with = "limit")]
    default_limits: bool,
    /// The plan that says how much it may be used
    #[arg(long)]
    plan: Option<String>,
    /// Take it off its plan
    #[arg(long, conflicts_with = "plan")]
    no_plan: bool,
    /// How much it may spend altogether
    #[arg(long)]
    credits: Option<u64>,
    /// How much it has spent so far, to put right what edges reported
    #[arg(long, value_name = "CREDITS")]
    spent: Option<u64>,
    /// Let it spend without bound
    #[arg(long, conflicts_with = "credits")]
    unbounded: bool,
    /// A note about it; can be repeated
    #[arg(long, value_parser = named_value, value_name = "NAME=VALUE")]
    meta: Vec<(String, String)>,
    /// A note that is to go; can be repeated
    #[arg(long, value_name = "NAME")]
    no_meta: Vec<String>,
    /// After how long from now it ends by itself, such as 30d
    #[arg(long, value_parser = whole_seconds, value_name = "DURATION")]
    expires_in: Option<Duration>,
    /// Let it not end by itself
    #[arg(long, conflicts_with = "expires_in")]
    never_expires: bool,
    /// Print what the server says
    #[arg(long)]
    json: bool,
}

/// Works on keys.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub fn run(server: &ControlPlane, command: KeysCommand) -> Result<(), CliError> {
    if let Some(id) = command.id() {
        check_key_id(id)?;
    }
    let client = Client::new(server)?;
    match command {
        KeysCommand::Create(arguments) => {
            let (json, key) = (arguments.json, arguments.document());
            shown_once(&client.post_once("/v1/keys", &key, UNSEEN_KEY.to_owned())?, json, &CREATED)
        }
        KeysCommand::List(arguments) => {
            let json = arguments.json;
            let keys = all(&client, "/v1/keys", "keys", &arguments.filters())?;
            print(&if json { output::line(&json!({"keys": keys, "next": null})) } else { output::keys(&keys) })
        }
        KeysCommand::Show { id, json } => {
            let key = client.get(&path(&id))?;
            print(&if json { output::line(&key) } else { output::key(&key) })
        }
        KeysCommand::Change(arguments) => {
            let (json, path) = (arguments.json, path(&arguments.id));
            let key = client.patch(&path, &arguments.document())?;
            print(&if json { output::line(&key) } else { output::key(&key) })
        }
        KeysCommand::Revoke { id, json } => {
            let key = client.delete(&path(&id))?;
            print(&if json { output::line(&key) } else { output::key(&key) })
        }
        KeysCommand::Rotate { id, grace, json } => {
            let request = document([("grace_s", grace.map(|grace| json!(grace.as_secs())))]);
            let key = client.post_once(&format!("{}/rotate", path(&id)), &request, unseen_secret(&id))?;
            shown_once(&key, json, &ROTATED)
        }
        KeysCommand::EndSecret { id, secret, json } => {
            // A key that was pasted for the id of its secret goes nowhere either.
            if !secret.starts_with("sec_") {
                return Err(CliError::Usage("the id of a secret begins with sec_"));
            }
            let key = client.delete(&format!("{}/secrets/{}", path(&id), escaped(&secret)))?;
            print(&if json { output::line(&key) } else { output::key(&key) })
        }
        KeysCommand::Import(arguments) => transfer::import(&client, server, &arguments),
        KeysCommand::Export(arguments) => transfer::export(server, &arguments),
        KeysCommand::ReportLeak(arguments) => leaks::report(&client, &arguments),
    }
}

impl KeysCommand {
    /// The id of the one key that it is about.
    fn id(&self) -> Option<&str> {
        match self {
            Self::Create(_) | Self::List(_) | Self::Import(_) | Self::Export(_) | Self::ReportLeak(_) => None,
            Self::Change(ChangeArguments { id, .. })
            | Self::Show { id, .. }
            | Self::Revoke { id, .. }
            | Self::Rotate { id, .. }
            | Self::EndSecret { id, .. } => Some(id),
        }
    }
}

impl CreateArguments {
    fn document(self) -> Value {
        document([
            ("name", Some(self.name.into())),
            ("owner", self.owner.map(Value::from)),
            ("member", self.member.map(Value::from)),
            ("kind", self.kind.map(Value::from)),
            ("environment", self.env.map(Value::from)),
            ("scopes", Some(self.scope.into())),
            ("allow_ip", Some(self.allow_ip.into())),
            ("limits", (!self.limit.is_empty()).then(|| self.limit.into())),
            ("plan", self.plan.map(Value::from)),
            ("credits", self.credits.map(Value::from)),
            ("metadata", (!self.meta.is_empty()).then(|| metadata(self.meta, Vec::new()))),
            ("expires_in_s", self.expires_in.map(|lifetime| lifetime.as_secs().into())),
        ])
    }
}

impl ListArguments {
    fn filters(self) -> [(&'static str, Option<String>); 10] {
        [
            ("owner", self.owner),
            ("member", self.member),
            ("plan", self.plan),
            ("kind", self.kind),
            ("environment", self.env),
            ("state", self.state),
            ("name", self.name),
            ("created_after", self.created_after),
            ("created_before", self.created_before),
            ("expires_before", self.expires_before),
        ]
    }
}

impl ChangeArguments {
    /// The merge patch: null takes back.
    fn document(self) -> Value {
        let or_null = |value: Option<Value>, null: bool| value.or(null.then_some(Value::Null));
        let list = |elements: Vec<String>| (!elements.is_empty()).then(|| Value::from(elements));
        let noted = !(self.meta.is_empty() && self.no_meta.is_empty());
        let lifetime = self.expires_in.map(|lifetime| lifetime.as_secs().into());
        document([
            ("name", self.name.map(Value::from)),
            ("member", or_null(self.member.map(Value::from), self.no_member)),
            ("scopes", or_null(list(self.scope), self.no_scope)),
            ("allow_ip", or_null(list(self.allow_ip), self.any_ip)),
            ("limits", or_null(list(self.limit), self.default_limits)),
            ("plan", or_null(self.plan.map(Value::from), self.no_plan)),
            ("credits", or_null(self.credits.map(Value::from), self.unbounded)),
            ("spent", self.spent.map(Value::from)),
            ("metadata", noted.then(|| metadata(self.meta, self.no_meta))),
            ("expires_in_s", or_null(lifetime, self.never_expires)),
        ])
    }
}

fn metadata(set: Vec<(String, String)>, removed: Vec<String>) -> Value {
    let removed = removed.into_iter().map(|name| (name, Value::Null));
    Value::Object(Map::from_iter(removed.chain(set.into_iter().map(|(name, value)| (name, value.into())))))
}

/// `NAME=VALUE`.
fn named_value(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn path(id: &str) -> String {
    format!("/v1/keys/{}", escaped(id))
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

/// How to go on where a key may have been made that nobody will see.
const UNSEEN_KEY: &str = "Look with `keyward keys list` whether there is a new key: nobody has seen its secret, and \
                          `keyward keys rotate ID --grace 0s` gives it another one";

/// The same for a secret of that key.
fn unseen_secret(id: &str) -> String {
    let id = output::printable(id);
    format!(
        "Look with `keyward keys show {id}` whether there is a new secret: if so, those before it will end and nobody has seen \
         it, and `keyward keys rotate {id}` gives the key another one"
    )
}

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
