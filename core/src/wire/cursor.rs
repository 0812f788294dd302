//! Where a reader of the feed stands.

use crate::key::digest::Digest;
use crate::wire::codec::Reader;
use std::fmt;
use std::str::FromStr;

/// A place in the history of one database: the sequence number of a change, and a hash over all changes up to it.
///
/// Two databases that agree on the hash at a sequence agree on everything before it, so a restored one is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// Drawn at random when a database is created.
    pub epoch: u64,
    /// The number of changes so far; the first is 1.
    pub sequence: u64,
    /// The chain hash at `sequence`, see [`chain`].
    pub chain: [u8; Self::CHAIN_LENGTH],
}

/// What a reader has, as it tells the control plane in `after`.
///
/// Entries show the current state of their subjects, so a reader can know of changes that it has not come to yet:
/// `seen` is the head of the history at the last page. If the database does not know it, it was restored from a backup,
/// and the reader may hold states of a history that is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Position {
    /// Nothing: a snapshot is wanted.
    Nothing,
    /// Every change up to `applied`.
    Changes {
        /// The sequence up to which every change was applied.
        applied: u64,
        /// The head of the history when the last page was made.
        seen: Cursor,
    },
    /// A snapshot begun at `base`, of which all subjects below `next` were read.
    Snapshot {
        /// The sequence after which the snapshot was begun.
        base: u64,
        /// The first subject that is still wanted.
        next: Digest,
        /// The head of the history when the last page was made.
        seen: Cursor,
    },
}

/// The chain hash after one more change: the first 16 bytes of SHA-256 over the last hash and the entry.
pub fn chain(previous: &[u8; Cursor::CHAIN_LENGTH], entry: &[u8]) -> [u8; Cursor::CHAIN_LENGTH] {
    use sha2::{Digest as _, Sha256};
    let mut hasher = Sha256::new();
    hasher.update(previous);
    hasher.update(entry);
    let digest: [u8; 32] = hasher.finalize().into();
    let mut chain = [0; Cursor::CHAIN_LENGTH];
    chain.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    chain
}

impl Cursor {
    /// The length of a chain hash, in bytes.
    pub const CHAIN_LENGTH: usize = 16;

    pub(crate) const ENCODED_LENGTH: usize = 8 + 8 + Self::CHAIN_LENGTH;

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.chain);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { epoch: reader.u64()?, sequence: reader.u64()?, chain: reader.array()? })
    }
}

impl Position {
    pub(crate) const MAX_ENCODED_LENGTH: usize = 1 + 8 + Digest::LENGTH + Cursor::ENCODED_LENGTH;

    /// Appends the binary form: a tag, then the fields in order.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Nothing => out.push(0),
            Self::Changes { applied, seen } => {
                out.push(1);
                out.extend_from_slice(&applied.to_le_bytes());
                seen.encode(out);
            }
            Self::Snapshot { base, next, seen } => {
                out.push(2);
                out.extend_from_slice(&base.to_le_bytes());
                out.extend_from_slice(&next.0);
                seen.encode(out);
            }
        }
    }

    /// Reads the binary form; `None` if it is not exactly one position.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let position = Self::read(&mut reader)?;
        reader.is_empty().then_some(position)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(match reader.u8()? {
            0 => Self::Nothing,
            1 => Self::Changes { applied: reader.u64()?, seen: Cursor::read(reader)? },
            2 => Self::Snapshot { base: reader.u64()?, next: Digest(reader.array()?), seen: Cursor::read(reader)? },
            _ => return None,
        })
    }
}

/// The text of `after` in a feed request: hexadecimal of the binary form.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(Self::MAX_ENCODED_LENGTH);
        self.encode(&mut bytes);
        f.write_str(&hex::encode(bytes))
    }
}

/// The text is not a position: not hexadecimal, of another length, or of an unknown kind.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a feed position")]
pub struct NotAPosition;

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let bytes = hex::decode(text).map_err(|_| NotAPosition)?;
        Self::decode(&bytes).ok_or(NotAPosition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_its_text() {
        let seen = Cursor { epoch: 7, sequence: 9, chain: [3; 16] };
        for position in [
            Position::Nothing,
            Position::Changes { applied: 8, seen },
            Position::Snapshot { base: 5, next: Digest([0xfe; 32]), seen },
        ] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in ["", "zz", "01", "0000", "03"] {
            assert_eq!(text.parse::<Position>(), Err(NotAPosition), "{text:?}");
        }
    }

    #[test]
    fn the_chain_depends_on_every_change_before_it() {
        let start = [0; 16];
        let ab = chain(&chain(&start, b"a"), b"b");
        assert_ne!(ab, chain(&chain(&start, b"b"), b"a"));
        assert_ne!(ab, chain(&start, b"b"));
    }
}
