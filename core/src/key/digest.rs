//! The address of a record: a SHA-256 digest, never the key itself.

use sha2::{Digest as _, Sha256};
use std::fmt;

/// SHA-256 of a key, or of what else leads to a record, each sort in a space of its own: what a record is found by.
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
    pub fn of_owner(owner: &str) -> Self {
        Self::in_space("owner", owner.as_bytes())
    }

    /// The address of a plan's record.
    pub fn of_plan(plan: &str) -> Self {
        Self::in_space("plan", plan.as_bytes())
    }

    /// The address of a key that is stored as a password hash: of its public beginning, by which its hash is found.
    ///
    /// Whoever leads here has shown nothing secret.
    pub fn of_selector(selector: &[u8]) -> Self {
        Self::in_space("selector", selector)
    }

    /// The address of a key of which only the SHA-512 is known (FIPS 180-4).
    pub fn of_sha512(hash: &[u8; 64]) -> Self {
        Self::in_space("sha512", hash)
    }

    /// The address of a key of which only the HMAC-SHA-256 is known (RFC 2104).
    pub fn of_hmac_sha256(hash: &[u8; 32]) -> Self {
        Self::in_space("hmac-sha256", hash)
    }

    /// An address that no key and no other space leads to.
    ///
    /// Its preimage begins with a NUL, which no credential can contain (RFC 9110, section 5.5), and the space's name
    /// ends with one.
    fn in_space(space: &str, contents: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        for part in [&b"\0keyward "[..], space.as_bytes(), b"\0", contents] {
            hasher.update(part);
        }
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
    fn no_key_without_a_nul_and_no_other_space_leads_to_an_address() {
        let name = "a".repeat(64);
        let hash: &[u8; 64] = name.as_bytes().try_into().unwrap();
        let short: &[u8; 32] = name.as_bytes().first_chunk().unwrap();
        let addresses = [
            ("owner", Digest::of_owner(&name), &name[..]),
            ("plan", Digest::of_plan(&name), &name),
            ("selector", Digest::of_selector(name.as_bytes()), &name),
            ("sha512", Digest::of_sha512(hash), &name),
            ("hmac-sha256", Digest::of_hmac_sha256(short), &name[..32]),
        ];
        for (n, (space, address, contents)) in addresses.iter().enumerate() {
            assert_eq!(*address, Digest::of_key(format!("\0keyward {space}\0{contents}").as_bytes()), "{space}");
            assert_ne!(*address, Digest::of_key(format!("keyward {space}\0{contents}").as_bytes()), "{space}");
            assert_ne!(*address, Digest::of_key(contents.as_bytes()), "{space}");
            assert!(addresses[n + 1..].iter().all(|(_, other, _)| other != address), "{space}");
        }
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
