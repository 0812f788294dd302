//! Reads Envoy's admin interface. Nothing is changed there.

use super::CliError;
use super::config::{FilterConfig, find_filters};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// The admin interface of one Envoy.
pub(super) struct EnvoyAdmin {
    agent: ureq::Agent,
    url: String,
}

const TIMEOUT: Duration = Duration::from_secs(10);
/// A dump of the configuration holds every cluster and route.
const MAX_BODY_BYTES: u64 = 64 << 20;

impl EnvoyAdmin {
    /// The admin interface at that root URL.
    pub(super) fn new(url: &str) -> Result<Self, CliError> {
        let url = super::arguments::url(url).map_err(CliError::Usage)?;
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None);
        Ok(Self { agent: config.build().new_agent(), url })
    }

    /// The status and the body of a resource; an error in words if there is no response.
    pub(super) fn get(&self, path: &str) -> Result<(u16, String), String> {
        let failed = |error: ureq::Error| format!("no response from {}: {error}", self.url);
        let mut response = self.agent.get(format!("{}{path}", self.url)).call().map_err(failed)?;
        let body = response.body_mut().with_config().limit(MAX_BODY_BYTES).read_to_string().map_err(failed)?;
        Ok((response.status().as_u16(), body))
    }

    /// A JSON resource.
    pub(super) fn json(&self, path: &str) -> Result<Value, String> {
        let (status, body) = self.get(path)?;
        let document = serde_json::from_str(&body).ok().filter(|_| status == 200);
        document
            .ok_or_else(|| format!("expected JSON from {}{path}, got status {status} with something else", self.url))
    }

    /// Every configuration of the filter that Envoy runs.
    pub(super) fn filters(&self) -> Result<Vec<FilterConfig>, String> {
        let mut found = find_filters(&self.json("/config_dump")?.to_string()).unwrap_or_default();
        // The dump has the static listeners twice: as they were written, and as they run.
        found.retain(|filter| filter.at.contains("_listeners["));
        Ok(found)
    }

    /// The counters and gauges whose names match a regular expression, which stands in the query as it is.
    pub(super) fn stats(&self, encoded: &str) -> Result<BTreeMap<String, u64>, String> {
        let path = format!("/stats?filter={encoded}");
        let (status, body) = self.get(&path)?;
        let read = |line: &str| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        if status == 200 {
            Ok(body.lines().filter_map(read).collect())
        } else {
            Err(format!("{}{path} answered {status}", self.url))
        }
    }

    /// How many connections each worker has accepted on the listeners of that port.
    pub(super) fn accepted_by_worker(&self, port: u16) -> Result<BTreeMap<u32, u64>, String> {
        Ok(by_worker(&self.stats("%5Elistener%5C..*worker_%5B0-9%5D%2B.downstream_cx_total")?, port))
    }
}

/// Of names such as `listener.127.0.0.1_8080.worker_0.downstream_cx_total`.
fn by_worker(stats: &BTreeMap<String, u64>, port: u16) -> BTreeMap<u32, u64> {
    let mut counts = BTreeMap::new();
    for (name, count) in stats {
        let worker = || {
            let (listener, worker) = name.strip_suffix(".downstream_cx_total")?.rsplit_once(".worker_")?;
            listener.ends_with(&format!("_{port}")).then_some(())?;
            worker.parse::<u32>().ok()
        };
        if let Some(worker) = worker() {
            *counts.entry(worker).or_default() += count;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_worker_of_the_port() {
        let stats = [
            ("listener.127.0.0.1_8080.worker_0.downstream_cx_total", 3),
            ("listener.[__1]_8080.worker_0.downstream_cx_total", 1),
            ("listener.127.0.0.1_8080.worker_1.downstream_cx_total", 2),
            ("listener.127.0.0.1_18080.worker_1.downstream_cx_total", 9),
            ("listener.admin.downstream_cx_total", 5),
        ];
        let stats = stats.map(|(name, count)| (name.to_owned(), count)).into();
        assert_eq!(by_worker(&stats, 8080), BTreeMap::from([(0, 4), (1, 2)]));
    }
}
