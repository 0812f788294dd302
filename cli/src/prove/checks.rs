//! The checks, in the order in which they are made, and what they share.

mod credentials;
mod guard;
mod limits;
mod paths;
mod responses;
mod revocation;
mod upstream;

use super::ProveArguments;
use super::plan::{MARK, Plan, Reached};
use super::test_keys::{TestKey, TestKeys};
use crate::CliError;
use crate::envoy_admin::EnvoyAdmin;
use crate::findings::{Check, Outcome};
use crate::gateway::{Answer, ExchangeError, Gateway, Sent};
use keyward_core::key::secret::Secret;
use serde_json::{Value, json};
use std::cell::{OnceCell, RefCell};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The bound of all requests together.
pub(super) const MAX_REQUESTS_PER_SECOND: u32 = 1000;

/// How long a new key may take to be accepted.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(10);

/// The pause between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// Each check's id and title.
const CHECKS: [(&str, &str); 10] = [
    ("valid_key", "A valid key is accepted"),
    ("no_key", "A request without a key is refused"),
    ("bad_key", "Bad keys are refused"),
    ("forged_identity", "Forged identity headers reach no upstream"),
    ("path_spellings", "No spelling of a path evades its rule"),
    ("guard", "The guard refuses requests that the filter has not checked"),
    ("revocation", "A revoked key is refused on every connection"),
    ("limits", "A rate limit is kept in every window"),
    ("upstream_key", "The upstream never receives a key"),
    ("responses", "Refusals have the dialect's format"),
];

/// One run of all checks.
pub(super) struct Run<'a> {
    gateway: &'a Gateway,
    plan: &'a Plan,
    keys: &'a TestKeys<'a>,
    admin: Option<&'a EnvoyAdmin>,
    arguments: &'a ProveArguments,
    /// A key that was accepted.
    good: OnceCell<TestKey>,
    /// Whether the upstream echoes header fields.
    echoes: OnceCell<bool>,
    done: RefCell<Vec<Check>>,
}

/// Why a check cannot go on.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("{0}")]
    ControlPlane(#[from] CliError),
    #[error("{0}")]
    Gateway(#[from] ExchangeError),
    #[error("no valid key was accepted")]
    NoGoodKey,
}

impl Stopped {
    fn action(&self) -> &'static str {
        match self {
            Self::ControlPlane(_) => {
                "check the control plane and its token with `keyward doctor`: creating and revoking keys needs \
                 the role operator"
            }
            Self::Gateway(_) => "check that the gateway runs and its URL is right, with `keyward doctor --gateway URL`",
            Self::NoGoodKey => "first see to it that valid_key passes",
        }
    }
}

impl<'a> Run<'a> {
    pub(super) fn new(
        gateway: &'a Gateway,
        plan: &'a Plan,
        keys: &'a TestKeys<'a>,
        admin: Option<&'a EnvoyAdmin>,
        arguments: &'a ProveArguments,
    ) -> Self {
        let (good, echoes) = (OnceCell::new(), OnceCell::new());
        Self { gateway, plan, keys, admin, arguments, good, echoes, done: RefCell::new(Vec::new()) }
    }

    /// Makes all checks.
    pub(super) async fn all(&self) {
        for (id, title) in CHECKS {
            let mut check = Check::new(id, title);
            let stopped = match id {
                "valid_key" => self.valid_key(&mut check).await,
                "no_key" => self.no_key(&mut check).await,
                "bad_key" => self.bad_key(&mut check).await,
                "forged_identity" => self.forged_identity(&mut check).await,
                "path_spellings" => self.path_spellings(&mut check).await,
                "guard" => {
                    self.guard(&mut check);
                    Ok(())
                }
                "revocation" => self.revocation(&mut check).await,
                "limits" => self.limits(&mut check).await,
                "upstream_key" => self.upstream_key(&mut check).await,
                _ => self.responses(&mut check).await,
            };
            if let Err(stopped) = stopped {
                check.cannot(stopped.to_string(), stopped.action());
            }
            self.done.borrow_mut().push(check);
        }
    }

    /// The checks; those that were not reached say so.
    pub(super) fn into_checks(self) -> Vec<Check> {
        let mut checks = self.done.into_inner();
        for (id, title) in CHECKS.into_iter().skip(checks.len()) {
            let mut check = Check::new(id, title);
            check.cannot("interrupted before this check was complete", "run `keyward prove` again");
            checks.push(check);
        }
        checks
    }

