//! Applying a page of the feed to the buckets in small steps.
//!
//! The order of writes is buckets, status, cursor. The cursor comes last because the next fetcher starts from it: if a
//! fetcher dies before writing the cursor, the page is applied again, finds the buckets written and announces them once
//! more. (If the status came last, a fetcher that died before writing it would leave a revocation that no warm cache
//! learns of.) The property test in `tests/feed_model.rs` interleaves fetchers, deaths, replays and restored databases.

use crate::engine::audit::Written;
use crate::engine::bucket::{self, Input, Stamp};
use crate::engine::shared_state::{CursorCell, Status};
use crate::engine::store::{Names, SharedStore, update};
use keyward_core::key::digest::Digest;
use keyward_core::wire::cursor::Position;
use keyward_core::wire::entry::{Frame, Frames};
use keyward_core::wire::page::{Extent, Page, UnreadablePage};
use keyward_core::wire::summary::Summary;

/// What a fetcher requested, and the cursor at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The position sent to the control plane.
    pub position: Position,
    cell: CursorCell,
    tag: Option<u32>,
}

/// A page that is being applied.
///
/// The page is kept as received, with the offsets of the frames of each bucket. Frames are decoded when their bucket is
/// written, so a page costs little more than its bytes. The memory of a VM never shrinks, so this bounds it.
#[derive(Debug)]
pub struct Application {
    kind: Kind,
    cell: CursorCell,
    tag: Option<u32>,
    next: Position,
    summary: Option<Summary>,
    stamp: Stamp,
    page: Vec<u8>,
    places: Vec<Place>,
    /// How many of the places are written.
    written: usize,
    remaining: Remaining,
    touched: u64,
    gained: i64,
    in_range: u64,
    heard_at_ms: Option<u64>,
    age_ms: u64,
    unreadable: u64,
    last_written: Option<Written>,
}

/// Where a frame begins in a page, and the bucket that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    bucket: u32,
    offset: u32,
}

#[derive(Debug)]
enum Kind {
    Changes,
    Range { start: Digest, end: Option<Digest> },
}

/// The remaining steps, in order.
#[derive(Debug)]
enum Remaining {
    /// Buckets from this one to the last: all of them, or only those for which the page has frames.
    Buckets {
        next: u32,
        last: u32,
        listed_only: bool,
    },
    Status,
    Cursor,
    Nothing,
}

/// Why a page is not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotApplied {
    /// Another fetcher moved the cursor meanwhile; not an error.
    #[error("another fetcher came first")]
    Superseded,
    /// The page is unreadable.
    #[error(transparent)]
    Unreadable(#[from] UnreadablePage),
    /// The page does not answer the request.
    #[error("the page does not follow on what was asked")]
    DoesNotFollow,
}

/// Whether work remains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Call again.
    More,
    /// The page is applied.
    Done,
}

/// The time of a step.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The process's monotonic clock, in milliseconds.
    pub monotonic_ms: u64,
    /// The wall clock, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

impl Asked {
    /// What to request now: the changes after the cursor, or a snapshot from the start.
    pub fn read(store: &impl SharedStore, names: &Names, from_the_start: bool) -> Self {
        let (cell, tag) = read_cursor(store, names);
        let position = if from_the_start { Position::Nothing } else { cell.position };
        Self { position, cell, tag }
    }
}

impl Application {
    /// Starts to apply the response to a request.
    ///
    /// # Errors
    /// If the page cannot be applied; nothing was written then.
    pub fn begin(
        store: &impl SharedStore,
        names: &Names,
        bucket_bits: u32,
        asked: &Asked,
        bytes: Vec<u8>,
    ) -> Result<Self, NotApplied> {
        let page = Page::decode(&bytes)?;
        let (cell, tag) = read_cursor(store, names);
        if (cell, tag) != (asked.cell, asked.tag) {
            return Err(NotApplied::Superseded);
        }
        if page.answers != Position::Nothing && page.answers != asked.position {
            return Err(NotApplied::DoesNotFollow);
        }
        let (cell, tag) = open(store, names, &cell, tag, &page)?;
        let generation = cell.generation;
        let (kind, sequence) = match page.extent {
            Extent::Changes { to } => (Kind::Changes, to),
            Extent::Snapshot { end } => (Kind::Range { start: page.start(), end }, page.base()),
        };
        let last_bucket = u32::MAX.checked_shr(32 - bucket_bits).unwrap_or(0);
        let remaining = match &kind {
            Kind::Changes => Remaining::Buckets { next: 0, last: last_bucket, listed_only: true },
            Kind::Range { start, end } => Remaining::Buckets {
                next: start.leading_bits(bucket_bits),
                last: end.map_or(last_bucket, |end| end.leading_bits(bucket_bits)),
                // The first snapshot of a process finds no older buckets to clear.
                listed_only: generation <= 1,
            },
        };
        Ok(Self {
            kind,
            cell,
            tag,
            next: page.next(),
            summary: page.summary,
            stamp: Stamp { generation, sequence },
            places: places(&page, bytes.len() - page.entries.len(), bucket_bits),
            page: bytes,
            written: 0,
            remaining,
            touched: 0,
            gained: 0,
            in_range: 0,
            heard_at_ms: None,
            age_ms: 0,
            unreadable: 0,
            last_written: None,
        })
    }

