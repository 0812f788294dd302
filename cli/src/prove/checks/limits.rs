//! A rate limit under more requests than it allows.

use super::{Run, Stopped, millis, pause_of};
use crate::findings::Check;
use crate::gateway::{Connection, Sent};
use crate::prove::plan::MARK;
use crate::prove::window::{Admitted, most_in_a_window};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Requests in a window.
const LIMIT: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);
/// The load: how long, and over how many connections.
const LOAD: Duration = Duration::from_secs(4);
const CONNECTIONS: usize = 8;

/// What one connection has seen.
#[derive(Default)]
struct Seen {
    admitted: Vec<Admitted>,
    refused: usize,
    errors: usize,
}

impl Run<'_> {
    pub(super) async fn limits(&self, check: &mut Check) -> Result<(), Stopped> {
        // A request may use more of the limit than one.
        let limit = format!("{}/s", LIMIT.saturating_mul(self.plan.cost));
        let key = self.accepted(&json!({"limits": [limit]})).await?;
        let mark = self.mark()?;
        let request = Arc::new(self.plan.with_key(self.plan.request(), key.secret.expose()).header(MARK, &mark));
        let limited = self.plan.errors().status(keyward_core::refusal::Refusal::RateLimited);
        let number = CONNECTIONS.min(usize::from(self.arguments.connections));
        let mut load = JoinSet::new();
        for _ in 0..number {
            let connection = self.gateway.connect().await?;
            load.spawn(drive(
                connection,
                Arc::clone(&request),
                limited,
                pause_of(number).max(Duration::from_millis(20)),
            ));
        }
        let mut all = Seen::default();
        for seen in load.join_all().await {
            all.admitted.extend(seen.admitted);
            all.refused += seen.refused;
            all.errors += seen.errors;
        }
        judge(check, &all);
        Ok(())
    }
}

fn judge(check: &mut Check, seen: &Seen) {
    let most = most_in_a_window(&seen.admitted, WINDOW);
    let requests = seen.admitted.len() + seen.refused + seen.errors;
    check.measure("limit", LIMIT);
    check.measure("window_ms", millis(WINDOW));
    check.measure("requests", requests);
    check.measure("admitted", seen.admitted.len());
    check.measure("most_admitted_in_a_window", most);
    if most > LIMIT as usize {
        check.fail(
            format!("{most} requests were admitted within one second, of a key with {LIMIT}/s"),
            "each Envoy counts by itself: if several are behind this URL, limit over all of them (docs/guides/fleet-rate-limits.md); if one is, \
             see that the filter is in the chain",
        );
    } else if seen.errors > 0 {
        check.cannot(
            format!(
                "{} of {requests} requests were answered neither by the upstream nor with the refusal of a limit",
                seen.errors
            ),
            "run again while the upstream answers, at a --path that it answers with 2xx",
        );
    } else if seen.refused == 0 || seen.admitted.is_empty() {
        check.cannot(
            format!("{requests} requests in {} s did not use up {LIMIT}/s", LOAD.as_secs()),
            "run nearer to the gateway, or give more --connections",
        );
    } else {
        check.pass(format!(
            "of {requests} requests, at most {most} were admitted within any second, of a key with {LIMIT}/s"
        ));
    }
}

/// Sends requests on one connection for as long as the load lasts.
async fn drive(mut connection: Connection, request: Arc<Sent>, limited: u16, pause: Duration) -> Seen {
    let mut seen = Seen::default();
    let started = Instant::now();
    while started.elapsed() < LOAD {
        let sent = Instant::now();
        match connection.send(&request).await {
            Ok(answer) if answer.status < 300 => seen.admitted.push(Admitted { sent, answered: Instant::now() }),
            Ok(answer) if answer.status == limited => seen.refused += 1,
            Ok(_) => seen.errors += 1,
            Err(_) => {
                seen.errors += 1;
                break;
            }
        }
        sleep(pause).await;
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Outcome;

    fn judged(admitted: usize, refused: usize, errors: usize) -> Outcome {
        let now = Instant::now();
        let admitted = vec![Admitted { sent: now, answered: now }; admitted];
        let mut check = Check::new("limits", "");
        judge(&mut check, &Seen { admitted, refused, errors });
        check.outcome()
    }

    #[test]
    fn only_saturation_proves_a_limit() {
        assert_eq!(judged(20, 100, 0), Outcome::Passed);
        assert_eq!(judged(21, 100, 0), Outcome::Failed);
        assert_eq!(judged(20, 0, 0), Outcome::NotChecked);
        assert_eq!(judged(0, 100, 0), Outcome::NotChecked);
        assert_eq!(judged(20, 100, 1), Outcome::NotChecked);
    }
}
