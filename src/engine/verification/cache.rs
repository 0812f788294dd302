//! Results of verifications by the control plane, cached so that each credential is verified once.
//!
//! **Where.** In a fixed number of shared buckets, so that all workers know what one learned, and in each worker's
//! memory, so that a key in use costs no look-up. Both are bounded; a dropped result is requested again.
//!
//! **What.** A result is stored under a hash of the credential and belongs to one secret: it is valid only while the
//! snapshot's record still names that secret, and the record decides everything else. So a key that is revoked or
//! rotated is refused at once, cached or not. The hash is keyed with random bytes of this process, because a plain
//! SHA-256 of the credential would undo the protection of its Argon2id hash; an attacker who can read all of the
//! process's memory has the key too.

use crate::engine::cache::Cache;
use crate::engine::snapshot::ReadVersions;
use crate::engine::store::{SharedStore, update};
use keyward_core::key::digest::Digest;
use sha2::{Digest as _, Sha256};

/// This worker's cache, and the shared one.
#[derive(Debug)]
pub struct Verified {
    prefix: String,
    /// Unpredictable bytes, offered as the process's key; `None` without a source of randomness.
    offered: Option<HashKey>,
    key: Option<HashKey>,
    recent: Cache<Recent>,
}

/// A correct credential, in one worker's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recent {
    /// The address of its record.
    pub subject: Digest,
    /// The id of the secret that the credential matches.
    pub secret_id: String,
    /// The versions found at the earlier addresses when the result was cached.
    pub before: ReadVersions,
    until_ms: u64,
}

/// The cached result for a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// The credential matches the secret.
    Right {
        /// How long the result is valid, in milliseconds of the monotonic clock.
        until_ms: u64,
    },
    /// The credential does not match.
    Wrong,
}

/// Random bytes of this process. Stored in shared data, and never shown.
#[derive(Clone)]
struct HashKey([u8; HASH_KEY_LENGTH]);

/// The address of an entry: both parts are hashes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Address {
    credential: [u8; 16],
    secret: [u8; 8],
}

#[derive(Clone, Copy)]
struct Entry {
    address: Address,
    is_right: bool,
    at_ms: u64,
}

/// The number of random bytes that key the hashes.
pub const HASH_KEY_LENGTH: usize = 32;

/// How long a correct credential is cached, in milliseconds.
pub const RIGHT_MS: u64 = 24 * 60 * 60 * 1000;

/// How long a wrong credential is cached, in milliseconds.
pub const WRONG_MS: u64 = 30 * 1000;

/// The number of shared buckets, as a power of two.
const BUCKET_BITS: u32 = 10;

/// The number of results in a bucket.
pub const BUCKET_ENTRIES: usize = 128;

const ENTRY_LENGTH: usize = 16 + 8 + 1 + 8;

impl Verified {
    /// A cache whose shared part has names that begin with `prefix`, and whose local part holds `recent` credentials.
    /// `offered` must come from a cryptographic source; without it nothing is cached unless another worker has set the
    /// key.
    pub fn new(prefix: String, recent: usize, offered: Option<[u8; HASH_KEY_LENGTH]>) -> Self {
        Self { prefix, offered: offered.map(HashKey), key: None, recent: Cache::new(recent) }
    }

    /// A correct credential in this worker's memory.
    pub fn recent(&mut self, digest: &Digest, now_ms: u64) -> Option<&Recent> {
        self.recent.find(digest).filter(|recent| now_ms < recent.until_ms).map(|recent| &*recent)
    }

    /// What the process knows of a credential under a record; correct credentials are kept in this worker's memory too.
    pub fn recall(
        &mut self,
        store: &impl SharedStore,
        credential: &Credential<'_>,
        secret_id: &str,
        now_ms: u64,
    ) -> Option<Memory> {
        let (name, address) = self.place(store, credential.text, secret_id)?;
        let stored = store.get(&name)?;
        let memory = read(&stored.bytes).find(|entry| entry.address == address)?.believed(now_ms)?;
        if let Memory::Right { until_ms } = memory {
            let (subject, before) = (credential.subject, credential.before.clone());
            let recent = Recent { subject, secret_id: secret_id.to_owned(), before, until_ms };
            self.recent.insert(credential.digest, recent);
        }
        Some(memory)
    }

    /// Caches a result for all workers.
    pub fn remember(
        &mut self,
        store: &impl SharedStore,
        credential: &[u8],
        secret_id: &str,
        is_right: bool,
        now_ms: u64,
    ) {
        let Some((name, address)) = self.place(store, credential, secret_id) else { return };
        let newest = Entry { address, is_right, at_ms: now_ms };
        update(store, &name, |current| (Some(with(current.unwrap_or_default(), newest)), ()));
    }

