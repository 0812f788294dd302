//! A real registry of images on loopback, with the images of the filter as `tools/images` pushes them.

use crate::tools::Tool;
use keyward_harness::http::{self, Request};
use keyward_harness::ports::ReservedPort;
use keyward_harness::process::Process;
use keyward_harness::{Failure, Response, Result, artifacts, until};
use serde_json::json;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The deadline for the start.
const START: Duration = Duration::from_secs(30);

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    port: ReservedPort,
    _process: Process,
}

/// An image in the registry.
#[derive(Clone, Debug)]
pub struct Image {
    /// The registry, the repository and the tag.
    pub reference: String,
    /// The SHA-256 of the manifest, in hexadecimal.
    pub digest: String,
}

/// The images of the filter.
#[derive(Clone, Debug)]
pub struct Images {
    /// The OCI artifact.
    pub artifact: Image,
    /// The image in Docker's format.
    pub docker: Image,
}

impl Registry {
    /// Starts the registry of `distribution` with its storage in `dir`.
    pub async fn start(tool: &Tool, dir: &Path) -> Result<Self> {
        let port = ReservedPort::new()?;
        let dir = dir.join("registry");
        let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", dir.display()));
        fs::create_dir_all(&dir).map_err(failed)?;
        let config = json!({
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": dir.join("storage")}},
            "http": {"addr": port.address().to_string()},
        });
        let file = dir.join("config.yml");
        fs::write(&file, config.to_string()).map_err(failed)?;
        let log = dir.join("registry.log");
        let mut command = Command::new(&tool.path);
        command.arg("serve").arg(&file).env("OTEL_TRACES_EXPORTER", "none");
        let process = Process::spawn("the registry", &mut command, &log, &log)?;
        let address = port.address();
        until("the registry is ready", START, async || {
            let answer = http::send(address, &Request::get("/v2/")).await?;
            if answer.status == 200 { Ok(()) } else { Err(unexpected("GET /v2/", &answer)) }
        })
        .await?;
        Ok(Self { port, _process: process })
    }

    /// The address, which is the first part of an image's name.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Pushes the images of the filter that a release has: `tools/images push REGISTRY --modules`.
    pub fn push_filter(&self) -> Result<Images> {
        let mut command = Command::new(artifacts::root().join("tools/images"));
        // The network namespace has no way to what could be installed.
        command.args(["push", &self.address().to_string(), "--modules"]).env("KEYWARD_INSTALL", "no");
        command.env("KEYWARD_WASM", artifacts::filter()?);
        let output = command.output().map_err(|error| Failure::new(format!("tools/images (with python3): {error}")))?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Failure::new(format!("tools/images: {}: {reason}", output.status)));
        }
        // REGISTRY/NAME:TAG@sha256:DIGEST
        let pushed = String::from_utf8_lossy(&output.stdout).into_owned();
        let image = |is_docker: bool| {
            let images = pushed.lines().filter_map(|line| line.split_once("@sha256:"));
            let mut of_filter = images.filter(|(reference, _)| reference.contains("/keyward-filter:"));
            let found = of_filter.find(|(reference, _)| reference.ends_with("-docker") == is_docker);
            let (reference, digest) =
                found.ok_or_else(|| Failure::new(format!("tools/images did not push the filter: {pushed}")))?;
            Ok::<_, Failure>(Image { reference: reference.to_owned(), digest: digest.to_owned() })
        };
        Ok(Images { artifact: image(false)?, docker: image(true)? })
    }

    /// An image that does not exist.
    pub fn missing_image(&self) -> String {
        format!("{}/keyward-filter:missing", self.address())
    }
}

fn unexpected(what: &str, answer: &Response) -> Failure {
    Failure::new(format!("{what}: {} {}", answer.status, answer.text()))
}
