//! What the upstream receives: neither a key nor an identity that the client has made up.

use super::{MAX_REQUESTS_PER_SECOND, Run, Stopped, has_failed};
use crate::findings::Check;
use crate::gateway::Sent;
use crate::prove::plan::{MARK, Reached, placed};
use keyward_core::dialect::Source;
use keyward_filter::engine::upstream_headers::{FIELDS, KEY_ID};
use std::time::Duration;
use tokio::time::sleep;

const NOT_REMOVED: &str = "see that the filter is in the filter chain, that no filter behind it adds the field, and that \
                           headers_with_underscores_action is REJECT_REQUEST, as in envoy/envoy.yaml";

impl Run<'_> {
    pub(super) async fn forged_identity(&self, check: &mut Check) -> Result<(), Stopped> {
        // An identity is no credential.
        let id = self.good.get().map_or("key_00000000000000000000", |key| key.id.as_str());
        for (name, request) in [
            ("x-keyward-key-id", self.plan.request().header(KEY_ID, id)),
            (
                "every identity header",
                FIELDS.iter().fold(self.plan.request(), |request, name| request.header(name, id)),
            ),
        ] {
            let (reached, answer) = self.send_marked(request).await?;
            if reached == Reached::Upstream {
                check.fail(format!("{name} without a key was accepted: status {}", answer.status), NOT_REMOVED);
            }
        }
        if !has_failed(check) {
            check.pass("identity headers are not accepted in the place of a key");
        }
        let key = self.good_key()?.secret.expose().to_owned();
        if !self.can_see_upstream(check) {
            return Ok(());
        }
        let mut paths = vec![(self.plan.path.clone(), Some(key))];
        paths.extend(self.plan.open_paths().into_iter().map(|path| (path, None)));
        let (mut sent, mut rejected) = (0, 0);
        for (path, key) in &paths {
            for names in spellings() {
                let mark = self.mark()?;
                let mut request = self.plan.request_to(path);
                if let Some(key) = key {
                    request = self.plan.with_key(request, key);
                }
                let request = names.iter().fold(request, |request, name| request.header(name, &mark));
                for title_case in [false, true] {
                    let mut connection = if title_case {
                        self.gateway.connect_title_case().await?
                    } else {
                        self.gateway.connect().await?
                    };
                    sleep(Duration::from_secs(1) / MAX_REQUESTS_PER_SECOND).await;
                    let answer = connection.send(&request).await?;
                    sent += 1;
                    rejected += usize::from(answer.status == 400);
                    if answer.body.contains(&mark) {
                        check.fail(format!("{} reached the upstream at {path}", names.join(" and ")), NOT_REMOVED);
                    }
                }
            }
        }
        check.measure("requests", sent);
        check.measure("rejected", rejected);
        if !has_failed(check) {
            check.pass(format!(
                "of {sent} requests with identity headers in all spellings, none reached the upstream with them"
            ));
        }
        self.identity_stays(check).await
    }

    /// A client cannot have the identity removed either, by naming it in `connection` (RFC 9110, section 7.6.1).
    async fn identity_stays(&self, check: &mut Check) -> Result<(), Stopped> {
        let key = self.good_key()?;
        let sends_id = self.plan.config.as_ref().is_none_or(|config| config.policy.identity.contains(&KEY_ID));
        if !sends_id {
            return Ok(());
        }
        let request = self.plan.with_key(self.plan.request(), key.secret.expose());
        for request in [request.clone(), request.header("connection", &format!("keep-alive, {KEY_ID}"))] {
            let answer = self.send(&request).await?;
            if answer.status < 300 && !answer.body.contains(&key.id) {
                check.fail(format!("the upstream did not receive {KEY_ID} of the key"), NOT_REMOVED);
                return Ok(());
            }
        }
        check.pass(format!("the upstream receives {KEY_ID} of the key, also if `connection` names it"));
        Ok(())
    }

    pub(super) async fn upstream_key(&self, check: &mut Check) -> Result<(), Stopped> {
        let key = self.good_key()?.secret.expose().to_owned();
        if !self.can_see_upstream(check) {
            return Ok(());
        }
        if self.plan.keeps_credential {
            check.cannot(
                format!(
                    "the rule of {} keeps the credential (`credential: keep`), so its upstream receives it",
                    self.plan.path
                ),
                "see that the upstream neither logs nor passes it on, or name another path with --path",
            );
            return Ok(());
        }
        let mut requests: Vec<(String, Sent)> = Vec::new();
        for path in [self.plan.path.clone()].into_iter().chain(self.plan.open_paths()) {
            let plain = || self.plan.request_to(&path);
            for source in &self.plan.dialect.sources {
                let at = format!("{} at {path}", source.written());
                requests.push((at.clone(), placed(plain(), source, &key)));
                // Beside the credential that is read.
                for name in source.header().map(other_spellings).unwrap_or_default() {
                    let request = self.plan.with_key(plain(), &key).header(&name, &key);
                    requests.push((format!("{name} beside {at}"), request));
                }
                if let Source::Query(parameter) = source {
                    let encoded: String = parameter.bytes().map(|byte| format!("%{byte:02x}")).collect();
                    let mut request = self.plan.with_key(plain(), &key);
                    request.path = format!("{}?{encoded}={key}", request.path.split('?').next().unwrap_or_default());
                    requests.push((format!("an encoded query parameter at {path}"), request));
                }
            }
        }
        let mut seen = 0;
        for (what, request) in &requests {
            let mark = self.mark()?;
            let answer = self.send(&request.clone().header(MARK, &mark)).await?;
            seen += usize::from(answer.body.contains(&mark));
            if answer.body.contains(&key) {
                check.fail(format!("the upstream received the key that was sent in {what}"), NOT_REMOVED);
            }
        }
        check.measure("requests", requests.len());
        check.measure("reached_upstream", seen);
        if seen == 0 {
            check.cannot("no request reached the upstream", "see that valid_key passes, and run again");
        } else if !has_failed(check) {
            check.pass(format!(
                "{} requests carried the key in every place, {seen} reached the upstream, and none with it",
                requests.len()
            ));
        }
        Ok(())
    }
}

