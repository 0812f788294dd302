//! What edges tell of the use of keys: batches of counts, sent to [`USAGE_PATH`](crate::USAGE_PATH) as JSON.
//!
//! A batch that was not answered is sent again with the same id and the same contents, so whoever takes batches adds up
//! each id once, and answers 200 each time. A reader counts verdicts that it does not know as [`OTHER`], and ignores such
//! fields, so that a newer edge loses nothing.

use crate::refusal::Refusal;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The most keys in a batch: with the longest ids and the largest counts a body stays below [`MAX_BODY_BYTES`].
pub const MAX_KEYS: usize = 100;

/// The longest body, in bytes.
pub const MAX_BODY_BYTES: usize = 64 << 10;

/// The longest id of a key or a secret, in bytes.
pub const MAX_ID_BYTES: usize = 64;

/// The largest count, cost or time: what every reader of JSON keeps exactly (RFC 8259, section 6).
pub const MAX_COUNT: u64 = (1 << 53) - 1;

/// The most names in a map of verdicts.
pub const MAX_VERDICTS: usize = 32;

/// The longest of these names, in bytes.
pub const MAX_VERDICT_BYTES: usize = 32;

/// The most that one request can cost by its route.
pub const MAX_COST: u64 = u32::MAX as u64;

/// The verdict of a request that was allowed, for which alone a key pays.
pub const ALLOW: &str = "allow";

/// Under which name a server counts a verdict that it does not know, such as that of a newer edge.
pub const OTHER: &str = "other";

/// The pauses between two batches that an edge keeps to whatever it is told, in milliseconds.
pub const INTERVAL_MS: RangeInclusive<u64> = 200..=60_000;

/// The name under which a verdict is counted: its own if it is one that is known here.
pub fn counted_as(verdict: &str) -> &'static str {
    let known = ["allow", "public", "delegated"].into_iter().chain(Refusal::ALL.into_iter().map(Refusal::name));
    known.into_iter().find(|known| *known == verdict).unwrap_or(OTHER)
}

/// How many requests ended in which verdict, by its name: see [`Refusal::name`](crate::refusal::Refusal::name), and
/// `allow`, `public` and `delegated`.
pub type Verdicts = BTreeMap<String, u64>;

/// What one worker of one edge has counted since its batch before.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Batch {
    /// Tells this batch from every other: what comes again with the same id counts once.
    #[serde(rename = "batch")]
    pub id: BatchId,
    /// The keys that were used, at most [`MAX_KEYS`].
    #[serde(default)]
    pub keys: Vec<KeyUsage>,
    /// Requests for which no record of a key was found.
    #[serde(default)]
    pub others: Verdicts,
    /// Requests that are counted nowhere else, because a bound did not let them.
    #[serde(default)]
    pub dropped: u64,
}

/// What was asked with one secret of one key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct KeyUsage {
    /// The public id of the key.
    pub key_id: String,
    /// The public id of the secret; empty where its record has none.
    #[serde(default)]
    pub secret_id: String,
    /// When a request was allowed last, in milliseconds since the Unix epoch; `None` if none was. A refused request is
    /// no use of a key: otherwise a revoked one that leaked would look alive.
    #[serde(default)]
    pub last_used_ms: Option<u64>,
    /// How many requests ended how.
    pub verdicts: Verdicts,
    /// The sum of what the allowed requests cost by their routes.
    #[serde(default)]
    pub credits: u64,
}

/// The id of a batch: 16 random bytes, written as 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct BatchId(pub [u8; 16]);

/// The answer to a batch that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Receipt {
    /// After how long the edge is to send its next batch, in milliseconds; it keeps to [`INTERVAL_MS`].
    pub interval_ms: u64,
}

/// Why bytes are not a batch or a receipt. Nothing of them is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableUsage {
    /// It is longer than [`MAX_BODY_BYTES`].
    #[error("expected at most {MAX_BODY_BYTES} bytes")]
    TooLong,
    /// It is not JSON, or a field is missing or of another type.
    #[error("unreadable JSON at line {line}, column {column}")]
    Form {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// It has more than [`MAX_KEYS`] keys.
    #[error("expected at most {MAX_KEYS} keys, got {0}")]
    TooManyKeys(usize),
    /// An id is empty, too long, or has other characters than visible ASCII without quotes.
    #[error("invalid id in keys[{0}]")]
    BadId(usize),
    /// A map of verdicts has too many names, or one that cannot be a verdict's.
    #[error(
        "expected at most {MAX_VERDICTS} verdicts, with names of at most {MAX_VERDICT_BYTES} lowercase letters and underscores"
    )]
    BadVerdict,
    /// A number is larger than [`MAX_COUNT`].
    #[error("expected numbers of at most {MAX_COUNT}")]
    TooLarge,
    /// More credits than the allowed requests can have cost, at [`MAX_COST`] each.
    #[error("keys[{0}] has more credits than its allowed requests can cost, {MAX_COST} each at most")]
    TooManyCredits(usize),
}

