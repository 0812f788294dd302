//! Parsing of password hashes (Argon2id as PHC strings, bcrypt), and bounds on the work that verifying one may take. Import
//! and verification both use this, so an import refuses what the server would not compute. No hash is computed here.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, STANDARD_NO_PAD};
use std::ops::RangeInclusive;

/// The parameters of a hash, which set the work of verifying it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Argon2id (RFC 9106).
    Argon2id {
        /// Memory (m), in KiB.
        memory_kib: u32,
        /// Passes over that memory (t).
        passes: u32,
        /// Lanes (p).
        lanes: u32,
    },
    /// bcrypt.
    Bcrypt {
        /// The binary logarithm of the rounds.
        cost: u32,
    },
}

/// A parameter above its bound. `Display` completes "the hash …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// Argon2id's memory.
    #[error("asks for more than {MAX_MEMORY_KIB} KiB of memory (m) each time the key is checked")]
    Memory,
    /// Argon2id's passes.
    #[error("asks for more than {MAX_PASSES} passes (t) each time the key is checked")]
    Passes,
    /// Argon2id's lanes.
    #[error("asks for more than {MAX_LANES} lanes (p) each time the key is checked")]
    Lanes,
    /// Argon2id's memory over all passes.
    #[error(
        "asks for more than {MAX_MOVED_KIB} KiB of memory over all passes (m times t) each time the key is checked"
    )]
    Moved,
    /// bcrypt's cost.
    #[error("asks for a cost of more than {MAX_BCRYPT_COST} each time the key is checked")]
    Cost,
}

/// The most memory of Argon2id, in KiB.
pub const MAX_MEMORY_KIB: u32 = 256 << 10;
/// The most passes of Argon2id.
pub const MAX_PASSES: u32 = 20;
/// The most lanes of Argon2id.
pub const MAX_LANES: u32 = 16;
/// The most memory of Argon2id times its passes, in KiB: about a second's work.
pub const MAX_MOVED_KIB: u32 = 1 << 20;
/// The highest cost of bcrypt: about a second's work.
pub const MAX_BCRYPT_COST: u32 = 14;
/// The longest credential for bcrypt, in bytes. bcrypt ignores all bytes after these, so a longer credential would match with
/// any end, and is refused instead.
pub const MAX_BCRYPT_CREDENTIAL: usize = 72;

/// The error for a text that is not an Argon2id hash.
pub const EXPECTED_ARGON2ID: &str =
    "expected a PHC string of argon2id, such as $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH";
/// The error for a text that is not a bcrypt hash.
pub const EXPECTED_BCRYPT: &str = "expected a string of bcrypt: $2a$, $2b$ or $2y$, the cost, and 53 characters";

const MAX_PHC_LENGTH: usize = 256;
/// The lengths of salt and hash that both PHC strings and RFC 9106 allow, in bytes.
const SALT_LENGTHS: RangeInclusive<usize> = 8..=48;
const HASH_LENGTHS: RangeInclusive<usize> = 10..=64;
/// The least memory per lane (RFC 9106, section 3.1).
const MIN_MEMORY_KIB_OF_LANE: u32 = 8;
const MIN_BCRYPT_COST: u32 = 4;
const BCRYPT_LENGTH: usize = 60;
const BCRYPT_SALT_LENGTH: usize = 22;
const BCRYPT: GeneralPurpose = GeneralPurpose::new(&alphabet::BCRYPT, NO_PAD);

impl Work {
    /// Parses an Argon2id or bcrypt hash.
    pub fn of(hash: &str) -> Option<Self> {
        Self::of_argon2id(hash).or_else(|| Self::of_bcrypt(hash))
    }