    /// Records when the page arrived, by the monotonic clock, and its age: a relay may have lost the control plane that
    /// long before.
    #[must_use]
    pub fn heard(self, at_ms: u64, age_ms: u64) -> Self {
        Self { heard_at_ms: Some(at_ms), age_ms, ..self }
    }

    /// Announces the buckets written so far to the workers, so that a revocation takes effect before a long page is
    /// written completely.
    pub fn announce(&mut self, store: &impl SharedStore, names: &Names) {
        let touched = std::mem::take(&mut self.touched);
        if touched != 0 {
            update(store, &names.status, |current| {
                let mut status = current.map_or(Status::START, Status::decode);
                status.bump(touched);
                (Some(status.encode()), ())
            });
        }
    }

    /// Whether the page holds changes rather than a part of a snapshot.
    pub fn is_of_changes(&self) -> bool {
        matches!(self.kind, Kind::Changes)
    }

    /// The cursor position once the page is applied, if the page says that more follows.
    pub fn followed_at(&self) -> Option<Position> {
        match (&self.kind, self.next) {
            (Kind::Range { end: Some(_), .. }, next) => Some(next),
            (Kind::Changes, next @ Position::Changes { applied, seen }) if applied < seen.sequence => Some(next),
            _ => None,
        }
    }

    /// The generation of snapshots that the page belongs to.
    pub fn generation(&self) -> u32 {
        self.stamp.generation
    }

    /// The control plane's summary at the page's position, if that is the head of the history.
    pub fn summary_at_head(&self) -> Option<Summary> {
        let is_at_head = matches!(self.next, Position::Changes { applied, seen } if applied == seen.sequence);
        self.summary.filter(|_| is_at_head)
    }

    /// Returns what the last step wrote, once.
    pub fn take_written(&mut self) -> Option<Written> {
        self.last_written.take()
    }

    /// How many of the entries written so far are unreadable; their subjects are refused.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Performs one step: one bucket, the status, or the cursor. The snapshot is consistent after each.
    ///
    /// # Errors
    /// If another fetcher moved the cursor meanwhile; the buckets written so far are harmless.
    pub fn step(&mut self, store: &impl SharedStore, names: &Names, now: Now) -> Result<Progress, NotApplied> {
        match self.remaining {
            Remaining::Buckets { next, last, listed_only } => {
                let bucket =
                    if listed_only { self.places.get(self.written).map(|place| place.bucket) } else { Some(next) };
                if let Some(bucket) = bucket {
                    self.write_bucket(store, names, bucket, now.wall_ms);
                }
                self.remaining = match bucket {
                    Some(bucket) if bucket < last => Remaining::Buckets { next: bucket + 1, last, listed_only },
                    _ => Remaining::Status,
                };
            }
            Remaining::Status => {
                self.write_status(store, names, now.monotonic_ms)?;
                self.remaining = Remaining::Cursor;
            }
            Remaining::Cursor => {
                self.write_cursor(store, names)?;
                self.remaining = Remaining::Nothing;
            }
            Remaining::Nothing => return Ok(Progress::Done),
        }
        Ok(if matches!(self.remaining, Remaining::Nothing) { Progress::Done } else { Progress::More })
    }

    fn write_bucket(&mut self, store: &impl SharedStore, names: &Names, index: u32, now_ms: u64) {
        let rest = self.places.get(self.written..).unwrap_or_default();
        let places = rest.get(..rest.partition_point(|place| place.bucket <= index)).unwrap_or_default();
        let input = match &self.kind {
            Kind::Changes => Input::Changes,
            Kind::Range { start, end } => Input::Range { start, end: end.as_ref() },
        };
        let counted = update(store, &names.bucket(index), |current| {
            if current.is_none() && places.is_empty() {
                return (None, None);
            }
            let incoming = places.iter().filter_map(|place| frame_at(&self.page, *place));
            let merged = bucket::merge(current.unwrap_or_default(), self.stamp, incoming, input, now_ms);
            let bucket::Outcome { rewritten, gained, in_range, unreadable, before, after, was_damaged } = merged;
            (rewritten, Some((gained, in_range, unreadable, Written { index, before, after, was_damaged })))
        });
        self.written += places.len();
        if let Some((gained, in_range, unreadable, written)) = counted {
            self.gained += gained;
            self.in_range += in_range;
            self.unreadable += unreadable;
            self.last_written = Some(written);
            // Announced even if another fetcher wrote the bucket: that fetcher may have died before announcing it.
            self.touched |= 1 << Status::stripe_of(index);
        }
    }

