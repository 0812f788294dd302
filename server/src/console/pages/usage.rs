//! Usage of all keys, and what edges reported with which token.

use crate::console::api::{Failure, query};
use crate::console::chart::{Chart, HEIGHT, Span, WIDTH};
use crate::console::form::Fields;
use crate::console::page::{self, Shell};
use crate::console::session::Session;
use crate::console::view::{Reports, UsageOfAll, thousands};
use askama::Template;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use std::fmt::Write;

#[derive(Template)]
#[template(path = "usage.html")]
struct UsagePage {
    shell: Shell,
    span: Span,
    usage: UsageOfAll,
    chart: Chart,
    reports: Reports,
}

pub(in crate::console) async fn show(session: Session, fields: Fields) -> Result<Response, Failure> {
    let (api, now) = (session.api(), session.now());
    let span = Span::from_name(fields.get("span"));
    let from = span.from(now).to_string();
    let since = query([("from", from.as_str())]);
    let usage: UsageOfAll = api.read(&format!("/v1/usage{since}")).await?;
    let reports = api.read(&format!("/v1/usage/reports{since}")).await?;
    let chart = Chart::new(span, now, &usage.keys.hours, &usage.others.hours);
    let page = UsagePage { shell: session.shell("usage"), span, usage, chart, reports };
    Ok(page::render(StatusCode::OK, &page))
}

/// The usage as CSV (RFC 4180).
pub(in crate::console) async fn csv(session: Session, fields: Fields) -> Result<Response, Failure> {
    let from = Span::from_name(fields.get("span")).from(session.now()).to_string();
    let usage: UsageOfAll = session.api().read(&format!("/v1/usage{}", query([("from", from.as_str())]))).await?;
    let mut text = "hour,key,verdict,requests\r\n".to_owned();
    for (key, hours) in [("known", &usage.keys.hours), ("unknown", &usage.others.hours)] {
        for hour in hours {
            for (verdict, requests) in &hour.verdicts {
                // Verdicts are names, which need no quotes.
                let _ = write!(text, "{},{key},{verdict},{requests}\r\n", hour.hour.0);
            }
        }
    }
    let fields =
        [(CONTENT_TYPE, "text/csv; charset=utf-8"), (CONTENT_DISPOSITION, "attachment; filename=\"usage.csv\"")];
    Ok((fields, text).into_response())
}
