//! The form for a new key.

use super::Mistakes;
use super::reveal;
use crate::console::api::{ApiRequest, Failure, escape};
use crate::console::commands::{Cli, Commands};
use crate::console::form::{Fields, SignedForm};
use crate::console::page::{self, Shell};
use crate::console::session::Session;
use crate::console::view::{OwnerView, Plans};
use crate::random;
use askama::Template;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

/// The lifetimes to choose from, in days; 90 are chosen.
const LIFETIMES: [(&str, &str); 5] =
    [("7", "7 days"), ("30", "30 days"), ("90", "90 days"), ("180", "180 days"), ("365", "365 days")];

/// The fields of the API that the form has a place for.
const PLACES: [&str; 12] = [
    "name",
    "owner",
    "member",
    "kind",
    "environment",
    "scopes",
    "allow_ip",
    "plan",
    "limits",
    "credits",
    "expires",
    "metadata",
];

#[derive(Template)]
#[template(path = "new-key.html")]
struct NewKeyPage {
    shell: Shell,
    fields: Fields,
    /// The Idempotency-Key of the request: the form creates one key, however often it is sent.
    once: String,
    kinds: Vec<String>,
    environments: Vec<&'static str>,
    plans: Plans,
    owner_required: bool,
    expiry_days: Option<String>,
    /// The owner of the form, if it does not exist yet.
    new_owner: Option<String>,
    mistakes: Mistakes,
}

impl NewKeyPage {
    fn lifetimes(&self) -> [(&'static str, &'static str); 5] {
        LIFETIMES
    }

    fn elsewhere(&self) -> Vec<String> {
        self.mistakes.elsewhere(&PLACES)
    }
}

pub(in crate::console) async fn form(session: Session, fields: Fields) -> Result<Response, Failure> {
    let page = page(&session, fields, None, Mistakes::default()).await?;
    Ok(page::render(StatusCode::OK, &page))
}

async fn page(
    session: &Session,
    fields: Fields,
    new_owner: Option<String>,
    mistakes: Mistakes,
) -> Result<NewKeyPage, Failure> {
    let dialect = &session.console().app.dialect;
    let mut kinds: Vec<String> = dialect.formats.iter().map(|format| format.kind.clone()).collect();
    kinds.dedup();
    let mut environments: Vec<_> =
        dialect.formats.iter().filter_map(|format| format.environment).map(|environment| environment.name()).collect();
    environments.sort_unstable();
    environments.dedup();
    Ok(NewKeyPage {
        shell: session.shell("keys"),
        once: random::base62(32).map_err(|error| Failure::internal(&error.to_string()))?,
        kinds,
        environments,
        plans: session.api().read("/v1/plans?limit=1000").await?,
        owner_required: dialect.owner_required,
        expiry_days: dialect.expiry_days.as_ref().map(|days| format!("{} to {}", days.start(), days.end())),
        new_owner,
        mistakes,
        fields,
    })
}

/// Creates the key, and shows its secret once.
pub(in crate::console) async fn create(SignedForm { session, fields }: SignedForm) -> Result<Response, Failure> {
    let owner = fields.get("owner");
    if !owner.is_empty()
        && fields.get("new_owner") != owner
        && session.api().find::<OwnerView>(&path_of(owner)).await?.is_none()
    {
        // A mistyped owner would be created with the key.
        let new_owner = Some(owner.to_owned());
        let page = page(&session, fields, new_owner, Mistakes::default()).await?;
        return Ok(page::render(StatusCode::UNPROCESSABLE_ENTITY, &page));
    }
    let request =
        document(&fields).map(|document| ApiRequest::new(Method::POST, "/v1/keys".to_owned()).with_document(document));
    let failure = match request {
        Ok(request) => {
            let commands = Commands::new(cli(&fields), &request);
            match session.api().call(request.once(fields.get("once"))).await {
                Ok(reply) => return reveal::created(&session, reply, "Key created", commands).await,
                Err(failure) => failure,
            }
        }
        Err(failure) => failure,
    };
    let mistakes = Mistakes::of(failure)?;
    let page = page(&session, fields, None, mistakes).await?;
    Ok(page::render(StatusCode::UNPROCESSABLE_ENTITY, &page))
}

fn path_of(owner: &str) -> String {
    format!("/v1/owners/{}", escape(owner))
}

/// The document of the request. What was left empty is left out, so that the server decides.
fn document(fields: &Fields) -> Result<Value, Failure> {
    let mut document = Map::new();
    for name in ["name", "owner", "member", "kind", "environment", "plan"] {
        if name == "name" || !fields.get(name).is_empty() {
            document.insert(name.to_owned(), json!(fields.get(name)));
        }
    }
    for name in ["scopes", "allow_ip", "limits"] {
        let words = fields.words(name);
        if !words.is_empty() {
            document.insert(name.to_owned(), json!(words));
        }
    }
    if !fields.get("credits").is_empty() {
        let credits: u64 =
            fields.get("credits").parse().map_err(|_| Failure::invalid("credits", "expected a whole number"))?;
        document.insert("credits".to_owned(), json!(credits));
    }
    let notes = fields.notes("metadata")?;
    if !notes.is_empty() {
        document.insert("metadata".to_owned(), Value::Object(notes));
    }
    if let Some(days) = days(fields)? {
        document.insert("expires_in_s".to_owned(), json!(days.saturating_mul(86_400)));
    }
    Ok(Value::Object(document))
}

/// The lifetime in days; `None` for a key that never expires.
fn days(fields: &Fields) -> Result<Option<u64>, Failure> {
    match fields.get("expires") {
        "never" => Ok(None),
        "other" => fields
            .get("days")
            .parse()
            .ok()
            .filter(|days| *days > 0)
            .map(Some)
            .ok_or_else(|| Failure::invalid("expires", "expected a whole number of days")),
        days => days.parse().map(Some).map_err(|_| Failure::invalid("expires", "expected a lifetime")),
    }
}

fn cli(fields: &Fields) -> Cli {
    let days = match days(fields) {
        Ok(Some(days)) => format!("{days}d"),
        _ => String::new(),
    };
    let mut cli = Cli::new("keys create").option("--name", fields.get("name"));
    for (option, field) in [
        ("--owner", "owner"),
        ("--member", "member"),
        ("--kind", "kind"),
        ("--env", "environment"),
        ("--plan", "plan"),
        ("--credits", "credits"),
    ] {
        cli = cli.option(option, fields.get(field));
    }
    for (option, field) in [("--scope", "scopes"), ("--allow-ip", "allow_ip"), ("--limit", "limits")] {
        cli = cli.options(option, fields.words(field));
    }
    let notes = fields.get("metadata").lines().map(str::trim).filter(|line| !line.is_empty());
    cli.options("--meta", notes).option("--expires-in", &days)
}