/// Names that an upstream could take for an identity header, each of them once and twice.
fn spellings() -> Vec<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for field in FIELDS {
        names.push(field.to_owned());
        names.extend(other_spellings(field));
    }
    names.push("x-keyward-anything".to_owned());
    let once = names.iter().map(|name| vec![name.clone()]);
    let twice = FIELDS.iter().map(|field| vec![(*field).to_owned(), (*field).to_owned()]);
    let both = FIELDS.iter().map(|field| vec![field.replace('-', "_"), (*field).to_owned()]);
    once.chain(twice).chain(both).collect()
}

/// Names that CGI, WSGI and Rack make one of: everything but letters and digits becomes an underscore there.
fn other_spellings(name: &str) -> Vec<String> {
    let first = name.replacen('-', "_", 1);
    let mut spellings: Vec<_> = ['_', '.', '~', '!'].iter().map(|c| name.replace('-', &c.to_string())).collect();
    spellings.push(first);
    spellings.sort();
    spellings.dedup();
    spellings.retain(|spelling| spelling != name);
    spellings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_headers_are_spelt_in_every_way() {
        let all = spellings();
        for names in [
            &["x-keyward-owner"][..],
            &["x_keyward_owner"],
            &["x.keyward.owner"],
            &["x_keyward-owner"],
            &["x-keyward-anything"],
            &["x-keyward-scopes", "x-keyward-scopes"],
            &["x_keyward_scopes", "x-keyward-scopes"],
        ] {
            assert!(all.iter().any(|known| known == names), "{names:?}");
        }
    }

    #[test]
    fn name_without_a_hyphen_has_no_other_spelling() {
        assert!(other_spellings("authorization").is_empty());
        assert!(other_spellings("x-api-key").contains(&"x_api_key".to_owned()));
    }
}
