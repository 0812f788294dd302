//! The encoding of one bucket of the limiter: for each key and window, when how much was admitted.
//!
//! Layout, little-endian: a version byte, the time of the last write (8); then records: key (16), window (8), number of
//! entries (2), and the entries, oldest first: last millisecond (8), cost (4). The most recently admitted key comes
//! first. Entries are sorted because an admission never happens before the bucket's last write, and joins the newest
//! entry if a lease has put that later.

use keyward_core::key::limit::Limit;
use sha2::{Digest as _, Sha256};
use std::num::NonZeroU64;

/// The number of sub-windows of a window; limits up to this are exact.
pub const SUB_WINDOWS: u32 = 64;

/// The maximum number of entries of a window: those of an exact limit, and if it became a larger one within the window,
/// those of the sub-windows since. (If there were more, the newest entry would absorb them.)
pub const MAX_ENTRIES: usize = 2 * SUB_WINDOWS as usize + 2;

pub(super) const HEADER_LENGTH: usize = 1 + 8;
pub(super) const RECORD_HEADER_LENGTH: usize = KeyHash::LENGTH + 8 + 2;
pub(super) const ENTRY_LENGTH: usize = 8 + 4;

const LAYOUT_VERSION: u8 = 1;

/// The address of a key's records: the first half of the SHA-256 of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash([u8; Self::LENGTH]);

/// A decoded bucket.
pub(super) struct Bucket<'a> {
    /// The latest clock reading that was written.
    pub(super) written_ms: u64,
    records: Records<'a>,
}

/// The admissions in one window of one key.
#[derive(Clone, Copy)]
pub(super) struct Entries<'a> {
    window_ms: NonZeroU64,
    encoded: &'a [[u8; ENTRY_LENGTH]],
}

struct Entry {
    last_ms: u64,
    cost: u32,
}

#[derive(Clone, Copy)]
struct Record<'a> {
    key: KeyHash,
    entries: Entries<'a>,
}

/// An iterator over the records; `None` before the end of the bytes means that they are malformed.
#[derive(Clone)]
struct Records<'a>(&'a [u8]);

impl KeyHash {
    const LENGTH: usize = 16;

    /// The hash of a key's id.
    pub fn of(key_id: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(key_id.as_bytes()).into();
        Self(digest.first_chunk().copied().unwrap_or_default())
    }

    /// The leading `bits` as a number; values above 32 count as 32.
    pub(super) fn leading_bits(&self, bits: u32) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d]).checked_shr(32 - bits.min(32)).unwrap_or(0)
    }
}

impl<'a> Bucket<'a> {
    /// Decodes a bucket; a missing or unreadable one is empty.
    pub(super) fn read(bytes: &'a [u8]) -> Self {
        let read = || {
            let (version, rest) = bytes.split_first()?;
            let (written_ms, rest) = rest.split_first_chunk::<8>()?;
            let mut unread = Records(rest);
            unread.by_ref().for_each(drop);
            (*version == LAYOUT_VERSION && unread.0.is_empty())
                .then(|| Self { written_ms: u64::from_le_bytes(*written_ms), records: Records(rest) })
        };
        read().unwrap_or(Self { written_ms: 0, records: Records(&[]) })
    }

