//! What only a dynamic module has: one file for all listeners, loaded by name, and no VM between a panic and Envoy. Each
//! mistake keeps the listener from opening, or leaves the old one in place.

use crate::common::SOON;
use crate::listener_replaced::replaceable;
use keyward_harness::artifacts::Host;
use keyward_harness::{EnvoyConfig, Failure, Gateway, Request, TestDir, artifacts, until};
use serde_json::json;
use std::fs;
use std::path::PathBuf;

/// Whether the dynamic module is under test; otherwise says so.
fn is_under_test() -> bool {
    let is_native = artifacts::host().unwrap() == Host::Native;
    if !is_native {
        println!("not run: only for KEYWARD_HOST=native");
    }
    is_native
}

/// The error of a gateway that must not start.
async fn refused(module: PathBuf, change: impl FnOnce(&mut EnvoyConfig)) -> String {
    let started = Gateway::builder().module(module).configure(change).without_snapshot().start().await;
    started.expect_err("expected a failed start").to_string()
}

#[tokio::test]
async fn missing_module_keeps_envoy_from_starting() {
    if !is_under_test() {
        return;
    }
    let error = refused("/no/such/libkeyward.so".into(), |_| {}).await;
    assert!(error.contains("/no/such/libkeyward.so"), "{error}");
}

#[tokio::test]
async fn refused_configuration_keeps_envoy_from_starting() {
    if !is_under_test() {
        return;
    }
    let error = refused(artifacts::filter().unwrap(), |config| config.filter()["rules"] = json!("nonsense")).await;
    assert!(error.contains("keyward: invalid configuration") && error.contains("rules: expected"), "{error}");
}

/// A function that this Envoy lacks stands for one that an older or newer Envoy lacks: the module is not loaded.
#[tokio::test]
async fn module_for_another_envoy_is_not_loaded() {
    const FUNCTION: &[u8] = b"envoy_dynamic_module_callback_log_v2";
    const OTHER: &[u8] = b"envoy_dynamic_module_callback_log_v9";
    if !is_under_test() {
        return;
    }
    let dir = TestDir::new().unwrap();
    let module = dir.path().join("libkeyward_other.so");
    let mut bytes = fs::read(artifacts::filter().unwrap()).unwrap();
    let place = bytes.windows(FUNCTION.len()).position(|window| window == FUNCTION).unwrap();
    bytes[place..place + OTHER.len()].copy_from_slice(OTHER);
    fs::write(&module, bytes).unwrap();
    let error = refused(module, |_| {}).await;
    assert!(error.contains("undefined symbol") && error.contains("log_v9"), "{error}");
}

/// The filter's rules select by path. A configuration for a route is refused, since Envoy would otherwise ignore it.
#[tokio::test]
async fn configuration_for_a_route_is_refused() {
    if !is_under_test() {
        return;
    }
    let module = artifacts::filter().unwrap();
    let error = refused(module.clone(), |config| {
        config.routes()[0]["typed_per_filter_config"]["keyward"] = json!({
            "@type":
                "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute",
            "dynamic_module_config": {"module": {"local": {"filename": module}}},
            "per_route_config_name": "keyward",
            "filter_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "{}"},
        });
    })
    .await;
    assert!(error.contains("expected no configuration for a route"), "{error}");
}

/// The old listener serves on, with its snapshot.
#[tokio::test]
async fn refused_update_leaves_the_old_listener() {
    if !is_under_test() {
        return;
    }
    let dir = TestDir::new().unwrap();
    let file = dir.path().join("listeners.json");
    let mut gateway = Gateway::builder().configure(replaceable(&file)).start().await.unwrap();
    let created = gateway.control_plane.create_named("demo").await.unwrap();
    let good = Request::get("/").bearer(&created.key);
    gateway.envoy.every_worker().await.unwrap().until_status(&good, 200, SOON).await.unwrap();
    gateway.config.filter()["rules"] = json!("nonsense");
    gateway.config.write(&gateway.dir().path().join("envoy.json")).unwrap();
    until("the update is rejected", SOON, async || {
        let rejected = gateway.envoy.stats("listener_manager.lds.update_rejected").await?;
        if rejected.values().sum::<u64>() > 0 { Ok(()) } else { Err(Failure::new("not yet")) }
    })
    .await
    .unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    assert_eq!(workers.statuses(&good).await.unwrap(), [200, 200]);
    gateway.control_plane.revoke(&created.id).await.unwrap();
    workers.until_status(&good, 401, SOON).await.unwrap();
}

/// A request whose hook panics is refused; others of the same worker, also those on the same connection, are not.
#[tokio::test]
async fn panic_in_a_hook_refuses_one_request() {
    if !is_under_test() {
        return;
    }
    let gateway = Gateway::builder().module(artifacts::faulty_filter().unwrap()).start().await.unwrap();
    let created = gateway.control_plane.create_named("demo").await.unwrap();
    let good = Request::get("/").bearer(&created.key);
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    workers.until_status(&good, 200, SOON).await.unwrap();
    gateway.upstream().take_seen();
    for round in 0..3 {
        let trapped = good.clone().header("x-fault-trap", "1");
        assert_eq!(workers.statuses(&trapped).await.unwrap(), [503, 503], "{round}");
        assert_eq!(gateway.upstream().take_seen(), []);
        assert_eq!(workers.statuses(&good).await.unwrap(), [200, 200], "{round}");
        assert_eq!(gateway.upstream().take_seen().len(), 2);
    }
    let log = gateway.envoy.log().unwrap();
    assert!(log.contains("hook panicked  hook=request_headers") && !log.contains("stack backtrace"), "{log}");
}
