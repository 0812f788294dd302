//! The limited descriptors and their limits: `key_id:50/min`, `plan=free,key_id:10/s`.

use crate::protocol::Descriptor;
use keyward_core::key::limit::{Limit, ParseLimitError};
use std::str::FromStr;

/// A limit for every descriptor with exactly these entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    entries: Vec<(String, Option<String>)>,
    limit: Limit,
}

/// The reason why a text is not a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RuleError {
    #[error("expected entry,entry=value:limit, such as plan=free,key_id:10/s")]
    Form,
    #[error(transparent)]
    Limit(#[from] ParseLimitError),
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (entries, limit) = text.rsplit_once(':').ok_or(RuleError::Form)?;
        let entry = |text: &str| match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (text.to_owned(), None),
        };
        let entries: Vec<_> = entries.split(',').map(entry).collect();
        if entries.iter().any(|(key, _)| key.is_empty()) {
            return Err(RuleError::Form);
        }
        Ok(Self { entries, limit: limit.parse()? })
    }
}

impl Rule {
    /// The limit.
    pub(crate) fn limit(&self) -> Limit {
        self.limit
    }

    /// Whether the rule limits this descriptor.
    pub(crate) fn limits(&self, descriptor: &Descriptor) -> bool {
        let sent = descriptor.by_name();
        sent.len() == self.entries.len()
            && self.entries.iter().all(|(key, wanted)| {
                sent.get(key.as_str()).is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
            })
    }

    /// The name of the descriptor's counter in Redis. Lengths keep values apart, whatever they contain.
    pub(crate) fn count_name(&self, domain: &str, descriptor: &Descriptor) -> String {
        let mut name = format!("{}:{domain}", domain.len());
        for entry in &descriptor.entries {
            name += &format!("|{}={}:{}", entry.key, entry.value.len(), entry.value);
        }
        format!("{name}|{}", self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Entry;

    fn descriptor(entries: &[(&str, &str)]) -> Descriptor {
        let entry = |(key, value): &(&str, &str)| Entry { key: (*key).to_owned(), value: (*value).to_owned() };
        Descriptor { entries: entries.iter().map(entry).collect() }
    }

    #[test]
    fn rule_limits_descriptors_with_exactly_its_entries() {
        let rule: Rule = "plan=free,key_id:10/s".parse().unwrap();
        assert!(rule.limits(&descriptor(&[("plan", "free"), ("key_id", "key_1")])));
        for other in [
            &[("plan", "pro"), ("key_id", "key_1")] as &[_],
            &[("plan", "free")],
            &[("key_id", "key_1")],
            &[("plan", "free"), ("key_id", "key_1"), ("owner", "acme")],
            &[],
        ] {
            assert!(!rule.limits(&descriptor(other)), "{other:?}");
        }
    }

    #[test]
    fn no_value_makes_two_descriptors_share_a_counter() {
        let rule: Rule = "a,b:1/s".parse().unwrap();
        let one = rule.count_name("x", &descriptor(&[("a", "1|b=1:2"), ("b", "3")]));
        let other = rule.count_name("x", &descriptor(&[("a", "1"), ("b", "2|b=1:3")]));
        assert_ne!(one, other);
    }

    #[test]
    fn invalid_rule_is_rejected_with_its_reason() {
        for text in ["", "10/s", ":10/s", "a,,b:10/s", "=x:10/s"] {
            assert_eq!(text.parse::<Rule>(), Err(RuleError::Form), "{text}");
        }
        assert!(matches!("a:10".parse::<Rule>(), Err(RuleError::Limit(_))));
    }
}
