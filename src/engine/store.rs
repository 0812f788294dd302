//! Storage shared by all workers of a process, as Envoy's shared data offers it, and the names of its entries.

use sha2::{Digest as _, Sha256};
use std::cell::Cell;

/// Values under names, replaced as a whole with compare-and-swap.
///
/// Names cannot be removed: once created, a name exists for the life of the process.
pub trait SharedStore {
    /// The value and its tag; `None` if the name was never created.
    fn get(&self, name: &str) -> Option<Stored>;

    /// Shows the value and its tag, which a store in the process's own memory need not copy for that. `see` must not call
    /// the store.
    fn read<T>(&self, name: &str, see: impl FnOnce(Option<(&[u8], u32)>) -> T) -> T {
        let stored = self.get(name);
        see(stored.as_ref().map(|stored| (stored.bytes.as_slice(), stored.tag)))
    }

    /// Replaces the value if its tag is still `expected`, or creates the name if `expected` is `None`.
    ///
    /// # Errors
    /// If another writer was first.
    fn put(&self, name: &str, value: &[u8], expected: Option<u32>) -> Result<(), Conflict>;
}

/// A value and its tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The value.
    pub bytes: Vec<u8>,
    /// The tag that the next writer must pass.
    pub tag: u32,
}

/// Another writer was first: read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another writer came first")]
pub struct Conflict;

/// The names of one snapshot.
///
/// Envoy keeps one map for all plugins of a vm_id, so the names begin with the layout's version and a hash of what
/// distinguishes snapshots: the control plane and the number of buckets.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: String,
    of_control_plane: String,
    /// The lease of the fetching VM.
    pub lease: String,
    /// The cursor of the feed.
    pub cursor: String,
    /// The status that every worker polls.
    pub status: String,
}

const LAYOUT_VERSION: u8 = 3;

impl Names {
    /// The names for a control plane and a number of buckets.
    pub fn new(cluster: &str, authority: &str, bucket_bits: u32) -> Self {
        let mut hasher = Sha256::new();
        for part in [cluster, authority] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let of_control_plane = prefix_of(hasher.clone());
        hasher.update(bucket_bits.to_le_bytes());
        let prefix = prefix_of(hasher);
        Self {
            of_control_plane,
            lease: format!("{prefix}lease"),
            cursor: format!("{prefix}cursor"),
            status: format!("{prefix}status"),
            prefix,
        }
    }

    /// The prefix of the names of the limiter's buckets: the same for snapshots of another size, so that usage is not
    /// forgotten with a resize.
    pub fn limits(&self) -> String {
        format!("{}limit.", self.of_control_plane)
    }

    /// The prefix of the names of the authentication throttle's table.
    pub fn guesses(&self) -> String {
        format!("{}guess.", self.of_control_plane)
    }

    /// The prefix of the names of the cached verification results.
    pub fn verified(&self) -> String {
        format!("{}verified.", self.prefix)
    }

    /// The prefix of the names of the counts of wrong credentials.
    pub fn wrong(&self) -> String {
        format!("{}wrong.", self.prefix)
    }

    /// The name of a bucket.
    pub fn bucket(&self, index: u32) -> String {
        format!("{}{index:x}", self.prefix)
    }
}

fn prefix_of(hasher: Sha256) -> String {
    let hash: [u8; 32] = hasher.finalize().into();
    let short: String = hex::encode(hash).chars().take(16).collect();
    format!("keyward{LAYOUT_VERSION}.{short}.")
}

/// Reads, changes and writes a value, and retries until no other writer interferes; `change` returns `None` to leave
/// the value.
pub fn update<T>(
    store: &impl SharedStore,
    name: &str,
    mut change: impl FnMut(Option<&[u8]>) -> (Option<Vec<u8>>, T),
) -> T {
    loop {
        let current = store.get(name);
        let (value, result) = change(current.as_ref().map(|stored| stored.bytes.as_slice()));
        let Some(value) = value else { return result };
        if store.put(name, &value, current.map(|stored| stored.tag)).is_ok() {
            return result;
        }
    }
}

/// A store that adds up the cost of its calls, so that a long task can stop in time.
///
/// The cost is counted rather than measured: the amount of work per call is then the same on every machine, and a test
/// can assert it.
#[derive(Debug)]
pub struct Metered<'a, S> {
    store: &'a S,
    cost: Cell<usize>,
}

