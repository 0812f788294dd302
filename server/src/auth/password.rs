//! Password hashes: Argon2id (RFC 9106) for new keys, and bcrypt as well for imported ones.
//!
//! Everything here is expensive on purpose: [`Verifier`](crate::auth::hash_pool::Verifier) bounds how much runs at once. Hashes can
//! come from an import, so their cost is checked before anything is computed.

use crate::model::PasswordHash;
use argon2::password_hash::phc;
use argon2::password_hash::{Error as PhcError, PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};

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
    #[error(
        "expected a cheaper password hash: Argon2id may have {} MiB of memory, {} lanes, and so many passes as move {} MiB; bcrypt a cost of {MAX_BCRYPT_COST}",
        MAX_MEMORY_KIB >> 10, MAX_LANES, MAX_MOVED_KIB >> 10
    )]
    TooCostly,
}

/// What OWASP's Password Storage Cheat Sheet asks of Argon2id at least; RFC 9106, section 4, asks for more of passwords that
/// people think of, which keys are not.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

const MAX_MEMORY_KIB: u32 = 256 << 10;
const MAX_LANES: u32 = 16;
/// Memory times passes: about a second's work.
const MAX_MOVED_KIB: u32 = 1 << 20;
/// About a second's work.
const MAX_BCRYPT_COST: u32 = 14;
/// bcrypt ignores what follows, so a longer credential would be right with any end.
const MAX_BCRYPT_BYTES: usize = 72;

/// A hash within the bounds.
enum Usable {
    Argon2id(Box<phc::PasswordHash>),
    Bcrypt,
}

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
        Usable::Argon2id(parsed) => match Argon2::default().verify_password(credential, &*parsed) {
            Ok(()) => Ok(true),
            Err(PhcError::PasswordInvalid) => Ok(false),
            Err(_) => Err(UnusableHash::Unreadable),
        },
        Usable::Bcrypt if credential.len() > MAX_BCRYPT_BYTES => Ok(false),
        Usable::Bcrypt => bcrypt::verify(credential, hash.expose()).map_err(|_| UnusableHash::Unreadable),
    }
}

/// Whether credentials can be verified against the hash, without computing anything.
pub fn check(hash: &PasswordHash) -> Result<(), UnusableHash> {
    usable(hash).map(drop)
}

fn usable(hash: &PasswordHash) -> Result<Usable, UnusableHash> {
    if !hash.expose().starts_with("$argon2id$") {
        let parts: bcrypt::HashParts = hash.expose().parse().map_err(|_| UnusableHash::Unreadable)?;
        return if parts.get_cost() <= MAX_BCRYPT_COST { Ok(Usable::Bcrypt) } else { Err(UnusableHash::TooCostly) };
    }
    let parsed = phc::PasswordHash::new(hash.expose()).map_err(|_| UnusableHash::Unreadable)?;
    let params = Params::try_from(&parsed).map_err(|_| UnusableHash::Unreadable)?;
    if parsed.salt.is_none() || parsed.hash.is_none() {
        return Err(UnusableHash::Unreadable);
    }
    let moved = params.m_cost().checked_mul(params.t_cost());
    if params.m_cost() > MAX_MEMORY_KIB
        || params.p_cost() > MAX_LANES
        || moved.is_none_or(|moved| moved > MAX_MOVED_KIB)
    {
        return Err(UnusableHash::TooCostly);
    }
    Ok(Usable::Argon2id(Box::new(parsed)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for costly in [
            "m=262145,t=1,p=1",
            "m=262144,t=5,p=1",
            "m=65536,t=4294967295,p=1",
            "m=4294967295,t=1,p=1",
            "m=1024,t=1,p=17",
        ] {
            assert_eq!(verify(b"", &argon2id(costly)), Err(UnusableHash::TooCostly), "{costly}");
        }
        let bcrypt = |cost: u32| of(&format!("$2b${cost}$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"));
        assert_eq!(check(&bcrypt(14)), Ok(()));
        assert_eq!(verify(b"", &bcrypt(15)), Err(UnusableHash::TooCostly));
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
        assert_eq!(verify(b"password", &bad_version), Err(UnusableHash::Unreadable));
    }
}
