//! What a key looks like, as data: so that garbage is refused without a look-up, and so that keys are made in it.

use crate::document::Node;
use crate::key::environment::Environment;
use crate::key::secret::Secret;
use crate::refusal::malformation::Malformation;
use std::ops::{Range, RangeInclusive};

/// The format of one sort of key: a prefix, a body of random characters, perhaps a checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFormat {
    /// What sort of key it is, in the dialect's words.
    pub kind: String,
    /// The environment that the prefix stands for.
    pub environment: Option<Environment>,
    /// Whether such a key has the permissions of its owner instead of its own.
    pub has_owners_scopes: bool,
    /// The kinds whose keys, beside those of its own, such a key may look after by self-service.
    pub manages: Vec<String>,
    /// What every such key begins with.
    pub prefix: String,
    alphabet: Alphabet,
    min_length: usize,
    max_length: usize,
    issued_length: usize,
    checksum: Checksum,
    selector_length: Option<usize>,
    at_rest: AtRest,
}

/// What the control plane keeps of a key of this format that it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtRest {
    /// Its SHA-256, which an edge can check by itself.
    Sha256,
    /// An Argon2id hash (RFC 9106), which only the control plane can check; the key is found by its selector.
    Argon2id,
}

/// The characters of a key's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alphabet {
    /// `0-9A-Za-z`.
    Base62,
    /// RFC 4648, section 5, without padding.
    Base64Url,
    /// Lower-case hexadecimal.
    Hex,
    /// Every visible ASCII character, for keys of unknown make; new ones are made of base62.
    Visible,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checksum {
    None,
    /// CRC-32 (ISO 3309) of all before it, as six base62 digits, the highest first.
    Crc32Base62,
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const HEX: &[u8; 16] = b"0123456789abcdef";

const CRC32_BASE62_LENGTH: usize = 6;

/// The longest body a format may allow, in characters.
pub const MAX_BODY_LENGTH: u64 = 4096;

/// How long a selector may be, in characters.
pub const SELECTOR_LENGTHS: RangeInclusive<u64> = 8..=24;

/// The shortest prefix that tells keys from other words.
const MIN_TELLING_PREFIX: usize = 3;

/// How many characters of a body are shown where the format has no selector.
const SHOWN_LENGTH: usize = 4;

/// The least randomness of a key that is made here, in bits.
pub const MIN_ENTROPY_BITS: f64 = 128.0;

impl KeyFormat {
    /// Whether a credential could be such a key: prefix, length, alphabet and checksum all fit.
    pub fn matches(&self, credential: &[u8]) -> bool {
        let Some(rest) = credential.strip_prefix(self.prefix.as_bytes()) else { return false };
        let body = match self.checksum {
            Checksum::None => rest,
            Checksum::Crc32Base62 => {
                let Some(length) = rest.len().checked_sub(CRC32_BASE62_LENGTH) else { return false };
                let Some((body, sum)) = rest.split_at_checked(length) else { return false };
                let Some(covered) = credential.get(..self.prefix.len() + length) else { return false };
                if crc32_base62(covered) != sum {
                    return false;
                }
                body
            }
        };
        (self.min_length..=self.max_length).contains(&body.len()) && body.iter().all(|&c| self.alphabet.contains(c))
    }

    /// The format of tokens: that prefix and as many letters and digits.
    pub(crate) fn of_tokens(prefix: &str, length: usize) -> Self {
        Self {
            kind: String::new(),
            environment: None,
            has_owners_scopes: false,
            manages: Vec::new(),
            prefix: prefix.to_owned(),
            alphabet: Alphabet::Base62,
            min_length: length,
            max_length: length,
            issued_length: length,
            checksum: Checksum::None,
            selector_length: None,
            at_rest: AtRest::Sha256,
        }
    }

    /// Whether such keys can be told from other text: by a prefix of three characters, or by a checksum.
    pub fn is_recognizable(&self) -> bool {
        self.prefix.len() >= MIN_TELLING_PREFIX || self.checksum != Checksum::None
    }

    /// Where in a text, from that place on, the first such key is. Without a checksum that is the prefix, at the beginning of
    /// a word, and as many characters as the shortest key has or more, so that a key to which something was added is found.
    /// Always `None` if such keys are not [recognizable](Self::is_recognizable).
    pub fn find_in(&self, text: &[u8], from: usize) -> Option<Range<usize>> {
        if !self.is_recognizable() {
            return None;
        }
        let places = from..text.len();
        places.into_iter().find_map(|at| Some(at..at + self.length_at(text, at)?))
    }

    /// The length of the key that begins there.
    fn length_at(&self, text: &[u8], at: usize) -> Option<usize> {
        let rest = text.get(at..)?;
        let behind = rest.strip_prefix(self.prefix.as_bytes())?;
        if self.checksum == Checksum::None {
            let is_in_word =
                at.checked_sub(1).and_then(|before| text.get(before)).is_some_and(u8::is_ascii_alphanumeric);
            let most = behind.iter().take(self.max_length).take_while(|c| self.alphabet.contains(**c)).count();
            return (!is_in_word && most >= self.min_length).then_some(self.prefix.len() + most);
        }
        let most = behind.iter().take(self.max_length + CRC32_BASE62_LENGTH).take_while(|c| self.may_hold(**c)).count();
        let longest = most.checked_sub(CRC32_BASE62_LENGTH)?.min(self.max_length);
        let mut covered = self.prefix.len() + self.min_length;
        let mut sum = crc32fast::Hasher::new();
        sum.update(rest.get(..covered)?);
        for length in self.min_length..=longest {
            let end = self.prefix.len() + length;
            sum.update(rest.get(covered..end)?);
            covered = end;
            let whole = end + CRC32_BASE62_LENGTH;
            if rest.get(end..whole)? == base62_digits(sum.clone().finalize()) && self.matches(rest.get(..whole)?) {
                return Some(whole);
            }
        }
        None
    }

    /// Whether the character can be in the body or in the checksum.
    fn may_hold(&self, c: u8) -> bool {
        self.alphabet.contains(c) || c.is_ascii_alphanumeric()
    }

    /// What is wrong with a credential that begins like such a key; `None` if it [matches](Self::matches).
    pub fn malformation_of(&self, credential: &[u8]) -> Option<Malformation> {
        if self.matches(credential) {
            return None;
        }
        let Some(rest) = credential.strip_prefix(self.prefix.as_bytes()) else {
            return Some(Malformation::WrongPrefix);
        };
        let checksum = self.checksum.length();
        let lengths = self.min_length + checksum..=self.max_length + checksum;
        if !lengths.contains(&rest.len()) {
            return Some(Malformation::WrongLength);
        }
        // The digits of a checksum are those of base62.
        let (body, sum) = rest.split_at_checked(rest.len() - checksum).unwrap_or_default();
        let are_allowed = body.iter().all(|&c| self.alphabet.contains(c)) && sum.iter().all(u8::is_ascii_alphanumeric);
        Some(if are_allowed { Malformation::WrongChecksum } else { Malformation::WrongCharacters })
    }

    /// Makes a key out of `random`, which must fill the bytes it is given from a cryptographic source.
    ///
    /// # Errors
    /// Those of `random`.
    pub fn issue<E>(&self, mut random: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Secret, E> {
        let symbols = self.alphabet.issued();
        // Bytes at or above the largest multiple of the alphabet's size would favour its first characters.
        let unbiased = 256 - 256 % symbols.len();
        let mut key = self.prefix.clone();
        let mut made = 0;
        let mut pool = [0; 64];
        while made < self.issued_length {
            random(&mut pool)?;
            let usable = pool.iter().map(|&byte| usize::from(byte)).filter(|&byte| byte < unbiased);
            for symbol in usable.filter_map(|byte| symbols.get(byte % symbols.len())).take(self.issued_length - made) {
                key.push(char::from(*symbol));
                made += 1;
            }
        }
        if self.checksum == Checksum::Crc32Base62 {
            let sum = crc32_base62(key.as_bytes());
            key.extend(sum.map(char::from));
        }
        Ok(Secret::new(key))
    }

    /// The public beginning of a key, by which a record is found whose key cannot be found by its digest: the prefix and
    /// the selector. `None` if the format has no selector, or the credential is not one that [matches](Self::matches).
    pub fn selector_of<'a>(&self, credential: &'a [u8]) -> Option<&'a [u8]> {
        let length = self.selector_length?;
        credential.starts_with(self.prefix.as_bytes()).then_some(())?;
        // Something has to be left that is not public.
        credential.split_at_checked(self.prefix.len() + length).filter(|(_, rest)| !rest.is_empty()).map(|(it, _)| it)
    }

    /// What the control plane keeps of a key of this format that it makes.
    pub fn at_rest(&self) -> AtRest {
        self.at_rest
    }

    /// How many characters behind the prefix are a selector; `None` if the format has none.
    pub fn selector_length(&self) -> Option<usize> {
        self.selector_length
    }

    /// The part of a key that may be kept and shown to recognise it by: its prefix and its selector, or else four
    /// characters, leaving at least 128 bits unknown.
    pub fn display_hint(&self, key: &Secret) -> String {
        let shown = self.prefix.chars().count() + self.selector_length.unwrap_or(SHOWN_LENGTH);
        key.expose().chars().take(shown).collect::<String>() + "…"
    }

    /// The length of a key that is made here, in bytes. A longer one leaves no less unknown.
    pub fn issued_key_length(&self) -> usize {
        self.prefix.len() + self.issued_length + self.checksum.length()
    }

    /// The length of the shortest valid key, in bytes.
    pub fn shortest_key_length(&self) -> usize {
        self.prefix.len() + self.min_length + self.checksum.length()
    }

    /// Reads a format from a dialect.
    pub(crate) fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let kind = fields.required("kind").and_then(|n| n.nonempty());
        let environment =
            fields.maybe("environment", |n| n.one_of(&[("live", Environment::Live), ("test", Environment::Test)]));
        let has_owners_scopes = match fields.optional("scopes") {
            Some(n) => n.one_of(&[("own", false), ("owner", true)]),
            None => Some(false),
        };
        let manages = fields
            .optional("manages")
            .map_or_else(|| Some(Vec::new()), |n| n.each(|kind| kind.nonempty().map(str::to_owned)));
        let prefix = fields.required("prefix").and_then(|n| read_prefix(&n));
        let alphabet = fields.required("alphabet").and_then(|n| {
            n.one_of(&[
                ("base62", Alphabet::Base62),
                ("base64url", Alphabet::Base64Url),
                ("hex", Alphabet::Hex),
                ("visible", Alphabet::Visible),
            ])
        });
        let length = fields.required("length").and_then(|n| Some((n.clone(), read_length(&n)?)));
        let checksum = match fields.optional("checksum") {
            Some(n) => n.one_of(&[("crc32-base62", Checksum::Crc32Base62)]),
            None => Some(Checksum::None),
        };
        let selector_length = fields.maybe("selector", |n| usize::try_from(n.number(SELECTOR_LENGTHS)?).ok());
        let at_rest = fields.optional("at_rest").map_or(Some((AtRest::Sha256, None)), |n| {
            let at_rest = n.one_of(&[("sha256", AtRest::Sha256), ("argon2id", AtRest::Argon2id)])?;
            Some((at_rest, Some(n)))
        });
        fields.finish();
        if let (Some((AtRest::Argon2id, Some(at_rest))), Some(None)) = (&at_rest, &selector_length) {
            at_rest.problem("argon2id needs a \"selector\": nothing else leads to the record");
        }
        let (alphabet, (length_node, (min_length, issued_length, max_length))) = (alphabet?, length?);
        let selector_length = selector_length?;
        if selector_length.is_some_and(|length| length >= min_length) {
            length_node.problem("the shortest key must be longer than the selector");
        }
        let bits_of = |length: usize| length as f64 * (alphabet.issued().len() as f64).log2();
        // What is shown in lists is known, and what is unknown of a key must still be enough.
        let shown = selector_length.unwrap_or(SHOWN_LENGTH);
        let unknown = bits_of(issued_length) - bits_of(shown);
        if unknown < MIN_ENTROPY_BITS {
            length_node.problem(format!(
                "a key needs {MIN_ENTROPY_BITS} random bits beside the {shown} characters that are shown; this has {unknown:.0}"
            ));
            return None;
        }
        Some(Self {
            kind: kind?.to_owned(),
            environment: environment?,
            has_owners_scopes: has_owners_scopes?,
            manages: manages?,
            prefix: prefix?.to_owned(),
            alphabet,
            min_length,
            max_length,
            issued_length,
            checksum: checksum?,
            selector_length,
            at_rest: at_rest?.0,
        })
    }
}

