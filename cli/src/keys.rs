//! `keyward keys`.

use super::CliError;
use super::arguments::whole_seconds;
use super::control_plane::ControlPlane;
use super::output::{self, Issued, OutputFormat};
use super::report_leak::{self, ReportLeakArguments};
use super::request::{check_key_id, document};
use super::transfer::{self, ExportArguments, ImportArguments};
use clap::{Args, Subcommand};
use keyward_client::{escape, with_query};
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::time::Duration;

/// The commands on keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Create a key and print it, once
    Create(CreateArguments),
    /// List keys
    List(Box<ListArguments>),
    /// Count keys by state, and those that need attention
    Count {
        /// Within which time active keys expire to be counted [default: 30d]
        #[arg(long, value_parser = whole_seconds, value_name = "DURATION")]
        expiring_within: Option<Duration>,
        /// For which time active keys were not used to be counted [default: 90d]
        #[arg(long, value_parser = whole_seconds, value_name = "DURATION")]
        unused_for: Option<Duration>,
    },
    /// Show a key, without its secrets
    Show {
        /// Key's id
        id: String,
    },
    /// Change a key; fields that are not named stay
    Change(ChangeArguments),
    /// Revoke a key immediately and permanently
    Revoke {
        /// Key's id
        id: String,
    },
    /// Explain whether a key is accepted, and why not
    Why {
        /// Key's id
        id: String,
        /// Permission that the route requires; repeatable
        #[arg(long)]
        scope: Vec<String>,
        /// Kind that the route accepts; repeatable [default: all kinds]
        #[arg(long)]
        kind: Vec<String>,
        /// Client's address
        #[arg(long, value_name = "IP")]
        client: Option<IpAddr>,
    },
    /// Pause a key: it is refused until it is resumed
    Pause {
        /// Key's id
        id: String,
    },
    /// Resume a paused key
    Resume {
        /// Key's id
        id: String,
    },
    /// Create a new secret for a key and print it, once; the previous secrets stay valid for a grace period
    Rotate {
        /// Key's id
        id: String,
        /// How long the previous secrets stay valid, such as 24h or 0s [default: 24h]
        #[arg(long, value_parser = whole_seconds, value_name = "DURATION")]
        grace: Option<Duration>,
    },
    /// Invalidate one secret of a key immediately and permanently
    EndSecret {
        /// Key's id
        id: String,
        /// Secret's id
        secret: String,
    },
    /// Import keys of another system, as plaintext or as hashes
    Import(ImportArguments),
    /// Export all keys, without secrets, digests and hashes
    Export(ExportArguments),
    /// Report keys that were found in public
    ReportLeak(ReportLeakArguments),
}

/// The key to create.
#[derive(Debug, Args)]
pub(super) struct CreateArguments {
    /// Name of the key
    #[arg(long)]
    name: String,
    /// Owner's id
    #[arg(long)]
    owner: Option<String>,
    /// Member of the owner that the key is for
    #[arg(long)]
    member: Option<String>,
    /// Kind of the key, one of the kinds of the dialect
    #[arg(long)]
    kind: Option<String>,
    /// Environment (live or test)
    #[arg(long, value_name = "live|test")]
    env: Option<String>,
    /// Permission; repeatable
    #[arg(long)]
    scope: Vec<String>,
    /// Allowed client networks (CIDR); repeatable [default: all networks]
    #[arg(long, value_name = "CIDR")]
    allow_ip: Vec<String>,
    /// Rate limit, such as 10/s or 200/min; repeatable [default: the limits of the plan, else of the dialect]
    #[arg(long, value_name = "LIMIT")]
    limit: Vec<String>,
    /// Plan with the limits of the key
    #[arg(long)]
    plan: Option<String>,
    /// Total credits [default: those of the plan]
    #[arg(long)]
    credits: Option<u64>,
    /// Metadata; repeatable
    #[arg(long, value_parser = named_value, value_name = "NAME=VALUE")]
    meta: Vec<(String, String)>,
    /// Lifetime, such as 30d
    #[arg(long, value_parser = whole_seconds, value_name = "DURATION")]
    expires_in: Option<Duration>,
    /// Create the key although it lacks an owner, a kind or permissions that the dialect requires
    #[arg(long)]
    force: bool,
}

