//! A key that another system made, as a row of a file tells of it: of its secret there is a plaintext, or only a hash.
//!
//! Read by the readers of creation requests, so that the same things can be said and all mistakes are told at once. No
//! message repeats a value, and no field that is not known is named: either could be a key.

use super::key::{Context, Key, KeyFields, PasswordHash, Secret, Shape, kinds, read_environment};
use super::pause::{Pause, PausedBy};
use super::reader::{optional, time};
use crate::clock::Timestamp;
use crate::random::{self, ID_LENGTH, RngError};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use keyward_core::dialect::Dialect;
use keyward_core::dialect::key_format::KeyFormat;
use keyward_core::dialect::secret_recognizer::LOOKS_LIKE_A_SECRET;
use keyward_core::document::{Fields, Node, Problems, read_value};
use keyward_core::key::digest::Digest;
use keyward_core::key::environment::Environment;
use keyward_core::key::id::{KEY_ID_PREFIX, MAX_KEY_ID_LENGTH, is_key_id};
use keyward_core::key::secret::Secret as Plaintext;
use keyward_core::password_hash::{EXPECTED_ARGON2ID, EXPECTED_BCRYPT, MAX_BCRYPT_CREDENTIAL, Work};
use serde_json::Value;
use std::sync::LazyLock;

/// A key that can be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedKey {
    /// The key with its one secret.
    pub key: Key,
    /// Whether it keeps an id that it had.
    pub has_own_id: bool,
    /// Whether it keeps the time at which it was made elsewhere.
    pub has_own_created_at: bool,
    /// The field that told of the secret.
    pub secret_field: &'static str,
}

/// The ids of a key and of its secret, for where a row has none.
#[derive(Clone, Debug)]
pub struct Ids {
    key: String,
    secret: String,
}

/// Draws ids that begin alike, so that those of a batch lie together in the indexes. Random all of them, as others are.
#[derive(Clone, Debug)]
pub struct IdSeries {
    beginning: String,
}

/// What a column of CSV holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, which is that of the field.
    pub name: &'static str,
    /// What sort of value it has.
    pub shape: Shape,
}

/// What is known of a secret.
struct Held<'a> {
    field: &'static str,
    digest: Digest,
    hash: Option<PasswordHash>,
    format: &'a KeyFormat,
    /// The most that may be shown of it.
    hint: String,
}

/// What the row says of its sort of key.
struct Sort<'a> {
    kind: Option<&'a str>,
    environment: Option<Environment>,
}

/// How many characters behind the prefix may be shown of a key of which only a hash is known, as of new ones.
const SHOWN_LENGTH: usize = 4;
const SELECTOR_LENGTHS: std::ops::RangeInclusive<usize> = 8..=64;

/// The fields of which one tells of the secret.
pub const SECRET_FIELDS: [&str; 6] = ["key", "sha256", "sha512", "hmac_sha256", "argon2id", "bcrypt"];

/// The columns of CSV, and with them all fields of a row: what tells of the secret, the settable fields of a key, and what
/// became of it elsewhere.
pub static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| {
    let text = |name| Column { name, shape: Shape::Text };
    let fields = KeyFields::SPECS.iter().map(|spec| Column { name: spec.name, shape: spec.shape });
    let first = ["id"].into_iter().chain(SECRET_FIELDS).chain(["selector", "hint"]).map(text);
    first.chain(fields).chain(["created_at", "revoked_at", "paused_at"].map(text)).collect()
});

impl IdSeries {
    /// A series of its own.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn begin() -> Result<Self, RngError> {
        Ok(Self { beginning: random::base62(SERIES_LENGTH)? })
    }

    /// The next two.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn next(&self) -> Result<Ids, RngError> {
        let random = random::base62(2 * (ID_LENGTH - SERIES_LENGTH))?;
        let (key, secret) = random.split_at_checked(ID_LENGTH - SERIES_LENGTH).unwrap_or_default();
        Ok(Ids { key: format!("key_{}{key}", self.beginning), secret: format!("sec_{}{secret}", self.beginning) })
    }
}

/// The series to which the id of a key belongs, if it is one that was drawn: how all ids of the series begin.
pub fn series_of(id: &str) -> Option<String> {
    let drawn = id.strip_prefix("key_").filter(|drawn| drawn.len() == ID_LENGTH)?;
    Some(format!("key_{}…", drawn.get(..SERIES_LENGTH)?))
}

