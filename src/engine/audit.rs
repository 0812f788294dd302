//! Checks that the snapshot in shared data equals the control plane's.
//!
//! The VM that fetches walks through all buckets, a few with each tick, and keeps the sum of their records
//! ([`Summary`]) current while pages are applied. Once the snapshot has reached the head of the history, that sum must
//! equal the one that the control plane sends with each page. The walk also finds buckets whose own checksum does not
//! match their bytes.
//!
//! The sum lies in this VM's memory only: another VM that takes over, or a new snapshot, starts with its own walk, and
//! nothing is compared until that walk is complete. So another fetcher can at most make one comparison fail, which is
//! why a difference counts only once a second walk has confirmed it.

use crate::engine::bucket::{self, Content};
use crate::engine::store::{Metered, Names, SharedStore};
use keyward_core::wire::summary::Summary;

/// The running sum of the snapshot of one generation.
#[derive(Debug, Default)]
pub struct Audit {
    generation: Option<u32>,
    walk: Walk,
    /// The sum that the last complete walk found, kept current since.
    total: Option<Content>,
    is_suspicious: bool,
    ticks: u64,
}

#[derive(Debug, Default)]
struct Walk {
    next: u32,
    content: Content,
}

/// A bucket that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The bucket's index.
    pub index: u32,
    /// Its content before the write.
    pub before: Content,
    /// Its content after the write.
    pub after: Content,
    /// Whether the bytes before the write failed their checksum.
    pub was_damaged: bool,
}

/// A bucket failed its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bucket of the snapshot is damaged")]
pub struct Damaged;

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Not comparable: one of the sums is unknown, or this process knows more than the control plane by design.
    Not,
    /// The sums are equal.
    Same,
    /// The sums differ for the first time: the walk is repeated.
    Suspicious,
    /// The sums still differ after a second walk.
    Different,
}

/// The cost limit of the walk per tick, in the unit of [`Metered`].
pub const COST_PER_TICK: usize = 32 << 10;

/// After the first complete walk, the walk continues only with every so many ticks.
const TICKS_PER_LOOK: u64 = 16;

impl Audit {
    /// Starts the walk over the complete snapshot of this generation.
    pub fn begin(&mut self, generation: u32) {
        *self = Self { generation: Some(generation), ..Self::default() };
    }

    /// Stops the walk: a new snapshot is being fetched, or this VM no longer fetches.
    pub fn stop(&mut self) {
        *self = Self::default();
    }

    /// The generation being audited.
    pub fn generation(&self) -> Option<u32> {
        self.generation
    }

    /// Whether a walk is complete.
    #[cfg(test)]
    pub(crate) fn has_looked(&self) -> bool {
        self.total.is_some()
    }

    /// Updates the sum after a write.
    pub fn note(&mut self, written: &Written) {
        if self.generation.is_none() {
            return;
        }
        let Written { index, before, after, .. } = written;
        if *index < self.walk.next {
            self.walk.content = self.walk.content.changed(before, after);
        }
        if let Some(total) = &mut self.total {
            *total = total.changed(before, after);
        }
    }

    /// Walks through the next of the 2^`bucket_bits` buckets. Must not be called while a page is being applied.
    ///
    /// # Errors
    /// If a bucket is damaged.
    pub fn tick(&mut self, store: &impl SharedStore, names: &Names, bucket_bits: u32) -> Result<(), Damaged> {
        self.ticks = self.ticks.wrapping_add(1);
        let Some(generation) = self.generation else { return Ok(()) };
        if self.total.is_some() && !self.ticks.is_multiple_of(TICKS_PER_LOOK) {
            return Ok(());
        }
        let store = Metered::new(store);
        while store.cost() < COST_PER_TICK {
            let index = self.walk.next;
            if index.checked_shr(bucket_bits).is_some_and(|beyond| beyond > 0) {
                self.total = Some(std::mem::take(&mut self.walk).content);
                return Ok(());
            }
            if let Some(stored) = store.get(&names.bucket(index)) {
                let content = bucket::inspect(&stored.bytes, generation).ok_or(Damaged)?;
                self.walk.content = self.walk.content.changed(&Content::default(), &content);
            }
            self.walk.next += 1;
        }
        Ok(())
    }

    /// Compares the sum with the control plane's, at a moment at which the snapshot must be the same.
    pub fn compare(&mut self, theirs: Option<Summary>) -> Compared {
        let (Some(theirs), Some(ours), Some(generation)) = (theirs, self.total, self.generation) else {
            return Compared::Not;
        };
        if ours.kept > 0 {
            return Compared::Not;
        }
        if ours.summary == theirs {
            self.is_suspicious = false;
            return Compared::Same;
        }
        let was_suspicious = self.is_suspicious;
        self.begin(generation);
        self.is_suspicious = !was_suspicious;
        if was_suspicious { Compared::Different } else { Compared::Suspicious }
    }
}
