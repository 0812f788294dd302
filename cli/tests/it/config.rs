//! `keyward check-config` and `keyward rules explain`.

use crate::harness::{program, stderr, stdout};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn shipped(name: &str) -> String {
    repository().join("envoy").join(name).display().to_string()
}

/// The shipped file with a part replaced.
fn changed(dir: &Path, old: &str, new: &str) -> String {
    let text = fs::read_to_string(shipped("envoy.yaml")).unwrap();
    assert!(text.contains(old), "{old}");
    let file = dir.join("envoy.yaml");
    fs::write(&file, text.replace(old, new)).unwrap();
    file.display().to_string()
}

fn checked(file: &str) -> (Option<i32>, Value) {
    let output = run(&["check-config", file, "--json"]);
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}")))
}

#[test]
fn shipped_files_have_neither_mistakes_nor_warnings() {
    for name in ["envoy.yaml", "fleet.yaml", "mesh/istio.yaml"] {
        let file = shipped(name);
        let output = run(&["check-config", &file]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(stdout(&output), format!("{file}: no mistakes, 0 warnings\n"));
    }
}

#[test]
fn rules_of_shipped_variants_have_no_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let variants = fs::read_dir(repository().join("envoy/variants")).unwrap();
    let mut found = 0;
    for file in variants.map(|file| file.unwrap().path()).filter(|file| file.extension().is_some_and(|e| e == "yaml")) {
        let text = fs::read_to_string(&file).unwrap();
        // The part of the filter, with the cluster of the shipped file.
        let filter: String = text
            .lines()
            .skip_while(|line| !line.starts_with("filter:"))
            .skip(1)
            .take_while(|line| line.is_empty() || line.starts_with(' ') || line.starts_with('#'))
            .filter_map(|line| line.strip_prefix("  "))
            .map(|line| format!("{line}\n"))
            .collect();
        let bare = dir.path().join("bare.yaml");
        fs::write(&bare, format!("{filter}control_plane: {{ cluster: c }}\n")).unwrap();
        let output = run(&["check-config", bare.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}: {output:?}", file.display());
        found += 1;
    }
    assert_eq!(found, 5);
}

#[test]
fn every_mistake_is_reported_with_its_path_and_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = changed(
        dir.path(),
        "- { path: { prefix: / }, access: key }",
        "- { path: { prefix: \"/admin/*\" }, access: key, kinds: [admin] }\n                              \
         - { path: { prefix: \"/admin/:id\" }, access: key }",
    );
    let (code, report) = checked(&file);
    assert_eq!((code, &report["ok"]), (Some(1), &json!(false)));
    let mistakes = report["filters"][0]["mistakes"].as_array().unwrap();
    let paths: Vec<_> = mistakes.iter().map(|mistake| mistake["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["rules[1].path.prefix", "rules[1].kinds[0]", "rules[2].path.prefix"]);
    assert!(mistakes[0]["message"].as_str().unwrap().contains(r#"write {"prefix": "/admin"}"#));
    let text = run(&["check-config", &file]);
    assert_eq!(text.status.code(), Some(1));
    assert!(stdout(&text).contains("error: rules[1].path.prefix: "), "{text:?}");
    assert!(stderr(&text).contains("3 mistakes in "), "{text:?}");
}

#[test]
fn what_stands_beside_the_filter_is_checked_too() {
    let dir = tempfile::tempdir().unwrap();
    let public = "- { path: { exact: /health }, access: public }";
    for (old, new, is_mistake, expected) in [
        ("host_env_keys: [KEYWARD_EDGE_TOKEN]", "host_env_keys: []", true, "KEYWARD_EDGE_TOKEN"),
        ("cluster: keyward_control_plane, authority", "cluster: nonsense, authority", true, "no cluster \"nonsense\""),
        ("wasm.keyward.verdict, string_match", "wasm.other, string_match", true, "no guard behind the filter"),
        (
            "dialect: keyward\n",
            "dialect: keyward\n                            rate_limit_headers: { x: always }\n",
            true,
            "module",
        ),
        (
            public,
            "- { path: { exact: /health }, access: public }\n                              - { path: { template: \"/docs/{page}\" }, access: public }",
            false,
            "regex: \"/docs/[^/]+\"",
        ),
        (public, "- { path: { exact: /healthz }, access: public }", false, "passes the verdict `public` at /health,"),
        (
            "path: { exact: /health } } }]\n",
            "path: { exact: /other } } }]\n",
            false,
            "add to the permissions of public_routes",
        ),
    ] {
        let (code, report) = checked(&changed(dir.path(), old, new));
        let filter = &report["filters"][0];
        let list = &filter[if is_mistake { "mistakes" } else { "warnings" }];
        assert!(list.to_string().replace("\\\"", "\"").contains(expected), "{new}: {report:#}");
        assert_eq!(code, Some(i32::from(is_mistake)), "{new}");
    }
}

#[test]
fn a_request_is_explained_by_the_rule_that_decides_it() {
    let file = shipped("envoy.yaml");
    let explain = |arguments: &[&str]| run(&[&["rules", "explain", "--config", &file], arguments].concat());
    let text = explain(&["--path", "/users/1?x"]);
    assert_eq!(text.status.code(), Some(0), "{text:?}");
    for expected in [
        "  rules[0] (exact \"/health\"; public): does not match: different path\n",
        "* rules[1] (prefix \"/\"; key): decides\n",
        "  read from   Authorization: Bearer, X-API-Key\n",
        "accepted_key does",
    ] {
        assert!(stdout(&text).contains(expected), "{expected}\nin {}", stdout(&text));
    }
    let json = |arguments: &[&str]| -> Value {
        let output = explain(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    let health = json(&["--path", "/health", "--method", "POST"]);
    assert_eq!(health["filters"][0]["rules"][0]["decides"], json!(true));
    assert!(health["filters"][0]["guard"][0].as_str().unwrap().contains("public_routes does"), "{health:#}");
    let ready = json(&["--path", "/keyward/ready"]);
    assert!(ready["filters"][0]["answer"].as_str().unwrap().contains("readiness_path"));
    let lower = json(&["--path", "/", "--method", "get"]);
    assert!(lower["filters"][0]["verdict"].as_str().unwrap().contains("no rule matches"), "{lower:#}");
}

#[test]
fn rules_with_hosts_methods_and_scopes_say_why_they_do_not_match_and_what_they_ask() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("filter.json");
    let rules = json!([
        {"path": {"prefix": "/a"}, "hosts": ["*.example.com"], "access": "public"},
        {"path": {"prefix": "/a"}, "methods": ["GET"], "access": "key", "scopes": {"GET": ["read"], "*": ["write"]}},
        {"path": {"exact": "/b"}, "access": "public"},
        {"path": {"prefix": "/"}, "access": "optional", "cost": 3},
    ]);
    let config = json!({"dialect": "ai-api", "control_plane": {"cluster": "c"}, "rules": rules});
    fs::write(&file, config.to_string()).unwrap();
    let explain = |arguments: &[&str]| {
        let output = run(&[&["rules", "explain", "--config", file.to_str().unwrap()], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        stdout(&output).to_owned()
    };
    let get = explain(&["--path", "/a/1"]);
    assert!(
        get.contains("the rule needs a host among *.example.com, and --host is absent")
            && get.contains("scopes      read"),
        "{get}"
    );
    assert!(explain(&["--path", "/a/1", "--host", "x.example.com:8080"]).contains("* rules[0]"));
    let post = explain(&["--path", "/a/1", "--method", "POST", "--host", "h"]);
    assert!(
        post.contains("host h is not among *.example.com") && post.contains("method POST is not among GET"),
        "{post}"
    );
    assert!(post.contains("* rules[3]") && post.contains("cost        3"), "{post}");
    assert!(post.contains("`allow`") && post.contains("`public`"), "what the guard needs of both: {post}");
    assert!(explain(&["--path", "/b/"]).contains("differs by the slash at the end"));
    assert!(explain(&["--path", "/a;x"]).contains("can be read in two ways"));
}

#[test]
fn a_file_that_cannot_be_explained_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.yaml");
    fs::write(
        &file,
        "dialect: keyward\ncontrol_plane: { cluster: c }\nrules: [{ path: { prefix: \"/a/*\" }, access: key }]\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let broken = run(&["rules", "explain", "--config", file, "--path", "/a"]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(
        stderr(&broken).contains("1 mistake in ") && stderr(&broken).contains("rules[0].path.prefix"),
        "{broken:?}"
    );
    for (arguments, code, expected) in [
        (&["check-config", "/nonexistent.yaml"][..], 4, "/nonexistent.yaml: "),
        (&["check-config", "Cargo.toml"], 1, "Cargo.toml: "),
        (&["check-config"], 2, "FILE"),
        (&["rules", "explain", "--config", file, "--path", "https://h/a"], 2, "begins with /"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(stderr(&output).contains(expected), "{output:?}");
    }
}
