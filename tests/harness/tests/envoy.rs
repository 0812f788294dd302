//! Tests of the harness itself with a real Envoy.

use keyward_harness::envoy::Options;
use keyward_harness::ports::{ReservedPort, loopback};
use keyward_harness::{Echo, Envoy, EnvoyConfig, Request, TestDir};

/// The shipped configuration without the filter and its guard, on which these tests do not depend.
struct Plain {
    envoy: Envoy,
    _upstream: Echo,
    _ports: [ReservedPort; 2],
    _dir: TestDir,
}

async fn plain(workers: u32) -> Plain {
    let dir = TestDir::new().unwrap();
    let upstream = Echo::start("upstream", loopback(0)).await.unwrap();
    let ports = [ReservedPort::new().unwrap(), ReservedPort::new().unwrap()];
    let mut config = EnvoyConfig::shipped().unwrap();
    config.http_filters().retain(|filter| filter["name"] == "envoy.filters.http.router");
    config.set_gateway(ports[0].address()).set_admin(ports[1].address()).set_cluster("upstream", upstream.address());
    let options = Options { workers, ..Options::default() };
    let envoy = Envoy::start(&config, dir.path(), &options).await.unwrap();
    Plain { envoy, _upstream: upstream, _ports: ports, _dir: dir }
}

#[tokio::test]
async fn each_worker_has_its_own_connection() {
    let plain = plain(3).await;
    let mut workers = plain.envoy.every_worker().await.unwrap();
    for worker in 0..3 {
        for _ in 0..10 {
            assert_eq!(workers.worker(worker).send(&Request::get("/")).await.unwrap().json()["upstream"], "upstream");
        }
    }
    assert_eq!(workers.statuses(&Request::get("/")).await.unwrap(), [200; 3]);
    let accepted = plain.envoy.stats(r"worker_\d+\.downstream_cx_active$").await.unwrap();
    let gateway = format!("_{}.", plain.envoy.gateway().port());
    let active: Vec<_> = accepted.iter().filter(|(name, _)| name.contains(&gateway)).map(|(_, count)| *count).collect();
    assert_eq!(active.len(), 3, "{accepted:?}");
    assert!(active.iter().all(|&count| count >= 1), "{accepted:?}");
}

#[tokio::test]
async fn admin_interface_and_access_log_are_readable() {
    let plain = plain(1).await;
    let answer = plain.envoy.send(&Request::get("/a/../b?secret=1")).await.unwrap();
    assert_eq!(answer.json()["path"], "/b?secret=1");
    assert_eq!(plain.envoy.server_info().await.unwrap()["state"], "LIVE");
    assert!(plain.envoy.config_dump().await.unwrap()["configs"].is_array());
    let log = keyward_harness::until("an access log", std::time::Duration::from_secs(10), async || {
        let log = plain.envoy.access_log()?;
        if log.is_empty() { Err(keyward_harness::Failure::new("empty")) } else { Ok(log) }
    });
    let log = log.await.unwrap();
    assert_eq!((&log[0]["path"], &log[0]["status"]), (&"/b".into(), &200.into()), "{log:?}");
}

#[tokio::test]
async fn envoy_that_exits_at_once_reports_its_log() {
    let dir = TestDir::new().unwrap();
    let mut config = EnvoyConfig::shipped().unwrap();
    config.tree_mut()["no_such_field"] = 1.into();
    let error = Envoy::start(&config, dir.path(), &Options::default()).await.unwrap_err().to_string();
    assert!(error.contains("Envoy exited: exit status: 1"), "{error}");
    assert!(error.contains("no_such_field"), "{error}");
}
