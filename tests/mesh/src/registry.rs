//! A real registry of images on loopback, and a client that pushes the filter to it.

use crate::tools::Tool;
use keyward_harness::http::{self, Request};
use keyward_harness::ports::ReservedPort;
use keyward_harness::process::Process;
use keyward_harness::{Failure, Response, Result, until};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
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
    dir: std::path::PathBuf,
    _process: Process,
}

/// What an image of the filter looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An OCI artifact: the module as it is, in a layer of its own media type, and a layer of metadata.
    Artifact,
    /// A Docker image of one layer, with the module as `plugin.wasm`.
    Docker,
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
        Ok(Self { port, dir, _process: process })
    }

    /// The address, which is the first part of an image's name.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Pushes a module as `repository:tag`; returns the manifest's SHA-256 in hexadecimal.
    pub async fn push(&self, repository: &str, tag: &str, format: Format, module: &[u8]) -> Result<String> {
        let (of_manifest, of_config, layers) = match format {
            Format::Artifact => (
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
                vec![
                    ("application/vnd.module.wasm.content.layer.v1+wasm", module.to_vec()),
                    ("application/vnd.module.wasm.config.v1+json", b"{}".to_vec()),
                ],
            ),
            Format::Docker => (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                vec![("application/vnd.docker.image.rootfs.diff.tar.gzip", self.archive(module)?)],
            ),
        };
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
        let config = self.blob(repository, of_config, config.to_string().into_bytes()).await?;
        let mut blobs = Vec::new();
        for (media_type, content) in layers {
            blobs.push(self.blob(repository, media_type, content).await?);
        }
        let manifest = json!({"schemaVersion": 2, "mediaType": of_manifest, "config": config, "layers": blobs});
        let manifest = manifest.to_string().into_bytes();
        let digest = hex::encode(Sha256::digest(&manifest));
        let path = format!("/v2/{repository}/manifests/{tag}");
        let request = Request::new("PUT", &path).header("content-type", of_manifest).body(manifest);
        let answer = http::send(self.address(), &request).await?;
        if answer.status == 201 { Ok(digest) } else { Err(unexpected(&format!("PUT {path}"), &answer)) }
    }

    /// Uploads a blob; returns its descriptor.
    async fn blob(&self, repository: &str, media_type: &str, content: Vec<u8>) -> Result<Value> {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&content)));
        let descriptor = json!({"mediaType": media_type, "size": content.len(), "digest": digest});
        let path = format!("/v2/{repository}/blobs/uploads/");
        let answer = http::send(self.address(), &Request::new("POST", &path)).await?;
        let Some(location) = answer.header("location") else {
            return Err(unexpected(&format!("POST {path}"), &answer));
        };
        // An absolute URL of this registry.
        let path = location.find("/v2/").map_or(location.as_str(), |start| &location[start..]);
        let path = format!("{path}{}digest={digest}", if path.contains('?') { '&' } else { '?' });
        let request = Request::new("PUT", &path).header("content-type", "application/octet-stream").body(content);
        let answer = http::send(self.address(), &request).await?;
        if answer.status == 201 { Ok(descriptor) } else { Err(unexpected("PUT of a blob", &answer)) }
    }

    /// The layer of a Docker image: a compressed archive of `plugin.wasm`.
    fn archive(&self, module: &[u8]) -> Result<Vec<u8>> {
        let failed = |error: std::io::Error| Failure::new(format!("the archive of plugin.wasm: {error}"));
        fs::write(self.dir.join("plugin.wasm"), module).map_err(failed)?;
        let output =
            Command::new("tar").arg("-C").arg(&self.dir).args(["-czf", "-", "plugin.wasm"]).output().map_err(failed)?;
        if output.status.success() { Ok(output.stdout) } else { Err(Failure::new("tar failed")) }
    }
}

fn unexpected(what: &str, answer: &Response) -> Failure {
    Failure::new(format!("{what}: {} {}", answer.status, answer.text()))
}