impl Ids {
    /// Ids that a test can foresee.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self { key: format!("key_{}", "A".repeat(ID_LENGTH)), secret: format!("sec_{}", "B".repeat(ID_LENGTH)) }
    }
}

const SERIES_LENGTH: usize = 8;

impl ImportedKey {
    /// Reads a row, at that time, of keys of that dialect.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(document: &Value, dialect: &Dialect, now: Timestamp, ids: Ids) -> Result<Self, Problems> {
        read_value(document, |node| Self::read_fields(&node, dialect, now, ids)).map_err(without_names)
    }

    fn read_fields(node: &Node<'_>, dialect: &Dialect, now: Timestamp, ids: Ids) -> Option<Self> {
        let mut given = node.fields()?;
        let own_id = optional(&mut given, "id", own_id);
        let sort = sort(&mut given, dialect);
        let held = held(&mut given, dialect, sort.as_ref());
        let format = Some(held.as_ref().map(|held| held.format));
        let fields = KeyFields::read(&mut given, &mut Context { dialect, now, created_at: None, format });
        let created_at = optional(&mut given, "created_at", |n| past(n, now));
        let revoked_at = optional(&mut given, "revoked_at", |n| past(n, now));
        let paused_at = optional(&mut given, "paused_at", |n| past(n, now));
        given.finish();

        let (own_id, held, fields, own_created_at) = (own_id?, held?, fields?, created_at?);
        fields.check_size().map_err(|error| node.problem(error.to_string())).ok()?;
        let created_at = own_created_at.unwrap_or(now);
        let has_own_id = own_id.is_some();
        let secret = Secret { hash: held.hash, ..Secret::new(ids.secret, held.digest, held.hint, created_at) };
        let key = Key {
            revoked_at: revoked_at?,
            pause: paused_at?.map(|at| Pause { at, by: PausedBy::Operator }),
            secrets: vec![secret],
            ..Key::with_fields(own_id.unwrap_or(ids.key), fields, created_at)
        };
        Some(Self { key, has_own_id, has_own_created_at: own_created_at.is_some(), secret_field: held.field })
    }
}

/// The mistakes without the names of fields that are not known: one could be a key in the wrong place.
pub fn without_names(Problems(mut problems): Problems) -> Problems {
    for problem in &mut problems {
        let field = problem.path.split(['.', '[']).next().unwrap_or_default();
        let is_known = field.is_empty() || COLUMNS.iter().any(|column| column.name == field);
        if !is_known {
            problem.path.clear();
        } else if field == "metadata" {
            // What stands behind it is a name of the caller's own.
            problem.path = field.to_owned();
        }
    }
    Problems(problems)
}

fn own_id(node: &Node<'_>) -> Option<String> {
    let id = node.string()?;
    if !is_key_id(id) {
        node.problem(format!(
            "expected {KEY_ID_PREFIX} and letters, digits, _ and -, {MAX_KEY_ID_LENGTH} at most in all"
        ));
        return None;
    }
    Some(id.to_owned())
}

fn past(node: &Node<'_>, now: Timestamp) -> Option<Timestamp> {
    let time = time(node)?;
    if time > now {
        node.problem("expected a time that has been");
        return None;
    }
    Some(time)
}

fn sort<'a>(fields: &mut Fields<'a>, dialect: &Dialect) -> Option<Sort<'a>> {
    let kind = optional(fields, "kind", |n| {
        n.one_of(&kinds(dialect))?;
        n.string()
    });
    let environment = optional(fields, "environment", |n| Some((read_environment(n)?, n.clone())));
    let (kind, environment) = (kind?, environment?);
    let sort = Sort { kind, environment: environment.as_ref().map(|(environment, _)| *environment) };
    if let (Some((_, node)), None) = (environment, sort.formats(dialect).next()) {
        node.problem("keys of that kind have no such environment here");
        return None;
    }
    Some(sort)
}

