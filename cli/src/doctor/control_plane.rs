//! The control plane: reachable, ready, of this version, with this clock, and with the tokens of this machine.

use super::compare_clock;
use crate::control_plane::{data_dir, first_line, token};
use crate::findings::Check;
use keyward_client::{Client, ClientError};
use keyward_core::key::secret::Secret;
use keyward_server::auth::tokens::file::Audience;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use ureq::http::{HeaderMap, StatusCode};

const TIMEOUT: Duration = Duration::from_secs(10);

const REACH: &str =
    "start it with `keyward serve`, or name its URL with --url or KEYWARD_URL; a proxy or firewall may be in between";

pub(super) fn checks(url: &str) -> Vec<Check> {
    let mut reachable = Check::new("control_plane", "The control plane is reachable and ready");
    let mut version = Check::new("version", "The control plane has the version of this program");
    let mut clock = Check::new("control_plane_clock", "The clock of the control plane agrees with this machine's");
    let is_reached = reach(&mut reachable, &mut clock, url);
    let mut tokens = Check::new("admin_token", "The token for the control plane is valid and may change keys");
    let mut edge = Check::new("edge_token", "The edge token is valid, and no operator's");
    if is_reached {
        compare_version(&mut version, url);
        admin_token(&mut tokens, url);
        edge_token(&mut edge, url);
    } else {
        for check in [&mut version, &mut clock, &mut tokens, &mut edge] {
            check.cannot("the control plane cannot be reached", REACH);
        }
    }
    vec![reachable, version, clock, tokens, edge]
}

fn get(url: &str, path: &str) -> Result<(StatusCode, HeaderMap, Option<Value>), ureq::Error> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None);
    let mut response = config.build().new_agent().get(format!("{url}{path}")).call()?;
    let body = response.body_mut().read_to_string()?;
    Ok((response.status(), response.headers().clone(), serde_json::from_str(&body).ok()))
}

fn reach(check: &mut Check, clock: &mut Check, url: &str) -> bool {
    let (status, headers, body) = match get(url, "/healthz") {
        Ok(answered) => answered,
        Err(error) => {
            check.fail(format!("no response from {url}: {error}"), REACH);
            return false;
        }
    };
    if status != StatusCode::OK || body.is_none() {
        check.fail(
            format!("expected a control plane at {url}, got status {status} for /healthz"),
            "name the URL of the control plane with --url or KEYWARD_URL, not that of the gateway",
        );
        return false;
    }
    check.pass(format!("{url} is alive"));
    compare_clock(clock, url, headers.get("date").and_then(|date| date.to_str().ok()), SystemTime::now());
    match get(url, "/readyz") {
        Ok((StatusCode::OK, ..)) => check.pass("it is ready: its database answers"),
        Ok((status, ..)) => check.fail(
            format!("it is not ready: status {status} for /readyz"),
            "look into its log: the database does not answer, the disk is full, or the upstream of a relay \
             cannot be reached",
        ),
        Err(error) => check.fail(format!("no response to /readyz: {error}"), REACH),
    }
    true
}

fn compare_version(check: &mut Check, url: &str) {
    let own = env!("CARGO_PKG_VERSION");
    let version = get(url, "/v1/openapi.json")
        .ok()
        .and_then(|(_, _, body)| Some(body?.pointer("/info/version")?.as_str()?.to_owned()));
    match version {
        Some(version) if version == own => check.pass(format!("both are {own}")),
        Some(version) => check.warn(
            format!("the control plane is {version}, this program is {own}"),
            "use the same version; docs/guides/upgrading.md says which is upgraded first",
        ),
        None => check.cannot(
            "its API description has no version",
            "a relay has none: run `keyward doctor` against the control plane",
        ),
    }
}

/// What a token may do, by what it is answered.
#[derive(Debug, PartialEq, Eq)]
enum Permission {
    Allowed,
    /// A token of another role.
    OtherRole,
    /// Unknown, or of the other audience.
    Invalid,
    Unknown(String),
}

