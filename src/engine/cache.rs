//! A bounded cache of decoded records in one worker's memory, so that a key in use costs no look-up in shared data.

use keyward_core::key::digest::Digest;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Two generations of at most half the bound each: records not used while the young generation filled are dropped.
///
/// Only existing records are cached, so invented keys cannot evict real ones.
#[derive(Debug)]
pub struct Cache<T> {
    half: usize,
    young: Map<T>,
    old: Map<T>,
}

type Map<T> = HashMap<Digest, T, BuildHasherDefault<DigestHasher>>;

impl<T> Cache<T> {
    /// A cache of at most `bound` records; 0 disables it.
    pub fn new(bound: usize) -> Self {
        Self { half: bound.div_ceil(2), young: Map::default(), old: Map::default() }
    }

    /// The cached record of a subject.
    pub fn find(&mut self, subject: &Digest) -> Option<&mut T> {
        if !self.young.contains_key(subject) {
            let record = self.old.remove(subject)?;
            self.insert(*subject, record);
        }
        self.young.get_mut(subject)
    }

    /// Adds a record.
    pub fn insert(&mut self, subject: Digest, record: T) {
        if self.half == 0 {
            return;
        }
        if self.young.len() >= self.half && !self.young.contains_key(&subject) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(subject, record);
    }

    /// The number of cached records.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Uses eight bytes of a digest as its hash: they are evenly distributed already, and an attacker who could choose them
/// could break SHA-256.
#[derive(Debug, Default)]
pub struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        // Leading bits choose the bucket, so the last ones distinguish the records of one bucket.
        if let Some(last) = bytes.last_chunk::<8>() {
            self.0 = u64::from_le_bytes(*last);
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u64) -> Digest {
        let mut bytes = [0; 32];
        bytes[24..].copy_from_slice(&n.to_le_bytes());
        Digest(bytes)
    }

    #[test]
    fn cache_never_exceeds_its_bound() {
        for bound in [0, 1, 2, 7, 100] {
            let mut cache = Cache::new(bound);
            for n in 0..1000 {
                cache.insert(digest(n), n);
                assert!(cache.len() <= bound.next_multiple_of(2), "{} of {bound}", cache.len());
            }
        }
        assert!(Cache::<()>::new(0).is_empty());
    }

    #[test]
    fn used_records_stay() {
        let mut cache = Cache::new(10);
        cache.insert(digest(0), 0);
        for n in 1..1000 {
            cache.insert(digest(n), n);
            assert_eq!(cache.find(&digest(0)).copied(), Some(0), "after {n}");
        }
        assert_eq!(cache.find(&digest(1)), None);
    }
}
