//! Whether refusals are those of the dialect: status, content type, challenge and body, by the dialect's own code.

use super::{ACCEPTED_WITHIN, PAUSE, Run, Stopped, has_failed};
use crate::findings::Check;
use crate::gateway::Sent;
use crate::prove::shape::differences;
use keyward_core::dialect::Source;
use keyward_core::refusal::Refusal;
use serde_json::json;
use tokio::time::{Instant, sleep};

/// A network of examples (RFC 5737), which no client has.
const NO_CLIENT: &str = "192.0.2.0/24";

/// Refusals that a client from outside cannot provoke.
const NOT_PROVOKED: &str = "unavailable, expired, unassociated, wrong_kind and quota_exhausted are not provoked";

impl Run<'_> {
    pub(super) async fn responses(&self, check: &mut Check) -> Result<(), Stopped> {
        let with = |key: &str| self.plan.with_key(self.plan.request(), key);
        let unknown = self.unknown_key()?;
        let mut cases = vec![
            (Refusal::Missing, self.plan.request()),
            (Refusal::Unknown, with(unknown.expose())),
            (Refusal::Malformed, with("keyward-prove")),
        ];
        let is_bearer = |source: &Source| source.header() == Some("authorization") && source.scheme() == Some("Bearer");
        if self.plan.dialect.sources.iter().any(is_bearer) {
            // {"alg":"none"}.{"sub":"keyward-prove"}., which is valid nowhere.
            let jwt = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJrZXl3YXJkLXByb3ZlIn0.AA";
            cases.push((Refusal::Jwt, self.plan.request().header("authorization", &format!("Bearer {jwt}"))));
        }
        let mut checked = Vec::new();
        for (refusal, request) in cases {
            self.expect(check, refusal, &request).await?;
            checked.push(refusal.name());
        }
        if self.good.get().is_some() {
            let revoked = self.accepted(&json!({})).await?;
            self.keys.revoke(&revoked)?;
            let elsewhere = self.keys.create(&json!({"allow_ip": [NO_CLIENT]}))?;
            let limited = self.keys.create(&json!({"limits": ["0/s"]}))?;
            for (refusal, key) in
                [(Refusal::Revoked, revoked), (Refusal::ForbiddenIp, elsewhere), (Refusal::RateLimited, limited)]
            {
                self.expect(check, refusal, &with(key.secret.expose())).await?;
                checked.push(refusal.name());
            }
            if !self.plan.scopes.is_empty() && !self.plan.has_owners_scopes() {
                let key = self.keys.create(&json!({"scopes": []}))?;
                self.expect(check, Refusal::InsufficientScope, &with(key.secret.expose())).await?;
                checked.push(Refusal::InsufficientScope.name());
            }
        }
        check.measure("refusals", checked.clone());
        if !has_failed(check) {
            check.pass(format!(
                "as the dialect {} says: {}. {NOT_PROVOKED}",
                self.plan.dialect.name,
                checked.join(", ")
            ));
        }
        Ok(())
    }

    /// Expects a refusal, once the gateway knows the key.
    async fn expect(&self, check: &mut Check, refusal: Refusal, request: &Sent) -> Result<(), Stopped> {
        let started = Instant::now();
        loop {
            let answer = self.send(request).await?;
            let found = differences(self.plan.errors(), refusal, &answer);
            if found.is_empty() {
                return Ok(());
            }
            let is_throttled = self.plan.config.as_ref().is_some_and(|config| config.guessing.is_some())
                && self.plan.refusal_of(&answer) == Some(Refusal::RateLimited);
            if is_throttled {
                check.cannot(
                    format!("{} was throttled as a guess (`guessing` in the configuration)", refusal.name()),
                    "run again after a minute",
                );
                return Ok(());
            }
            // Only a refusal of a key that the gateway has to hear of is waited for.
            if !refusal.knows_key() || started.elapsed() > ACCEPTED_WITHIN {
                check.fail(
                    format!("{}: {}", refusal.name(), found.join("; ")),
                    "see that the gateway and the control plane have the same dialect, and that no filter, such as local_reply_config, \
                     rewrites responses; name the dialect with --dialect or --config",
                );
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }
}
