//! The resources of the API, as far as the pages show them.

use crate::clock::Timestamp;
use askama::filters::HtmlSafe;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// A time of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) Timestamp);

/// A time on a page: relative to now, with the UTC in the title. The script writes the local time into the title.
pub(super) struct When {
    time: Timestamp,
    now: Timestamp,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct KeyView {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) owner: Option<String>,
    pub(super) member: Option<String>,
    pub(super) kind: String,
    pub(super) environment: Option<String>,
    pub(super) scopes: Vec<String>,
    pub(super) allow_ip: Vec<String>,
    pub(super) limits: Option<Vec<String>>,
    pub(super) plan: Option<String>,
    pub(super) credits: Option<u64>,
    pub(super) spent: u64,
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) state: String,
    pub(super) created_at: Moment,
    pub(super) expires_at: Option<Moment>,
    pub(super) revoked_at: Option<Moment>,
    pub(super) last_used_at: Option<Moment>,
    pub(super) paused_at: Option<Moment>,
    pub(super) paused_by: Option<String>,
    pub(super) secrets: Vec<SecretView>,
    /// The plaintext, in the answer to the request that issued it.
    pub(super) key: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct SecretView {
    pub(super) id: String,
    pub(super) hint: String,
    pub(super) state: String,
    pub(super) created_at: Moment,
    pub(super) not_after: Option<Moment>,
    pub(super) last_used_at: Option<Moment>,
    pub(super) leaked_at: Option<Moment>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Keys {
    pub(super) keys: Vec<KeyView>,
    pub(super) next: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct OwnerView {
    pub(super) id: String,
    pub(super) kind: Option<String>,
    pub(super) created_at: Moment,
    pub(super) disabled: bool,
    pub(super) permissions: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Owners {
    pub(super) owners: Vec<OwnerView>,
    pub(super) next: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct TokenView {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) role: String,
    pub(super) state: String,
    pub(super) created_at: Moment,
    pub(super) expires_at: Option<Moment>,
    pub(super) last_used_at: Option<Moment>,
    /// The plaintext, in the answer to the request that issued it.
    pub(super) token: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Tokens {
    pub(super) tokens: Vec<TokenView>,
    pub(super) next: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct SessionView {
    pub(super) id: String,
    pub(super) token: String,
    pub(super) user_agent: String,
    pub(super) created_at: Moment,
    pub(super) last_seen_at: Moment,
    pub(super) expires_at: Moment,
}

#[derive(Debug, Deserialize)]
pub(super) struct Sessions {
    pub(super) sessions: Vec<SessionView>,
    pub(super) next: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LeakOutcomes {
    pub(super) keys: Vec<LeakOutcome>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LeakOutcome {
    pub(super) key_id: Option<String>,
    pub(super) action: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct ImportReport {
    pub(super) imported: u64,
    pub(super) skipped: u64,
    pub(super) failed: u64,
    pub(super) dry_run: bool,
    pub(super) errors: Vec<RowError>,
    pub(super) more_errors: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct RowError {
    pub(super) line: u64,
    pub(super) field: String,
    pub(super) message: String,
}

/// What edges reported with each token.
#[derive(Debug, Deserialize)]
pub(super) struct Reports {
    pub(super) tokens: Vec<ReportsOfToken>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ReportsOfToken {
    pub(super) token: String,
    pub(super) keys: u64,
    pub(super) requests: u64,
    pub(super) credits: u64,
    pub(super) last_reported_at: Moment,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct PlanView {
    pub(super) id: String,
    pub(super) limits: Option<Vec<String>>,
    pub(super) credits: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Plans {
    pub(super) plans: Vec<PlanView>,
    pub(super) next: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct AuditView {
    pub(super) at: Moment,
    pub(super) actor: String,
    pub(super) action: String,
    pub(super) subject: String,
    pub(super) details: serde_json::Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Audit {
    pub(super) entries: Vec<AuditView>,
    pub(super) next: Option<u64>,
}

/// Requests by verdict.
pub(super) type Verdicts = BTreeMap<String, u64>;

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Usage {
    pub(super) totals: Verdicts,
    pub(super) hours: Vec<Hour>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Hour {
    pub(super) hour: Moment,
    pub(super) verdicts: Verdicts,
}

#[derive(Debug, Deserialize)]
pub(super) struct UsageOfKey {
    #[serde(flatten)]
    pub(super) usage: Usage,
}

#[derive(Debug, Deserialize)]
pub(super) struct UsageOfAll {
    pub(super) keys: Usage,
    pub(super) others: Usage,
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Timestamp::parse_rfc3339(&text).map(Self).ok_or_else(|| serde::de::Error::custom("expected a time"))
    }
}

impl Moment {
    /// The time, as seen from now.
    pub(super) fn from(self, now: &Timestamp) -> When {
        When { time: self.0, now: *now }
    }
}

/// It contains no text but its own.
impl HtmlSafe for When {}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, now } = *self;
        let utc = time.to_string();
        let utc_words = utc.get(..19).unwrap_or(&utc).replace('T', " ");
        let (span, is_past) = match now.as_ms().checked_sub(time.as_ms()) {
            Some(past) => (past, true),
            None => (time.as_ms().saturating_sub(now.as_ms()), false),
        };
        let words = match span / 1000 {
            0..60 if is_past => "just now".to_owned(),
            0..60 => "in less than a minute".to_owned(),
            seconds => {
                let (number, unit) = match seconds {
                    60..3600 => (seconds / 60, "min"),
                    3600..172_800 => (seconds / 3600, "h"),
                    _ => (seconds / 86_400, "d"),
                };
                if is_past { format!("{number} {unit} ago") } else { format!("in {number} {unit}") }
            }
        };
        write!(f, "<time datetime=\"{utc}\" title=\"{utc_words} UTC\">{words}</time>")
    }
}

impl KeyView {
    /// What the newest secret is recognized by.
    pub(super) fn hint(&self) -> &str {
        self.secrets.last().map(|secret| secret.hint.as_str()).unwrap_or_default()
    }

    /// The secrets of a rotation whose grace period is not over.
    pub(super) fn in_grace(&self) -> impl Iterator<Item = &SecretView> {
        self.secrets.iter().filter(|secret| secret.state == "valid" && secret.not_after.is_some())
    }

    /// When a secret of the key was first reported as leaked.
    pub(super) fn leaked_at(&self) -> Option<Moment> {
        self.secrets.iter().filter_map(|secret| secret.leaked_at).min()
    }

    /// The credits that are left; `None` without a bound.
    pub(super) fn credits_left(&self) -> Option<u64> {
        self.credits.map(|credits| credits.saturating_sub(self.spent))
    }

    /// Whether it is revoked, and cannot be changed, rotated or paused any more.
    pub(super) fn is_revoked(&self) -> bool {
        self.state == "revoked"
    }

    /// Whether it can be rotated: it is active or paused.
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.state.as_str(), "active" | "paused")
    }
}

impl OwnerView {
    /// Whether it is of that kind.
    pub(super) fn is_of(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
}

impl AuditView {
    /// The details, one a line: what a field was and what it is, or its value.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |(name, value): (&String, &Value)| match (value.get("old"), value.get("new")) {
            (Some(old), Some(new)) => format!("{name}: {} → {}", plain(old), plain(new)),
            _ => format!("{name}: {}", plain(value)),
        };
        self.details.iter().map(line).collect()
    }

    /// Whether the subject is a key, which has a page.
    pub(super) fn is_about_key(&self) -> bool {
        self.subject.starts_with("key_")
    }
}

impl Usage {
    /// The allowed requests.
    pub(super) fn allowed(&self) -> u64 {
        self.totals.get(keyward_core::wire::usage::ALLOW).copied().unwrap_or_default()
    }

    /// The refused requests.
    pub(super) fn refused(&self) -> u64 {
        self.total().saturating_sub(self.allowed())
    }

    /// All requests.
    pub(super) fn total(&self) -> u64 {
        self.totals.values().fold(0, |sum, requests| sum.saturating_add(*requests))
    }
}

/// A value as people read it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// A number with its thousands apart.
pub(super) fn thousands(number: impl fmt::Display) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_relative_with_utc_in_the_title() {
        let now = Timestamp::EXAMPLE;
        let words = |time: Timestamp| When { time, now }.to_string();
        let (minute, day) = (Duration::from_secs(60), Duration::from_secs(86_400));
        let html = "<time datetime=\"2023-11-14T20:13:20.000Z\" title=\"2023-11-14 20:13:20 UTC\">2 h ago</time>";
        assert_eq!(words(now.minus(minute * 120)), html);
        for (time, expected) in [
            (now, ">just now<"),
            (now.plus(minute / 2), ">in less than a minute<"),
            (now.minus(minute), ">1 min ago<"),
            (now.plus(minute * 90), ">in 1 h<"),
            (now.plus(day * 2), ">in 2 d<"),
            (now.minus(day * 400), ">400 d ago<"),
        ] {
            assert!(words(time).contains(expected), "{}", words(time));
        }
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
