//! Why a key is accepted or refused: the verdict that an edge would reach from the key alone, and the limits that it would count.
//!
//! Decided by the code that edges run ([`keyward_core::authorize`]), on what the control plane knows. Rules are the gateway's, so
//! what a route requires is given by the caller. Limits are counted at the edges.

use super::{KeyId, NO_KEY};
use crate::http::answer::json;
use crate::http::app::App;
use crate::http::extract::Id;
use crate::http::parameters::{Parameters, Words};
use crate::http::problem::ApiError;
use crate::model::key_view;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use keyward_core::authorize::{Requirement, authorize};
use keyward_core::refusal::{Refusal, Stage};
use serde::Serialize;
use std::net::IpAddr;
use utoipa::ToSchema;

/// The decision about a key.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyDecision)]
struct WhyResource<'a> {
    #[schema(value_type = KeyId)]
    key_id: &'a str,
    /// `allow`, or the refusal that an edge would answer with.
    verdict: &'static str,
    /// The status of the refusal in the dialect; null if the key is accepted.
    #[schema(required)]
    status: Option<u16>,
    /// The permission that is missing, of `insufficient_scope`.
    #[schema(required)]
    missing_scope: Option<String>,
    /// The checks in the order in which they are made.
    checks: Vec<Check>,
    limits: EffectiveLimits,
    /// The credits that are left; null means no bound.
    #[schema(required)]
    credits_left: Option<u64>,
}

/// One check of the decision.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyCheck)]
struct Check {
    /// The refusal of a key that fails it.
    refusal: &'static str,
    /// `passed`, `failed`, or `not_reached` behind one that failed.
    #[schema(pattern = "^(passed|failed|not_reached)$")]
    outcome: &'static str,
}

/// The limits that an edge counts for the key.
#[derive(Serialize, ToSchema)]
struct EffectiveLimits {
    /// Such as `10/s`; none means no limit.
    limits: Vec<String>,
    /// Where the limits come from: `key`, `plan` or `dialect`.
    #[schema(pattern = "^(key|plan|dialect)$")]
    from: &'static str,
}

/// Explain whether a key is accepted, and why not
///
/// What the route requires is in the parameters, since rules are part of the gateway's configuration. Requests that the limits of
/// the key refuse are counted at the edges and not known here.
#[utoipa::path(
    get,
    path = "/v1/keys/{id}/why",
    operation_id = "explainKey",
    tag = "keys",
    params(("id" = KeyId, Path, description = "The key's id"), ("scopes" = inline(Option<Words>), Query, description = "The permissions that the route requires, separated by spaces"), ("kinds" = inline(Option<Words>), Query, description = "The kinds that the route accepts, separated by spaces; all by default"), ("client" = inline(Option<Words>), Query, description = "The address of the client; unknown by default")),
    responses((status = OK, description = "The decision", body = WhyResource))
)]
pub(crate) async fn why(State(app): State<App>, Id(id): Id, mut parameters: Parameters) -> Result<Response, ApiError> {
    let words = |text: String| text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let scopes = parameters.text("scopes", "permissions separated by spaces").map(words).unwrap_or_default();
    let kinds = parameters.text("kinds", "kinds separated by spaces").map(words);
    let client = parameters.take("client", "an IP address", |text| text.parse::<IpAddr>().ok());
    parameters.finish()?;
    let key = app.store.key(&id).await?.ok_or(NO_KEY)?;
    let owner = match &key.owner {
        Some(owner) => app.store.owner(owner).await?,
        None => None,
    };
    let plan = match &key.plan {
        Some(plan) => app.store.plan(plan).await?,
        None => None,
    };
    let now = (app.clock)();
    let secret = key.secrets.iter().rev().max_by_key(|secret| (secret.is_valid(now), secret.created_at));
    let requirement = Requirement { kinds: kinds.as_deref(), scopes: &scopes };
    let decided = match secret {
        Some(secret) => {
            let view = key_view(&key, secret, owner.as_ref());
            authorize(&view, &app.dialect, now.as_ms(), &[requirement], || client)
                .map_err(|denial| (denial.refusal(), denial.scope().to_owned()))
        }
        // All of its secrets were purged.
        None => Err((Refusal::Revoked, String::new())),
    };
    let decided = match decided {
        Ok(()) if key.is_exhausted() => Err((Refusal::QuotaExhausted, String::new())),
        decided => decided,
    };
    let (refusal, scope) = match decided {
        Ok(()) => (None, String::new()),
        Err((refusal, scope)) => (Some(refusal), scope),
    };
    let of_plan = plan.as_ref().and_then(|plan| plan.limits.as_ref());
    let (limits, from) = match (&key.limits, of_plan) {
        (Some(limits), _) => (limits, "key"),
        (None, Some(limits)) => (limits, "plan"),
        (None, None) => (&app.dialect.limits, "dialect"),
    };
    let resource = WhyResource {
        key_id: &key.id,
        verdict: refusal.map_or("allow", Refusal::name),
        status: refusal.map(|refusal| app.dialect.errors.status(refusal)),
        missing_scope: (!scope.is_empty()).then_some(scope),
        checks: checks(refusal),
        limits: EffectiveLimits { limits: limits.iter().map(ToString::to_string).collect(), from },
        credits_left: key.credits.map(|credits| credits.saturating_sub(key.spent)),
    };
    json(StatusCode::OK, &resource)
}

/// Those that the control plane can make, in the order of decision.
fn checks(refusal: Option<Refusal>) -> Vec<Check> {
    let made = Refusal::ALL.into_iter().filter(|check| match check.stage() {
        Stage::Key | Stage::Request | Stage::Credits => true,
        Stage::Snapshot | Stage::Credential | Stage::Record | Stage::Limits => false,
    });
    let mut is_reached = true;
    made.map(|check| {
        let has_failed = refusal == Some(check);
        let outcome = match (is_reached, has_failed) {
            (_, true) => "failed",
            (true, false) => "passed",
            (false, false) => "not_reached",
        };
        is_reached &= !has_failed;
        Check { refusal: check.name(), outcome }
    })
    .collect()
}