impl Checksum {
    /// How many characters it has.
    fn length(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc32Base62 => CRC32_BASE62_LENGTH,
        }
    }
}

impl Alphabet {
    fn contains(self, c: u8) -> bool {
        match self {
            Self::Base62 => c.is_ascii_alphanumeric(),
            Self::Base64Url => c.is_ascii_alphanumeric() || c == b'-' || c == b'_',
            Self::Hex => c.is_ascii_digit() || (b'a'..=b'f').contains(&c),
            Self::Visible => c.is_ascii_graphic(),
        }
    }

    fn issued(self) -> &'static [u8] {
        match self {
            Self::Base62 | Self::Visible => BASE62,
            Self::Base64Url => BASE64URL,
            Self::Hex => HEX,
        }
    }
}

fn read_prefix<'a>(node: &Node<'a>) -> Option<&'a str> {
    let prefix = node.string()?;
    if !prefix.bytes().all(|c| c.is_ascii_graphic()) {
        node.problem("expected visible ASCII characters only");
        return None;
    }
    Some(prefix)
}

/// `36`, or `{"min": 16, "issued": 40, "max": 512}`.
fn read_length(node: &Node<'_>) -> Option<(usize, usize, usize)> {
    if node.value().is_number() {
        let length = usize::try_from(node.number(1..=MAX_BODY_LENGTH)?).ok()?;
        return Some((length, length, length));
    }
    let mut fields = node.fields()?;
    let mut bound = |name| fields.required(name).and_then(|n| usize::try_from(n.number(1..=MAX_BODY_LENGTH)?).ok());
    let (min, issued, max) = (bound("min"), bound("issued"), bound("max"));
    fields.finish();
    let (min, issued, max) = (min?, issued?, max?);
    if !(min <= issued && issued <= max) {
        node.problem("expected min ≤ issued ≤ max");
        return None;
    }
    Some((min, issued, max))
}

