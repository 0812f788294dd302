//! A summary of a set of records that does not depend on their order, so that both sides can keep it while records change.

use crate::wire::codec::Reader;
use xxhash_rust::xxh3::xxh3_128;

/// The sum of 128-bit hashes (XXH3) of records, modulo 2^128.
///
/// The control plane sends that of all its records with each page, and an edge that comes to another one has something else than
/// the control plane. It is against accidents: whoever can choose records freely can make two sets with one sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary(u128);

impl Summary {
    /// The summary of no records.
    pub const EMPTY: Self = Self(0);

    /// The length of its binary form, in bytes.
    pub const LENGTH: usize = 16;

    /// The summary of one record, by the bytes of its frame.
    pub fn of(frame: &[u8]) -> Self {
        Self(xxh3_128(frame))
    }

    /// The summary of all that is in either.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// The summary of what is left without the other's records.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }

    /// The binary form.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        self.0.to_le_bytes()
    }

    /// Reads the binary form.
    pub fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }

    pub(crate) fn encode_optional(summary: Option<Self>, out: &mut Vec<u8>) {
        out.push(u8::from(summary.is_some()));
        out.extend_from_slice(&summary.unwrap_or_default().to_bytes());
    }

    pub(crate) fn read_optional(reader: &mut Reader<'_>) -> Option<Option<Self>> {
        let is_known = reader.u8()?;
        let summary = Self::from_bytes(reader.array()?);
        match is_known {
            0 => Some(None),
            1 => Some(Some(summary)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_depends_on_the_records_and_not_on_their_order() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|record| Summary::of(record));
        assert_eq!(a.plus(b).plus(c), c.plus(a).plus(b));
        assert_eq!(a.plus(b).minus(a), b);
        assert_eq!(a.minus(a), Summary::EMPTY);
        assert_ne!(a.plus(a), a);
        assert_ne!(a.plus(b), a.plus(c));
        assert_eq!(Summary::from_bytes(a.to_bytes()), a);
    }
}
