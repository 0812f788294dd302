//! A page of the feed: a run of changes, or a part of a snapshot.
//!
//! A page bears a checksum over everything that follows it: one that was damaged on the way is refused whole, since a
//! flipped bit in a record's digest is not seen anywhere else, and would leave a revoked key valid for good. The checksum
//! is against accidents; against attackers the connection has to be encrypted (`docs/explanation/security.md`).

use crate::key::digest::Digest;
use crate::wire::codec::Reader;
use crate::wire::cursor::{Cursor, Position};
use crate::wire::entry::Frames;
use crate::wire::summary::Summary;
use xxhash_rust::xxh3::xxh3_128;

/// One answer of the feed. Its entries are framed as [`crate::wire::entry`] says, and show the current state of their
/// subjects, which can be newer than the page's extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page<'a> {
    /// The position that it follows on, as the reader named it; `Nothing` where a snapshot begins, whatever was named.
    pub answers: Position,
    /// The head of the history when the page was made.
    pub head: Cursor,
    /// The summary of all records there were at `head`; `None` where it is not known.
    pub summary: Option<Summary>,
    /// How far it goes.
    pub extent: Extent,
    /// The frames; those of a snapshot are sorted by subject.
    pub entries: &'a [u8],
}

/// How far a page goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Every change up to this sequence. Only after `Position::Changes`.
    Changes {
        /// The last change that is covered.
        to: u64,
    },
    /// All subjects from the position's `next` (or the first) up to, not including, `end`: one that is missing does not
    /// exist, or was made after the snapshot's base.
    Snapshot {
        /// The first subject that is not covered; `None` where the snapshot ends.
        end: Option<Digest>,
    },
}

/// A page that cannot be read as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadablePage {
    /// It does not begin as a page does.
    #[error("not a feed page")]
    NotAPage,
    /// It is framed in a version that is not known here.
    #[error("expected a feed page of version {VERSION}, got version {0}")]
    UnknownVersion(u8),
    /// It is not what was sent: a part is missing, or bits were flipped on the way.
    #[error("the page was damaged in transit: its checksum does not match")]
    Damaged,
    /// It is what was sent, and its lengths do not add up or it contradicts itself.
    #[error("the framing of the page cannot be read")]
    BrokenFraming,
}

/// The version of the framing.
pub const VERSION: u8 = 2;

const MAGIC: [u8; 4] = *b"KWFD";

const CHECKSUM_LENGTH: usize = 16;

/// Where what the checksum is over begins.
const CHECKED_FROM: usize = MAGIC.len() + 1 + CHECKSUM_LENGTH;

/// The number of bytes a page has beside its entries, at most.
pub const MAX_HEADER_BYTES: usize =
    CHECKED_FROM + Position::MAX_ENCODED_LENGTH + Cursor::ENCODED_LENGTH + 1 + Summary::LENGTH + 1 + Digest::LENGTH;

const CHANGES: u8 = 0;
const SNAPSHOT: u8 = 1;
const LAST_OF_SNAPSHOT: u8 = 2;

