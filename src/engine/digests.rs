//! The digests by which a key is looked up: keys made here by their SHA-256, imported keys by whichever digest the
//! other system kept.
//!
//! Digests other than SHA-256 are computed only for keys that are not cached.

use hmac::{Hmac, Mac as _};
use keyward_core::key::digest::Digest;
use sha2::{Digest as _, Sha256, Sha512};
use std::fmt;

/// The digests, in the order in which they are tried.
#[derive(Clone, Debug)]
pub struct Digests(Vec<KeyDigest>);

/// A digest from which the address of a key's record follows.
#[derive(Clone, Debug)]
pub enum KeyDigest {
    /// SHA-256 of the key; used for every key made here.
    Sha256,
    /// SHA-512 of the key.
    Sha512,
    /// HMAC-SHA-256 of the key under a pepper.
    HmacSha256(HmacKey),
}

/// The secret key of an HMAC (RFC 2104). `Debug` redacts it.
#[derive(Clone)]
pub struct HmacKey(Hmac<Sha256>);

impl Digests {
    /// A list of digests, tried in this order.
    pub fn new(digests: Vec<KeyDigest>) -> Self {
        Self(digests)
    }

    /// The addresses at which a key's record can lie; `sha256` is [`Digest::of_key`] of the key, which the caller has
    /// already.
    pub fn addresses<'a>(&'a self, key: &'a [u8], sha256: Digest) -> impl Iterator<Item = Digest> + 'a {
        self.0.iter().map(move |digest| match digest {
            KeyDigest::Sha256 => sha256,
            KeyDigest::Sha512 => Digest::of_sha512(&Sha512::digest(key).into()),
            KeyDigest::HmacSha256(pepper) => Digest::of_hmac_sha256(&pepper.hmac(key)),
        })
    }
}

impl Default for Digests {
    /// SHA-256 only.
    fn default() -> Self {
        Self(vec![KeyDigest::Sha256])
    }
}

impl HmacKey {
    /// A key of these bytes; `None` if empty, since an empty key is no secret.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return None;
        }
        Hmac::new_from_slice(bytes).ok().map(Self)
    }

    fn hmac(&self, key: &[u8]) -> [u8; 32] {
        self.0.clone().chain_update(key).finalize().into_bytes().into()
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    #[test]
    fn published_test_vectors_are_found_in_order() {
        // FIPS 180-4, for "abc".
        let sha512 = unhex(concat!(
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a",
            "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        ));
        let digests = Digests::new(vec![KeyDigest::Sha512, KeyDigest::Sha256]);
        let addresses: Vec<Digest> = digests.addresses(b"abc", Digest::of_key(b"abc")).collect();
        assert_eq!(addresses, [Digest::of_sha512(&sha512), Digest::of_key(b"abc")]);
        // RFC 4231, section 4.3.
        let hmac = unhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let digests = Digests::new(vec![KeyDigest::HmacSha256(HmacKey::new(b"Jefe").unwrap())]);
        let key = b"what do ya want for nothing?";
        let addresses: Vec<Digest> = digests.addresses(key, Digest::of_key(key)).collect();
        assert_eq!(addresses, [Digest::of_hmac_sha256(&hmac)]);
    }

    #[test]
    fn hmac_key_is_not_empty_and_redacted() {
        assert!(HmacKey::new(b"").is_none());
        let digest = KeyDigest::HmacSha256(HmacKey::new(b"salty").unwrap());
        assert_eq!(format!("{digest:?}"), "HmacSha256(HmacKey(redacted))");
    }
}
