//! The programs that the tests run, as `tools/go-tool` builds them.

use keyward_harness::{Failure, artifacts, left_out};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program, with the version of its Go module.
#[derive(Clone, Debug)]
pub struct Tool {
    /// The executable.
    pub path: PathBuf,
    /// The module's version.
    pub version: String,
}

/// A program that is installed, or `None` after a note of what is left out.
///
/// # Panics
/// If `tools/go-tool` cannot be run, or does not know the program.
pub fn tool(name: &str, check: &str) -> Option<Tool> {
    let path = installed(&[name], check)?;
    let version = go_tool(&["version", name]).unwrap_or_else(|reason| panic!("tools/go-tool version {name}: {reason}"));
    Some(Tool { path, version })
}

/// The directory of a module's source, or `None` after a note of what is left out.
///
/// # Panics
/// If `tools/go-tool` cannot be run, or does not know the module.
pub fn source(name: &str, check: &str) -> Option<PathBuf> {
    installed(&["source", name], check)
}

/// The path that `tools/go-tool` prints, or `None` after a note of what is left out.
fn installed(arguments: &[&str], check: &str) -> Option<PathBuf> {
    if std::env::var_os("KEYWARD_MESH_SANDBOX").is_none() {
        left_out(check, "run by `make test-mesh`, in a network namespace of its own");
        return None;
    }
    match go_tool(arguments) {
        Ok(path) => Some(PathBuf::from(path)),
        Err(reason) => {
            left_out(check, &reason);
            None
        }
    }
}

/// What `tools/go-tool` prints; why not, where it says that the machine cannot have the program.
fn go_tool(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(artifacts::root().join("tools/go-tool"));
    // The network namespace has no way to what could be installed.
    let output = command.args(arguments).env("KEYWARD_INSTALL", "no").output();
    let output = output.unwrap_or_else(|error| panic!("tools/go-tool: {error}"));
    let reason = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
        Some(77) => Err(reason),
        _ => panic!("tools/go-tool {arguments:?}: {reason}"),
    }
}

/// The version of an Envoy, such as 1.40.0.
pub fn envoy_version(envoy: &Path) -> keyward_harness::Result<String> {
    let output = Command::new(envoy)
        .arg("--version")
        .output()
        .map_err(|error| Failure::new(format!("{}: {error}", envoy.display())))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `PATH  version: COMMIT/VERSION/Clean/RELEASE/BoringSSL`
    let version = text.split("version: ").nth(1).and_then(|build| build.split('/').nth(1));
    version.map(str::to_owned).ok_or_else(|| Failure::new(format!("{}: no version in {text:?}", envoy.display())))
}

/// Writes a file whole: a program that watches the directory never reads a part of it.
pub fn replace_file(path: &Path, content: &str) -> keyward_harness::Result<()> {
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    // Programs that watch the directory ignore hidden files.
    let partial = path.with_file_name(format!(".{}.partial", path.file_name().unwrap_or_default().display()));
    fs::write(&partial, content).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)
}
