//! Checks that `make bench` runs: every scenario, briefly. The measured values are not checked.

use keyward_harness::artifacts;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;

#[test]
fn every_scenario_runs_with_the_expected_responses() {
    let name = format!("filters-smoke-{}", std::process::id());
    // An unexpected response fails the run.
    let output = Command::new(env!("CARGO_BIN_EXE_bench-filters"))
        .args(["--quick", "--rounds", "1", "--round-ms", "20", "--many", "1000", "--name", &name])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let path = artifacts::root().join(format!(".keyward/bench/{name}.json"));
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
    let cells = written["results"]["cells"].as_array().unwrap();
    let names = |field: &str| cells.iter().map(|cell| cell[field].as_str().unwrap()).collect::<BTreeSet<_>>();
    assert_eq!(names("protocol"), BTreeSet::from(["http1", "http2"]));
    assert_eq!(names("upstream"), BTreeSet::from(["direct", "real"]));
    let scenarios = names("scenario");
    let mut expected = vec![
        "none",
        "native",
        "keyward",
        "keyward-many",
        "keyward-many-cached",
        "ext-authz",
        "ext-authz-grpc",
        "keyward-unknown",
    ];
    let mut compared = 1;
    if artifacts::envoy_runs_native().unwrap() {
        expected.extend(["keyward-native", "keyward-native-unguarded", "keyward-native-many"]);
        compared += 2;
    }
    assert_eq!(scenarios, expected.iter().copied().collect());
    assert_eq!(cells.len(), expected.len() * 4);
    for cell in cells {
        assert!(cell["cpu_us"]["min"].as_f64().unwrap() > 0.0, "{cell}");
        assert!(cell["per_second"]["max"].as_f64().unwrap() > 0.0, "{cell}");
    }
    assert_eq!(written["results"]["ratios"].as_array().unwrap().len(), 4 * compared);
}
