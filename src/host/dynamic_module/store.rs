//! The store that all workers of the process share: values under names, in memory.

use crate::engine::store::{Conflict, SharedStore, Stored};
use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, PoisonError, RwLock};

/// The store of the process, for all configurations.
#[derive(Debug)]
pub(super) struct ProcessStore;

/// How many parts have a lock of their own, so that workers rarely meet.
const SHARDS: usize = 64;

#[derive(Debug)]
struct Shards {
    hasher: RandomState,
    shards: [RwLock<HashSet<Entry>>; SHARDS],
}

/// A name and its value, in one allocation: a snapshot has tens of thousands. The tag (4 bytes), the length of the name (2),
/// the name, the value.
#[derive(Debug)]
struct Entry(Box<[u8]>);

static STORE: LazyLock<Shards> =
    LazyLock::new(|| Shards { hasher: RandomState::new(), shards: std::array::from_fn(|_| RwLock::default()) });

impl Entry {
    /// `None` for a name that is too long; the engine's have a few dozen characters.
    fn new(name: &str, value: &[u8], tag: u32) -> Option<Self> {
        let length = u16::try_from(name.len()).ok()?;
        Some(Self([&tag.to_le_bytes()[..], &length.to_le_bytes(), name.as_bytes(), value].concat().into()))
    }

    fn parts(&self) -> (u32, &[u8], &[u8]) {
        let parts = || {
            let (tag, rest) = self.0.split_first_chunk::<4>()?;
            let (length, rest) = rest.split_first_chunk::<2>()?;
            let (name, value) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
            Some((u32::from_le_bytes(*tag), name, value))
        };
        parts().unwrap_or_default()
    }
}

impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        self.parts().1
    }
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().1.hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.parts().1 == other.parts().1
    }
}

impl Eq for Entry {}

/// Counts the writes to any [`Names::status`](crate::engine::store::Names).
static STATUS_WRITES: AtomicU64 = AtomicU64::new(0);

impl ProcessStore {
    /// Differs from an earlier reading if a status was written in between. So a worker knows with one load that it need
    /// not poll.
    pub(super) fn status_writes() -> u64 {
        STATUS_WRITES.load(Ordering::Acquire)
    }
}

impl Shards {
    fn of(&self, name: &str) -> Option<&RwLock<HashSet<Entry>>> {
        self.shards.get(self.hasher.hash_one(name) as usize % SHARDS)
    }
}

impl SharedStore for ProcessStore {
    fn get(&self, name: &str) -> Option<Stored> {
        self.read(name, |stored| stored.map(|(bytes, tag)| Stored { bytes: bytes.to_vec(), tag }))
    }

    fn read<T>(&self, name: &str, see: impl FnOnce(Option<(&[u8], u32)>) -> T) -> T {
        let Some(shard) = STORE.of(name) else { return see(None) };
        let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
        see(shard.get(name.as_bytes()).map(|entry| {
            let (tag, _, value) = entry.parts();
            (value, tag)
        }))
    }

    fn put(&self, name: &str, value: &[u8], expected: Option<u32>) -> Result<(), Conflict> {
        let tag = expected.map_or(1, |tag| tag.wrapping_add(1));
        // Made and dropped outside of the lock.
        let entry = Entry::new(name, value, tag).ok_or(Conflict)?;
        let replaced = {
            let mut shard = STORE.of(name).ok_or(Conflict)?.write().unwrap_or_else(PoisonError::into_inner);
            if shard.get(name.as_bytes()).map(|entry| entry.parts().0) != expected {
                return Err(Conflict);
            }
            shard.replace(entry)
        };
        drop(replaced);
        if name.ends_with("status") {
            STATUS_WRITES.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::store::update;
    use std::thread;

    #[test]
    fn value_is_written_under_its_tag_only() {
        let name = "store.tags";
        assert_eq!(ProcessStore.get(name), None);
        assert_eq!(ProcessStore.put(name, b"a", Some(1)), Err(Conflict));
        assert_eq!(ProcessStore.put(name, b"a", None), Ok(()));
        assert_eq!(ProcessStore.put(name, b"b", None), Err(Conflict));
        let tag = ProcessStore.get(name).unwrap().tag;
        assert_eq!(ProcessStore.put(name, b"b", Some(tag)), Ok(()));
        assert_eq!(ProcessStore.put(name, b"c", Some(tag)), Err(Conflict));
        assert_eq!(ProcessStore.read(name, |stored| stored.map(|(bytes, _)| bytes.to_vec())), Some(b"b".to_vec()));
    }

    #[test]
    fn concurrent_updates_are_all_counted() {
        let add = || {
            for _ in 0..500 {
                update(&ProcessStore, "store.count", |current| {
                    let count = current.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
                    (Some((count + 1).to_le_bytes().to_vec()), ())
                });
            }
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(add);
            }
        });
        assert_eq!(ProcessStore.get("store.count").unwrap().bytes, 2000u64.to_le_bytes());
    }

    #[test]
    fn status_write_is_noticed() {
        let before = ProcessStore::status_writes();
        ProcessStore.put("store.status", b"1", None).unwrap();
        assert_ne!(ProcessStore::status_writes(), before);
    }
}
