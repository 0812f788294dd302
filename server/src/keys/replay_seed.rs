//! The replay seed (file `pepper`): with an Idempotency-Key it derives the plaintext of an idempotent request again.
//!
//! Neither is in the database, so the database yields no plaintext; and the file alone yields none without the client's
//! Idempotency-Key. Servers that share a database must share the file.

use crate::private_file::{self, CreateError};
use crate::random;
use hmac::{Hmac, Mac};
use keyward_core::key::secret::Secret;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The 32 random bytes of the file.
#[derive(Clone, PartialEq, Eq)]
pub struct ReplaySeed([u8; Self::LENGTH]);

/// The bytes derived for one salt: HMAC-SHA-256 (RFC 2104) of the salt and a counter, under the pepper followed by the
/// SHA-256 of the Idempotency-Key, which are one block of it.
pub struct Stream {
    hmac: Hmac<Sha256>,
    blocks: u64,
}

/// The file cannot be used. No message repeats its contents.
#[derive(Debug, thiserror::Error)]
pub enum ReplaySeedError {
    /// The file cannot be read or created.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Others can read the file.
    #[error("{} can be read by others (mode {mode:o}); make it mode 600", path.display())]
    ReadableByOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file has another content.
    #[error("expected {1} hexadecimal digits in {0}; remove the file to have a new one created", path.display(), 2 * ReplaySeed::LENGTH)]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// The name of the file in the data directory.
pub const PEPPER_FILE: &str = "pepper";

impl ReplaySeed {
    /// The length, in bytes.
    pub const LENGTH: usize = 32;

    /// Reads the file in the data directory; creates it if it is missing.
    pub fn open(data_dir: &Path) -> Result<Self, ReplaySeedError> {
        let path = data_dir.join(PEPPER_FILE);
        let io_error = |source: io::Error| ReplaySeedError::File { path: path.clone(), source: source.into() };
        if !path.try_exists().map_err(io_error)? {
            create(&path).map_err(|source| ReplaySeedError::File { path: path.clone(), source: source.into() })?;
        }
        if let Some(mode) = private_file::open_to_others(&path).map_err(io_error)? {
            return Err(ReplaySeedError::ReadableByOthers { path, mode });
        }
        let contents = fs::read(&path).map_err(io_error)?;
        let mut pepper = Self([0; Self::LENGTH]);
        match hex::decode_to_slice(contents.trim_ascii(), &mut pepper.0) {
            Ok(()) => Ok(pepper),
            Err(_) => Err(ReplaySeedError::Malformed { path }),
        }
    }

    /// The bytes for that Idempotency-Key and salt, always the same.
    pub fn stream(&self, idempotency_key: &Secret, salt: &[u8; 32]) -> Stream {
        let of_client = Sha256::digest(idempotency_key.expose());
        let mut key = [0; 2 * Self::LENGTH];
        key.iter_mut().zip(self.0.iter().chain(&of_client)).for_each(|(byte, part)| *byte = *part);
        let hmac = <Hmac<Sha256> as Mac>::new(&key.into());
        Stream { hmac: hmac.chain_update(salt), blocks: 0 }
    }
}

impl Stream {
    /// Fills the buffer with the next blocks; the rest of the last block is discarded.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(32) {
            let block = self.hmac.clone().chain_update(self.blocks.to_be_bytes()).finalize().into_bytes();
            self.blocks += 1;
            chunk.iter_mut().zip(block).for_each(|(byte, drawn)| *byte = drawn);
        }
    }
}

impl fmt::Debug for ReplaySeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplaySeed(redacted)")
    }
}

fn create(path: &Path) -> Result<(), CreateError> {
    let mut bytes = [0; ReplaySeed::LENGTH];
    random::fill(&mut bytes)?;
    private_file::create(path, &format!("{}\n", hex::encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn drawn(pepper: &ReplaySeed, idempotency_key: &str, salt: u8) -> Vec<u8> {
        let mut bytes = vec![0; 100];
        pepper.stream(&Secret::new(idempotency_key.to_owned()), &[salt; 32]).fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_is_drawn_is_the_hmac_of_salt_and_counter_under_pepper_and_key() {
        let pepper = ReplaySeed([7; 32]);
        let hmac = |counter: u64| {
            let key = [&[7; 32][..], &Sha256::digest(b"the key")].concat();
            let mut hmac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
            hmac.update(&[9; 32]);
            hmac.update(&counter.to_be_bytes());
            hmac.finalize().into_bytes().to_vec()
        };
        let expected = [hmac(0), hmac(1), hmac(2), hmac(3)[..4].to_vec()].concat();
        assert_eq!(drawn(&pepper, "the key", 9), expected);
    }

    #[test]
    fn pepper_key_and_salt_each_make_other_bytes() {
        let bytes = drawn(&ReplaySeed([7; 32]), "the key", 9);
        assert_ne!(drawn(&ReplaySeed([8; 32]), "the key", 9), bytes);
        assert_ne!(drawn(&ReplaySeed([7; 32]), "the kez", 9), bytes);
        assert_ne!(drawn(&ReplaySeed([7; 32]), "the key", 8), bytes);
    }

    #[test]
    fn the_file_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let pepper = ReplaySeed::open(dir.path()).unwrap();
        let path = dir.path().join(PEPPER_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap().trim_end().len(), 64);
        assert_eq!(ReplaySeed::open(dir.path()).unwrap(), pepper);
        assert_eq!(format!("{pepper:?}"), "ReplaySeed(redacted)");
    }

    #[test]
    fn a_file_that_others_can_read_or_that_holds_something_else_is_refused_without_a_word_of_it() {
        let dir = tempfile::tempdir().unwrap();
        ReplaySeed::open(dir.path()).unwrap();
        let path = dir.path().join(PEPPER_FILE);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(ReplaySeed::open(dir.path()).unwrap_err().to_string().contains("mode 640"));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for bad in ["", "abcdef", &"g".repeat(64), &"a".repeat(66)] {
            fs::write(&path, bad).unwrap();
            let error = ReplaySeed::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("64 hexadecimal digits") && !error.contains("abcdef"), "{error}");
        }
    }
}
