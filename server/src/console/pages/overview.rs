//! The overview.

use crate::console::api::{Failure, query};
use crate::console::chart::{Chart, HEIGHT, Span, WIDTH};
use crate::console::form::Fields;
use crate::console::page::{self, Shell};
use crate::console::session::Session;
use crate::console::view::{Audit, UsageOfAll, thousands};
use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    shell: Shell,
    span: Span,
    usage: UsageOfAll,
    chart: Chart,
    /// The refusals of known keys, and the requests without one, the most frequent first.
    refusals: Vec<(String, u64)>,
    audit: Audit,
}

impl OverviewPage {
    fn total(&self) -> u64 {
        self.usage.keys.total().saturating_add(self.usage.others.total())
    }

    /// The refused share of the requests of known keys, in percent.
    fn refused_percent(&self) -> String {
        let total = self.usage.keys.total();
        if total == 0 {
            return "0".to_owned();
        }
        let tenths = u128::from(self.usage.keys.refused()) * 1000 / u128::from(total);
        format!("{}.{}", tenths / 10, tenths % 10)
    }
}

pub(in crate::console) async fn show(session: Session, fields: Fields) -> Result<Response, Failure> {
    let (api, now) = (session.api(), session.now());
    let span = Span::from_name(fields.get("span"));
    let from = span.from(now).to_string();
    let usage: UsageOfAll = api.read(&format!("/v1/usage{}", query([("from", from.as_str())]))).await?;
    let audit = api.read("/v1/audit?limit=10").await?;
    let chart = Chart::new(span, now, &usage.keys.hours, &usage.others.hours);
    let known = usage.keys.totals.iter().filter(|(verdict, _)| *verdict != keyward_core::wire::usage::ALLOW);
    let mut refusals: Vec<_> = known.chain(&usage.others.totals).map(|(verdict, n)| (verdict.clone(), *n)).collect();
    refusals.sort_by_key(|(_, requests)| std::cmp::Reverse(*requests));
    let page = OverviewPage { shell: session.shell("overview"), span, usage, chart, refusals, audit };
    Ok(page::render(StatusCode::OK, &page))
}