fn crc32_base62(covered: &[u8]) -> [u8; CRC32_BASE62_LENGTH] {
    base62_digits(crc32fast::hash(covered))
}

fn base62_digits(sum: u32) -> [u8; CRC32_BASE62_LENGTH] {
    let mut rest = sum as usize;
    let mut digits = [b'0'; CRC32_BASE62_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62.get(rest % BASE62.len()).copied().unwrap_or(b'0');
        rest /= BASE62.len();
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;
    use proptest::prelude::*;

    fn format(text: &str) -> Result<KeyFormat, String> {
        document::parse(text.as_bytes(), |node| KeyFormat::read(&node)).map_err(|problems| problems.to_string())
    }

    fn keyward() -> KeyFormat {
        format(
            r#"{"kind": "key", "environment": "live", "prefix": "kw_live_", "alphabet": "base62", "length": 30,
                "checksum": "crc32-base62"}"#,
        )
        .unwrap()
    }

    fn counting() -> impl FnMut(&mut [u8]) -> Result<(), ()> {
        let mut next = 0u8;
        move |bytes| {
            for byte in bytes {
                *byte = next;
                next = next.wrapping_add(41);
            }
            Ok(())
        }
    }

    #[test]
    fn the_checksum_is_the_crc_32_of_iso_3309_in_base62() {
        // The check value of CRC-32/ISO-HDLC for "123456789" is cbf43926 hexadecimal, 3421780262 decimal.
        assert_eq!(&crc32_base62(b"123456789"), b"3jZRME");
    }

    #[test]
    fn a_key_that_is_made_matches_its_format() {
        let key = keyward().issue(counting()).unwrap();
        assert_eq!(key.expose().len(), 8 + 30 + 6);
        assert_eq!(keyward().issued_key_length(), key.expose().len());
        assert!(keyward().matches(key.expose().as_bytes()));
    }

    #[test]
    fn a_key_with_any_one_character_changed_does_not_match() {
        let key = keyward().issue(counting()).unwrap();
        for at in 0..key.expose().len() {
            for replacement in [b'0', b'1', b'a', b'Z', b'_', 0, 0xff] {
                let mut changed = key.expose().as_bytes().to_vec();
                if changed[at] != replacement {
                    changed[at] = replacement;
                    assert!(!keyward().matches(&changed), "{replacement} at {at}");
                }
            }
        }
    }

    #[test]
    fn what_is_shown_of_a_key_is_its_prefix_and_four_characters() {
        let key = keyward().issue(counting()).unwrap();
        assert_eq!(keyward().display_hint(&key), format!("{}…", &key.expose()[..12]));
    }

    #[test]
    fn a_selector_is_the_public_beginning_of_a_key_and_its_hint() {
        let text = r#"{"kind": "k", "prefix": "user.", "alphabet": "base62", "length": 48, "at_rest": "argon2id", "selector": 16}"#;
        let format = format(text).unwrap();
        assert_eq!((format.at_rest(), format.selector_length()), (AtRest::Argon2id, Some(16)));
        let key = format.issue(counting()).unwrap();
        let selector = format.selector_of(key.expose().as_bytes()).unwrap();
        assert_eq!(selector, &key.expose().as_bytes()[..5 + 16]);
        assert_eq!(format.display_hint(&key), format!("{}…", str::from_utf8(selector).unwrap()));
        for other in ["", "user.", "team.aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "user.aaaaaaaaaaaaaaa", "user.aaaaaaaaaaaaaaaa"]
        {
            assert_eq!(format.selector_of(other.as_bytes()), None, "{other}");
        }
        assert_eq!(keyward().selector_of(keyward().issue(counting()).unwrap().expose().as_bytes()), None);
        assert_eq!(keyward().at_rest(), AtRest::Sha256);
    }

    #[test]
    fn what_is_unknown_beside_a_selector_must_be_enough() {
        let of = |length: &str, more: &str| {
            format(&format!(r#"{{"kind": "k", "prefix": "p", "alphabet": "hex", "length": {length}, {more}}}"#))
        };
        of("40", r#""selector": 8"#).unwrap();
        for (length, more, expected) in [
            (
                "39",
                r#""selector": 8"#,
                "length: a key needs 128 random bits beside the 8 characters that are shown; this has 124",
            ),
            ("64", r#""selector": 7"#, "selector: expected a whole number from 8 to 24"),
            ("64", r#""selector": 25"#, "selector: expected a whole number from 8 to 24"),
            ("64", r#""at_rest": "argon2id""#, "at_rest: argon2id needs a \"selector\""),
            ("64", r#""at_rest": "bcrypt", "selector": 8"#, "at_rest: expected one of \"sha256\", \"argon2id\""),
            (r#"{"min": 8, "issued": 64, "max": 64}"#, r#""selector": 8"#, "length: the shortest key must be longer"),
        ] {
            let problem = of(length, more).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn failing_randomness_makes_no_key() {
        assert_eq!(keyward().issue(|_| Err("no entropy")), Err("no entropy"));
    }

    #[test]
    fn a_format_with_too_little_randomness_is_refused() {
        let problem = format(r#"{"kind": "k", "prefix": "p", "alphabet": "hex", "length": 35}"#).unwrap_err();
        assert!(problem.starts_with("length: a key needs 128 random bits beside the 4 characters"), "{problem}");
        format(r#"{"kind": "k", "prefix": "p", "alphabet": "hex", "length": 36}"#).unwrap();
    }

    #[test]
    fn an_opaque_format_takes_any_visible_characters_within_its_lengths() {
        let opaque = format(
            r#"{"kind": "k", "prefix": "", "alphabet": "visible", "length": {"min": 20, "issued": 40, "max": 60}}"#,
        )
        .unwrap();
        assert!(opaque.matches(&[b'~'; 20]));
        assert!(opaque.matches(&[b'!'; 60]));
        for bad in [&[b'a'; 19][..], &[b'a'; 61], &[b' '; 30], &[0xff; 30]] {
            assert!(!opaque.matches(bad));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_matching_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut prefixed = b"kw_live_".to_vec();
            prefixed.extend_from_slice(&bytes);
            let _ = keyward().matches(&bytes);
            // One in 2^32 would match by chance.
            prop_assert!(!keyward().matches(&prefixed) || bytes.len() == 36);
        }
    }
}
