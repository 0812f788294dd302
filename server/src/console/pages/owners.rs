//! Owners: the list, one owner, and the revocation of its keys.

use super::Mistakes;
use crate::console::api::{ApiRequest, Failure, escape, query};
use crate::console::commands::{Cli, Commands};
use crate::console::form::{Fields, SignedForm};
use crate::console::page::{self, Shell};
use crate::console::session::{Session, see_other};
use crate::console::view::{Keys, OwnerView, Owners};
use askama::Template;
use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

const KINDS: [&str; 3] = ["user", "team", "organization"];

#[derive(Template)]
#[template(path = "owners.html")]
struct OwnersPage {
    shell: Shell,
    fields: Fields,
    owners: Owners,
    next: Option<String>,
    is_filtered: bool,
    mistakes: Mistakes,
}

#[derive(Template)]
#[template(path = "owner.html")]
struct OwnerPage {
    shell: Shell,
    owner: OwnerView,
    /// The form for the permissions, as it was sent or as the owner has them.
    permissions: String,
    version: String,
    keys: Keys,
    mistakes: Mistakes,
    commands: Commands,
}

#[derive(Template)]
#[template(path = "revoke-owner.html")]
struct RevokePage {
    shell: Shell,
    owner: OwnerView,
    member: String,
    /// The active keys that would be revoked, at most a thousand.
    keys: Keys,
    /// The paused keys that would be revoked too, at most a thousand.
    paused: Keys,
    mistakes: Mistakes,
    commands: Commands,
}

impl OwnersPage {
    fn kinds(&self) -> [&'static str; 3] {
        KINDS
    }
}

impl OwnerPage {
    fn kinds(&self) -> [&'static str; 3] {
        KINDS
    }
}

pub(in crate::console) async fn list(session: Session, fields: Fields) -> Result<Response, Failure> {
    let page = list_page(&session, fields, Mistakes::default()).await?;
    Ok(page::render(StatusCode::OK, &page))
}