/// Why a text is not the id of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 hexadecimal digits")]
pub struct ParseBatchIdError;

/// Whether the use of a key with this id can be told: 1 to [`MAX_ID_BYTES`] visible ASCII characters, none of which
/// JSON has to escape. All that a control plane makes are.
pub fn is_id(id: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(|c| c.is_ascii_graphic() && c != b'"' && c != b'\\')
}

impl Batch {
    /// The body that is sent.
    pub fn encode(&self) -> Vec<u8> {
        let keys: Vec<_> = self.keys.iter().map(KeyUsage::to_json).collect();
        let batch = json!({
            "batch": self.id.to_string(),
            "keys": keys,
            "others": verdicts_to_json(&self.others),
            "dropped": self.dropped,
        });
        batch.to_string().into_bytes()
    }

    /// Reads a body, and holds it to every bound; unknown fields and verdicts are no mistake.
    ///
    /// # Errors
    /// If it is no batch; none of it may be used then.
    pub fn decode(body: &[u8]) -> Result<Self, UnreadableUsage> {
        if body.len() > MAX_BODY_BYTES {
            return Err(UnreadableUsage::TooLong);
        }
        let batch: Self = read(body)?;
        if batch.keys.len() > MAX_KEYS {
            return Err(UnreadableUsage::TooManyKeys(batch.keys.len()));
        }
        for (n, key) in batch.keys.iter().enumerate() {
            if !is_id(&key.key_id) || !(key.secret_id.is_empty() || is_id(&key.secret_id)) {
                return Err(UnreadableUsage::BadId(n));
            }
            check_verdicts(&key.verdicts)?;
            check_count(key.credits)?;
            check_count(key.last_used_ms.unwrap_or_default())?;
            let allowed = key.verdicts.get(ALLOW).copied().unwrap_or_default();
            if key.credits > allowed.saturating_mul(MAX_COST) {
                return Err(UnreadableUsage::TooManyCredits(n));
            }
        }
        check_verdicts(&batch.others)?;
        check_count(batch.dropped)?;
        Ok(batch)
    }

    /// How many requests it tells of.
    pub fn requests(&self) -> u64 {
        let counts = self.keys.iter().flat_map(|key| key.verdicts.values()).chain(self.others.values());
        counts.fold(self.dropped, |sum, count| sum.saturating_add(*count))
    }
}

impl KeyUsage {
    fn to_json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("key_id".to_owned(), self.key_id.as_str().into());
        fields.insert("secret_id".to_owned(), self.secret_id.as_str().into());
        if let Some(last_used_ms) = self.last_used_ms {
            fields.insert("last_used_ms".to_owned(), last_used_ms.into());
        }
        fields.insert("verdicts".to_owned(), verdicts_to_json(&self.verdicts));
        fields.insert("credits".to_owned(), self.credits.into());
        Value::Object(fields)
    }
}

impl Receipt {
    /// The body that is sent.
    pub fn encode(&self) -> Vec<u8> {
        json!({ "interval_ms": self.interval_ms }).to_string().into_bytes()
    }

