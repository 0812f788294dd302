//! The address of a record: a SHA-256 digest, never the key itself.

use sha2::{Digest as _, Sha256};
use std::fmt;

/// SHA-256 of a key, or of an owner's name in a space of its own: what a record is found by.
///
/// `Debug` shows the first four bytes only, enough to tell two apart in a log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; Self::LENGTH]);

impl Digest {
    /// The length of a digest, in bytes.
    pub const LENGTH: usize = 32;

    /// The digest a key is stored and looked up by: SHA-256 of its bytes as sent (FIPS 180-4).
    pub fn of_key(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// The address of an owner's record.
    ///
    /// Its preimage begins with a NUL, which no credential can contain (RFC 9110, section 5.5), so no key leads here.
    pub fn of_owner(owner: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"\0keyward owner\0");
        hasher.update(owner.as_bytes());
        Self(hasher.finalize().into())
    }

    /// The leading `bits` of the digest as a number; digests in order have numbers in order.
    ///
    /// `bits` above 32 count as 32.
    pub fn leading_bits(&self, bits: u32) -> u32 {
        let [a, b, c, d, ..] = self.0;
        let bits = bits.min(32);
        u32::from_be_bytes([a, b, c, d]).checked_shr(32 - bits).unwrap_or(0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Digest({}…)", hex::encode([a, b, c, d]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_digested_as_fips_180_4_says() {
        assert_eq!(
            hex::encode(Digest::of_key(b"abc").0),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn no_key_without_a_nul_leads_to_an_owner() {
        assert_ne!(Digest::of_owner("a"), Digest::of_key(b"a"));
        assert_ne!(Digest::of_owner("a"), Digest::of_key(b"keyward owner\0a"));
    }

    #[test]
    fn leading_bits_keep_the_order_of_digests() {
        let digest = Digest([0xab; 32]);
        assert_eq!(digest.leading_bits(0), 0);
        assert_eq!(digest.leading_bits(16), 0xabab);
        assert_eq!(digest.leading_bits(32), 0xabab_abab);
        assert_eq!(digest.leading_bits(99), 0xabab_abab);
    }

    #[test]
    fn debug_shows_no_more_than_four_bytes() {
        assert_eq!(format!("{:?}", Digest([0xab; 32])), "Digest(abababab…)");
    }
}
