//! How long a revoked key is still accepted, on many connections, so that every worker is met.

use super::{Run, Stopped, millis, pause_of};
use crate::findings::Check;
use crate::gateway::{Connection, ExchangeError, Gateway, Sent};
use crate::prove::plan::{MARK, Reached};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How long it is waited for the last connection.
const GIVEN_UP: Duration = Duration::from_secs(10);

/// What a connection has seen.
struct Seen {
    /// When the last request that was accepted was sent.
    last_accepted: Option<Instant>,
    is_refused: bool,
    requests: usize,
}

impl Run<'_> {
    pub(super) async fn revocation(&self, check: &mut Check) -> Result<(), Stopped> {
        let key = self.accepted(&json!({})).await?;
        let number = usize::from(self.arguments.connections);
        let before = self.accepted_by_worker();
        let mark = self.mark()?;
        let request = self.plan.with_key(self.plan.request(), key.secret.expose()).header(MARK, &mark);
        let mut connections = Vec::new();
        for _ in 0..number {
            let mut connection = self.gateway.connect().await?;
            let answer = connection.send(&request).await?;
            if self.plan.reached(&answer, Some(&mark)) != Reached::Upstream {
                check.fail(
                    format!("a connection does not accept the key that others accept: {}", self.described(&answer)),
                    "a worker or an Envoy behind this URL does not follow the control plane: check with \
                     `keyward doctor --admin URL`",
                );
                return Ok(());
            }
            connections.push(connection);
        }
        self.report_workers(check, before.as_ref());

        let accepted_status = self.accepted_status(&request).await?;
        let (end, ended) = watch::channel(false);
        let mut watching = JoinSet::new();
        let request = Arc::new(request);
        for connection in connections {
            let (request, ended, gateway) = (Arc::clone(&request), ended.clone(), self.gateway.clone());
            watching.spawn(watch_connection(connection, gateway, request, accepted_status, pause_of(number), ended));
        }
        // This blocks; the connections are watched on other threads.
        let revoked = self.keys.revoke(&key);
        let revoked_at = Instant::now();
        if let Err(error) = revoked {
            let _ = end.send(true);
            watching.join_all().await;
            return Err(error.into());
        }
        let timer = tokio::spawn(async move {
            sleep(GIVEN_UP).await;
            let _ = end.send(true);
        });
        let seen = watching.join_all().await;
        timer.abort();
        self.judge_revocation(check, &seen, revoked_at);
        Ok(())
    }

    fn judge_revocation(&self, check: &mut Check, seen: &[Seen], revoked_at: Instant) {
        let requests: usize = seen.iter().map(|one| one.requests).sum();
        let longest = seen
            .iter()
            .filter_map(|one| one.last_accepted?.checked_duration_since(revoked_at))
            .max()
            .unwrap_or_default();
        let still = seen.iter().filter(|one| !one.is_refused).count();
        let most = self.arguments.max_revocation;
        check.measure("connections", seen.len());
        check.measure("requests", requests);
        check.measure("longest_accepted_after_revocation_ms", millis(longest));
        check.measure("resolution_ms", millis(pause_of(seen.len())));
        let action = "see that the control plane and every Envoy behind this URL reach each other (`keyward doctor --admin URL`), and that \
                      poll_wait_s and relays are as the page on staleness says";
        if still > 0 {
            check.fail(
                format!(
                    "{still} of {} connections accept the key {} s after it was revoked",
                    seen.len(),
                    GIVEN_UP.as_secs()
                ),
                action,
            );
        } else if longest > most {
            check.fail(
                format!(
                    "a connection accepted the key for {} ms after it was revoked; expected {} ms at most",
                    millis(longest),
                    millis(most)
                ),
                action,
            );
        } else {
            check.pass(format!(
                "on {} connections; the last request that was accepted was sent {} ms after the control plane's \
                 response",
                seen.len(),
                millis(longest)
            ));
        }
    }

    fn accepted_by_worker(&self) -> Option<std::collections::BTreeMap<u32, u64>> {
        self.admin?.accepted_by_worker(self.gateway.port()).ok().filter(|counts| !counts.is_empty())
    }

    /// Says which workers the connections have met, if Envoy tells.
    fn report_workers(&self, check: &mut Check, before: Option<&std::collections::BTreeMap<u32, u64>>) {
        let (Some(before), Some(now)) = (before, self.accepted_by_worker()) else { return };
        let met = now.iter().filter(|(worker, count)| before.get(worker) != Some(count)).count();
        check.measure("workers", now.len());
        check.measure("workers_met", met);
        if met < now.len() {
            check.cannot(
                format!("the connections met {met} of {} workers of the Envoy at --admin", now.len()),
                "give more --connections",
            );
        } else {
            check.pass(format!("the connections met every worker of the Envoy at --admin: {met}"));
        }
    }

    /// The status of an accepted request.
    async fn accepted_status(&self, request: &Sent) -> Result<u16, Stopped> {
        Ok(self.send(request).await?.status)
    }
}

/// Sends requests on a connection until the key is refused.
async fn watch_connection(
    mut connection: Connection,
    gateway: Gateway,
    request: Arc<Sent>,
    accepted_status: u16,
    pause: Duration,
    mut ended: watch::Receiver<bool>,
) -> Seen {
    let mut seen = Seen { last_accepted: None, is_refused: false, requests: 0 };
    while !*ended.borrow() {
        let sent = Instant::now();
        seen.requests += 1;
        match connection.send(&request).await {
            Ok(answer) if answer.status == accepted_status => seen.last_accepted = Some(sent),
            // Envoy's own trouble is no decision on the key.
            Ok(answer) if answer.status >= 500 => {}
            Ok(_) => {
                seen.is_refused = true;
                break;
            }
            // A gateway may close a connection after so many requests.
            Err(ExchangeError::Broken(_)) => match gateway.connect().await {
                Ok(again) => connection = again,
                Err(_) => break,
            },
            Err(_) => break,
        }
        tokio::select! {
            () = sleep(pause) => {}
            _ = ended.changed() => {}
        }
    }
    seen
}