    /// Reads a body; unknown fields are no mistake.
    ///
    /// # Errors
    /// If it is no receipt.
    pub fn decode(body: &[u8]) -> Result<Self, UnreadableUsage> {
        read(body)
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, UnreadableUsage> {
    serde_json::from_slice(body).map_err(|error| UnreadableUsage::Form { line: error.line(), column: error.column() })
}

fn verdicts_to_json(verdicts: &Verdicts) -> Value {
    Value::Object(verdicts.iter().map(|(verdict, count)| (verdict.clone(), Value::from(*count))).collect())
}

fn check_verdicts(verdicts: &Verdicts) -> Result<(), UnreadableUsage> {
    let is_name = |name: &String| {
        (1..=MAX_VERDICT_BYTES).contains(&name.len()) && name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')
    };
    if verdicts.len() > MAX_VERDICTS || !verdicts.keys().all(is_name) {
        return Err(UnreadableUsage::BadVerdict);
    }
    verdicts.values().try_for_each(|count| check_count(*count))
}

fn check_count(count: u64) -> Result<(), UnreadableUsage> {
    if count > MAX_COUNT { Err(UnreadableUsage::TooLarge) } else { Ok(()) }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for BatchId {
    type Err = ParseBatchIdError;

    fn from_str(text: &str) -> Result<Self, ParseBatchIdError> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).map_err(|_| ParseBatchIdError)?;
        Ok(Self(id))
    }
}

impl TryFrom<String> for BatchId {
    type Error = ParseBatchIdError;

