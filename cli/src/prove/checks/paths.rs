//! Spellings of paths, for a client without a key, and with a key that may not use the path.

use super::{Run, Stopped, has_failed};
use crate::findings::Check;
use crate::gateway::{ExchangeError, Sent};
use crate::prove::plan::Reached;
use crate::prove::spellings::{self, Reader};
use keyward_core::key::secret::Secret;
use serde_json::json;

/// At most that many paths are tried without a key, and as many without a permission.
const MAX_PATHS: usize = 12;
/// At most that many spellings are named in the report.
const MAX_NAMED: usize = 5;

/// What the spellings of one path have led to.
#[derive(Default)]
struct Tried {
    requests: usize,
    reached: Vec<String>,
    /// Where a rule accepts paths that can be read in two ways.
    accepted: Vec<String>,
    unknown: Vec<String>,
}

impl Run<'_> {
    pub(super) async fn path_spellings(&self, check: &mut Check) -> Result<(), Stopped> {
        let (mut requests, mut paths) = (0, 0);
        let keyed = self.plan.keyed_paths();
        for path in keyed.iter().take(MAX_PATHS) {
            let (reached, _) = self.send_marked(self.plan.request_to(path)).await?;
            match reached {
                Reached::Refused => {}
                // As no_key reports.
                _ if *path == self.plan.path => {}
                Reached::Upstream if self.plan.rules().is_some() => {
                    check.fail(
                        format!("{path} reached the upstream without a key, which its rule requires"),
                        "see that the gateway runs this configuration, and that the filter and the guard stand in its chain",
                    );
                    continue;
                }
                Reached::Upstream | Reached::Unknown => {
                    let text = format!("{path} may not need a key: it is not refused without one");
                    check.cannot(text, "name another --path");
                    continue;
                }
            }
            let tried = self.spell(path, None).await?;
            requests += tried.requests;
            paths += 1;
            report(check, path, "without a key", &tried);
        }

        let protected = self.plan.protected();
        if self.plan.rules().is_none() {
            check.cannot(
                "the rules are not known, so no path that needs a permission was tried",
                "name the gateway's configuration with --config, or its admin interface with --admin",
            );
        }
        let mut keys: Vec<(Vec<String>, Secret)> = Vec::new();
        for path in protected.iter().take(MAX_PATHS) {
            let known = keys.iter().position(|(scopes, _)| *scopes == path.scopes);
            let n = match known {
                Some(n) => n,
                None => {
                    self.good_key()?;
                    let scopes = if self.plan.has_owners_scopes() { json!({}) } else { json!({"scopes": path.scopes}) };
                    let key = self.keys.create(&scopes)?;
                    keys.push((path.scopes.clone(), key.secret));
                    keys.len() - 1
                }
            };
            let Some((_, key)) = keys.get(n) else { continue };
            if !self.is_known_and_refused(&path.path, key).await? {
                check.cannot(
                    format!(
                        "{} needs {}, and the key of this run is not refused there for want of it",
                        path.path, path.needs
                    ),
                    "name another --owner, without that permission",
                );
                continue;
            }
            let tried = self.spell(&path.path, Some(key)).await?;
            requests += tried.requests;
            paths += 1;
            report(check, &path.path, &format!("with a key that lacks {}", path.needs), &tried);
        }
        if protected.len().max(keyed.len()) > MAX_PATHS {
            check.cannot(
                format!("of {} paths, the first {MAX_PATHS} were tried", protected.len().max(keyed.len())),
                "look at the others with `keyward rules explain`",
            );
        }
        check.measure("requests", requests);
        check.measure("paths", paths);
        if !has_failed(check) && requests > 0 {
            check.pass(format!(
                "{requests} requests with other spellings of {paths} paths; none passed that is not named here"
            ));
        }
        Ok(())
    }

    /// Waits until the gateway knows the key, and refuses it at the path as it is written.
    async fn is_known_and_refused(&self, path: &str, key: &Secret) -> Result<bool, Stopped> {
        let started = tokio::time::Instant::now();
        loop {
            let (_, answer) = self.send_marked(self.plan.with_key(self.plan.request_to(path), key.expose())).await?;
            let refusal = self.plan.refusal_of(&answer).map(|refusal| refusal.name());
            match refusal {
                Some("unknown" | "unavailable") if started.elapsed() < super::ACCEPTED_WITHIN => {
                    tokio::time::sleep(super::PAUSE).await;
                }
                // A dialect may answer these alike.
                Some(_) => {
                    let class = self.plan.refusal_of(&answer).map(|refusal| refusal.class());
                    let is_unknown = class == Some(keyward_core::refusal::Class::Unauthenticated);
                    if is_unknown && started.elapsed() < super::ACCEPTED_WITHIN {
                        tokio::time::sleep(super::PAUSE).await;
                        continue;
                    }
                    return Ok(class == Some(keyward_core::refusal::Class::Forbidden));
                }
                None => return Ok(false),
            }
        }
    }

    async fn spell(&self, path: &str, key: Option<&Secret>) -> Result<Tried, Stopped> {
        let ignore_case = self.plan.rules().is_some_and(|rules| rules.ignore_case);
        let mut open = self.plan.open_paths();
        if key.is_some() {
            // A path that the key may use.
            open.push(self.plan.path.clone());
        }
        let mut tried = Tried::default();
        let mut all = spellings::of(path, &open, ignore_case);
        let absolute = format!("http://{}{path}", self.plan.host);
        all.push(spellings::Spelling { path: absolute, reader: Reader::Normalization });
        for spelling in all {
            let request = Sent::new(&self.plan.method, &spelling.path);
            let request = match key {
                Some(key) => self.plan.with_key(request, key.expose()),
                None => request,
            };
            tried.requests += 1;
            let (reached, answer) = match self.send_marked(request).await {
                Ok(answered) => answered,
                // Envoy closes the connection of a client that does not keep to the protocol.
                Err(Stopped::Gateway(ExchangeError::Broken(_))) => continue,
                Err(Stopped::Gateway(ExchangeError::Request(_))) => {
                    tried.requests -= 1;
                    continue;
                }
                Err(other) => return Err(other),
            };
            let what = format!("{} (status {})", spelling.path, answer.status);
            match reached {
                Reached::Upstream if spelling.reader == Reader::Rules && self.plan.accepts_ambiguous_paths() => {
                    tried.accepted.push(what);
                }
                Reached::Upstream => tried.reached.push(what),
                Reached::Unknown => tried.unknown.push(what),
                Reached::Refused => {}
            }
        }
        Ok(tried)
    }
}

fn report(check: &mut Check, path: &str, who: &str, tried: &Tried) {
    if !tried.reached.is_empty() {
        check.fail(
            format!("{who}, {path} can be reached as {}", named(&tried.reached)),
            "set normalize_path, merge_slashes and path_with_escaped_slashes_action: REJECT_REQUEST in the HTTP connection manager, as in \
             envoy/envoy.yaml, and no `ambiguous_paths` in rules of upstreams that read such paths alike",
        );
    }
    if !tried.accepted.is_empty() {
        check.cannot(
            format!("{who}, spellings of {path} are passed on as `ambiguous_paths` says: {}", named(&tried.accepted)),
            "see that the upstream does not read them as that path, or remove `ambiguous_paths` from the rule",
        );
    }
    if !tried.unknown.is_empty() {
        check.cannot(
            format!("{who}, it is unknown whether filter or upstream answered {}", named(&tried.unknown)),
            "run against an upstream that echoes its request, with --echo",
        );
    }
}

fn named(spellings: &[String]) -> String {
    let more = spellings.len().saturating_sub(MAX_NAMED);
    let named = spellings.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named}, and {more} more") }
}