impl<'a, S> Metered<'a, S> {
    /// The cost of a call besides the bytes that it moves, as a number of bytes that takes as long.
    pub const CALL: usize = 512;

    /// Starts with a cost of zero.
    pub fn new(store: &'a S) -> Self {
        Self { store, cost: Cell::new(0) }
    }

    /// The cost so far: the bytes of all values read and written, and [`CALL`](Self::CALL) for each call.
    pub fn cost(&self) -> usize {
        self.cost.get()
    }

    fn add(&self, bytes: usize) {
        self.cost.set(self.cost.get().saturating_add(Self::CALL + bytes));
    }
}

impl<S: SharedStore> SharedStore for Metered<'_, S> {
    fn get(&self, name: &str) -> Option<Stored> {
        let stored = self.store.get(name);
        self.add(stored.as_ref().map_or(0, |stored| stored.bytes.len()));
        stored
    }

    fn put(&self, name: &str, value: &[u8], expected: Option<u32>) -> Result<(), Conflict> {
        self.add(value.len());
        self.store.put(name, value, expected)
    }
}

#[cfg(test)]
pub(crate) mod memory {
    //! An in-memory store that behaves as Envoy's does.

    use super::*;
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    #[derive(Default)]
    pub(crate) struct MemoryStore {
        values: RefCell<BTreeMap<String, Stored>>,
        next_tag: Cell<u32>,
        pub(crate) calls: Cell<usize>,
        /// The bytes of all values read and written.
        pub(crate) moved: Cell<usize>,
    }

    impl SharedStore for MemoryStore {
        fn get(&self, name: &str) -> Option<Stored> {
            self.calls.set(self.calls.get() + 1);
            let stored = self.values.borrow().get(name).cloned();
            self.moved.set(self.moved.get() + stored.as_ref().map_or(0, |stored| stored.bytes.len()));
            stored
        }

        fn put(&self, name: &str, value: &[u8], expected: Option<u32>) -> Result<(), Conflict> {
            self.calls.set(self.calls.get() + 1);
            self.moved.set(self.moved.get() + value.len());
            let mut values = self.values.borrow_mut();
            if values.get(name).map(|stored| stored.tag) != expected {
                return Err(Conflict);
            }
            self.next_tag.set(self.next_tag.get() + 1);
            values.insert(name.to_owned(), Stored { bytes: value.to_vec(), tag: self.next_tag.get() });
            Ok(())
        }
    }

    impl MemoryStore {
        /// The total length of names and values.
        pub(crate) fn bytes(&self) -> usize {
            self.values.borrow().iter().map(|(name, stored)| name.len() + stored.bytes.len()).sum()
        }

        /// The length of the longest value.
        pub(crate) fn longest(&self) -> usize {
            self.values.borrow().values().map(|stored| stored.bytes.len()).max().unwrap_or_default()
        }

        /// All that is stored.
        pub(crate) fn values(&self) -> Vec<(String, Vec<u8>)> {
            self.values.borrow().iter().map(|(name, stored)| (name.clone(), stored.bytes.clone())).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_by_control_plane_and_size() {
        let names = [("a", "b", 16), ("a", "c", 16), ("ab", "", 16), ("a", "b", 8)]
            .map(|(cluster, authority, bits)| Names::new(cluster, authority, bits).status);
        for (n, one) in names.iter().enumerate() {
            assert!(!names[n + 1..].contains(one));
        }
    }

    /// Limits are found again by a snapshot of another size, and not by one of another control plane.
    #[test]
    fn limits_survive_a_resize_but_not_another_cluster() {
        let limits = |authority, bits| Names::new("a", authority, bits).limits();
        assert_eq!(limits("b", 16), limits("b", 8));
        assert_ne!(limits("b", 16), limits("c", 16));
    }

    #[test]
    fn update_retries_until_no_writer_interferes() {
        let store = memory::MemoryStore::default();
        let mut rounds = 0;
        update(&store, "n", |current| {
            rounds += 1;
            if rounds == 1 {
                store.put("n", b"other", None).unwrap();
            }
            (Some([current.unwrap_or_default(), b"!"].concat()), ())
        });
        assert_eq!(store.get("n").unwrap().bytes, b"other!");
        assert_eq!(rounds, 2);
    }
}