    fn place(&mut self, store: &impl SharedStore, credential: &[u8], secret_id: &str) -> Option<(String, Address)> {
        let key = self.key(store)?;
        let hash = key.hash(b"credential", credential);
        let (credential, rest) = hash.split_first_chunk::<16>()?;
        let [a, b, ..] = *rest else { return None };
        let bucket = u32::from(u16::from_be_bytes([a, b])) >> (u16::BITS - BUCKET_BITS);
        let secret = *key.hash(b"secret", secret_id.as_bytes()).first_chunk::<8>()?;
        Some((format!("{}{bucket:x}", self.prefix), Address { credential: *credential, secret }))
    }

    /// The process's key; the first worker sets it.
    fn key(&mut self, store: &impl SharedStore) -> Option<HashKey> {
        if self.key.is_none() {
            let name = format!("{}key", self.prefix);
            if let Some(offered) = &self.offered {
                // A conflict means that another worker has set it already.
                let _ = store.get(&name).is_none().then(|| store.put(&name, &offered.0, None));
            }
            self.key = store.get(&name).and_then(|stored| Some(HashKey(stored.bytes.try_into().ok()?)));
        }
        self.key.clone()
    }
}

/// A credential, and the address of its record.
pub struct Credential<'a> {
    /// The credential.
    pub text: &'a [u8],
    /// Its digest, for this worker's memory only.
    pub digest: Digest,
    /// The address of its record.
    pub subject: Digest,
    /// The versions at the earlier addresses, at which there was no record.
    pub before: &'a ReadVersions,
}

impl HashKey {
    /// A keyed hash: SHA-256 of the key and what follows, of which only a part is stored.
    fn hash(&self, what: &[u8], bytes: &[u8]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in [&self.0[..], what, b"\0", bytes] {
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(redacted)")
    }
}

impl Entry {
    fn believed(&self, now_ms: u64) -> Option<Memory> {
        let lasts_ms = if self.is_right { RIGHT_MS } else { WRONG_MS };
        let until_ms = self.at_ms.saturating_add(lasts_ms);
        match self.is_right {
            _ if now_ms >= until_ms => None,
            true => Some(Memory::Right { until_ms }),
            false => Some(Memory::Wrong),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.address.credential);
        out.extend_from_slice(&self.address.secret);
        out.push(u8::from(self.is_right));
        out.extend_from_slice(&self.at_ms.to_le_bytes());
    }

    fn decode(bytes: &[u8; ENTRY_LENGTH]) -> Option<Self> {
        let (credential, rest) = bytes.split_first_chunk::<16>()?;
        let (secret, rest) = rest.split_first_chunk::<8>()?;
        let (is_right, at_ms) = rest.split_first()?;
        let address = Address { credential: *credential, secret: *secret };
        Some(Self { address, is_right: *is_right == 1, at_ms: u64::from_le_bytes(at_ms.try_into().ok()?) })
    }
}

fn read(bucket: &[u8]) -> impl Iterator<Item = Entry> {
    let (entries, _) = bucket.as_chunks::<ENTRY_LENGTH>();
    entries.iter().filter_map(Entry::decode)
}

/// The bucket with one more result, within its bound: wrong credentials are evicted first, so that guesses evict no
/// valid key; then the oldest.
fn with(bucket: &[u8], newest: Entry) -> Vec<u8> {
    let is_kept = |entry: &Entry| entry.address != newest.address && entry.believed(newest.at_ms).is_some();
    let mut kept: Vec<Entry> = read(bucket).filter(is_kept).collect();
    while kept.len() >= BUCKET_ENTRIES {
        match kept.iter().position(|entry| !entry.is_right) {
            Some(oldest_wrong) => drop(kept.remove(oldest_wrong)),
            None if newest.is_right => drop(kept.remove(0)),
            None => break,
        }
    }
    if kept.len() < BUCKET_ENTRIES {
        kept.push(newest);
    }
    let mut out = Vec::with_capacity(kept.len() * ENTRY_LENGTH);
    kept.iter().for_each(|entry| entry.encode(&mut out));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::store::memory::MemoryStore;
    use proptest::prelude::*;

    const TEXT: &[u8] = b"user.aaaaaaaa";

    fn memory(offered: u8) -> Verified {
        Verified::new("v.".to_owned(), 4, Some([offered; 32]))
    }

    fn credential<'a>(text: &'a [u8], before: &'a ReadVersions) -> Credential<'a> {
        let (digest, subject) = (Digest::of_key(text), Digest::of_selector(b"user.aaaa"));
        Credential { text, digest, subject, before }
    }

    fn entry(n: u64, is_right: bool, at_ms: u64) -> Entry {
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&n.to_le_bytes());
        Entry { address: Address { credential: hash, secret: [0; 8] }, is_right, at_ms }
    }