async fn list_page(session: &Session, fields: Fields, mistakes: Mistakes) -> Result<OwnersPage, Failure> {
    let filters = [("kind", fields.get("kind")), ("disabled", fields.get("disabled"))];
    let with = |further: &[(&'static str, &str)]| query(filters.iter().chain(further).copied());
    let path = format!("/v1/owners{}", with(&[("limit", "100"), ("after", fields.get("after"))]));
    let owners: Owners = session.api().read(&path).await?;
    let next = owners.next.as_ref().map(|next| with(&[("after", next)]));
    let is_filtered = filters.iter().any(|(_, value)| !value.is_empty());
    Ok(OwnersPage { shell: session.shell("owners"), owners, next, is_filtered, mistakes, fields: fields.clone() })
}

/// Creates an owner, or goes to the one that has this id.
pub(in crate::console) async fn create(SignedForm { session, fields }: SignedForm) -> Result<Response, Failure> {
    let id = fields.get("id");
    if id.is_empty() {
        let page =
            list_page(&session, fields, Mistakes::of(Failure::invalid("id", "expected the id of an owner"))?).await?;
        return Ok(page::render(StatusCode::UNPROCESSABLE_ENTITY, &page));
    }
    if session.api().find::<OwnerView>(&path_of(id)).await?.is_none() {
        let mut document = Map::new();
        if !fields.get("new_kind").is_empty() {
            document.insert("kind".to_owned(), json!(fields.get("new_kind")));
        }
        let request = ApiRequest::new(Method::PUT, path_of(id)).with_document(Value::Object(document));
        if let Err(failure) = session.api().call(request).await {
            let page = list_page(&session, Fields::default(), Mistakes::of(failure)?).await?;
            return Ok(page::render(StatusCode::UNPROCESSABLE_ENTITY, &page));
        }
    }
    Ok(see_other(&page_of(id)))
}

fn path_of(id: &str) -> String {
    format!("/v1/owners/{}", escape(id))
}

fn page_of(id: &str) -> String {
    format!("/console/owners/{}", escape(id))
}

pub(in crate::console) async fn show(
    session: Session,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let page = owner_page(&session, &id, None, Mistakes::default(), fields.get("done")).await?;
    Ok(page::render(StatusCode::OK, &page))
}

async fn owner_page(
    session: &Session,
    id: &str,
    sent: Option<&Fields>,
    mistakes: Mistakes,
    done: &str,
) -> Result<OwnerPage, Failure> {
    let api = session.api();
    let reply = api.get(&path_of(id)).await?;
    let version = reply.version().to_owned();
    let owner: OwnerView = crate::console::api::read(reply.document)?;
    let permissions = match sent {
        Some(fields) => fields.get("permissions").to_owned(),
        None => owner.permissions.as_ref().map(|permissions| permissions.join(" ")).unwrap_or_default(),
    };
    let keys = api.read(&format!("/v1/keys{}", query([("owner", id), ("limit", "20")]))).await?;
    let request = ApiRequest::new(Method::PATCH, path_of(id)).with_document(json!({"disabled": !owner.disabled}));
    let cli = Cli::new(if owner.disabled { "owners enable" } else { "owners disable" }).argument(id);
    let commands = Commands::new(cli, &request);
    Ok(OwnerPage {
        shell: session.shell("owners").with_notice(done),
        owner,
        permissions,
        version,
        keys,
        mistakes,
        commands,
    })
}

/// Changes kind, permissions, or whether the owner is disabled.
pub(in crate::console) async fn change(
    Path(id): Path<String>,
    SignedForm { session, fields }: SignedForm,
) -> Result<Response, Failure> {
    let mut document = Map::new();
    match fields.get("action") {
        "disable" => drop(document.insert("disabled".to_owned(), json!(true))),
        "enable" => drop(document.insert("disabled".to_owned(), json!(false))),
        _ => {
            let kind = fields.get("kind");
            document.insert("kind".to_owned(), if kind.is_empty() { Value::Null } else { json!(kind) });
            let permissions = fields.words("permissions");
            let is_bounded = fields.get("bounded") == "yes";
            document.insert("permissions".to_owned(), if is_bounded { json!(permissions) } else { Value::Null });
        }
    }
    let request = ApiRequest::new(Method::PATCH, path_of(&id)).with_document(Value::Object(document));
    match session.api().call(request.if_match(fields.get("version"))).await {
        Ok(_) => Ok(see_other(&format!("{}?done=owner-changed", page_of(&id)))),
        Err(failure) => {
            let page = owner_page(&session, &id, Some(&fields), Mistakes::of(failure)?, "").await?;
            Ok(page::render(StatusCode::UNPROCESSABLE_ENTITY, &page))
        }
    }
}

pub(in crate::console) async fn revoke_form(
    session: Session,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let page = revoke_page(&session, &id, fields.get("member"), Mistakes::default()).await?;
    Ok(page::render(StatusCode::OK, &page))
}

async fn revoke_page(session: &Session, id: &str, member: &str, mistakes: Mistakes) -> Result<RevokePage, Failure> {
    let api = session.api();
    let owner: OwnerView = api.read(&path_of(id)).await?;
    let of_state = |state| query([("owner", id), ("member", member), ("state", state), ("limit", "1000")]);
    let keys = api.read(&format!("/v1/keys{}", of_state("active"))).await?;
    let paused = api.read(&format!("/v1/keys{}", of_state("paused"))).await?;
    let cli = Cli::new("owners revoke-keys").argument(id).option("--member", member);
    let commands = Commands::new(cli, &revocation(id, member));
    Ok(RevokePage {
        shell: session.shell("owners"),
        owner,
        member: member.to_owned(),
        keys,
        paused,
        mistakes,
        commands,
    })
}

fn revocation(id: &str, member: &str) -> ApiRequest {
    let document = if member.is_empty() { json!({}) } else { json!({"member": member}) };
    ApiRequest::new(Method::POST, format!("{}/revoke-keys", path_of(id))).with_document(document)
}

/// Revokes all keys of the owner or of a member, if the id was typed.
pub(in crate::console) async fn revoke(
    Path(id): Path<String>,
    SignedForm { session, fields }: SignedForm,
) -> Result<Response, Failure> {
    let member = fields.get("member");
    let expected = if member.is_empty() { id.as_str() } else { member };
    let failure = if fields.get("confirmation") == expected {
        match session.api().call(revocation(&id, member)).await {
            Ok(_) => return Ok(see_other(&format!("{}?done=keys-revoked", page_of(&id)))),
            Err(failure) => failure,
        }
    } else {
        Failure::invalid("confirmation", "expected the id, as it is written above")
    };
    let page = revoke_page(&session, &id, member, Mistakes::of(failure)?).await?;
    Ok(page::render(StatusCode::UNPROCESSABLE_ENTITY, &page))
}