    fn write_status(&self, store: &impl SharedStore, names: &Names, now_ms: u64) -> Result<(), NotApplied> {
        let completes = matches!(self.kind, Kind::Range { end: None, .. });
        if completes && read_cursor(store, names) != (self.cell, self.tag) {
            return Err(NotApplied::Superseded);
        }
        update(store, &names.status, |current| {
            let mut status = current.map_or(Status::START, Status::decode);
            status.bump(self.touched);
            // If more pages follow, there is something newer by definition.
            let is_current = matches!(self.next, Position::Changes { applied, seen } if applied >= seen.sequence);
            if is_current {
                let heard_at_ms = self.heard_at_ms.unwrap_or(now_ms);
                status.answered_ms = status.answered_ms.max(heard_at_ms);
                let heard_at_ms = i64::try_from(heard_at_ms).unwrap_or(i64::MAX);
                status.contact_ms = status.contact_ms.max(heard_at_ms.saturating_sub_unsigned(self.age_ms));
            }
            let stamp = Stamp { generation: status.generation, sequence: status.sequence };
            if completes && self.stamp.generation > status.generation {
                status.generation = self.stamp.generation;
                status.sequence = self.stamp.sequence;
                status.records = self.cell.counted + self.in_range;
                // A new generation outdates everything of an older one.
                status.stripes.iter_mut().for_each(|stripe| *stripe = stripe.wrapping_add(1));
            } else if matches!(self.kind, Kind::Changes) && self.stamp > stamp {
                status.sequence = self.stamp.sequence;
                status.records = status.records.saturating_add_signed(self.gained);
            }
            (Some(status.encode()), ())
        });
        Ok(())
    }

    fn write_cursor(&self, store: &impl SharedStore, names: &Names) -> Result<(), NotApplied> {
        let counted = match self.next {
            Position::Snapshot { .. } => self.cell.counted + self.in_range,
            _ => 0,
        };
        let cell = CursorCell { generation: self.cell.generation, counted, position: self.next };
        if cell == self.cell {
            return Ok(());
        }
        store.put(&names.cursor, &cell.encode(), self.tag).map_err(|_| NotApplied::Superseded)
    }
}

/// Records the history that the page comes from before any bucket is written, and starts a new generation at the
/// beginning of a snapshot. If the fetcher dies and the database is restored, the next fetcher names a head that no
/// longer exists and gets a snapshot. Of several fetchers with different pages, one succeeds.
fn open(
    store: &impl SharedStore,
    names: &Names,
    cell: &CursorCell,
    tag: Option<u32>,
    page: &Page<'_>,
) -> Result<(CursorCell, Option<u32>), NotApplied> {
    let seen = page.head;
    let opened = match page.answers {
        Position::Nothing => CursorCell {
            generation: cell.generation.saturating_add(1),
            counted: 0,
            position: Position::Snapshot { base: page.base(), next: page.start(), seen },
        },
        Position::Changes { applied, .. } => CursorCell { position: Position::Changes { applied, seen }, ..*cell },
        Position::Snapshot { base, next, .. } => {
            CursorCell { position: Position::Snapshot { base, next, seen }, ..*cell }
        }
    };
    if opened == *cell {
        return Ok((opened, tag));
    }
    store.put(&names.cursor, &opened.encode(), tag).map_err(|_| NotApplied::Superseded)?;
    let (now, tag) = read_cursor(store, names);
    if now == opened { Ok((now, tag)) } else { Err(NotApplied::Superseded) }
}

fn read_cursor(store: &impl SharedStore, names: &Names) -> (CursorCell, Option<u32>) {
    match store.get(&names.cursor) {
        Some(stored) => (CursorCell::decode(&stored.bytes), Some(stored.tag)),
        None => (CursorCell::START, None),
    }
}

/// The frames of each bucket, sorted by bucket; a snapshot is sorted already.
fn places(page: &Page<'_>, first: usize, bucket_bits: u32) -> Vec<Place> {
    let mut offset = first;
    // `Page::decode` has checked the framing of all entries.
    let frames = Frames::new(page.entries).map_while(Result::ok);
    let mut places: Vec<Place> = frames
        .map(|frame| {
            let place = Place {
                bucket: frame.subject.leading_bits(bucket_bits),
                offset: u32::try_from(offset).unwrap_or(u32::MAX),
            };
            offset += frame.encoded_length();
            place
        })
        .collect();
    places.sort_unstable();
    places
}

fn frame_at(page: &[u8], place: Place) -> Option<Frame<'_>> {
    Frames::new(page.get(usize::try_from(place.offset).ok()?..)?).next()?.ok()
}