    #[test]
    fn result_is_shared_by_workers_for_that_secret_only() {
        let store = MemoryStore::default();
        let (mut one, mut other) = (memory(1), memory(2));
        assert_eq!(one.recall(&store, &credential(TEXT, &ReadVersions::default()), "sec_1", 0), None);
        one.remember(&store, TEXT, "sec_1", true, 5);
        assert_eq!(
            other.recall(&store, &credential(TEXT, &ReadVersions::default()), "sec_1", 6),
            Some(Memory::Right { until_ms: 5 + RIGHT_MS }),
            "although the worker offered another key"
        );
        assert_eq!(other.recall(&store, &credential(TEXT, &ReadVersions::default()), "sec_2", 6), None);
        assert_eq!(other.recall(&store, &credential(b"user.aaaabbbb", &ReadVersions::default()), "sec_1", 6), None);
    }

    #[test]
    fn right_lasts_a_day_and_wrong_half_a_minute() {
        for (is_right, lasts_ms) in [(true, RIGHT_MS), (false, WRONG_MS)] {
            let (store, mut memory) = (MemoryStore::default(), memory(1));
            memory.remember(&store, TEXT, "sec_1", is_right, 100);
            assert!(
                memory.recall(&store, &credential(TEXT, &ReadVersions::default()), "sec_1", 99 + lasts_ms).is_some()
            );
            assert_eq!(memory.recent(&Digest::of_key(TEXT), 99 + lasts_ms).is_some(), is_right);
            assert_eq!(
                memory.recall(&store, &credential(TEXT, &ReadVersions::default()), "sec_1", 100 + lasts_ms),
                None
            );
            assert_eq!(memory.recent(&Digest::of_key(TEXT), 100 + lasts_ms), None);
        }
    }

    #[test]
    fn shared_memory_holds_no_credential_and_no_sha_256() {
        let (store, mut memory) = (MemoryStore::default(), memory(1));
        memory.remember(&store, TEXT, "sec_1", true, 0);
        for (name, bytes) in store.values() {
            for secret in [TEXT, &Digest::of_key(TEXT).0[..8]] {
                assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{name}");
            }
        }
    }

    #[test]
    fn without_randomness_nothing_is_cached_or_broken() {
        let store = MemoryStore::default();
        let mut memory = Verified::new("v.".to_owned(), 4, None);
        memory.remember(&store, TEXT, "sec_1", true, 0);
        assert_eq!(memory.recall(&store, &credential(TEXT, &ReadVersions::default()), "sec_1", 0), None);
        assert!(store.values().is_empty());
    }

    /// A full bucket drops wrong credentials first, then the oldest, and never a right one for a wrong one.
    #[test]
    fn full_bucket_drops_wrong_results_then_the_oldest() {
        let mut bucket = Vec::new();
        for n in 0..BUCKET_ENTRIES as u64 {
            bucket = with(&bucket, entry(n, n != 50, n));
        }
        let held = |bucket: &[u8], n: u64| read(bucket).any(|held| held.address == entry(n, true, 0).address);
        bucket = with(&bucket, entry(1000, true, 1000));
        assert!(!held(&bucket, 50) && held(&bucket, 0) && held(&bucket, 1000));
        bucket = with(&bucket, entry(1001, true, 1001));
        assert!(!held(&bucket, 0) && held(&bucket, 1) && held(&bucket, 1001));
        bucket = with(&bucket, entry(1002, false, 1002));
        assert!(held(&bucket, 1) && !held(&bucket, 1002));
        assert_eq!(read(&bucket).count(), BUCKET_ENTRIES);
    }

    proptest! {
        #[test]
        fn bucket_is_bounded_and_parses_any_content(
            bytes in proptest::collection::vec(any::<u8>(), 0..6000),
            added in proptest::collection::vec((0..300u64, any::<bool>(), 0..100_000u64), 0..300),
        ) {
            let mut bucket = bytes;
            for (n, is_right, at_ms) in added {
                bucket = with(&bucket, entry(n, is_right, at_ms));
                prop_assert!(read(&bucket).count() <= BUCKET_ENTRIES);
                prop_assert_eq!(bucket.len() % ENTRY_LENGTH, 0);
                let last = read(&bucket).last().unwrap();
                prop_assert!(!is_right || last.is_right && last.at_ms == at_ms);
            }
        }
    }
}