/// Which keys to list.
#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Only keys of this owner
    #[arg(long)]
    owner: Option<String>,
    /// Only keys of this member
    #[arg(long)]
    member: Option<String>,
    /// Only keys on this plan
    #[arg(long)]
    plan: Option<String>,
    /// Only keys of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only keys of this environment (live or test)
    #[arg(long, value_name = "live|test")]
    env: Option<String>,
    /// Only keys in this state
    #[arg(long, value_name = "active|paused|revoked|expired")]
    state: Option<String>,
    /// Only keys whose name contains this text, in any case
    #[arg(long, value_name = "PART")]
    name: Option<String>,
    /// Only keys created at this time or later
    #[arg(long, value_name = "TIME")]
    created_after: Option<String>,
    /// Only keys created before this time, such as 2030-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    created_before: Option<String>,
    /// Only keys that expire before this time
    #[arg(long, value_name = "TIME")]
    expires_before: Option<String>,
    /// Only keys that expire at this time or later
    #[arg(long, value_name = "TIME")]
    expires_after: Option<String>,
    /// Only keys that were last used at this time or later
    #[arg(long, value_name = "TIME")]
    used_after: Option<String>,
    /// Only keys that were created before this time, and not used since
    #[arg(long, value_name = "TIME")]
    unused_since: Option<String>,
    /// Only keys that were never used
    #[arg(long)]
    never_used: bool,
    /// Only keys with a leaked secret
    #[arg(long)]
    leaked: bool,
    /// Only keys with a secret in its grace period
    #[arg(long)]
    in_rotation: bool,
    /// Only keys that have spent at least nine tenths of their credits
    #[arg(long)]
    low_credits: bool,
    /// Only keys whose id or hint begins with this text
    #[arg(long, value_name = "BEGINNING")]
    search: Option<String>,
    /// Order, descending with a minus sign [default: -created]
    #[arg(long, value_name = "[-]created|name|last_used|expires", allow_hyphen_values = true)]
    sort: Option<String>,
}

/// What to change.
#[derive(Debug, Args)]
pub(super) struct ChangeArguments {
    /// Key's id
    id: String,
    /// Name of the key
    #[arg(long)]
    name: Option<String>,
    /// Member of the owner that the key is for
    #[arg(long)]
    member: Option<String>,
    /// Remove the member
    #[arg(long, conflicts_with = "member")]
    no_member: bool,
    /// Permission; repeatable, and replaces all permissions of the key
    #[arg(long)]
    scope: Vec<String>,
    /// Remove all permissions
    #[arg(long, conflicts_with = "scope")]
    no_scope: bool,
    /// Allowed client networks (CIDR); repeatable, and replaces those of the key
    #[arg(long, value_name = "CIDR")]
    allow_ip: Vec<String>,
    /// Allow all client networks
    #[arg(long, conflicts_with = "allow_ip")]
    any_ip: bool,
    /// Rate limit; repeatable, and replaces the limits of the key
    #[arg(long, value_name = "LIMIT")]
    limit: Vec<String>,
    /// Use the limits of the plan, else of the dialect
    #[arg(long, conflicts_with = "limit")]
    default_limits: bool,
    /// Plan with the limits of the key
    #[arg(long)]
    plan: Option<String>,
    /// Remove the plan
    #[arg(long, conflicts_with = "plan")]
    no_plan: bool,
    /// Total credits
    #[arg(long)]
    credits: Option<u64>,
    /// Credits spent so far, to correct what edges reported
    #[arg(long, value_name = "CREDITS")]
    spent: Option<u64>,
    /// Remove the limit on credits
    #[arg(long, conflicts_with = "credits")]
    unbounded: bool,
    /// Metadata; repeatable
    #[arg(long, value_parser = named_value, value_name = "NAME=VALUE")]
    meta: Vec<(String, String)>,
    /// Metadata to remove; repeatable
    #[arg(long, value_name = "NAME")]
    no_meta: Vec<String>,
    /// Lifetime from now, such as 30d
    #[arg(long, value_parser = whole_seconds, value_name = "DURATION")]
    expires_in: Option<Duration>,
    /// Never expire
    #[arg(long, conflicts_with = "expires_in")]
    never_expires: bool,
}

