//! Results files: `.keyward/bench/NAME.json`, with the machine and the time of the measurement.

use keyward_harness::{Failure, Result, artifacts};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes the results of a benchmark.
pub fn write(name: &str, found: &impl Serialize) -> Result<PathBuf> {
    let dir = artifacts::root().join(".keyward/bench");
    let path = dir.join(format!("{name}.json"));
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let found = serde_json::to_value(found).map_err(|error| Failure::new(error.to_string()))?;
    let results = json!({ "machine": machine()?, "measured_at": now_s(), "results": found });
    std::fs::create_dir_all(&dir).map_err(failed)?;
    std::fs::write(&path, format!("{results:#}\n")).map_err(failed)?;
    Ok(path.canonicalize().unwrap_or(path))
}

/// The environment that the figures depend on.
fn machine() -> Result<Value> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let envoy = std::process::Command::new(artifacts::envoy()?).arg("--version").output();
    let envoy = envoy.map_err(|error| Failure::new(format!("envoy --version: {error}")))?;
    let version = String::from_utf8_lossy(&envoy.stdout);
    // "… version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL"
    let version = version.rsplit_once("version:").and_then(|(_, rest)| rest.split('/').nth(1));
    Ok(json!({
        "processor": field(&read("/proc/cpuinfo"), "model name"),
        // All of the machine's: a benchmark may have restricted itself to some.
        "processors": read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor\t")).count(),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "envoy": version,
    }))
}

/// Seconds since the Unix epoch.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
