//! Reads the filter's configuration, and the secrets that it takes from Envoy's environment.

use crate::engine::digests::{Digests, HmacKey, KeyDigest};
use crate::engine::store::Names;
use crate::host::Host;
use crate::policy::{Config, ControlPlane, DigestSetting};
use keyward_core::key::secret::Secret;

/// A configuration with its secrets.
#[derive(Clone)]
pub(super) struct Configuration {
    pub(super) config: Config,
    pub(super) digests: Digests,
    pub(super) token: Option<Secret>,
}

impl Configuration {
    /// Must not depend on anything that could differ between workers: Envoy runs a worker whose filter fails to configure
    /// without the filter.
    pub(super) fn read<H: Host>(text: &[u8]) -> Result<Self, String> {
        let config = Config::parse(text).map_err(|problems| format!("invalid configuration: {problems}"))?;
        let token = read_token::<H>(&config.control_plane)?;
        let digests = read_digests::<H>(&config.digests)?;
        Ok(Self { config, digests, token })
    }

    /// The names of its snapshot in the shared store.
    pub(super) fn names(&self) -> Names {
        let ControlPlane { cluster, authority, .. } = &self.config.control_plane;
        Names::new(cluster, authority, self.config.snapshot.bucket_bits)
    }
}

fn read_token<H: Host>(control_plane: &ControlPlane) -> Result<Option<Secret>, String> {
    let Some(variable) = &control_plane.token_env else { return Ok(None) };
    match std::env::var(variable) {
        // A token must be valid in a header field (RFC 6750, section 2.1).
        Ok(token) if !token.is_empty() && token.bytes().all(|c| c.is_ascii_graphic()) => Ok(Some(Secret::new(token))),
        Ok(_) => Err(format!(
            "environment variable {variable}: expected a token of visible ASCII characters, got none or others"
        )),
        Err(_) => Err(not_set::<H>(variable, "the edge token")),
    }
}

fn read_digests<H: Host>(settings: &[DigestSetting]) -> Result<Digests, String> {
    let read = |setting: &DigestSetting| match setting {
        DigestSetting::Sha256 => Ok(KeyDigest::Sha256),
        DigestSetting::Sha512 => Ok(KeyDigest::Sha512),
        DigestSetting::HmacSha256 { pepper_env } => read_pepper::<H>(pepper_env).map(KeyDigest::HmacSha256),
    };
    settings.iter().map(read).collect::<Result<_, _>>().map(Digests::new)
}

/// The raw bytes of the variable: another system may have chosen any.
fn read_pepper<H: Host>(variable: &str) -> Result<HmacKey, String> {
    let bytes = std::env::var_os(variable).ok_or_else(|| not_set::<H>(variable, "a pepper"))?;
    HmacKey::new(bytes.as_encoded_bytes())
        .ok_or_else(|| format!("environment variable {variable}: expected a pepper, got an empty value"))
}

fn not_set<H: Host>(variable: &str, what: &str) -> String {
    format!("environment variable {variable}: expected {what}, but the variable is not set in {}", H::ENVIRONMENT)
}