    async fn valid_key(&self, check: &mut Check) -> Result<(), Stopped> {
        let key = self.keys.create(&json!({}))?;
        let started = Instant::now();
        if self.plan.dialect.format_of(key.secret.expose().as_bytes()).is_none() {
            check.fail(
                format!("the control plane creates keys that the dialect {} does not have", self.plan.dialect.name),
                "name the dialect of the control plane with --dialect, or the gateway's configuration with --config",
            );
            return Ok(());
        }
        let last = loop {
            let mark = self.mark()?;
            let request = self.plan.with_key(self.plan.request(), key.secret.expose()).header(MARK, &mark);
            let answer = self.send(&request).await;
            if let Ok(answer) = &answer
                && self.plan.reached(answer, Some(&mark)) == Reached::Upstream
            {
                let waited = started.elapsed();
                check.pass(format!("{} {} answers {}", self.plan.method, self.plan.path, answer.status));
                check.measure("accepted_after_ms", millis(waited));
                let _ = self.echoes.set(answer.body.contains(&mark));
                let _ = self.good.set(key);
                return Ok(());
            }
            if started.elapsed() > ACCEPTED_WITHIN {
                match answer {
                    Ok(answer) => break answer,
                    Err(error) => {
                        let stopped = Stopped::from(error);
                        check.fail(stopped.to_string(), stopped.action());
                        return Ok(());
                    }
                }
            }
            sleep(PAUSE).await;
        };
        let action = match self.plan.refusal_of(&last).map(|refusal| refusal.name()) {
            Some("unknown" | "unavailable") => {
                "the gateway does not have the new key: its feed does not follow this control plane. Check with \
                 `keyward doctor --admin URL`"
            }
            Some("insufficient_scope") => {
                "give the keys the permissions of the path with --scope, or an owner that has them with --owner"
            }
            Some("wrong_kind") => "name a kind that the path accepts with --kind",
            Some("forbidden_ip" | "rate_limited" | "quota_exhausted" | "unassociated") => {
                "name another --owner or --path"
            }
            _ => "name a path with --path that the upstream answers with 2xx",
        };
        check.fail(format!("not accepted within {} s: {}", ACCEPTED_WITHIN.as_secs(), self.described(&last)), action);
        Ok(())
    }

    /// A key that the gateway accepts.
    fn good_key(&self) -> Result<&TestKey, Stopped> {
        self.good.get().ok_or(Stopped::NoGoodKey)
    }

    /// A new key that the gateway accepts.
    async fn accepted(&self, more: &Value) -> Result<TestKey, Stopped> {
        self.good_key()?;
        let key = self.keys.create(more)?;
        let started = Instant::now();
        while started.elapsed() < ACCEPTED_WITHIN {
            let (reached, _) = self.send_marked(self.plan.with_key(self.plan.request(), key.secret.expose())).await?;
            if reached == Reached::Upstream {
                return Ok(key);
            }
            sleep(PAUSE).await;
        }
        Err(Stopped::NoGoodKey)
    }

    /// Sends a request on a new connection, no more often than the bound says.
    async fn send(&self, request: &Sent) -> Result<Answer, ExchangeError> {
        sleep(Duration::from_secs(1) / MAX_REQUESTS_PER_SECOND).await;
        self.gateway.send(request).await
    }

    /// Sends a request with a text for an upstream that echoes, and says who has answered.
    async fn send_marked(&self, request: Sent) -> Result<(Reached, Answer), Stopped> {
        let mark = self.mark()?;
        let answer = self.send(&request.header(MARK, &mark)).await?;
        Ok((self.plan.reached(&answer, Some(&mark)), answer))
    }

    /// Whether the upstream echoes what it receives; otherwise the check says that it cannot be seen.
    fn can_see_upstream(&self, check: &mut Check) -> bool {
        let action = "run against an upstream that echoes its request's header fields in its response, with --echo and --path; the \
                      upstream of `make run` does";
        let sees = self.arguments.echo && self.echoes.get() == Some(&true);
        if !self.arguments.echo {
            check.cannot("what the upstream receives cannot be seen", action);
        } else if !sees {
            check.cannot("the upstream does not echo header fields, in spite of --echo", action);
        }
        sees
    }

    /// A text that occurs nowhere else.
    fn mark(&self) -> Result<String, CliError> {
        let random = keyward_server::random::base62(20).map_err(|error| CliError::Mistakes(error.to_string()))?;
        Ok(format!("mark{random}"))
    }

    /// A key in the format of the dialect that does not exist.
    fn unknown_key(&self) -> Result<Secret, CliError> {
        let issued = self.plan.format.issue(keyward_server::random::fill);
        issued.map_err(|error| CliError::Mistakes(error.to_string()))
    }

    /// A response in words, without its body.
    fn described(&self, answer: &Answer) -> String {
        match self.plan.refusal_of(answer) {
            Some(refusal) => format!("status {} ({})", answer.status, refusal.name()),
            None => {
                format!("status {}, which is not a refusal of the dialect {}", answer.status, self.plan.dialect.name)
            }
        }
    }
}

/// The next pause of one of several connections, so that all together stay within the bound.
fn pause_of(connections: usize) -> Duration {
    let fewest = Duration::from_secs(1) * u32::try_from(connections).unwrap_or(u32::MAX) / MAX_REQUESTS_PER_SECOND;
    fewest.max(Duration::from_millis(10))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a check has failed so far.
fn has_failed(check: &Check) -> bool {
    check.outcome() == Outcome::Failed
}
