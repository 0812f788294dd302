//! A filter that is broken or missing lets no request pass.

use crate::common::SOON;
use keyward_harness::artifacts::Host;
use keyward_harness::{Gateway, Request, artifacts};

#[tokio::test]
async fn guard_refuses_everything_without_the_filter() {
    let gateway =
        Gateway::builder().configure(|config| _ = config.disable_filter()).without_snapshot().start().await.unwrap();
    let created = gateway.control_plane.create_named("demo").await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    for path in ["/", "/health", "/keyward/ready"] {
        assert_eq!(workers.statuses(&Request::get(path).bearer(&created.key)).await.unwrap(), [403, 403], "{path}");
    }
    assert_eq!(gateway.upstream().take_seen(), []);
}

#[tokio::test]
async fn trapped_worker_refuses_and_then_serves_again() {
    let gateway = Gateway::builder().module(artifacts::faulty_filter().unwrap()).start().await.unwrap();
    let created = gateway.control_plane.create_named("demo").await.unwrap();
    let good = Request::get("/").bearer(&created.key);
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&good, 200, SOON).await.unwrap();
    gateway.upstream().take_seen();
    for worker in 0..2 {
        let trapped = workers.worker(worker).send(&good.clone().header("x-fault-trap", "1")).await.unwrap();
        assert_eq!(trapped.status, 503, "{}", trapped.text());
    }
    assert_eq!(gateway.upstream().take_seen(), []);
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&good, 200, SOON).await.unwrap();
}

/// A Wasm filter is configured in each worker; Envoy skips it where that fails. A dynamic module is configured once, before
/// the listener opens.
#[tokio::test]
async fn worker_with_failed_configuration_refuses_all() {
    if artifacts::host().unwrap() == Host::Native {
        let started = Gateway::builder()
            .module(artifacts::faulty_filter().unwrap())
            .envoy_environment("KEYWARD_FAULT_CONFIGURE", "1")
            .without_snapshot()
            .start()
            .await;
        let error = started.expect_err("expected a failed start").to_string();
        assert!(error.contains("configuration number 1 was made to fail"), "{error}");
        return;
    }
    // The first two configurations belong to the canary and the main thread.
    let gateway = Gateway::builder()
        .module(artifacts::faulty_filter().unwrap())
        .envoy_environment("KEYWARD_FAULT_CONFIGURE", "3")
        .configure(|config| {
            config.pass_to_filter("KEYWARD_FAULT_CONFIGURE");
        })
        .without_snapshot()
        .start()
        .await
        .unwrap();
    let created = gateway.control_plane.create_named("demo").await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    for path in ["/", "/health"] {
        for status in workers.statuses(&Request::get(path).bearer(&created.key)).await.unwrap() {
            assert!(matches!(status, 403 | 503), "{path}: {status}");
        }
    }
    assert_eq!(gateway.upstream().take_seen(), []);
}