    fn try_from(text: String) -> Result<Self, ParseBatchIdError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(counts: &[(&str, u64)]) -> Verdicts {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn batch() -> Batch {
        let used = KeyUsage {
            key_id: "key_1".to_owned(),
            secret_id: "sec_1".to_owned(),
            last_used_ms: Some(1_700_000_000_000),
            verdicts: verdicts(&[("allow", 12), ("rate_limited", 3)]),
            credits: 14,
        };
        let refused = KeyUsage {
            key_id: "key_2".to_owned(),
            secret_id: String::new(),
            last_used_ms: None,
            verdicts: verdicts(&[("revoked", 1)]),
            credits: 0,
        };
        let others = verdicts(&[("missing", 9), ("public", 7), ("unknown", 5)]);
        Batch { id: BatchId([0xa5; 16]), keys: vec![used, refused], others, dropped: 2 }
    }

    #[test]
    fn a_batch_is_read_as_it_was_written_and_looks_as_it_is_documented() {
        let expected = concat!(
            r#"{"batch":"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5","keys":["#,
            r#"{"key_id":"key_1","secret_id":"sec_1","last_used_ms":1700000000000,"#,
            r#""verdicts":{"allow":12,"rate_limited":3},"credits":14},"#,
            r#"{"key_id":"key_2","secret_id":"","verdicts":{"revoked":1},"credits":0}],"#,
            r#""others":{"missing":9,"public":7,"unknown":5},"dropped":2}"#,
        );
        assert_eq!(String::from_utf8(batch().encode()).unwrap(), expected);
        assert_eq!(Batch::decode(expected.as_bytes()), Ok(batch()));
        assert_eq!(batch().requests(), 12 + 3 + 1 + 9 + 7 + 5 + 2);
        assert_eq!(Receipt { interval_ms: 5000 }.encode(), br#"{"interval_ms":5000}"#);
        assert_eq!(Receipt::decode(br#"{"interval_ms": 5000, "more": []}"#), Ok(Receipt { interval_ms: 5000 }));
    }

    #[test]
    fn what_a_newer_edge_says_beyond_is_no_mistake() {
        let newer = br#"{"batch": "A5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5", "region": "eu", "keys":
            [{"key_id": "key_1", "verdicts": {"some_new_verdict": 1}, "last_used_ms": null, "bytes": 7}]}"#;
        let read = Batch::decode(newer).unwrap();
        assert_eq!(read.id, batch().id);
        assert_eq!(read.keys[0].verdicts, verdicts(&[("some_new_verdict", 1)]));
        assert_eq!((read.keys[0].last_used_ms, read.others.len(), read.dropped), (None, 0, 0));
    }

    #[test]
    fn credits_beyond_what_requests_can_cost_are_refused() {
        let read = |allowed: u64, credits: u64| {
            let mut changed = batch();
            changed.keys[0].verdicts = verdicts(&[("allow", allowed), ("rate_limited", 9)]);
            changed.keys[0].credits = credits;
            Batch::decode(&changed.encode()).map(|_| ())
        };
        for (allowed, credits) in [(0, 0), (1, MAX_COST), (2, MAX_COST + 1), (MAX_COUNT, MAX_COUNT)] {
            assert_eq!(read(allowed, credits), Ok(()), "{allowed} {credits}");
        }
        for (allowed, credits) in [(0, 1), (1, MAX_COST + 1), (1, MAX_COUNT)] {
            assert_eq!(read(allowed, credits), Err(UnreadableUsage::TooManyCredits(0)), "{allowed} {credits}");
        }
    }

    #[test]
    fn unknown_verdicts_share_one_name() {
        for known in ["allow", "public", "delegated"].into_iter().chain(Refusal::ALL.map(Refusal::name)) {
            assert_eq!(counted_as(known), known);
        }
        for unknown in ["dropped", "pay_me", "", "other", "Allow"] {
            assert_eq!(counted_as(unknown), OTHER);
        }
    }

    #[test]
    fn the_largest_batch_is_below_the_longest_body() {
        let of_a_key =
            ["allow"].into_iter().chain(Refusal::ALL.into_iter().filter(|r| r.knows_key()).map(Refusal::name));
        let of_nobody = ["public", "delegated"].into_iter().chain(Refusal::ALL.map(Refusal::name));
        let largest = |names: &mut dyn Iterator<Item = &str>| names.map(|name| (name.to_owned(), MAX_COUNT)).collect();
        let key = KeyUsage {
            key_id: "k".repeat(MAX_ID_BYTES),
            secret_id: "s".repeat(MAX_ID_BYTES),
            last_used_ms: Some(MAX_COUNT),
            verdicts: largest(&mut of_a_key.into_iter()),
            credits: MAX_COUNT,
        };
        let batch = Batch {
            id: BatchId([0xff; 16]),
            keys: vec![key; MAX_KEYS],
            others: largest(&mut of_nobody.into_iter()),
            dropped: MAX_COUNT,
        };
        let body = batch.encode();
        assert!(body.len() < MAX_BODY_BYTES, "{}", body.len());
        assert_eq!(Batch::decode(&body), Ok(batch));
    }

    #[test]
    fn what_is_beyond_a_bound_is_refused_and_nothing_of_it_repeated() {
        let read = |change: &dyn Fn(&mut Batch)| {
            let mut changed = batch();
            change(&mut changed);
            Batch::decode(&changed.encode()).unwrap_err()
        };
        let keys = |count: usize| move |batch: &mut Batch| batch.keys = vec![batch.keys[1].clone(); count];
        assert_eq!(read(&keys(MAX_KEYS + 1)), UnreadableUsage::TooManyKeys(MAX_KEYS + 1));
        for id in [String::new(), "k".repeat(65), "a b".to_owned(), "a\"".to_owned(), "é".to_owned()] {
            assert_eq!(read(&|batch| batch.keys[1].key_id.clone_from(&id)), UnreadableUsage::BadId(1), "{id}");
        }
        assert_eq!(read(&|batch| batch.keys[0].secret_id = "s".repeat(65)), UnreadableUsage::BadId(0));
        for name in ["", "Allow", "a b", &"a".repeat(33)] {
            assert_eq!(read(&|batch| batch.others = verdicts(&[(name, 1)])), UnreadableUsage::BadVerdict, "{name}");
        }
        let many = |batch: &mut Batch| batch.keys[0].verdicts = (0..33).map(|n| ("a".repeat(n + 1), 1)).collect();
        assert_eq!(read(&many), UnreadableUsage::BadVerdict);
        assert_eq!(read(&|batch| batch.dropped = MAX_COUNT + 1), UnreadableUsage::TooLarge);
        assert_eq!(read(&|batch| batch.keys[0].credits = u64::MAX), UnreadableUsage::TooLarge);
        assert_eq!(read(&|batch| batch.keys[0].last_used_ms = Some(u64::MAX)), UnreadableUsage::TooLarge);
        assert_eq!(read(&|batch| batch.others = verdicts(&[("missing", u64::MAX)])), UnreadableUsage::TooLarge);
        assert_eq!(Batch::decode(&vec![b' '; MAX_BODY_BYTES + 1]), Err(UnreadableUsage::TooLong));
        let secret = br#"{"batch": "kw_live_secret"}"#;
        let problem = Batch::decode(secret).unwrap_err();
        assert!(matches!(problem, UnreadableUsage::Form { line: 1, .. }), "{problem}");
        assert!(!problem.to_string().contains("secret"));
        assert!(Batch::decode(br#"{"batch": "a5", "keys": -1}"#).is_err());
        assert!(Receipt::decode(b"<html>").is_err());
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(body: Vec<u8>, text in r#"\{"batch":"[0-9a-f]{30,34}","others":\{.*\}"#) {
            let _ = (Batch::decode(&body), Batch::decode(text.as_bytes()), Receipt::decode(&body));
        }
    }
}
