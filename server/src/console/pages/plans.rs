//! Plans: the list, and the form for one.

use super::Mistakes;
use crate::console::api::{ApiRequest, Failure, escape, query};
use crate::console::commands::{Cli, Commands};
use crate::console::form::{Fields, SignedForm};
use crate::console::page::{self, Shell};
use crate::console::session::{Session, see_other};
use crate::console::view::{Keys, PlanView, Plans, thousands};
use askama::Template;
use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

#[derive(Template)]
#[template(path = "plans.html")]
struct PlansPage {
    shell: Shell,
    plans: Plans,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "plan.html")]
struct PlanPage {
    shell: Shell,
    /// The id; empty for a new plan.
    id: String,
    limits: String,
    credits: String,
    version: String,
    /// Active keys on the plan, at most a thousand.
    keys: Option<Keys>,
    mistakes: Mistakes,
    commands: Commands,
}

pub(in crate::console) async fn list(session: Session, fields: Fields) -> Result<Response, Failure> {
    let path = format!("/v1/plans{}", query([("limit", "100"), ("after", fields.get("after"))]));
    let plans: Plans = session.api().read(&path).await?;
    let next = plans.next.as_ref().map(|next| query([("after", next.as_str())]));
    let shell = session.shell("plans").with_notice(fields.get("done"));
    Ok(page::render(StatusCode::OK, &PlansPage { shell, plans, next }))
}

pub(in crate::console) async fn new(session: Session) -> Result<Response, Failure> {
    let page = plan_page(&session, "", None, Mistakes::default()).await?;
    Ok(page::render(StatusCode::OK, &page))
}

pub(in crate::console) async fn form(session: Session, Path(id): Path<String>) -> Result<Response, Failure> {
    let page = plan_page(&session, &id, None, Mistakes::default()).await?;
    Ok(page::render(StatusCode::OK, &page))
}

async fn plan_page(
    session: &Session,
    id: &str,
    sent: Option<&Fields>,
    mistakes: Mistakes,
) -> Result<PlanPage, Failure> {
    let api = session.api();
    let (mut limits, mut credits, mut version, mut keys) = (String::new(), String::new(), String::new(), None);
    if !id.is_empty() {
        let reply = api.get(&path_of(id)).await?;
        version = reply.version().to_owned();
        let plan: PlanView = crate::console::api::read(reply.document)?;
        limits = plan.limits.map(|limits| limits.join(" ")).unwrap_or_default();
        credits = plan.credits.map(|credits| credits.to_string()).unwrap_or_default();
        let on_plan = [("plan", id), ("state", "active"), ("limit", "1000")];
        keys = Some(api.read(&format!("/v1/keys{}", query(on_plan))).await?);
    }
    if let Some(fields) = sent {
        limits = fields.words("limits").join(" ");
        credits = fields.get("credits").to_owned();
    }
    let shown = if id.is_empty() { "PLAN" } else { id };
    let words: Vec<_> = limits.split(' ').filter(|limit| !limit.is_empty()).collect();
    let cli =
        Cli::new("plans set").argument(shown).options("--limit", words.iter().copied()).option("--credits", &credits);
    let document = if words.is_empty() { json!({}) } else { json!({"limits": words}) };
    let commands = Commands::new(cli, &ApiRequest::new(Method::PUT, path_of(shown)).with_document(document));
    Ok(PlanPage {
        shell: session.shell("plans"),
        id: id.to_owned(),
        limits,
        credits,
        version,
        keys,
        mistakes,
        commands,
    })
}

fn path_of(id: &str) -> String {
    format!("/v1/plans/{}", escape(id))
}

/// Stores a new plan.
pub(in crate::console) async fn create(SignedForm { session, fields }: SignedForm) -> Result<Response, Failure> {
    let id = fields.get("id");
    let failure = if id.is_empty() {
        Failure::invalid("id", "expected the id of the plan")
    } else if session.api().find::<PlanView>(&path_of(id)).await?.is_some() {
        Failure::invalid("id", "there is a plan of this id")
    } else {
        match put(&session, id, &fields).await {
            Ok(()) => return Ok(see_other("/console/plans?done=plan-saved")),
            Err(failure) => failure,
        }
    };
    let page = plan_page(&session, "", Some(&fields), Mistakes::of(failure)?).await?;
    Ok(page::render(StatusCode::UNPROCESSABLE_ENTITY, &page))
}

/// Stores or deletes a plan.
pub(in crate::console) async fn change(
    Path(id): Path<String>,
    SignedForm { session, fields }: SignedForm,
) -> Result<Response, Failure> {
    let (done, outcome) = if fields.get("action") == "delete" {
        let request = ApiRequest::new(Method::DELETE, path_of(&id)).if_match(fields.get("version"));
        ("plan-deleted", session.api().call(request).await.map(drop))
    } else {
        ("plan-saved", put(&session, &id, &fields).await)
    };
    match outcome {
        Ok(()) => Ok(see_other(&format!("/console/plans?done={done}"))),
        Err(failure) => {
            let page = plan_page(&session, &id, Some(&fields), Mistakes::of(failure)?).await?;
            Ok(page::render(StatusCode::UNPROCESSABLE_ENTITY, &page))
        }
    }
}

async fn put(session: &Session, id: &str, fields: &Fields) -> Result<(), Failure> {
    let mut document = Map::new();
    let limits = fields.words("limits");
    if !limits.is_empty() {
        document.insert("limits".to_owned(), json!(limits));
    }
    if !fields.get("credits").is_empty() {
        let credits = fields.get("credits").parse::<u64>();
        let credits = credits.map_err(|_| Failure::invalid("credits", "expected a whole number"))?;
        document.insert("credits".to_owned(), json!(credits));
    }
    let request = ApiRequest::new(Method::PUT, path_of(id)).with_document(Value::Object(document));
    session.api().call(request.if_match(fields.get("version"))).await.map(drop)
}
