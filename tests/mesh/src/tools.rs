//! The programs of `tests/mesh/tools.txt`, as `tools/mesh-tools` installs them.

use keyward_harness::{Failure, Result, artifacts, left_out};
use std::fs;
use std::path::{Path, PathBuf};

/// A program, with the version of its Go module.
#[derive(Clone, Debug)]
pub struct Tool {
    /// The executable.
    pub path: PathBuf,
    /// The module's version.
    pub version: String,
}

/// The version of a program in `tests/mesh/tools.txt`.
fn pinned(name: &str) -> Option<String> {
    let text = include_str!("../tools.txt");
    for line in text.lines() {
        if let [tool, _, version] = *line.split_whitespace().collect::<Vec<_>>()
            && tool == name
        {
            return Some(version.to_owned());
        }
    }
    None
}

/// A program that is installed, or `None` after a note of what is left out.
pub fn tool(name: &str, check: &str) -> Option<Tool> {
    if std::env::var_os("KEYWARD_MESH_SANDBOX").is_none() {
        left_out(check, "run by `make test-mesh`, in a network namespace of its own");
        return None;
    }
    let path = directory().join("bin").join(name);
    match pinned(name) {
        Some(version) if path.is_file() => Some(Tool { path, version }),
        _ => {
            left_out(check, &format!("{name} is not installed; see the output of tools/mesh-tools"));
            None
        }
    }
}

/// Where `tools/mesh-tools` installs.
fn directory() -> PathBuf {
    artifacts::root().join(".keyward/mesh")
}

/// The version of an Envoy, such as 1.40.0.
pub fn envoy_version(envoy: &Path) -> Result<String> {
    let output = std::process::Command::new(envoy)
        .arg("--version")
        .output()
        .map_err(|error| Failure::new(format!("{}: {error}", envoy.display())))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `PATH  version: COMMIT/VERSION/Clean/RELEASE/BoringSSL`
    let version = text.split("version: ").nth(1).and_then(|build| build.split('/').nth(1));
    version.map(str::to_owned).ok_or_else(|| Failure::new(format!("{}: no version in {text:?}", envoy.display())))
}

/// Writes a file whole: a program that watches the directory never reads a part of it.
pub fn replace_file(path: &Path, content: &str) -> Result<()> {
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    // Programs that watch the directory ignore hidden files.
    let partial = path.with_file_name(format!(".{}.partial", path.file_name().unwrap_or_default().display()));
    fs::write(&partial, content).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)
}
