//! The harness itself, against a real Envoy: what it promises the other tests.

use keyward_harness::envoy::Options;
use keyward_harness::ports::{ReservedPort, loopback};
use keyward_harness::{Echo, Envoy, EnvoyConfig, Request, TestDir};

/// The shipped configuration without the filter and its guard, so that these tests do not depend on them.
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
async fn there_is_a_connection_to_every_worker_and_each_stays_with_its_own() {
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
async fn what_the_admin_interface_and_the_access_log_tell_can_be_read() {
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
async fn an_envoy_that_ends_at_once_shows_its_log() {
    let dir = TestDir::new().unwrap();
    let mut config = EnvoyConfig::shipped().unwrap();
    config.tree_mut()["no_such_field"] = 1.into();
    let told = Envoy::start(&config, dir.path(), &Options::default()).await.unwrap_err().to_string();
    assert!(told.contains("Envoy ended: exit status: 1"), "{told}");
    assert!(told.contains("no_such_field"), "{told}");
}