pub(super) fn run(server: &ControlPlane, command: KeysCommand, format: OutputFormat) -> Result<(), CliError> {
    command.id().map_or(Ok(()), check_key_id)?;
    let client = server.client()?;
    let key = match command {
        KeysCommand::Create(arguments) => {
            let path = if arguments.force { "/v1/keys?force=true" } else { "/v1/keys" };
            let key = client.post_with_retry(path, &arguments.document());
            let key = key.map_err(|error| CliError::of_retry(error, FIND_KEY.to_owned()))?;
            return format.print_issued(&key, &CREATED);
        }
        KeysCommand::Rotate { id, grace } => {
            let request = document([("grace_s", grace.map(|grace| json!(grace.as_secs())))]);
            let key = client.post_with_retry(&format!("{}/rotate", path(&id)), &request);
            let key = key.map_err(|error| CliError::of_retry(error, find_secret(&id)))?;
            return format.print_issued(&key, &ROTATED);
        }
        KeysCommand::List(arguments) => {
            let keys = client.list("/v1/keys", "keys", &arguments.filters())?;
            return format.print_list("keys", keys, output::keys);
        }
        KeysCommand::Count { expiring_within, unused_for } => {
            let seconds = |time: Option<Duration>| time.map(|time| time.as_secs().to_string());
            let parameters = [("expiring_within_s", seconds(expiring_within)), ("unused_for_s", seconds(unused_for))];
            let counts = client.get(&with_query("/v1/keys/counts".to_owned(), &parameters))?;
            return format.print(&counts, |counts| output::fields(counts, &COUNTS));
        }
        KeysCommand::Import(arguments) => return transfer::import(&client, &arguments, format),
        KeysCommand::Export(arguments) => return transfer::export(&client, &arguments),
        KeysCommand::ReportLeak(arguments) => return report_leak::run(&client, &arguments, format),
        KeysCommand::Show { id } => client.get(&path(&id))?,
        KeysCommand::Why { id, scope, kind, client: address } => {
            let list = |words: Vec<String>| (!words.is_empty()).then(|| words.join(" "));
            let parameters = [
                ("scopes", list(scope)),
                ("kinds", list(kind)),
                ("client", address.map(|address| address.to_string())),
            ];
            let decision = client.get(&with_query(format!("{}/why", path(&id)), &parameters))?;
            return format.print(&decision, output::decision);
        }
        KeysCommand::Change(arguments) => {
            let path = path(&arguments.id);
            client.patch(&path, &arguments.document())?
        }
        KeysCommand::Revoke { id } => client.delete(&path(&id))?,
        KeysCommand::Pause { id } => client.post(&format!("{}/pause", path(&id)), &json!({}))?,
        KeysCommand::Resume { id } => client.post(&format!("{}/resume", path(&id)), &json!({}))?,
        KeysCommand::EndSecret { id, secret } => {
            // A key pasted instead of the id must reach neither a URL nor a message.
            if !secret.starts_with("sec_") {
                return Err(CliError::Usage(
                    "expected the id of a secret, which begins with sec_: `keyward keys show ID` shows it",
                ));
            }
            client.delete(&format!("{}/secrets/{}", path(&id), escape(&secret)))?
        }
    };
    format.print(&key, output::key)
}

impl KeysCommand {
    /// The id of the key that the command is about.
    fn id(&self) -> Option<&str> {
        match self {
            Self::Create(_)
            | Self::List(_)
            | Self::Count { .. }
            | Self::Import(_)
            | Self::Export(_)
            | Self::ReportLeak(_) => None,
            Self::Change(ChangeArguments { id, .. })
            | Self::Show { id }
            | Self::Why { id, .. }
            | Self::Revoke { id }
            | Self::Pause { id }
            | Self::Resume { id }
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
    fn filters(self) -> [(&'static str, Option<String>); 19] {
        let flag = |is_set: bool, value: &str| is_set.then(|| value.to_owned());
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
            ("expires_after", self.expires_after),
            ("used_after", self.used_after),
            ("unused_since", self.unused_since),
            ("used", flag(self.never_used, "false")),
            ("leaked", flag(self.leaked, "true")),
            ("in_rotation", flag(self.in_rotation, "true")),
            ("low_credits", flag(self.low_credits, "true")),
            ("search", self.search),
            ("sort", self.sort),
        ]
    }
}

impl ChangeArguments {
    /// The merge patch: null takes back.
    fn document(self) -> Value {
        let or_null = |value: Option<Value>, null: bool| value.or(null.then_some(Value::Null));
        let list = |elements: Vec<String>| (!elements.is_empty()).then(|| Value::from(elements));
        let has_metadata = !(self.meta.is_empty() && self.no_meta.is_empty());
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
            ("metadata", has_metadata.then(|| metadata(self.meta, self.no_meta))),
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
    format!("/v1/keys/{}", escape(id))
}

const COUNTS: [&str; 12] = [
    "total",
    "active",
    "paused",
    "revoked",
    "expired",
    "expiring",
    "unused",
    "never_used",
    "low_credits",
    "in_rotation",
    "leaked",
    "counted_at",
];

const CREATED: Issued = Issued { field: "key", what: "", action: "created", remedy: "revoke it" };
const ROTATED: Issued =
    Issued { field: "key", what: "a new secret of ", action: "rotated", remedy: "rotate it again, or revoke it" };

/// What to do if a key may have been created whose secret nobody has seen.
const FIND_KEY: &str = "Check with `keyward keys list` whether there is a new key: its secret was not shown, and \
                        `keyward keys rotate ID --grace 0s` issues another one";

/// What to do if that key may have a new secret that nobody has seen.
fn find_secret(id: &str) -> String {
    let id = output::printable(id);
    format!(
        "Check with `keyward keys show {id}` whether there is a new secret: if so, the previous secrets expire after the grace \
         period and the new one was not shown, and `keyward keys rotate {id}` issues another one"
    )
}