impl Sort<'_> {
    /// The formats that a key of this sort may have.
    fn formats<'d>(&self, dialect: &'d Dialect) -> impl Iterator<Item = &'d KeyFormat> {
        dialect.formats.iter().filter(|format| {
            self.kind.is_none_or(|kind| format.kind == kind)
                && self.environment.is_none_or(|environment| format.environment == Some(environment))
        })
    }

    /// The format of a key of which nothing can be seen: that of a new one for which no more was said.
    fn usual_format<'d>(&self, dialect: &'d Dialect) -> Option<&'d KeyFormat> {
        let kind = self.kind.or_else(|| dialect.formats.first().map(|format| format.kind.as_str()))?;
        let of_kind = || self.formats(dialect).filter(|format| format.kind == kind);
        of_kind().find(|format| format.environment == Some(Environment::Live)).or_else(|| of_kind().next())
    }
}

/// What the row tells of the secret; `None` if that is wrong, or if it is not known of what sort the key is.
fn held<'d>(fields: &mut Fields<'_>, dialect: &'d Dialect, sort: Option<&Sort<'_>>) -> Option<Held<'d>> {
    let given: Vec<_> = SECRET_FIELDS
        .into_iter()
        .filter_map(|field| Some((field, fields.optional(field)?)))
        .filter(|(_, node)| !node.value().is_null())
        .collect();
    let mut given_node = |name| fields.optional(name).filter(|node| !node.value().is_null());
    let (selector, hint) = (given_node("selector"), given_node("hint"));
    let [(field, node)] = given.as_slice() else {
        fields.node().problem(format!("expected exactly one of {}", SECRET_FIELDS.join(", ")));
        return None;
    };
    // In base64 it could be read as a digest, and be kept.
    let holds_key = |text: &str| dialect.format_of(text.as_bytes()).is_some_and(KeyFormat::is_recognizable);
    if *field != "key" && node.value().as_str().is_some_and(holds_key) {
        node.problem(LOOKS_LIKE_A_SECRET);
        return None;
    }
    let by_selector = matches!(*field, "argon2id" | "bcrypt");
    match &selector {
        Some(selector) if !by_selector => selector.problem("belongs to argon2id and bcrypt alone"),
        None if by_selector => {
            node.problem("needs the \"selector\" of the key, since nothing else leads to it");
        }
        _ => {}
    }
    if let (Some(hint), "key") = (&hint, *field) {
        hint.problem("is made from the key itself");
    }
    // What can be said of the secret alone is said, whatever else is wrong.
    let (digest, hash) = match *field {
        "key" => (Digest::of_key(plaintext(node)?.as_bytes()), None),
        "sha256" => (Digest(bytes(node)?), None),
        "sha512" => (Digest::of_sha512(&bytes(node)?), None),
        "hmac_sha256" => (Digest::of_hmac_sha256(&bytes(node)?), None),
        _ => {
            let hash = match *field {
                "argon2id" => password_hash(node, Work::of_argon2id, EXPECTED_ARGON2ID),
                _ => password_hash(node, Work::of_bcrypt, EXPECTED_BCRYPT),
            };
            let selector = selector.as_ref().and_then(read_selector);
            (Digest::of_selector(selector?.as_bytes()), Some(hash?))
        }
    };
    let sort = sort?;
    let (format, shown) = match (*field, &selector) {
        ("key", _) => {
            let key = plaintext(node)?;
            let Some(format) = sort.formats(dialect).find(|format| format.matches(key.as_bytes())) else {
                node.problem("is not a key as this dialect has them, so every edge would refuse it as malformed");
                return None;
            };
            (format, shown_of_key(format, key))
        }
        (_, Some(selector)) if by_selector => {
            let format = format_of_selector(selector, sort, dialect)?;
            if *field == "bcrypt" && !bcrypt_can_match(node, format) {
                return None;
            }
            (format, selector.string()?.to_owned())
        }
        _ => {
            let format = sort.usual_format(dialect)?;
            (format, format.prefix.clone())
        }
    };
    let hint = match hint {
        Some(_) if *field == "key" => return None,
        Some(node) => read_hint(&node, format, &shown)?,
        None if shown.ends_with('…') => shown,
        None => shown + "…",
    };
    Some(Held { field, digest, hash, format, hint })
}

/// Whether any key of that format is short enough for bcrypt.
fn bcrypt_can_match(node: &Node<'_>, format: &KeyFormat) -> bool {
    let shortest = format.shortest_key_length();
    let can_match = shortest <= MAX_BCRYPT_CREDENTIAL;
    if !can_match {
        node.problem(format!(
            "bcrypt ignores all bytes after the first {MAX_BCRYPT_CREDENTIAL}, and keys of this format have {shortest} or \
             more: no key could match"
        ));
    }
    can_match
}