    /// The admissions in a window of a key, including those older than the window.
    pub(super) fn entries(&self, key: &KeyHash, window_ms: NonZeroU64) -> Entries<'a> {
        self.records
            .clone()
            .find(|record| record.key == *key && record.entries.window_ms == window_ms)
            .map_or(Entries { window_ms, encoded: &[] }, |record| record.entries)
    }

    /// The bucket with one more admission of a key in the window of each limit, without empty windows.
    ///
    /// The admission counts as if it had happened at `last_ms`, which is not before `at_ms`.
    pub(super) fn with_admission(
        &self,
        key: &KeyHash,
        limits: &[Limit],
        cost: u32,
        at_ms: u64,
        last_ms: u64,
    ) -> Vec<u8> {
        let mut out = self.header(at_ms, limits.len() * (RECORD_HEADER_LENGTH + ENTRY_LENGTH));
        for limit in limits {
            let (kept, newest) = self.entries(key, limit.window_ms()).live(at_ms).with(*limit, cost, last_ms);
            Record { key: *key, entries: kept }.encode(Some(newest), &mut out);
        }
        for Record { key: other, entries } in self.records.clone() {
            let rewritten = other == *key && limits.iter().any(|limit| limit.window_ms() == entries.window_ms);
            if !rewritten {
                Record { key: other, entries: entries.live(at_ms) }.encode(None, &mut out);
            }
        }
        out
    }

    /// The bucket after giving back `cost` that was admitted as if at `last_ms` in the windows of a key, without empty
    /// windows.
    ///
    /// The given-back cost is in the first entry that is not earlier: only the newest entry ever absorbs more, and
    /// becomes later by that. An entry that has left its window may belong to another admission, and stays.
    pub(super) fn without(&self, key: &KeyHash, limits: &[Limit], cost: u32, at_ms: u64, last_ms: u64) -> Vec<u8> {
        let mut out = self.header(at_ms, 0);
        for Record { key: other, entries } in self.records.clone() {
            let live = entries.live(at_ms);
            let is_of_lease = other == *key && limits.iter().any(|limit| limit.window_ms() == entries.window_ms);
            if is_of_lease && live.leaves_ms(last_ms) > at_ms {
                let mut rest = cost;
                let taken_out = live.iter().map(|entry| {
                    let less = if entry.last_ms >= last_ms { rest.min(entry.cost) } else { 0 };
                    // Only the first such entry is considered.
                    rest = if entry.last_ms >= last_ms { 0 } else { rest };
                    Entry { cost: entry.cost - less, ..entry }
                });
                let kept: Vec<Entry> = taken_out.filter(|entry| entry.cost > 0).collect();
                Record { key: other, entries: Entries { encoded: &[], ..live } }.encode_with(&kept, &mut out);
            } else {
                Record { key: other, entries: live }.encode(None, &mut out);
            }
        }
        out
    }

    /// The bucket without empty windows; `None` if there are none.
    pub(super) fn swept(&self, at_ms: u64) -> Option<Vec<u8>> {
        let is_empty = |record: Record<'_>| record.entries.live(at_ms).encoded.is_empty();
        self.records.clone().any(is_empty).then(|| {
            let mut out = self.header(at_ms, 0);
            for Record { key, entries } in self.records.clone() {
                Record { key, entries: entries.live(at_ms) }.encode(None, &mut out);
            }
            out
        })
    }

    fn header(&self, at_ms: u64, most_added: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LENGTH + self.records.0.len() + most_added);
        out.push(LAYOUT_VERSION);
        out.extend_from_slice(&at_ms.to_le_bytes());
        out
    }
}

impl<'a> Entries<'a> {
    /// The entries that still count.
    pub(super) fn live(self, at_ms: u64) -> Self {
        let gone = self.encoded.partition_point(|entry| self.leaves_ms(Entry::decode(entry).last_ms) <= at_ms);
        Self { encoded: self.encoded.get(gone..).unwrap_or_default(), ..self }
    }

    /// Their total cost.
    pub(super) fn cost(&self) -> u64 {
        self.iter().map(|entry| u64::from(entry.cost)).sum()
    }

    /// How much more the limit admits beside them.
    pub(super) fn room(&self, limit: Limit) -> u32 {
        limit.requests().saturating_sub(u32::try_from(self.cost()).unwrap_or(u32::MAX))
    }

