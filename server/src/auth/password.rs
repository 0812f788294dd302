//! Password hashes: Argon2id (RFC 9106) for new keys, and bcrypt as well for imported ones.
//!
//! Everything here is expensive on purpose: [`Verifier`](crate::auth::hash_pool::Verifier) bounds how much runs at once. Hashes can
//! come from an import, so their cost is checked before anything is computed.
//! ([`keyward_core::password_hash`]).

use crate::model::PasswordHash;
use argon2::password_hash::phc;
use argon2::password_hash::{Error as PhcError, PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use keyward_core::password_hash::{Excess, MAX_BCRYPT_CREDENTIAL, Work};

/// The length of a salt, in bytes (RFC 9106, section 3.1).
pub const SALT_LENGTH: usize = 16;

/// The hash cannot be computed.
#[derive(Debug, thiserror::Error)]
#[error("cannot compute password hash: {0}")]
pub struct HashError(PhcError);

/// The hash cannot be used. The message repeats nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableHash {
    /// It has an unknown format.
    #[error("expected an Argon2id hash as a PHC string, or a bcrypt hash")]
    Unreadable,
    /// It requires too much memory or time.
    #[error("the hash {0}")]
    TooCostly(Excess),
}

/// What OWASP's Password Storage Cheat Sheet asks of Argon2id at least; RFC 9106, section 4, asks for more of passwords that
/// people think of, which keys are not.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Hashes a new key; takes some 20 ms.
pub fn hash(plaintext: &[u8], salt: &[u8; SALT_LENGTH]) -> Result<PasswordHash, HashError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| HashError(error.into()))?;
    let argon2id = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = argon2id.hash_password_with_salt(plaintext, salt).map_err(HashError)?;
    Ok(PasswordHash::new(hash.to_string()))
}

/// Whether the credential matches the hash; takes as long as the parameters of the hash require.
pub fn verify(credential: &[u8], hash: &PasswordHash) -> Result<bool, UnusableHash> {
    match usable(hash)? {
        Work::Argon2id { .. } => {
            let parsed = phc::PasswordHash::new(hash.expose()).map_err(|_| UnusableHash::Unreadable)?;
            match Argon2::default().verify_password(credential, &parsed) {
                Ok(()) => Ok(true),
                Err(PhcError::PasswordInvalid) => Ok(false),
                Err(_) => Err(UnusableHash::Unreadable),
            }
        }
        Work::Bcrypt { .. } if credential.len() > MAX_BCRYPT_CREDENTIAL => Ok(false),
        Work::Bcrypt { .. } => bcrypt::verify(credential, hash.expose()).map_err(|_| UnusableHash::Unreadable),
    }
}

/// Whether credentials can be verified against the hash, without computing anything.
pub fn check(hash: &PasswordHash) -> Result<(), UnusableHash> {
    usable(hash).map(drop)
}

