//! Verifies the signatures of GitHub's secret scanning alerts: ECDSA (P-256, SHA-256) of the raw body.
//!
//! The public keys are read from a file in the format of <https://api.github.com/meta/public_keys/secret_scanning>; the server
//! fetches nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::DecodePublicKey;
use serde::Deserialize;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// GitHub's public keys, read from a file.
#[derive(Debug)]
pub struct GithubKeys {
    path: PathBuf,
    keys: RwLock<HashMap<String, VerifyingKey>>,
}

/// The keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GithubKeysError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has another format.
    #[error("{}: expected the response of https://api.github.com/meta/public_keys/secret_scanning: {source}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A key is invalid.
    #[error("{}: key {id:?} is not a P-256 public key in PEM", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Its identifier.
        id: String,
    },
    /// The file contains no key.
    #[error("{}: public_keys is empty", path.display())]
    None {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Deserialize)]
struct File {
    public_keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    key_identifier: String,
    key: String,
}

impl GithubKeys {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, GithubKeysError> {
        Ok(Self { path: path.to_owned(), keys: RwLock::new(read(path)?) })
    }

    /// Reloads the file, such as after GitHub rotated its keys; on an error the keys stay as they were.
    pub fn reload(&self) -> Result<(), GithubKeysError> {
        let keys = read(&self.path)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// Whether there is a key of that identifier.
    pub fn has(&self, key_id: &[u8]) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        std::str::from_utf8(key_id).is_ok_and(|id| keys.contains_key(id))
    }

    /// A signature (base64 of DER) by that key, not yet verified; `None` if it is malformed or the key is unknown.
    pub fn claim(&self, key_id: &[u8], signature: &[u8]) -> Option<Claim> {
        let id = std::str::from_utf8(key_id).ok()?;
        let key = *self.keys.read().unwrap_or_else(PoisonError::into_inner).get(id)?;
        let signature = Signature::from_der(&STANDARD.decode(signature).ok()?).ok()?;
        Some(Claim { key, signature })
    }
}

/// A signature whose body is not yet known.
#[derive(Debug)]
pub struct Claim {
    key: VerifyingKey,
    signature: Signature,
}

impl Claim {
    /// Whether the signature is that of the body.
    pub fn matches(&self, body: &[u8]) -> bool {
        self.key.verify(body, &self.signature).is_ok()
    }
}

fn read(path: &Path) -> Result<HashMap<String, VerifyingKey>, GithubKeysError> {
    let path = || path.to_owned();
    let text = std::fs::read(path()).map_err(|source| GithubKeysError::File { path: path(), source })?;
    let file: File = serde_json::from_slice(&text).map_err(|source| GithubKeysError::Shape { path: path(), source })?;
    let mut keys = HashMap::new();
    for Key { key_identifier: id, key } in file.public_keys {
        match VerifyingKey::from_public_key_pem(&key) {
            Ok(key) => keys.insert(id, key),
            Err(_) => return Err(GithubKeysError::Key { path: path(), id }),
        };
    }
    if keys.is_empty() { Err(GithubKeysError::None { path: path() }) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The example of GitHub's documentation of the secret scanning partner program, with the key of that identifier.
    const ID: &[u8] = b"90a421169f0a406205f1563a953312f0be898d3c7b6c06b681aa86a874555f4a";
    const BODY: &[u8] = br#"[{"token":"some_token","type":"some_type","url":"some_url"}]"#;
    const SIGNATURE: &[u8] =
        b"MEUCIQDKZokqnCjrRtw0tni+2Ltvl/uiMJ1EGumEsp1BsNr32AIgQY1YXD2nlj+XNfGK4rBfkMJ1JDOQcYXxa2sY8FNkrKc=";
    const PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
                       MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE9MJJHnMfn2+H4xL4YaPDA4RpJqUq\n\
                       kCmRCBnYERxZanmcpzQSXs1X/AljlKkbJ8qpVIW4clayyef9gWhFbNHWAA==\n\
                       -----END PUBLIC KEY-----\n";

    fn verify(keys: &GithubKeys, id: &[u8], signature: &[u8], body: &[u8]) -> bool {
        keys.claim(id, signature).is_some_and(|claim| claim.matches(body))
    }

    fn file(document: &serde_json::Value) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        std::fs::write(&path, document.to_string()).unwrap();
        (dir, path)
    }

    fn served(id: &[u8], pem: &str) -> serde_json::Value {
        json!({"public_keys": [{"key_identifier": std::str::from_utf8(id).unwrap(), "key": pem, "is_current": true}]})
    }

    #[test]
    fn the_documented_example_is_genuine_and_nothing_like_it_is() {
        let (_dir, path) = file(&served(ID, PEM));
        let keys = GithubKeys::load(&path).unwrap();
        assert!(verify(&keys, ID, SIGNATURE, BODY));
        let mut other_body = BODY.to_vec();
        other_body[4] ^= 1;
        let mut other_signature = SIGNATURE.to_vec();
        other_signature[20] = b'A';
        for (id, signature, body) in [
            (ID, SIGNATURE, &other_body[..]),
            (ID, &other_signature, BODY),
            (ID, &SIGNATURE[..40], BODY),
            (ID, b"not base64!", BODY),
            (ID, b"", BODY),
            (b"another key", SIGNATURE, BODY),
            (b"\xff", SIGNATURE, BODY),
        ] {
            assert!(!verify(&keys, id, signature, body));
        }
    }

    #[test]
    fn a_file_that_is_read_again_takes_the_place_of_the_last_one_if_it_can_be_used() {
        let (_dir, path) = file(&served(b"old", PEM));
        let keys = GithubKeys::load(&path).unwrap();
        assert!(!verify(&keys, ID, SIGNATURE, BODY));
        std::fs::write(&path, served(ID, PEM).to_string()).unwrap();
        keys.reload().unwrap();
        assert!(verify(&keys, ID, SIGNATURE, BODY));
        std::fs::write(&path, "{}").unwrap();
        assert!(keys.reload().is_err());
        assert!(verify(&keys, ID, SIGNATURE, BODY));
    }

    #[test]
    fn a_file_that_is_none_of_githubs_is_refused() {
        for document in [json!([]), json!({"public_keys": []}), served(b"a", "no key")] {
            let (_dir, path) = file(&document);
            assert!(GithubKeys::load(&path).is_err(), "{document}");
        }
        assert!(GithubKeys::load(Path::new("/nonexistent")).is_err());
    }
}