    /// Parses a PHC string of Argon2id. Version and all parameters are required, in the order of the reference implementation.
    pub fn of_argon2id(hash: &str) -> Option<Self> {
        let rest = hash.strip_prefix("$argon2id$").filter(|_| hash.len() <= MAX_PHC_LENGTH)?;
        let mut parts = rest.split('$');
        let (version, parameters) = (parts.next()?, parts.next()?);
        let (salt, digest) = (parts.next()?, parts.next()?);
        if parts.next().is_some() || !["v=16", "v=19"].contains(&version) {
            return None;
        }
        let mut parameters = parameters.split(',');
        let mut number = |name: &str| decimal(parameters.next()?.strip_prefix(name)?.strip_prefix('=')?);
        let (memory_kib, passes, lanes) = (number("m")?, number("t")?, number("p")?);
        let are_possible = passes > 0 && lanes > 0 && memory_kib / MIN_MEMORY_KIB_OF_LANE >= lanes;
        let is_encoded = |text: &str, lengths: RangeInclusive<usize>| {
            STANDARD_NO_PAD.decode(text).is_ok_and(|bytes| lengths.contains(&bytes.len()))
        };
        let is_whole =
            parameters.next().is_none() && is_encoded(salt, SALT_LENGTHS) && is_encoded(digest, HASH_LENGTHS);
        (are_possible && is_whole).then_some(Self::Argon2id { memory_kib, passes, lanes })
    }

    /// Parses a bcrypt hash.
    pub fn of_bcrypt(hash: &str) -> Option<Self> {
        let rest = ["$2a$", "$2b$", "$2y$"].iter().find_map(|version| hash.strip_prefix(version))?;
        let (cost, rest) = rest.split_once('$').filter(|(cost, _)| hash.len() == BCRYPT_LENGTH && cost.len() == 2)?;
        let cost = digits(cost).filter(|cost| *cost >= MIN_BCRYPT_COST)?;
        let (salt, digest) = rest.split_at_checked(BCRYPT_SALT_LENGTH)?;
        [salt, digest].iter().all(|part| BCRYPT.decode(part).is_ok()).then_some(Self::Bcrypt { cost })
    }

    /// All parameters above their bounds; empty if the hash may be computed.
    pub fn excesses(self) -> impl Iterator<Item = Excess> {
        let excesses = match self {
            Self::Argon2id { memory_kib, passes, lanes } => [
                (memory_kib > MAX_MEMORY_KIB).then_some(Excess::Memory),
                (passes > MAX_PASSES).then_some(Excess::Passes),
                (lanes > MAX_LANES).then_some(Excess::Lanes),
                (memory_kib.saturating_mul(passes) > MAX_MOVED_KIB).then_some(Excess::Moved),
            ],
            Self::Bcrypt { cost } => [(cost > MAX_BCRYPT_COST).then_some(Excess::Cost), None, None, None],
        };
        excesses.into_iter().flatten()
    }
}

/// A decimal number of a PHC string: no leading zeros.
fn decimal(text: &str) -> Option<u32> {
    digits(text).filter(|_| text.len() == 1 || !text.starts_with('0'))
}

