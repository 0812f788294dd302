//! A page of the feed: a run of changes, or a part of a snapshot.

use crate::cursor::{Cursor, Position};
use crate::digest::Digest;
use crate::entry::Frames;
use crate::wire::Reader;

/// One answer of the feed. Its entries are framed as [`crate::entry`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page<'a> {
    /// What changed after one cursor, up to another; each subject's state is the current one.
    Changes {
        /// The cursor that the reader named.
        after: Cursor,
        /// Where the reader stands once it has applied the entries.
        to: Cursor,
        /// The frames.
        entries: &'a [u8],
    },
    /// All subjects in a range: one that is missing here does not exist (or was made after `base`).
    Snapshot {
        /// The change after which the snapshot was begun.
        base: Cursor,
        /// The first subject of the range.
        start: Digest,
        /// The first subject after the range; `None` where the snapshot ends.
        end: Option<Digest>,
        /// The frames, sorted by subject.
        entries: &'a [u8],
    },
}

/// A page that cannot be read as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadablePage {
    /// It does not begin as a page does.
    #[error("not a feed page")]
    NotAPage,
    /// It is framed in a version that is not known here.
    #[error("a feed page of version {0}, where {VERSION} is known")]
    UnknownVersion(u8),
    /// It ends too soon or its lengths do not add up.
    #[error("the page is truncated or its framing cannot be read")]
    BrokenFraming,
}

/// The version of the framing.
pub const VERSION: u8 = 1;

const MAGIC: [u8; 4] = *b"KWFD";

/// The number of bytes a page has beside its entries, at most.
pub const MAX_HEADER_BYTES: usize = 4 + 1 + 1 + 2 * Cursor::ENCODED_LENGTH + 2 * Digest::LENGTH;

const CHANGES: u8 = 0;
const SNAPSHOT: u8 = 1;
const LAST_OF_SNAPSHOT: u8 = 2;

impl<'a> Page<'a> {
    /// The bytes of the page.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_HEADER_BYTES + self.entries().len());
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        match self {
            Self::Changes { after, to, .. } => {
                out.push(CHANGES);
                after.encode(&mut out);
                to.encode(&mut out);
            }
            Self::Snapshot { base, start, end, .. } => {
                out.push(if end.is_some() { SNAPSHOT } else { LAST_OF_SNAPSHOT });
                base.encode(&mut out);
                out.extend_from_slice(&start.0);
                if let Some(end) = end {
                    out.extend_from_slice(&end.0);
                }
            }
        }
        out.extend_from_slice(self.entries());
        out
    }

    /// Reads a page and checks the framing of all its entries, not their contents.
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
            None => return Err(UnreadablePage::BrokenFraming),
        }
        let page = Self::read(reader).ok_or(UnreadablePage::BrokenFraming)?;
        if Frames::new(page.entries()).any(|frame| frame.is_err()) {
            return Err(UnreadablePage::BrokenFraming);
        }
        Ok(page)
    }

    fn read(mut reader: Reader<'a>) -> Option<Self> {
        Some(match reader.u8()? {
            CHANGES => {
                let after = Cursor::read(&mut reader)?;
                let to = Cursor::read(&mut reader)?;
                Self::Changes { after, to, entries: reader.rest() }
            }
            kind @ (SNAPSHOT | LAST_OF_SNAPSHOT) => {
                let base = Cursor::read(&mut reader)?;
                let start = Digest(reader.array()?);
                let end = if kind == SNAPSHOT { Some(Digest(reader.array()?)) } else { None };
                Self::Snapshot { base, start, end, entries: reader.rest() }
            }
            _ => return None,
        })
    }

    /// The frames of the page.
    pub fn entries(&self) -> &'a [u8] {
        match self {
            Self::Changes { entries, .. } | Self::Snapshot { entries, .. } => entries,
        }
    }

    /// Where a reader stands once it has applied the page.
    pub fn next(&self) -> Position {
        match *self {
            Self::Changes { to, .. } => Position::Changes(to),
            Self::Snapshot { base, end: Some(next), .. } => Position::Snapshot { base, next },
            Self::Snapshot { base, end: None, .. } => Position::Changes(base),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Body, Entry};

    fn cursor(sequence: u64) -> Cursor {
        Cursor { epoch: 1, sequence, chain: [9; 16] }
    }

    fn entries() -> Vec<u8> {
        let mut out = Vec::new();
        for subject in [1, 2] {
            Entry { subject: Digest([subject; 32]), version: 3, body: Body::Removed }.encode(&mut out).unwrap();
        }
        out
    }

    #[test]
    fn a_page_survives_the_wire() {
        let entries = entries();
        for page in [
            Page::Changes { after: cursor(1), to: cursor(2), entries: &entries },
            Page::Snapshot { base: cursor(1), start: Digest([0; 32]), end: Some(Digest([7; 32])), entries: &entries },
            Page::Snapshot { base: cursor(1), start: Digest([7; 32]), end: None, entries: &entries },
        ] {
            let bytes = page.encode();
            assert!(bytes.len() <= MAX_HEADER_BYTES + entries.len());
            assert_eq!(Page::decode(&bytes), Ok(page));
        }
    }

    #[test]
    fn what_is_no_page_another_version_or_cut_short_is_told_apart() {
        let entries = entries();
        let page = Page::Changes { after: cursor(1), to: cursor(2), entries: &entries };
        let mut bytes = page.encode();
        assert_eq!(Page::decode(b"<html>"), Err(UnreadablePage::NotAPage));
        assert_eq!(Page::decode(&bytes[..bytes.len() - 1]), Err(UnreadablePage::BrokenFraming));
        assert_eq!(Page::decode(&bytes[..40]), Err(UnreadablePage::BrokenFraming));
        bytes[4] = 2;
        assert_eq!(Page::decode(&bytes), Err(UnreadablePage::UnknownVersion(2)));
    }
}
