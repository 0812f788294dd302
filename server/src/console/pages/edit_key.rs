//! The form to change a key.

use super::Mistakes;
use super::key::key;
use crate::console::api::{ApiRequest, Failure, escape};
use crate::console::commands::{Cli, Commands};
use crate::console::form::{Fields, SignedForm};
use crate::console::page::{self, Shell};
use crate::console::session::{Session, see_other};
use crate::console::view::{KeyView, Plans, plain};
use askama::Template;
use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

/// The fields of the API that the form has a place for.
const PLACES: [&str; 9] =
    ["name", "member", "scopes", "allow_ip", "plan", "limits", "credits", "expires_at", "metadata"];

#[derive(Template)]
#[template(path = "edit-key.html")]
struct EditKeyPage {
    shell: Shell,
    key: KeyView,
    values: Values,
    /// The version of the key that the form shows, so that no change in between is lost.
    version: String,
    plans: Plans,
    mistakes: Mistakes,
    commands: Commands,
}

/// The values of the form, as texts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Values {
    name: String,
    member: String,
    scopes: String,
    allow_ip: String,
    plan: String,
    limits: String,
    credits: String,
    expires_at: String,
    metadata: String,
}

impl EditKeyPage {
    fn elsewhere(&self) -> Vec<String> {
        self.mistakes.elsewhere(&PLACES)
    }
}

impl Values {
    fn of_key(key: &KeyView) -> Self {
        let notes = key.metadata.iter().map(|(name, value)| format!("{name}={}", plain(value)));
        Self {
            name: key.name.clone(),
            member: key.member.clone().unwrap_or_default(),
            scopes: key.scopes.join(" "),
            allow_ip: key.allow_ip.join(" "),
            plan: key.plan.clone().unwrap_or_default(),
            limits: key.limits.as_ref().map(|limits| limits.join(" ")).unwrap_or_default(),
            credits: key.credits.map(|credits| credits.to_string()).unwrap_or_default(),
            expires_at: key.expires_at.map(|time| time.0.to_string()).unwrap_or_default(),
            metadata: notes.collect::<Vec<_>>().join("\n"),
        }
    }

    fn of_form(fields: &Fields) -> Self {
        let text = |name: &str| fields.get(name).to_owned();
        Self {
            name: text("name"),
            member: text("member"),
            scopes: fields.words("scopes").join(" "),
            allow_ip: fields.words("allow_ip").join(" "),
            plan: text("plan"),
            limits: fields.words("limits").join(" "),
            credits: text("credits"),
            expires_at: text("expires_at"),
            metadata: text("metadata"),
        }
    }
}

pub(in crate::console) async fn form(session: Session, Path(id): Path<String>) -> Result<Response, Failure> {
    let (key, reply) = key(&session, &id).await?;
    let values = Values::of_key(&key);
    let page = page(&session, key, values, reply.version().to_owned(), Mistakes::default()).await?;
    Ok(page::render(StatusCode::OK, &page))
}

async fn page(
    session: &Session,
    key: KeyView,
    values: Values,
    version: String,
    mistakes: Mistakes,
) -> Result<EditKeyPage, Failure> {
    let example = request(&key.id, json!({"name": values.name}));
    let cli = Cli::new("keys change").argument(&key.id).option("--name", &values.name);
    let commands = Commands::new(cli, &example);
    let plans = session.api().read("/v1/plans?limit=1000").await?;
    Ok(EditKeyPage { shell: session.shell("keys"), key, values, version, plans, mistakes, commands })
}

fn request(id: &str, document: Value) -> ApiRequest {
    ApiRequest::new(Method::PATCH, format!("/v1/keys/{}", escape(id))).with_document(document)
}

/// Changes what differs from the key.
pub(in crate::console) async fn change(
    Path(id): Path<String>,
    SignedForm { session, fields }: SignedForm,
) -> Result<Response, Failure> {
    let (key, _) = key(&session, &id).await?;
    let failure = match document(&key, &fields) {
        Ok(changes) if changes.is_empty() => return Ok(see_other(&path_of(&id))),
        Ok(changes) => {
            match session.api().call(request(&id, Value::Object(changes)).if_match(fields.get("version"))).await {
                Ok(_) => return Ok(see_other(&format!("{}?done=changed", path_of(&id)))),
                Err(failure) => failure,
            }
        }
        Err(failure) => failure,
    };
    let mistakes = Mistakes::of(failure)?;
    let page = page(&session, key, Values::of_form(&fields), fields.get("version").to_owned(), mistakes).await?;
    Ok(page::render(StatusCode::UNPROCESSABLE_ENTITY, &page))
}

fn path_of(id: &str) -> String {
    format!("/console/keys/{}", escape(id))
}

/// The merge patch from the key to the form.
fn document(key: &KeyView, fields: &Fields) -> Result<Map<String, Value>, Failure> {
    let (old, new) = (Values::of_key(key), Values::of_form(fields));
    let mut changes = Map::new();
    let mut change = |name: &str, value: Value| drop(changes.insert(name.to_owned(), value));
    let or_null = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
    if new.name != old.name {
        change("name", json!(new.name));
    }
    for (name, old, new) in [
        ("member", &old.member, &new.member),
        ("plan", &old.plan, &new.plan),
        ("expires_at", &old.expires_at, &new.expires_at),
    ] {
        if new != old {
            change(name, or_null(new));
        }
    }
    for (name, old, new) in [("scopes", &old.scopes, &new.scopes), ("allow_ip", &old.allow_ip, &new.allow_ip)] {
        if new != old {
            change(name, json!(new.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>()));
        }
    }
    if new.limits != old.limits {
        let words: Vec<_> = new.limits.split(' ').filter(|word| !word.is_empty()).collect();
        change("limits", if words.is_empty() { Value::Null } else { json!(words) });
    }
    if new.credits != old.credits {
        let credits = match new.credits.as_str() {
            "" => Value::Null,
            text => json!(text.parse::<u64>().map_err(|_| Failure::invalid("credits", "expected a whole number"))?),
        };
        change("credits", credits);
    }
    if new.metadata != old.metadata {
        let mut notes = fields.notes("metadata")?;
        // In a merge patch, null removes an entry.
        for name in key.metadata.keys() {
            notes.entry(name.clone()).or_insert(Value::Null);
        }
        change("metadata", Value::Object(notes));
    }
    Ok(changes)
}
