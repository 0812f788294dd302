//! The listener is replaced during a long poll. Envoy drops the callout silently, and the feed must continue.

use crate::common::SOON;
use keyward_filter::engine::leader::{LEASE_MS, LEFT_AFTER_MS};
use keyward_harness::{EnvoyConfig, Gateway, Request, TestDir, until};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a replaced configuration keeps running, in seconds.
const DRAIN_S: &str = "1";
/// The time after which a snapshot counts as abandoned.
const LEFT_ALONE: Duration = Duration::from_millis(3000 + LEASE_MS + LEFT_AFTER_MS);

/// Waits until the listener with that cache size is the only one.
async fn configured_with(gateway: &Gateway, cache_records: u32) {
    until("the new listener is in use", SOON, async || {
        let dump = gateway.envoy.config_dump().await?.to_string();
        let wanted = format!(r#""cache_records":{cache_records}"#);
        if dump.contains(&wanted) && !dump.contains("draining_state") {
            Ok(())
        } else {
            Err(keyward_harness::Failure::new("the old listener is still in use"))
        }
    })
    .await
    .unwrap();
}

/// Changes the listener, which must be in a separate file.
pub(crate) fn with_cache(config: &mut EnvoyConfig, records: u32) {
    config.filter()["snapshot"]["cache_records"] = records.into();
}

/// Moves the listener into a separate file, so that it can be replaced.
pub(crate) fn replaceable(file: &Path) -> impl FnOnce(&mut EnvoyConfig) {
    move |config| {
        config.set_listener_file(file);
        with_cache(config, 100);
    }
}

/// Replaces the listener by the current configuration, with that cache size, which identifies the new one.
pub(crate) async fn replace(gateway: &mut Gateway, records: u32) {
    with_cache(&mut gateway.config, records);
    gateway.config.write(&gateway.dir().path().join("envoy.json")).unwrap();
    configured_with(gateway, records).await;
}

#[tokio::test]
async fn feed_continues_after_the_listener_is_replaced() {
    let dir = TestDir::new().unwrap();
    let file = dir.path().join("listeners.json");
    let mut gateway = Gateway::builder().configure(replaceable(&file)).start().await.unwrap();
    let kept = gateway.control_plane.create_named("kept").await.unwrap();
    let kept = Request::get("/").bearer(&kept.key);
    gateway.envoy.every_worker().await.unwrap().until_status(&kept, 200, SOON).await.unwrap();
    for records in 101..104 {
        replace(&mut gateway, records).await;
        // The snapshot is not lost, and the new fetcher continues.
        let mut workers = gateway.envoy.every_worker().await.unwrap();
        assert_eq!(workers.statuses(&kept).await.unwrap(), [200, 200]);
        let new = gateway.control_plane.create_named("new").await.unwrap();
        let request = Request::get("/").bearer(&new.key);
        workers.until_status(&request, 200, SOON).await.unwrap();
        gateway.control_plane.revoke(&new.id).await.unwrap();
        workers.until_status(&request, 401, SOON).await.unwrap();
    }
}

/// A configuration that is restored later does not restore a key revoked meanwhile.
#[tokio::test]
async fn restored_configuration_keeps_keys_revoked() {
    let dir = TestDir::new().unwrap();
    let file = dir.path().join("listeners.json");
    let mut gateway = Gateway::builder()
        .configure(replaceable(&file))
        .envoy_arguments(&["--drain-time-s", DRAIN_S])
        .start()
        .await
        .unwrap();
    let kept = gateway.control_plane.create_named("kept").await.unwrap();
    let revoked = gateway.control_plane.create_named("revoked").await.unwrap();
    let [kept, with_revoked] = [&kept.key, &revoked.key].map(|key| Request::get("/").bearer(key));
    gateway.envoy.every_worker().await.unwrap().until_status(&with_revoked, 200, SOON).await.unwrap();

    // A different number of buckets is a different snapshot, and the first one is no longer maintained.
    let first = gateway.config.filter()["snapshot"]["buckets"].clone();
    gateway.config.filter()["snapshot"]["buckets"] = 1024.into();
    replace(&mut gateway, 101).await;
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&with_revoked, 200, SOON).await.unwrap();
    let began = Instant::now();
    while began.elapsed() < LEFT_ALONE {
        assert_eq!(workers.statuses(&with_revoked).await.unwrap(), [200, 200]);
    }
    gateway.control_plane.revoke(&revoked.id).await.unwrap();
    workers.until_status(&with_revoked, 401, SOON).await.unwrap();
    gateway.control_plane.kill();

    gateway.config.filter()["snapshot"]["buckets"] = first;
    replace(&mut gateway, 102).await;
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    for request in [&with_revoked, &kept] {
        assert_eq!(workers.statuses(request).await.unwrap(), [503, 503]);
    }

    gateway.control_plane.start().await.unwrap();
    workers.until_status(&kept, 200, SOON).await.unwrap();
    assert_eq!(workers.statuses(&with_revoked).await.unwrap(), [401, 401]);
}
