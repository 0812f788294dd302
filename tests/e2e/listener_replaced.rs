//! The listener is replaced while a long poll is open. Envoy drops that callout without a word, and the feed goes on.

use crate::common::SOON;
use keyward_harness::{EnvoyConfig, Gateway, Request, TestDir, until};

/// Waits until the listener with that cache is the only one.
pub(crate) async fn configured_with(gateway: &Gateway, cache_records: u32) {
    until("the new listener is in use", SOON, async || {
        let dump = gateway.envoy.config_dump().await?.to_string();
        let wanted = format!(r#""cache_records":{cache_records}"#);
        if dump.contains(&wanted) && !dump.contains("draining_state") {
            Ok(())
        } else {
            Err(keyward_harness::Failure::new("still the old one"))
        }
    })
    .await
    .unwrap();
}

/// Changes the listener, which has to be in a file of its own.
pub(crate) fn with_cache(config: &mut EnvoyConfig, records: u32) {
    config.filter()["snapshot"]["cache_records"] = records.into();
}

#[tokio::test]
async fn the_feed_goes_on_when_the_listener_is_replaced_while_a_long_poll_is_open() {
    let dir = TestDir::new().unwrap();
    let file = dir.path().join("listeners.json");
    let mut gateway = Gateway::builder()
        .configure(|config| {
            config.set_listener_file(&file);
            with_cache(config, 100);
        })
        .start()
        .await
        .unwrap();
    let kept = gateway.control_plane.create_named("kept").await.unwrap();
    let kept = Request::get("/").bearer(&kept.key);
    gateway.envoy.every_worker().await.unwrap().until_status(&kept, 200, SOON).await.unwrap();
    for records in 101..104 {
        with_cache(&mut gateway.config, records);
        gateway.config.write(&gateway.dir().path().join("envoy.json")).unwrap();
        configured_with(&gateway, records).await;
        // Nobody lost the snapshot, and whoever fetches now has not stopped.
        let mut workers = gateway.envoy.every_worker().await.unwrap();
        assert_eq!(workers.statuses(&kept).await.unwrap(), [200, 200]);
        let new = gateway.control_plane.create_named("new").await.unwrap();
        let request = Request::get("/").bearer(&new.key);
        workers.until_status(&request, 200, SOON).await.unwrap();
        gateway.control_plane.revoke(&new.id).await.unwrap();
        workers.until_status(&request, 401, SOON).await.unwrap();
    }
}