fn usable(hash: &PasswordHash) -> Result<Work, UnusableHash> {
    let work = Work::of(hash.expose()).ok_or(UnusableHash::Unreadable)?;
    match work.excesses().next() {
        Some(excess) => Err(UnusableHash::TooCostly(excess)),
        None => Ok(work),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;

    fn of(text: &str) -> PasswordHash {
        PasswordHash::new(text.to_owned())
    }

    #[test]
    fn a_new_hash_has_owasps_parameters_and_its_salt_and_only_the_plaintext_is_right() {
        let made = hash(b"user.abc", &[0; SALT_LENGTH]).unwrap();
        assert!(
            made.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$"),
            "{}",
            made.expose()
        );
        assert_eq!(check(&made), Ok(()));
        assert_eq!(verify(b"user.abc", &made), Ok(true));
        for wrong in ["user.abd", "user.ab", "user.abcc", ""] {
            assert_eq!(verify(wrong.as_bytes(), &made), Ok(false), "{wrong}");
        }
        assert_ne!(hash(b"user.abc", &[1; SALT_LENGTH]).unwrap(), made);
    }

    #[test]
    fn argon2id_is_that_of_the_reference_implementation() {
        // phc-winner-argon2, src/test.c: hashtest(version, 2, 8, 1, "password", "somesalt", …, Argon2_id).
        let known = of("$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4");
        assert_eq!(verify(b"password", &known), Ok(true));
        assert_eq!(verify(b"passwore", &known), Ok(false));
    }

    #[test]
    fn bcrypt_is_that_of_openwall_in_every_spelling_of_its_prefix() {
        // crypt_blowfish 1.3, wrapper.c.
        let known = "5$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        for prefix in ["$2a$0", "$2b$0", "$2y$0"] {
            let known = of(&format!("{prefix}{known}"));
            assert_eq!((verify(b"U*U", &known), verify(b"U*U*", &known)), (Ok(true), Ok(false)), "{prefix}");
        }
        for (hash, plaintext) in [
            ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK", "U*U*"),
            ("$2a$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a", "U*U*U"),
            ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy", ""),
        ] {
            assert_eq!(verify(plaintext.as_bytes(), &of(hash)), Ok(true), "{plaintext}");
        }
    }

    #[test]
    fn what_bcrypt_would_cut_off_is_not_right() {
        let key = [b'k'; 73];
        let hash = of(&bcrypt_of(&key));
        assert_eq!((verify(&key[..72], &hash), verify(&key, &hash)), (Ok(true), Ok(false)));
    }

    fn bcrypt_of(plaintext: &[u8]) -> String {
        bcrypt::hash_with_salt(plaintext, 4, [1; 16]).unwrap().to_string()
    }

    #[test]
    fn a_hash_that_asks_for_too_much_is_refused_before_anything_is_computed() {
        let argon2id = |params: &str| {
            of(&format!("$argon2id$v=19${params}$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"))
        };
        for fits in ["m=262144,t=4,p=1", "m=65536,t=16,p=16"] {
            assert_eq!(check(&argon2id(fits)), Ok(()), "{fits}");
        }
        for (costly, excess) in [
            ("m=262145,t=1,p=1", Excess::Memory),
            ("m=262144,t=5,p=1", Excess::Moved),
            ("m=8,t=21,p=1", Excess::Passes),
            ("m=65536,t=4294967295,p=1", Excess::Passes),
            ("m=4294967295,t=1,p=1", Excess::Memory),
            ("m=1024,t=1,p=17", Excess::Lanes),
        ] {
            assert_eq!(verify(b"", &argon2id(costly)), Err(UnusableHash::TooCostly(excess)), "{costly}");
        }
        let bcrypt = |cost: u32| of(&format!("$2b${cost}$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"));
        assert_eq!(check(&bcrypt(14)), Ok(()));
        assert_eq!(verify(b"", &bcrypt(15)), Err(UnusableHash::TooCostly(Excess::Cost)));
    }

    /// Accepted hashes are parsed once more by the libraries that compute them.
    #[test]
    fn accepted_hashes_can_be_computed() {
        let made = |salt: usize, digest: usize| {
            let [salt, digest] = [salt, digest].map(|length| STANDARD_NO_PAD.encode(vec![7; length]));
            of(&format!("$argon2id$v=19$m=16,t=1,p=2${salt}${digest}"))
        };
        for salt in 0..80 {
            for digest in 0..80 {
                let hash = made(salt, digest);
                assert_eq!(verify(b"x", &hash).is_ok(), check(&hash).is_ok(), "{salt} {digest}");
            }
        }
        assert_eq!((check(&made(8, 10)), check(&made(48, 64))), (Ok(()), Ok(())));
        let (salt, digest) = ("CCCCCCCCCCCCCCCCCCCCC", "E5YPO9kmyuRGyh0XouQYb4YMJKvyOe");
        for last in (0..=127u8).map(char::from) {
            for hash in [format!("$2b$04${salt}{last}{digest}W"), format!("$2b$04${salt}.{digest}{last}")] {
                let hash = of(&hash);
                assert_eq!(verify(b"x", &hash).is_ok(), check(&hash).is_ok(), "{last:?}");
            }
        }
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for bad in [
            "",
            "secret",
            "$argon2id$",
            "$argon2id$v=19$m=256,t=2,p=1",
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ",
            "$argon2id$v=19$m=256,t=0,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
            "$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$iekCn0Y3spW+sCcFanM2xBT63UP2sghkUoHLIUpWRS8",
            "$argon2d$v=19$m=256,t=2,p=1$c29tZXNhbHQ$iekCn0Y3spW+sCcFanM2xBT63UP2sghkUoHLIUpWRS8",
            "$2b$05$CCCCCCCCCCCCCCCCCCCCC",
            "$2x$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n",
            "$5$rounds=5000$saltsalt$abc",
        ] {
            assert_eq!(check(&of(bad)), Err(UnusableHash::Unreadable), "{bad}");
        }
        let bad_version = of("$argon2id$v=18$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4");
        assert_eq!(check(&bad_version), Err(UnusableHash::Unreadable));
        assert_eq!(verify(b"password", &bad_version), Err(UnusableHash::Unreadable));
    }
}