impl<'a> Page<'a> {
    /// The bytes of the page.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_HEADER_BYTES + self.entries.len());
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.extend_from_slice(&[0; CHECKSUM_LENGTH]);
        self.answers.encode(&mut out);
        self.head.encode(&mut out);
        Summary::encode_optional(self.summary, &mut out);
        match &self.extent {
            Extent::Changes { to } => {
                out.push(CHANGES);
                out.extend_from_slice(&to.to_le_bytes());
            }
            Extent::Snapshot { end: Some(end) } => {
                out.push(SNAPSHOT);
                out.extend_from_slice(&end.0);
            }
            Extent::Snapshot { end: None } => out.push(LAST_OF_SNAPSHOT),
        }
        out.extend_from_slice(self.entries);
        seal(&mut out);
        out
    }

    /// Reads a page, and checks its checksum and the framing of all its entries, not their contents.
    ///
    /// # Errors
    /// If nothing of it can be trusted.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, UnreadablePage> {
        let mut reader = Reader::new(bytes);
        if reader.array() != Some(MAGIC) {
            return Err(UnreadablePage::NotAPage);
        }
        match reader.u8() {
            Some(VERSION) => {}
            Some(version) => return Err(UnreadablePage::UnknownVersion(version)),
            None => return Err(UnreadablePage::Damaged),
        }
        if reader.array() != Some(checksum(reader.rest())) {
            return Err(UnreadablePage::Damaged);
        }
        let page = Self::read(reader).ok_or(UnreadablePage::BrokenFraming)?;
        if !page.is_sound() || Frames::new(page.entries).any(|frame| frame.is_err()) {
            return Err(UnreadablePage::BrokenFraming);
        }
        Ok(page)
    }

    fn read(mut reader: Reader<'a>) -> Option<Self> {
        let answers = Position::read(&mut reader)?;
        let head = Cursor::read(&mut reader)?;
        let summary = Summary::read_optional(&mut reader)?;
        let extent = match reader.u8()? {
            CHANGES => Extent::Changes { to: reader.u64()? },
            SNAPSHOT => Extent::Snapshot { end: Some(Digest(reader.array()?)) },
            LAST_OF_SNAPSHOT => Extent::Snapshot { end: None },
            _ => return None,
        };
        Some(Self { answers, head, summary, extent, entries: reader.rest() })
    }

    fn is_sound(&self) -> bool {
        match (self.answers, self.extent) {
            (Position::Changes { applied, .. }, Extent::Changes { to }) => applied <= to && to <= self.head.sequence,
            (Position::Nothing | Position::Snapshot { .. }, Extent::Snapshot { end }) => {
                let start = self.start();
                let covered = |subject: &Digest| start <= *subject && end.is_none_or(|end| *subject < end);
                end.is_none_or(|end| start < end)
                    && Frames::new(self.entries).map_while(Result::ok).all(|frame| covered(&frame.subject))
            }
            _ => false,
        }
    }

    /// The sequence after which a snapshot was begun; of changes, where they begin.
    pub fn base(&self) -> u64 {
        match self.answers {
            Position::Nothing => self.head.sequence,
            Position::Changes { applied: base, .. } | Position::Snapshot { base, .. } => base,
        }
    }

    /// The first subject of a snapshot's range.
    pub fn start(&self) -> Digest {
        match self.answers {
            Position::Snapshot { next, .. } => next,
            Position::Nothing | Position::Changes { .. } => Digest([0; Digest::LENGTH]),
        }
    }

    /// Where a reader stands once it has applied the page.
    pub fn next(&self) -> Position {
        let seen = self.head;
        match self.extent {
            Extent::Changes { to } => Position::Changes { applied: to, seen },
            Extent::Snapshot { end: Some(next) } => Position::Snapshot { base: self.base(), next, seen },
            Extent::Snapshot { end: None } => Position::Changes { applied: self.base(), seen },
        }
    }
}

/// Writes the checksum into the bytes of a page that were changed by hand; what is too short for one stays as it is.
pub fn seal(page: &mut [u8]) {
    if let Some((header, checked)) = page.split_at_mut_checked(CHECKED_FROM)
        && let Some(sum) = header.last_chunk_mut()
    {
        *sum = checksum(checked);
    }
}