/// Digits only: `parse` would accept a sign.
fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ARGON2ID: &str = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
    const BCRYPT: &str = "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn argon2id(parameters: &str) -> String {
        ARGON2ID.replace("m=256,t=2,p=1", parameters)
    }

    fn bcrypt(cost: u32) -> String {
        BCRYPT.replace("$05$", &format!("${cost:02}$"))
    }

    fn excesses(hash: &str) -> Vec<Excess> {
        Work::of(hash).unwrap_or_else(|| panic!("{hash}")).excesses().collect()
    }

    #[test]
    fn parameters_are_parsed() {
        assert_eq!(Work::of(ARGON2ID), Some(Work::Argon2id { memory_kib: 256, passes: 2, lanes: 1 }));
        assert_eq!(Work::of(&ARGON2ID.replace("v=19", "v=16")), Work::of(ARGON2ID));
        for prefix in ["$2a$", "$2b$", "$2y$"] {
            assert_eq!(Work::of(&BCRYPT.replace("$2b$", prefix)), Some(Work::Bcrypt { cost: 5 }), "{prefix}");
        }
        assert_eq!((Work::of_bcrypt(ARGON2ID), Work::of_argon2id(BCRYPT)), (None, None));
    }

    #[test]
    fn each_bound_of_argon2id_is_enforced() {
        for fits in ["m=262144,t=4,p=1", "m=52428,t=20,p=16", "m=8,t=1,p=1", "m=128,t=1,p=16"] {
            assert_eq!(excesses(&argon2id(fits)), [], "{fits}");
        }
        for (parameters, excess) in [
            ("m=262145,t=1,p=1", &[Excess::Memory][..]),
            ("m=8,t=21,p=1", &[Excess::Passes]),
            ("m=136,t=1,p=17", &[Excess::Lanes]),
            ("m=262144,t=5,p=1", &[Excess::Moved]),
            ("m=52429,t=20,p=1", &[Excess::Moved]),
            ("m=65536,t=4294967295,p=1", &[Excess::Passes, Excess::Moved]),
            ("m=4294967295,t=4294967295,p=17", &[Excess::Memory, Excess::Passes, Excess::Lanes, Excess::Moved]),
        ] {
            assert_eq!(excesses(&argon2id(parameters)), excess, "{parameters}");
        }
    }

    #[test]
    fn the_cost_of_bcrypt_is_bounded() {
        for (cost, excess) in [(4, &[][..]), (14, &[]), (15, &[Excess::Cost]), (99, &[Excess::Cost])] {
            assert_eq!(excesses(&bcrypt(cost)), excess, "{cost}");
        }
        assert_eq!(Work::of(&bcrypt(3)), None);
    }

    #[test]
    fn invalid_hashes_are_rejected() {
        for parameters in ["m=256,t=0,p=1", "m=256,t=2,p=0", "m=7,t=2,p=1", "m=135,t=2,p=17"] {
            assert_eq!(Work::of(&argon2id(parameters)), None, "{parameters}");
        }
        for parameters in [
            "m=0256,t=2,p=1",
            "m=+256,t=2,p=1",
            "m=256,t=2",
            "m=256,p=1,t=2",
            "m=256,t=2,p=1,keyid=AAAA",
            "m=256,t=2,p=1,",
            "m=4294967296,t=2,p=1",
            "",
        ] {
            assert_eq!(Work::of(&argon2id(parameters)), None, "{parameters}");
        }
        let (salt, digest) = ("$c29tZXNhbHQ$", "nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4");
        for bad in [
            // No version means 1.0, which the library would compute as 1.3.
            ARGON2ID.replace("v=19$", ""),
            ARGON2ID.replace("v=19", "v=18"),
            ARGON2ID.replace("argon2id", "argon2i"),
            ARGON2ID.replace("argon2id", "argon2d"),
            ARGON2ID.replace(salt, "$c29tZXNhbA$"),
            ARGON2ID.replace(salt, "$c29tZXNhbHR$"),
            ARGON2ID.replace(salt, &format!("${}$", "A".repeat(68))),
            ARGON2ID.replace(digest, "AAAAAAAAAAAA"),
            ARGON2ID.replace(digest, &"A".repeat(88)),
            ARGON2ID.replace(digest, ""),
            format!("{ARGON2ID}$"),
            format!("{ARGON2ID}="),
            format!("{ARGON2ID}{}", "A".repeat(MAX_PHC_LENGTH)),
            BCRYPT.replace("$2b$", "$2x$"),
            BCRYPT.replace("$05$", "$+5$"),
            BCRYPT.replace("$05$", "$5$0"),
            BCRYPT.replace("CC.E", "CC/E"),
            BCRYPT.replace("OeW", "OeX"),
            BCRYPT.replace("OeW", "Oe="),
            format!("{BCRYPT}\n"),
            BCRYPT[..59].to_owned(),
            "$2b$05$CCCCCCCCCCCCCCCCCCCCC".to_owned(),
            "$5$rounds=5000$saltsalt$abc".to_owned(),
            "$argon2id$".to_owned(),
            "secret".to_owned(),
            String::new(),
        ] {
            assert_eq!(Work::of(&bad), None, "{bad}");
        }
        assert!(Work::of(&ARGON2ID.replace(salt, &format!("${}$", "A".repeat(64)))).is_some());
        assert!(Work::of(&ARGON2ID.replace(digest, &"A".repeat(86))).is_some());
        assert!(Work::of(&ARGON2ID.replace(digest, &"A".repeat(14))).is_some());
    }

    proptest! {
        #[test]
        fn no_text_makes_parsing_panic(text in r"(\$argon2id\$v=19\$|\$2b\$05\$)?.{0,80}") {
            let _ = Work::of(&text);
        }
    }
}
