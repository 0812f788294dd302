//! Requests without a key, and with bad keys.

use super::{PAUSE, Run, Stopped, has_failed};
use crate::findings::Check;
use crate::gateway::Sent;
use crate::prove::plan::{Reached, placed};
use keyward_core::dialect::Source;
use tokio::time::{Instant, sleep};

const OPEN: &str = "the request was not checked: see that the filter and the guard stand in the filter chain of this listener, in that \
                    order, with `keyward check-config FILE`";

impl Run<'_> {
    pub(super) async fn no_key(&self, check: &mut Check) -> Result<(), Stopped> {
        self.expect_refused(check, self.plan.request(), "no key").await?;
        for source in &self.plan.dialect.sources {
            let request = placed(self.plan.request(), source, "");
            self.expect_refused(check, request, &format!("an empty {}", source.written())).await?;
        }
        if !has_failed(check) {
            check.pass("refused without a key, and with an empty one in every place where the dialect reads one");
        }
        Ok(())
    }

    pub(super) async fn bad_key(&self, check: &mut Check) -> Result<(), Stopped> {
        let unknown = self.unknown_key()?;
        let second = self.unknown_key()?;
        let (unknown, second) = (unknown.expose(), second.expose());
        let with = |key: &str| self.plan.with_key(self.plan.request(), key);
        let mut cases = vec![
            ("a well-formed key that does not exist", with(unknown)),
            ("a key without its end", with(unknown.get(..unknown.len().saturating_sub(1)).unwrap_or_default())),
            ("a text that is no key", with("keyward-prove")),
            ("two keys", self.plan.with_key(with(unknown), second)),
        ];
        // A valid key is at hand unless the first check has failed.
        let good = self.good.get().map(|key| key.secret.expose());
        if let Some(good) = good {
            let longer = format!("{good}x");
            let other_end = with_other_end(good);
            cases.push(("a valid key with a character more", with(&longer)));
            cases.push(("a valid key without its end", with(good.get(..good.len() - 1).unwrap_or_default())));
            cases.push(("a valid key with another end", with(&other_end)));
            cases.push(("a valid key and another one", self.plan.with_key(with(good), unknown)));
            for scheme in ["Basic", "Token", "Digest"] {
                let reads = |source: &Source| {
                    source.scheme() == Some(scheme) || !matches!(source.header(), Some("authorization"))
                };
                if !self.plan.dialect.sources.iter().any(reads) {
                    let request = self.plan.request().header("authorization", &format!("{scheme} {good}"));
                    cases.push(("a valid key in another authentication scheme", request));
                }
            }
        }
        let number = cases.len();
        for (what, request) in cases {
            self.expect_refused(check, request, what).await?;
        }
        let revoked = self.keys.create(&serde_json::json!({}))?;
        self.keys.revoke(&revoked)?;
        let request = self.plan.with_key(self.plan.request(), revoked.secret.expose());
        // The revocation may be on its way.
        let started = Instant::now();
        while started.elapsed() < self.arguments.max_revocation
            && self.send_marked(request.clone()).await?.0 == Reached::Upstream
        {
            sleep(PAUSE).await;
        }
        self.expect_refused(check, request, "a key that was revoked before its first use").await?;
        if !has_failed(check) {
            check.pass(format!("{} kinds of bad keys are refused", number + 1));
        }
        Ok(())
    }

    /// Expects that the gateway refuses a request as one without a usable key.
    async fn expect_refused(&self, check: &mut Check, request: Sent, what: &str) -> Result<(), Stopped> {
        let (reached, answer) = self.send_marked(request).await?;
        match reached {
            Reached::Upstream => {
                check.fail(format!("with {what} the request reached the upstream: status {}", answer.status), OPEN)
            }
            Reached::Refused if self.plan.is_unauthenticated(&answer) => {}
            Reached::Refused if answer.status == 403 => {
                check.fail(
                    format!("with {what} the guard refused the request, as the filter has not checked it"),
                    "Envoy skips a filter that cannot start: look into its log, and at the admin interface with \
                     `keyward doctor --admin URL`",
                );
            }
            Reached::Refused | Reached::Unknown => {
                check.cannot(
                    format!("with {what} the response is {}", self.described(&answer)),
                    "name the dialect of the gateway with --dialect or --config, and a path that the upstream \
                     answers with 2xx",
                );
            }
        }
        Ok(())
    }
}

/// The key with another character at its end.
fn with_other_end(key: &str) -> String {
    let mut characters: Vec<char> = key.chars().collect();
    if let Some(last) = characters.last_mut() {
        *last = if *last == '0' { '1' } else { '0' };
    }
    characters.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_end_is_another_key() {
        assert_eq!((with_other_end("kw_a"), with_other_end("kw_0")), ("kw_0".to_owned(), "kw_1".to_owned()));
    }
}
