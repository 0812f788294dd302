//! One key, on tabs.

use crate::console::api::{Failure, Reply, escape, query, read};
use crate::console::chart::{Chart, HEIGHT, Span, WIDTH};
use crate::console::form::Fields;
use crate::console::page::{self, Shell};
use crate::console::session::Session;
use crate::console::view::{Audit, KeyView, OwnerView, PlanView, UsageOfKey, plain, thousands};
use askama::Template;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use keyward_core::key::id::is_key_id;
use std::fmt::Write;

#[derive(Template)]
#[template(path = "key.html")]
struct KeyPage {
    shell: Shell,
    key: KeyView,
    tab: Tab,
    content: Content,
}

/// A part of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tab {
    Usage,
    Secrets,
    Access,
    Limits,
    Audit,
    Json,
}

/// What a tab shows beside the key.
enum Content {
    Usage { span: Span, usage: UsageOfKey, chart: Chart },
    Secrets,
    Access { owner: Option<OwnerView>, has_owners_scopes: bool },
    Limits { plan: Option<PlanView>, limits: Vec<String>, source: &'static str },
    Audit(Audit),
    Json(String),
}

impl Tab {
    const ALL: [Self; 6] = [Self::Usage, Self::Secrets, Self::Access, Self::Limits, Self::Audit, Self::Json];

    fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|tab| tab.name() == name).unwrap_or(Self::Usage)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Secrets => "secrets",
            Self::Access => "access",
            Self::Limits => "limits",
            Self::Audit => "audit",
            Self::Json => "json",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Usage => "Usage",
            Self::Secrets => "Secrets",
            Self::Access => "Access",
            Self::Limits => "Limits",
            Self::Audit => "Audit log",
            Self::Json => "JSON",
        }
    }
}

impl KeyPage {
    /// The path of the tab, up to the span.
    fn usage_path(&self) -> String {
        format!("/console/keys/{}?tab=usage&", escape(&self.key.id))
    }

    fn tabs(&self) -> [Tab; 6] {
        Tab::ALL
    }
}

/// The key of that id, as the API shows it.
pub(in crate::console) async fn key(session: &Session, id: &str) -> Result<(KeyView, Reply), Failure> {
    // The names of other routes below /v1/keys are no ids.
    if !is_key_id(id) {
        return Err(Failure::not_found());
    }
    let reply = session.api().get(&format!("/v1/keys/{}", escape(id))).await?;
    Ok((read(reply.document.clone())?, reply))
}

pub(in crate::console) async fn show(
    session: Session,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let (key, reply) = key(&session, &id).await?;
    let tab = Tab::from_name(fields.get("tab"));
    let content = content(&session, &key, &reply, tab, &fields).await?;
    let shell = session.shell("keys").with_notice(fields.get("done"));
    Ok(page::render(StatusCode::OK, &KeyPage { shell, key, tab, content }))
}

async fn content(
    session: &Session,
    key: &KeyView,
    reply: &Reply,
    tab: Tab,
    fields: &Fields,
) -> Result<Content, Failure> {
    let (api, dialect) = (session.api(), &session.console().app.dialect);
    Ok(match tab {
        Tab::Usage => {
            let span = Span::from_name(fields.get("span"));
            let usage = usage(session, &key.id, span).await?;
            let chart = Chart::new(span, session.now(), &usage.usage.hours, &[]);
            Content::Usage { span, usage, chart }
        }
        Tab::Secrets => Content::Secrets,
        Tab::Access => {
            let owner = match &key.owner {
                Some(owner) => api.find(&format!("/v1/owners/{}", escape(owner))).await?,
                None => None,
            };
            Content::Access { owner, has_owners_scopes: dialect.has_owners_scopes(&key.kind) }
        }
        Tab::Limits => {
            let plan: Option<PlanView> = match &key.plan {
                Some(plan) => api.find(&format!("/v1/plans/{}", escape(plan))).await?,
                None => None,
            };
            let of_dialect = || dialect.limits.iter().map(|limit| limit.to_string()).collect();
            let (limits, source) = match (&key.limits, plan.as_ref().and_then(|plan| plan.limits.clone())) {
                (Some(limits), _) => (limits.clone(), "the key"),
                (None, Some(limits)) => (limits, "its plan"),
                (None, None) => (of_dialect(), "the dialect"),
            };
            Content::Limits { plan, limits, source }
        }
        Tab::Audit => Content::Audit(
            api.read(&format!("/v1/audit{}", query([("subject", key.id.as_str()), ("limit", "100")]))).await?,
        ),
        Tab::Json => Content::Json(serde_json::to_string_pretty(&reply.document).unwrap_or_default()),
    })
}

async fn usage(session: &Session, id: &str, span: Span) -> Result<UsageOfKey, Failure> {
    let from = span.from(session.now()).to_string();
    session.api().read(&format!("/v1/keys/{}/usage{}", escape(id), query([("from", from.as_str())]))).await
}

/// The usage of a key as CSV (RFC 4180).
pub(in crate::console) async fn usage_csv(
    session: Session,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let usage = usage(&session, &id, Span::from_name(fields.get("span"))).await?;
    let mut text = "hour,verdict,requests\r\n".to_owned();
    for hour in &usage.usage.hours {
        for (verdict, requests) in &hour.verdicts {
            // Verdicts are names, which need no quotes.
            let _ = write!(text, "{},{verdict},{requests}\r\n", hour.hour.0);
        }
    }
    let fields =
        [(CONTENT_TYPE, "text/csv; charset=utf-8"), (CONTENT_DISPOSITION, "attachment; filename=\"usage.csv\"")];
    Ok((fields, text).into_response())
}
