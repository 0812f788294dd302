//! While the control plane is unavailable, the snapshot stays in effect; after its return, changes arrive.

use crate::common::{SOON, assert_refused};
use keyward_harness::{Gateway, Request};

#[tokio::test]
async fn killed_control_plane_changes_nothing_until_restart() {
    let mut gateway = Gateway::start().await.unwrap();
    let kept = gateway.control_plane.create_named("kept").await.unwrap();
    let revoked = gateway.control_plane.create_named("revoked").await.unwrap();
    let with = |key: &str| Request::get("/").bearer(key);
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    for key in [&kept.key, &revoked.key] {
        workers.until_status(&with(key), 200, SOON).await.unwrap();
    }
    gateway.control_plane.revoke(&revoked.id).await.unwrap();
    workers.until_status(&with(&revoked.key), 401, SOON).await.unwrap();

    gateway.control_plane.kill();
    for _ in 0..20 {
        assert_eq!(workers.statuses(&with(&kept.key)).await.unwrap(), [200, 200]);
        for answer in workers.send(&with(&revoked.key)).await.unwrap() {
            assert_refused(&answer, 401, "revoked");
        }
    }

    gateway.control_plane.start().await.unwrap();
    let new = gateway.control_plane.create_named("new").await.unwrap();
    workers.until_status(&with(&new.key), 200, SOON).await.unwrap();
    assert_eq!(workers.statuses(&with(&kept.key)).await.unwrap(), [200, 200]);
    assert_eq!(workers.statuses(&with(&revoked.key)).await.unwrap(), [401, 401]);
}

#[tokio::test]
async fn envoy_started_first_refuses_until_a_snapshot_comes() {
    let mut gateway = Gateway::builder().control_plane_unavailable().start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    for request in [Request::get("/"), Request::get("/").bearer("kw_live_nonsense")] {
        for answer in workers.send(&request).await.unwrap() {
            assert_refused(&answer, 503, "unavailable");
        }
    }
    assert_eq!(workers.statuses(&Request::get("/keyward/ready")).await.unwrap(), [503, 503]);
    assert_eq!(workers.statuses(&Request::get("/health")).await.unwrap(), [200, 200]);

    gateway.control_plane.start().await.unwrap();
    let created = gateway.control_plane.create_named("demo").await.unwrap();
    workers.until_status(&Request::get("/").bearer(&created.key), 200, SOON).await.unwrap();
    assert_eq!(workers.statuses(&Request::get("/keyward/ready")).await.unwrap(), [200, 200]);
}