/// 128 bits of XXH3: damage of whatever kind is overlooked once in 2^128 times. It takes a tenth of the time that SHA-256
/// does, on a thread of Envoy's that may serve requests.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    xxh3_128(bytes).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::entry::{Body, Entry};

    const HEAD: Cursor = Cursor { epoch: 1, sequence: 9, chain: [9; 16] };
    const CHANGES: Position = Position::Changes { applied: 3, seen: HEAD };

    fn entries() -> Vec<u8> {
        let mut out = Vec::new();
        for subject in [1, 2] {
            Entry { subject: Digest([subject; 32]), version: 3, body: Body::Removed }.encode(&mut out).unwrap();
        }
        out
    }

    fn pages(entries: &[u8]) -> [(Page<'_>, Position); 4] {
        let page = |answers, extent| Page { summary: None, answers, head: HEAD, extent, entries };
        let middle = Position::Snapshot { base: 2, next: Digest([1; 32]), seen: HEAD };
        let end = Digest([7; 32]);
        [
            (page(CHANGES, Extent::Changes { to: 5 }), Position::Changes { applied: 5, seen: HEAD }),
            (
                page(Position::Nothing, Extent::Snapshot { end: Some(end) }),
                Position::Snapshot { base: 9, next: end, seen: HEAD },
            ),
            (page(middle, Extent::Snapshot { end: Some(end) }), Position::Snapshot { base: 2, next: end, seen: HEAD }),
            (page(middle, Extent::Snapshot { end: None }), Position::Changes { applied: 2, seen: HEAD }),
        ]
    }

    #[test]
    fn a_page_survives_the_wire_and_says_where_it_leads() {
        let entries = entries();
        for (page, next) in pages(&entries) {
            let bytes = page.encode();
            assert!(bytes.len() <= MAX_HEADER_BYTES + entries.len());
            assert_eq!(Page::decode(&bytes), Ok(page));
            assert_eq!(page.next(), next);
        }
    }

    #[test]
    fn what_is_no_page_another_version_or_cut_short_is_told_apart() {
        let entries = entries();
        for (page, _) in pages(&entries) {
            let mut bytes = page.encode();
            for cut in [bytes.len() - 1, bytes.len() - entries.len() - 1, 40, 5] {
                assert_eq!(Page::decode(&bytes[..cut]), Err(UnreadablePage::Damaged), "cut at {cut}");
            }
            bytes[4] = 9;
            assert_eq!(Page::decode(&bytes), Err(UnreadablePage::UnknownVersion(9)));
        }
        assert_eq!(Page::decode(b"<html>"), Err(UnreadablePage::NotAPage));
    }

    #[test]
    fn a_page_with_any_bit_flipped_any_byte_lost_or_any_two_swapped_is_refused() {
        let entries = entries();
        for (page, _) in pages(&entries) {
            let bytes = page.encode();
            let refused = |damaged: &[u8], what: &str, place: usize| {
                assert!(Page::decode(damaged).is_err(), "{what} at {place} of {page:?}");
            };
            for place in 0..bytes.len() {
                for bit in 0..8 {
                    let mut flipped = bytes.clone();
                    flipped[place] ^= 1 << bit;
                    refused(&flipped, "a flipped bit", place);
                }
                let mut lost = bytes.clone();
                lost.remove(place);
                refused(&lost, "a lost byte", place);
                refused(&bytes[..place], "a cut", place);
                if place > 0 && bytes[place] != bytes[place - 1] {
                    let mut swapped = bytes.clone();
                    swapped.swap(place, place - 1);
                    refused(&swapped, "swapped bytes", place);
                }
            }
        }
    }

    #[test]
    fn a_page_that_contradicts_itself_is_not_read() {
        let entries = entries();
        let refused = |answers, extent| {
            let page = Page { summary: None, answers, head: HEAD, extent, entries: &entries };
            assert_eq!(Page::decode(&page.encode()), Err(UnreadablePage::BrokenFraming), "{page:?}");
        };
        refused(CHANGES, Extent::Changes { to: 2 });
        refused(CHANGES, Extent::Changes { to: 10 });
        refused(CHANGES, Extent::Snapshot { end: None });
        refused(Position::Nothing, Extent::Changes { to: 9 });
        refused(Position::Nothing, Extent::Snapshot { end: Some(Digest([2; 32])) });
        let late = Position::Snapshot { base: 1, next: Digest([2; 32]), seen: HEAD };
        refused(late, Extent::Snapshot { end: None });
        refused(late, Extent::Snapshot { end: Some(Digest([1; 32])) });
    }
}
