//! Locates the artifacts under test: those built by `make build`, unless the environment names others.

use crate::{Failure, Result};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Cargo's target directory.
pub fn target_dir() -> PathBuf {
    let root = root().canonicalize().unwrap_or_else(|_| root().to_owned());
    root.join(env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from))
}

/// The host of the filter that is under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// proxy-wasm.
    Wasm,
    /// A dynamic module.
    Native,
}

impl Host {
    /// The name in `KEYWARD_HOST` and in commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::Native => "native",
        }
    }
}

/// The host that `KEYWARD_HOST` names, `wasm` or `native`; by default proxy-wasm.
pub fn host() -> Result<Host> {
    match env::var("KEYWARD_HOST").unwrap_or_default().as_str() {
        "" | "wasm" => Ok(Host::Wasm),
        "native" => Ok(Host::Native),
        other => Err(Failure::new(format!("KEYWARD_HOST: expected wasm or native, got {other:?}"))),
    }
}

/// The filter for the host: `KEYWARD_WASM` or `KEYWARD_NATIVE`, or the one built.
pub fn filter() -> Result<PathBuf> {
    match host()? {
        Host::Wasm => wasm_filter(),
        Host::Native => native_filter(),
    }
}

/// The filter as a dynamic module: `KEYWARD_NATIVE`, or the one built.
pub fn native_filter() -> Result<PathBuf> {
    let built = target_dir().join(format!("native/lib{}.so", native_name()?));
    named("KEYWARD_NATIVE", built, "make native")
}

/// Whether the dynamic module works in the Envoy at hand.
pub fn envoy_runs_native() -> Result<bool> {
    let said = |path: &Path, argument: &str| {
        let output = Command::new(path).arg(argument).stderr(Stdio::inherit()).output();
        let output = output.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        Ok::<_, Failure>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let version = said(&envoy()?, "--version")?;
    let versions = said(&root().join("tools/native-build"), "--envoys")?;
    Ok(versions.split_whitespace().any(|of| version.contains(&format!("/{of}."))))
}

/// The name of the dynamic module, which says for which version of Envoy it is.
pub fn native_name() -> Result<String> {
    let path = root().join("tools/native-build");
    let output = Command::new(&path).arg("--name").output();
    let output = output.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The filter for proxy-wasm: `KEYWARD_WASM`, or the one built.
pub fn wasm_filter() -> Result<PathBuf> {
    named("KEYWARD_WASM", target_dir().join("wasm32-wasip1/release/keyward_filter.wasm"), "make wasm")
}

/// The filter with fault injection for the host: `KEYWARD_FAULT_WASM` or `KEYWARD_FAULT_NATIVE`, or the one built.
pub fn faulty_filter() -> Result<PathBuf> {
    if host()? == Host::Native {
        let built = target_dir().join(format!("fault/native/lib{}.so", native_name()?));
        return named("KEYWARD_FAULT_NATIVE", built, "make native-fault");
    }
    let built = target_dir().join("fault/wasm32-wasip1/release/keyward_filter.wasm");
    named("KEYWARD_FAULT_WASM", built, "make wasm-fault")
}

/// The filter that can change responses. For proxy-wasm it is beside the other; every dynamic module can.
pub fn responding_filter() -> Result<PathBuf> {
    if host()? == Host::Native {
        return native_filter();
    }
    existing(filter()?.with_file_name("keyward_filter_response_headers.wasm"), "`make wasm` builds it")
}

/// The `keyward` binary: `KEYWARD_BIN`, or the latest build of any profile, so that a stale one is not tested.
pub fn keyward() -> Result<PathBuf> {
    let modified = |path: &PathBuf| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let newest = ["debug", "release"]
        .map(|profile| target_dir().join(profile).join("keyward"))
        .into_iter()
        .max_by_key(modified)
        .unwrap_or_default();
    named("KEYWARD_BIN", newest, "make control-plane")
}

/// Envoy: `KEYWARD_ENVOY`, or the one that `tools/envoy` finds or installs; the reason for a failure is on standard
/// error.
pub fn envoy() -> Result<PathBuf> {
    if let Some(path) = env::var_os("KEYWARD_ENVOY").filter(|path| !path.is_empty()) {
        return existing(path.into(), "KEYWARD_ENVOY names it");
    }
    existing(printed_by("tools/envoy", "no Envoy to run")?, "tools/envoy printed it")
}

/// Redis: the one that `tools/redis` finds or installs; the reason for a failure is on standard error.
pub fn redis() -> Result<PathBuf> {
    // The path as printed: it may be a symbolic link whose name selects the binary's function.
    printed_by("tools/redis", "no Redis to run")
}

/// The tests' rate-limit service.
pub fn rate_limit_service() -> Result<PathBuf> {
    let built = target_dir().join("debug/keyward-rate-limit-service");
    existing(built, "`cargo build -p keyward-rate-limit-service` builds it")
}

/// A Python with the SDKs of `tests/sdk/requirements.txt`, created by `tools/sdk-venv`; the reason for a failure is on
/// standard error.
pub fn sdk_python() -> Result<PathBuf> {
    // The path as printed: the target of the link is outside the virtual environment.
    printed_by("tools/sdk-venv", "no Python with the SDKs")
}

/// The path printed by a script of this repository.
fn printed_by(script: &str, problem: &str) -> Result<PathBuf> {
    let path = root().join(script);
    let output = Command::new(&path)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    if !output.status.success() {
        return Err(Failure::new(format!("{problem}: see the output of {script} above")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

fn named(variable: &str, built: PathBuf, command: &str) -> Result<PathBuf> {
    match env::var_os(variable).filter(|path| !path.is_empty()) {
        Some(path) => existing(path.into(), &format!("{variable} names it")),
        None => existing(built, &format!("`{command}` builds it")),
    }
}

fn existing(path: PathBuf, why: &str) -> Result<PathBuf> {
    path.canonicalize().map_err(|error| Failure::new(format!("{}: {error}; {why}", path.display())))
}
