//! Whether what lies in shared data is what the control plane has.
//!
//! The VM that fetches walks through all buckets, a few with each tick, and keeps the sum of their records
//! ([`Summary`]) current while pages are applied. Where the snapshot has come to the head of the history, that sum has to be the one
//! that the control plane sends with each page. A bucket whose own checksum does not fit its bytes is found by the way.
//!
//! The sum lies in this VM's memory alone: another VM that takes over, or a new snapshot, begins with a walk of its own, and until
//! it ends nothing is compared. So what another fetcher did can at most make one comparison fail, which is why a difference
//! counts only once a second walk has come to it, too.

use crate::engine::bucket::{self, Content};
use crate::engine::store::{Metered, Names, SharedStore};
use keyward_core::wire::summary::Summary;

/// The sum of the snapshot of one generation.
#[derive(Debug, Default)]
pub struct Audit {
    generation: Option<u32>,
    walk: Walk,
    /// What the last walk that has ended came to, kept current since.
    total: Option<Content>,
    is_suspicious: bool,
    ticks: u64,
}

#[derive(Debug, Default)]
struct Walk {
    next: u32,
    content: Content,
}

/// What was written into a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The bucket.
    pub index: u32,
    /// What it held before.
    pub before: Content,
    /// What it holds now.
    pub after: Content,
    /// Whether the bytes before were not what was once written.
    pub was_damaged: bool,
}

/// A bucket is not what was written into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bucket of the snapshot is damaged")]
pub struct Damaged;

/// How a comparison ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// One of both is not known, or this process knows by design more than the control plane.
    Not,
    /// They are the same.
    Same,
    /// They differ, for the first time: the walk is made again.
    Suspicious,
    /// They differ still.
    Different,
}

/// What looking at buckets may cost with one tick, as [`Metered`] counts it.
pub const COST_PER_TICK: usize = 32 << 10;

/// How many ticks come and go for each that looks at buckets, once all of them were looked at.
const TICKS_PER_LOOK: u64 = 16;

impl Audit {
    /// Begins anew, with the snapshot of that generation, which is complete.
    pub fn begin(&mut self, generation: u32) {
        *self = Self { generation: Some(generation), ..Self::default() };
    }

    /// Stops: a new snapshot is on its way, or this VM fetches no more.
    pub fn stop(&mut self) {
        *self = Self::default();
    }

    /// The generation that is looked at.
    pub fn generation(&self) -> Option<u32> {
        self.generation
    }

    /// Whether a walk has ended.
    #[cfg(test)]
    pub(crate) fn has_looked(&self) -> bool {
        self.total.is_some()
    }

    /// Takes note of what was written.
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

    /// Looks at the next buckets, of which there are 2^`bucket_bits`. Not to be called while a page is being applied.
    ///
    /// # Errors
    /// If one is damaged.
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

    /// Compares with what the control plane has, at a moment at which the snapshot is to be the same.
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