fn plaintext<'a>(node: &Node<'a>) -> Option<&'a str> {
    node.nonempty()
}

/// What may be shown of a plaintext: as much as of a new one, or its prefix alone where it is shorter than those.
fn shown_of_key(format: &KeyFormat, key: &str) -> String {
    if key.len() >= format.issued_key_length() {
        format.display_hint(&Plaintext::new(key.to_owned()))
    } else {
        format.prefix.clone()
    }
}

/// A hint may show what is public of a key, and else as many characters as are shown of new ones.
fn read_hint(node: &Node<'_>, format: &KeyFormat, public: &str) -> Option<String> {
    let hint = node.string()?;
    let behind_prefix = hint.strip_prefix(format.prefix.as_str()).unwrap_or(hint);
    let shown = behind_prefix.chars().filter(|c| *c != '…').count();
    if hint.chars().any(char::is_control) || (shown > SHOWN_LENGTH && !public.starts_with(hint.trim_end_matches('…')))
    {
        node.problem(format!(
            "expected the prefix {:?}, at most {SHOWN_LENGTH} other characters of the key, and …",
            format.prefix
        ));
        return None;
    }
    Some(hint.to_owned())
}

fn read_selector<'a>(node: &Node<'a>) -> Option<&'a str> {
    let selector = node.string()?;
    if !SELECTOR_LENGTHS.contains(&selector.len()) || !selector.bytes().all(|c| c.is_ascii_graphic()) {
        node.problem(format!(
            "expected the {} to {} visible characters with which the key begins",
            SELECTOR_LENGTHS.start(),
            SELECTOR_LENGTHS.end()
        ));
        return None;
    }
    Some(selector)
}

fn format_of_selector<'d>(selector: &Node<'_>, sort: &Sort<'_>, dialect: &'d Dialect) -> Option<&'d KeyFormat> {
    let text = selector.string()?;
    let rest = |format: &KeyFormat| text.strip_prefix(&format.prefix).map(str::len);
    let begins = sort.formats(dialect).filter(|format| rest(format).is_some());
    let Some(format) = begins.max_by_key(|format| format.prefix.len()) else {
        selector.problem("does not begin as a key of this dialect does");
        return None;
    };
    match format.selector_length() {
        None => selector.problem("the dialect's format of such keys has no \"selector\", so no edge would look for it"),
        Some(length) if rest(format) != Some(length) => {
            selector.problem(format!("expected the prefix and {length} characters, as the dialect's format says"));
        }
        Some(_) => return Some(format),
    }
    None
}

/// So many bytes in hexadecimal, or in base64 of either alphabet (RFC 4648, sections 4, 5 and 8).
fn bytes<const N: usize>(node: &Node<'_>) -> Option<[u8; N]> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    let text = node.string()?;
    let decoded = if text.len() == 2 * N {
        hex::decode(text).ok()
    } else if text.contains(['-', '_']) {
        URL_SAFE.decode(text).ok()
    } else {
        STANDARD.decode(text).ok()
    };
    let bytes = decoded.and_then(|bytes| <[u8; N]>::try_from(bytes).ok());
    if bytes.is_none() {
        node.problem(format!("expected {N} bytes in hexadecimal or base64"));
    }
    bytes
}