fn permission(answer: Result<Value, ClientError>) -> Permission {
    match answer {
        Ok(_) => Permission::Allowed,
        Err(ClientError::Refused { status: 401, .. }) => Permission::Invalid,
        Err(ClientError::Refused { status: 403, problem, .. }) if problem.name() == "insufficient_role" => {
            Permission::OtherRole
        }
        // Allowed, and refused for what it holds.
        Err(ClientError::Refused { status: 400 | 422, .. }) => Permission::Allowed,
        Err(error) => Permission::Unknown(error.to_string()),
    }
}

fn admin_token(check: &mut Check, url: &str) {
    let token = match token() {
        Ok(token) => token,
        Err(error) => {
            return check.cannot(
                error.to_string(),
                "set KEYWARD_ADMIN_TOKEN, or KEYWARD_DATA_DIR to the data directory of the server",
            );
        }
    };
    let is_edges = token.expose().starts_with(Audience::Edge.prefix());
    let client = Client::new(url.to_owned(), token);
    match permission(client.get("/v1/keys?limit=1")) {
        Permission::Allowed => check.pass("it may read"),
        Permission::OtherRole | Permission::Invalid if is_edges => {
            return check.fail(
                "it is the token of an edge",
                "set KEYWARD_ADMIN_TOKEN to the token of an operator: those begin with kwa_",
            );
        }
        Permission::OtherRole => {
            return check.fail("it may not manage keys", "create one with `keyward tokens create --role operator`");
        }
        Permission::Invalid => {
            return check.fail(
                "the control plane does not know it: it was revoked, has expired, or belongs to another control plane",
                "take the one in admin-token of the server's data directory, or create one with `keyward tokens \
                 create --role operator`",
            );
        }
        Permission::Unknown(error) => return check.cannot(error, "run again, and look into the control plane's log"),
    }
    // A key without a name is never created.
    match permission(client.post("/v1/keys", &json!({}))) {
        Permission::Allowed => check.pass("it may create and change keys"),
        Permission::OtherRole => check.warn(
            "it may not create or change keys",
            "create one with `keyward tokens create --role operator` if it should",
        ),
        Permission::Invalid => check.fail("the token was revoked during the check", "run again"),
        Permission::Unknown(error) => check.cannot(error, "run again, and look into the control plane's log"),
    }
}

fn edge_token(check: &mut Check, url: &str) {
    let of_environment = std::env::var("KEYWARD_EDGE_TOKEN").ok();
    let of_file = || std::fs::read_to_string(data_dir().join(Audience::Edge.file_name())).ok();
    let Some(token) = of_environment.or_else(of_file).as_deref().and_then(first_line) else {
        return check.cannot(
            "no edge token is on this machine",
            "set KEYWARD_EDGE_TOKEN to that of the gateway to have it checked",
        );
    };
    let client = Client::new(url.to_owned(), Secret::new(token));
    // No page is read: the position is none.
    match permission(client.get("/v1/edge/feed?after=none")) {
        Permission::Allowed => check.pass("it is valid for the feed"),
        Permission::OtherRole | Permission::Invalid
            if permission(client.get("/v1/keys?limit=1")) == Permission::Allowed =>
        {
            check.fail(
                "this is an operator token: whoever reads Envoy's environment can manage keys with it, and Envoy \
             gets no keys",
                "create one with `keyward tokens create --role edge`, give it to Envoy, and replace this one",
            )
        }
        Permission::OtherRole | Permission::Invalid => check.fail(
            "the control plane does not know it, so a gateway with it gets no keys",
            "take the one in edge-token of the server's data directory, or create one with `keyward tokens \
             create --role edge`",
        ),
        Permission::Unknown(error) => check.cannot(error, "run again, and look into the control plane's log"),
    }
}