    /// From when on the limit has room for `cost`; 0 if it always had, `None` if it never has.
    pub(super) fn room_from_ms(&self, limit: Limit, cost: u32) -> Option<u64> {
        let allowed_beside = u64::from(limit.requests().checked_sub(cost)?);
        let mut beside = self.cost();
        let mut from_ms = 0;
        for entry in self.iter() {
            if beside <= allowed_beside {
                break;
            }
            beside = beside.saturating_sub(u64::from(entry.cost));
            from_ms = self.leaves_ms(entry.last_ms);
        }
        Some(from_ms)
    }

    /// Splits the entries, with one more admission, into those that stay unchanged and the newest.
    fn with(self, limit: Limit, cost: u32, last_ms: u64) -> (Self, Entry) {
        let sub_window_ms = sub_window_ms(limit);
        if let Some((newest, before)) = self.encoded.split_last() {
            let newest = Entry::decode(newest);
            let latest_ms = last_ms.max(newest.last_ms);
            if newest.last_ms / sub_window_ms == latest_ms / sub_window_ms || self.encoded.len() >= MAX_ENTRIES {
                // Whatever fits into the rest of a limit fits into the limit's type.
                let joined = Entry { last_ms: latest_ms, cost: newest.cost.saturating_add(cost) };
                return (Self { encoded: before, ..self }, joined);
            }
        }
        (self, Entry { last_ms, cost })
    }

    /// When an entry stops counting: an entry exactly as old as the window still counts.
    fn leaves_ms(&self, last_ms: u64) -> u64 {
        last_ms.saturating_add(self.window_ms.get()).saturating_add(1)
    }

    fn iter(&self) -> impl Iterator<Item = Entry> + 'a {
        self.encoded.iter().map(Entry::decode)
    }
}

/// For how long admissions share an entry, in milliseconds.
///
/// A limit with no more requests than a window has sub-windows needs no shared entries.
pub(super) fn sub_window_ms(limit: Limit) -> NonZeroU64 {
    let shared_ms = limit.window_ms().get().div_ceil(u64::from(SUB_WINDOWS));
    if limit.requests() <= SUB_WINDOWS {
        NonZeroU64::MIN
    } else {
        NonZeroU64::new(shared_ms).unwrap_or(NonZeroU64::MIN)
    }
}

impl Entry {
    fn decode(bytes: &[u8; ENTRY_LENGTH]) -> Self {
        let [a, b, c, d, e, f, g, h, cost @ ..] = *bytes;
        Self { last_ms: u64::from_le_bytes([a, b, c, d, e, f, g, h]), cost: u32::from_le_bytes(cost) }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.last_ms.to_le_bytes());
        out.extend_from_slice(&self.cost.to_le_bytes());
    }
}

impl Record<'_> {
    fn encode(&self, newest: Option<Entry>, out: &mut Vec<u8>) {
        self.encode_with(newest.as_slice(), out);
    }

    /// Encodes the entries followed by `more`; writes nothing if both are empty.
    fn encode_with(&self, more: &[Entry], out: &mut Vec<u8>) {
        let encoded = self.entries.encoded;
        // Never more than MAX_ENTRIES: decoded lists are within the bound, and `Entries::with` adds none to a full one.
        let count = (encoded.len() + more.len()) as u16;
        if count == 0 {
            return;
        }
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.entries.window_ms.get().to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(encoded.as_flattened());
        more.iter().for_each(|entry| entry.encode(out));
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (key, rest) = self.0.split_first_chunk()?;
        let (window_ms, rest) = rest.split_first_chunk::<8>()?;
        let (count, rest) = rest.split_first_chunk::<2>()?;
        let count = usize::from(u16::from_le_bytes(*count));
        let window_ms = NonZeroU64::new(u64::from_le_bytes(*window_ms))?;
        if count > MAX_ENTRIES {
            return None;
        }
        let (entries, rest) = rest.split_at_checked(count * ENTRY_LENGTH)?;
        let (encoded, _) = entries.as_chunks();
        self.0 = rest;
        Some(Record { key: KeyHash(*key), entries: Entries { window_ms, encoded } })
    }
}