/// A password hash within the bounds on work.
fn password_hash(node: &Node<'_>, read: fn(&str) -> Option<Work>, expected: &str) -> Option<PasswordHash> {
    let text = node.string()?;
    let Some(work) = read(text) else {
        node.problem(expected);
        return None;
    };
    let excesses: Vec<_> = work.excesses().collect();
    for excess in &excesses {
        node.problem(excess.to_string());
    }
    excesses.is_empty().then(|| PasswordHash::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::HashSet;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    fn dialect(name: &str) -> Dialect {
        Dialect::built_in(name).unwrap().unwrap()
    }

    fn read(dialect_name: &str, document: Value) -> Result<Key, Vec<String>> {
        let read = ImportedKey::read(&document, &dialect(dialect_name), NOW, Ids::example());
        read.map(|imported| imported.key)
            .map_err(|problems| problems.0.into_iter().map(|problem| problem.path).collect())
    }

    #[test]
    fn ids_of_a_series_begin_alike_and_do_not_repeat() {
        let series = IdSeries::begin().unwrap();
        let ids: Vec<_> = (0..100).map(|_| series.next().unwrap()).collect();
        let all: HashSet<_> = ids.iter().flat_map(|ids| [&ids.key, &ids.secret]).collect();
        assert_eq!(all.len(), 200);
        for ids in &ids {
            assert_eq!((ids.key.len(), ids.secret.len()), (4 + ID_LENGTH, 4 + ID_LENGTH));
            assert_eq!(ids.key[4..12], ids.secret[4..12]);
            assert_eq!(series_of(&ids.key), Some(format!("key_{}…", series.beginning)));
        }
        assert_ne!(IdSeries::begin().unwrap().beginning, series.beginning);
        for other in ["acme", "key_short", &format!("key_ä{}", "a".repeat(ID_LENGTH))] {
            assert_eq!(series_of(other), None, "{other}");
        }
    }

    #[test]
    fn of_a_plaintext_that_is_shorter_than_new_ones_only_the_prefix_is_shown() {
        let exona = dialect("exona");
        let exona = &exona.formats[0];
        let key = format!("{}{}", exona.prefix, "a".repeat(exona.issued_key_length() - exona.prefix.len()));
        assert_eq!(shown_of_key(exona, &key), exona.display_hint(&Plaintext::new(key.clone())));
        assert_eq!(shown_of_key(exona, &key[1..]), exona.prefix);
    }

    #[test]
    fn a_kind_that_is_not_said_is_seen_in_the_plaintext_and_in_the_selector() {
        for format in &dialect("exograph").formats {
            let length = format.issued_key_length() - format.prefix.len();
            let key = format!("{}{}", format.prefix, "a".repeat(length));
            let read = read("exograph", json!({"name": "a", "key": key}));
            let key = read.unwrap_or_else(|problems| panic!("{}: {problems:?}", format.kind));
            assert_eq!((&key.kind, key.environment), (&format.kind, format.environment));
        }
        let bcrypt = format!("$2b$04${}", ".".repeat(53));
        let selector = |dialect: &str, selector: &str, more: Value| {
            let mut row = json!({"name": "a", "owner": "o", "bcrypt": bcrypt, "selector": selector});
            row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            read(dialect, row)
        };
        let (user, team) = (format!("user.{}", "a".repeat(16)), format!("team.{}", "a".repeat(16)));
        assert_eq!(selector("auxot", &team, json!({})).unwrap().kind, "team");
        assert_eq!(selector("auxot", &user, json!({"kind": "team"})).unwrap_err(), ["selector"]);
        for wrong in ["user.", &user[..20], &format!("{user}a"), "other_aaaaaaaaaaaaaaaa"] {
            assert_eq!(selector("auxot", wrong, json!({})).unwrap_err(), ["selector"], "{wrong}");
        }
        let without = "kw_live_aaaaaaaaaaaaaaaa";
        assert_eq!(selector("keyward", without, json!({})).unwrap_err(), ["selector"], "no format there has one");
    }

    #[test]
    fn password_hashes_above_a_bound_are_rejected() {
        let problems = |field: &str, hash: &str| {
            let row = json!({"name": "a", "owner": "o", field: hash, "selector": format!("user.{}", "a".repeat(16))});
            let read = ImportedKey::read(&row, &dialect("auxot"), NOW, Ids::example());
            read.err()
                .map_or_else(Vec::new, |problems| problems.0.into_iter().map(|it| (it.path, it.message)).collect())
        };
        let argon2id = |parameters: &str| {
            format!("$argon2id$v=19${parameters}$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4")
        };
        let bcrypt = |cost: &str| format!("$2b${cost}${}", ".".repeat(53));
        let too_costly = argon2id("m=262145,t=21,p=17");
        for (field, hash, expected) in [
            ("argon2id", argon2id("m=262144,t=4,p=16"), &[][..]),
            ("argon2id", too_costly, &["262144 KiB of memory (m)", "20 passes", "16 lanes", "1048576 KiB"]),
            ("argon2id", argon2id("m=256,t=0,p=1"), &["expected a PHC string of argon2id"]),
            ("argon2id", bcrypt("14"), &["expected a PHC string of argon2id"]),
            ("bcrypt", bcrypt("14"), &[]),
            ("bcrypt", bcrypt("15"), &["a cost of more than 14"]),
            ("bcrypt", bcrypt("03"), &["expected a string of bcrypt"]),
            ("bcrypt", argon2id("m=256,t=2,p=1"), &["expected a string of bcrypt"]),
        ] {
            let problems = problems(field, &hash);
            assert_eq!(problems.len(), expected.len(), "{hash}: {problems:?}");
            for ((path, message), expected) in problems.iter().zip(expected) {
                assert!(path == field && message.contains(expected) && !message.contains(&hash), "{path}: {message}");
            }
        }
    }

    #[test]
    fn bcrypt_is_rejected_for_keys_above_72_bytes() {
        let read = |length: &str| {
            let format = format!(
                r#"{{"kind": "k", "prefix": "key_", "alphabet": "base62", "length": {length}, "selector": 8}}"#
            );
            let dialect = format!(
                r#"{{"name": "d", "sources": [{{"header": "x"}}], "keys": [{format}],
                    "errors": {{"content_type": "a", "realm": "a", "body": {{}}}}}}"#
            );
            let dialect = Dialect::parse(dialect.as_bytes()).unwrap();
            let hash = format!("$2b$04${}", ".".repeat(53));
            let row = json!({"name": "a", "bcrypt": hash, "selector": "key_aaaaaaaa"});
            ImportedKey::read(&row, &dialect, NOW, Ids::example()).map_err(|problems| problems.to_string())
        };
        for length in ["68", r#"{"min": 68, "issued": 100, "max": 200}"#] {
            assert!(read(length).is_ok(), "{length}");
        }
        for length in ["69", r#"{"min": 69, "issued": 100, "max": 200}"#] {
            let problem = read(length).unwrap_err();
            assert!(
                problem.starts_with("bcrypt: ") && problem.contains("keys of this format have 73 or more"),
                "{problem}"
            );
        }
    }

    #[test]
    fn a_key_in_the_place_of_its_hash_is_refused_though_it_could_be_one_in_base64() {
        let format = &dialect("ai-api").formats[0];
        for _ in 0..20 {
            let key = format.issue(random::fill).unwrap();
            for field in SECRET_FIELDS.into_iter().filter(|field| *field != "key") {
                let row = json!({"name": "a", field: key.expose()});
                assert_eq!(read("ai-api", row).unwrap_err(), [field]);
            }
        }
    }

    #[test]
    fn a_hint_shows_no_more_of_a_hashed_key_than_is_shown_of_new_ones() {
        let hint = |hint: &str| {
            let row = json!({"name": "a", "sha256": "00".repeat(32), "hint": hint});
            read("keyward", row).map(|key| key.secrets[0].hint.clone())
        };
        for good in ["kw_live_abcd…", "kw_live_…wxyz", "…wxyz", "kw_live_…", "abcd"] {
            assert_eq!(hint(good).as_deref(), Ok(good));
        }
        for bad in ["kw_live_abcde…", "abcde", "kw_live_ab…wxy", "a\u{1b}", "kw_test_abcd…"] {
            assert_eq!(hint(bad), Err(vec!["hint".to_owned()]), "{bad:?}");
        }
    }

    #[test]
    fn a_hash_is_read_in_hexadecimal_and_both_kinds_of_base64() {
        let digest =
            |text: &str| read("keyward", json!({"name": "a", "sha256": text})).map(|key| key.secrets[0].digest);
        for good in [
            "fbff".repeat(16),
            "FBFF".repeat(16),
            "+//7//v/+//7//v/+//7//v/+//7//v/+//7//v/+/8=".to_owned(),
            "-__7__v_-__7__v_-__7__v_-__7__v_-__7__v_-_8".to_owned(),
        ] {
            assert_eq!(digest(&good), Ok(Digest(*b"\xfb\xff".repeat(16).first_chunk().unwrap())), "{good}");
        }
        for bad in ["", "fb", &"fb".repeat(33), &"fg".repeat(32), "+//7__v/"] {
            assert_eq!(digest(bad), Err(vec!["sha256".to_owned()]), "{bad}");
        }
    }

    #[test]
    fn a_row_that_would_outgrow_its_entry_is_never_taken_in() {
        let row = json!({"name": "a", "sha256": "00".repeat(32), "scopes": vec!["s".repeat(60); 1100]});
        assert_eq!(read("keyward", row), Err(vec![String::new()]));
    }
}
