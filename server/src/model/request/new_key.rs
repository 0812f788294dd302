//! A key that is asked for.

use super::expiry::expiry;
use super::fields::{credits, fits, id, metadata, name, network, optional, owner, scope};
use crate::clock::Timestamp;
use crate::model::key::longest;
use ipnet::IpNet;
use keyward_core::dialect::key_format::KeyFormat;
use keyward_core::dialect::{Dialect, read_limits};
use keyward_core::document::{Fields, Node, Problems, read_value};
use keyward_core::key::environment::Environment;
use keyward_core::key::limit::Limits;
use keyward_core::wire::entry::{Body, KeyRecord};
use serde_json::Value;
use std::collections::BTreeMap;

/// A key that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// What its users call it.
    pub name: String,
    /// The id of its owner.
    pub owner: Option<String>,
    /// What its secrets look like; says its kind and environment.
    pub format: KeyFormat,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Where it may be used from; empty means anywhere.
    pub allow_ip: Vec<IpNet>,
    /// What it may use; `None` for what its plan says, or else the dialect.
    pub limits: Option<Limits>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// Who it is for, among those who belong to the owner.
    pub member: Option<String>,
    /// The id of its plan, which may not be there.
    pub plan: Option<String>,
    /// How much it may spend altogether; `None` for what its plan says.
    pub credits: Option<u64>,
    /// What its users note about it.
    pub metadata: BTreeMap<String, String>,
}

impl NewKey {
    /// Reads the request for a key of that dialect.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(mut document: Value, dialect: &Dialect, now: Timestamp) -> Result<Self, Problems> {
        // A null in the place of what is missing gives the mistake a field to stand at.
        if let Value::Object(fields) = &mut document {
            fields.entry("name").or_insert(Value::Null);
        }
        read_value(&document, |node| Self::read_fields(&node, dialect, now))
    }

    fn read_fields(node: &Node<'_>, dialect: &Dialect, now: Timestamp) -> Option<Self> {
        let mut fields = node.fields()?;
        let name = fields.required("name").and_then(|n| name(&n));
        let owner = owner(&mut fields, dialect);
        let format = format(&mut fields, dialect);
        let scopes = optional(&mut fields, "scopes", |n| n.each(scope));
        let allow_ip = optional(&mut fields, "allow_ip", |n| n.each(network));
        let limits = optional(&mut fields, "limits", read_limits);
        let member = optional(&mut fields, "member", id);
        let plan = optional(&mut fields, "plan", id);
        let credits = optional(&mut fields, "credits", credits);
        let metadata = optional(&mut fields, "metadata", metadata);
        let expires_at = expiry(&mut fields, dialect, now, now);
        fields.finish();
        let made = Self {
            name: name?,
            owner: owner?,
            format: format?,
            scopes: scopes?.unwrap_or_default(),
            allow_ip: allow_ip?.unwrap_or_default(),
            limits: limits?,
            expires_at: expires_at?.flatten(),
            member: member?,
            plan: plan?,
            credits: credits?,
            metadata: metadata?.unwrap_or_default(),
        };
        made.fits_an_entry(node).then_some(made)
    }

    /// Whether an edge can be told of it, now and whatever becomes of it: a key that only fits while it is valid could
    /// never be revoked.
    fn fits_an_entry(&self, node: &Node<'_>) -> bool {
        let record = KeyRecord {
            kind: self.format.kind.clone(),
            environment: self.format.environment,
            owner: self.owner.clone(),
            scopes: self.scopes.clone(),
            allowlist: self.allow_ip.clone(),
            limits: self.limits.clone(),
            plan: self.plan.clone(),
            ..KeyRecord::default()
        };
        fits(node, Body::Key(longest(record)))
    }
}

/// The kinds of keys, each once: there can be several formats of one.
pub(in crate::model) fn kinds(dialect: &Dialect) -> Vec<(&str, &str)> {
    let mut kinds: Vec<(&str, &str)> = Vec::new();
    for format in &dialect.formats {
        let kind = (format.kind.as_str(), format.kind.as_str());
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

fn format(fields: &mut Fields<'_>, dialect: &Dialect) -> Option<KeyFormat> {
    let kind = optional(fields, "kind", |n| n.one_of(&kinds(dialect)));
    let environment = optional(fields, "environment", |n| {
        let environment = n.one_of(&[("live", Environment::Live), ("test", Environment::Test)])?;
        Some((environment, n.clone()))
    });
    let (kind, environment) = (kind?, environment?);
    let kind = kind.or_else(|| dialect.formats.first().map(|format| format.kind.as_str()))?;
    let of_kind = || dialect.formats.iter().filter(|format| format.kind == kind);
    let of_environment = |environment| of_kind().find(|format| format.environment == Some(environment));
    let format = match environment {
        Some((environment, node)) => {
            let format = of_environment(environment);
            if format.is_none() {
                node.problem(format!("keys of kind {kind:?} have no environment {:?} here", environment.name()));
            }
            format
        }
        None => of_environment(Environment::Live).or_else(|| of_kind().next()),
    };
    format.cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::request::fields::told;
    use keyward_core::key::digest::Digest;
    use keyward_core::wire::entry::Entry;
    use serde_json::{Map, json};
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    fn dialect(name: &str) -> Dialect {
        Dialect::built_in(name).unwrap().unwrap()
    }

    fn read(document: Value) -> Result<NewKey, Vec<(String, String)>> {
        told(NewKey::read(document, &dialect("keyward"), NOW))
    }

    #[test]
    fn a_name_is_enough_for_a_live_key_of_the_first_kind() {
        let key = read(json!({"name": "ci", "owner": null})).unwrap();
        assert_eq!((key.format.kind.as_str(), key.format.environment), ("key", Some(Environment::Live)));
        assert_eq!((key.owner, key.scopes, key.allow_ip, key.expires_at), (None, vec![], vec![], None));
    }

    #[test]
    fn every_field_is_taken_as_it_was_meant() {
        let key = read(json!({
            "name": "ci", "owner": "acme/ops", "kind": "key", "environment": "test", "scopes": ["read", "a.b:c/*"],
            "allow_ip": ["192.0.2.7", "10.1.2.3/8", "2001:db8::/32"], "expires_in_s": 60,
        }))
        .unwrap();
        assert_eq!(key.format.prefix, "kw_test_");
        let networks: Vec<_> = key.allow_ip.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["192.0.2.7/32", "10.0.0.0/8", "2001:db8::/32"]);
        assert_eq!(key.expires_at, Some(NOW.plus(Duration::from_secs(60))));
        let until = NOW.plus(Duration::from_secs(5)).to_string();
        assert_eq!(read(json!({"name": "ci", "expires_at": until})).unwrap().expires_at.unwrap().to_string(), until);
    }

    #[test]
    fn all_mistakes_are_told_at_once_each_at_its_field() {
        let problems = read(json!({
            "owner": "two words", "kind": "nonsense", "environment": "prod", "scopes": ["ok", "not ok", 3],
            "allow_ip": ["10.0.0.0/33"], "expires_at": "2001-01-01T00:00:00Z", "expires_in_s": 0, "colour": "red",
        }))
        .unwrap_err();
        let fields: Vec<_> = problems.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "name",
                "owner",
                "kind",
                "environment",
                "scopes[1]",
                "scopes[2]",
                "allow_ip[0]",
                "expires_in_s",
                "expires_at",
                "colour"
            ]
        );
        assert_eq!(problems[0].1, "is required");
    }

    #[test]
    fn names_have_at_least_one_and_at_most_200_characters_and_no_control_characters() {
        assert!(read(json!({"name": "é".repeat(200)})).is_ok());
        for bad in ["", &"e".repeat(201), "a\u{1b}[2J"] {
            assert_eq!(read(json!({"name": bad})).unwrap_err()[0].0, "name", "{bad:?}");
        }
    }

    #[test]
    fn a_key_that_every_edge_would_refuse_is_not_made() {
        for name in Dialect::built_in_names() {
            let dialect = dialect(name);
            for without in [json!({"name": "a"}), json!({"name": "a", "owner": null})] {
                match told(NewKey::read(without, &dialect, NOW)) {
                    Ok(key) => assert!(key.owner.is_none() && !dialect.owner_required),
                    Err(problems) => {
                        assert!(dialect.owner_required && problems[0].1.contains("is required"), "{problems:?}");
                        assert_eq!((problems.len(), problems[0].0.as_str()), (1, "owner"));
                    }
                }
            }
            for (field, value) in [("kind", "nonsense"), ("environment", "prod")] {
                let problems = told(NewKey::read(json!({"name": "a", "owner": "o", field: value}), &dialect, NOW));
                assert_eq!(problems.unwrap_err()[0].0, field, "{name}");
            }
        }
    }

    #[test]
    fn only_one_expiry_can_be_given() {
        let problems = read(json!({"name": "a", "expires_in_s": 5, "expires_at": "9000-01-01T00:00:00Z"})).unwrap_err();
        assert_eq!(problems[0].0, "expires_in_s");
    }

    #[test]
    fn an_environment_that_the_dialect_does_not_have_is_refused() {
        let wanted = json!({"name": "a", "environment": "test"});
        let problems = told(NewKey::read(wanted, &dialect("exograph"), NOW)).unwrap_err();
        assert_eq!(problems[0].0, "environment");
    }

    #[test]
    fn a_key_that_would_outgrow_its_entry_when_revoked_is_never_made() {
        let with_scopes = |scopes: usize| read(json!({"name": "a", "scopes": vec!["s"; scopes]}));
        let room = keyward_core::wire::entry::MAX_ENTRY_BYTES;
        let most = (1..room / 4).rev().find(|scopes| with_scopes(*scopes).is_ok()).unwrap();
        let key = with_scopes(most).unwrap();
        let revoked = KeyRecord {
            revoked_at_ms: Some(1),
            secret_not_after_ms: Some(1),
            scopes: key.scopes,
            ..KeyRecord::default()
        };
        let entry = Entry { subject: Digest([0; 32]), version: 1, body: Body::Key(revoked) };
        entry.encode(&mut Vec::new()).unwrap();
        let problem = &with_scopes(most + 1).unwrap_err()[0];
        assert_eq!(problem.0, "");
        assert!(problem.1.contains("scopes"), "{}", problem.1);
    }

    #[test]
    fn member_plan_credits_and_metadata_are_taken_and_may_be_absent() {
        let key = read(json!({
            "name": "ci", "member": "ann@acme", "plan": "pro", "credits": 0, "metadata": {"a.b_c-1": "é", "empty": ""},
        }))
        .unwrap();
        assert_eq!((key.member.as_deref(), key.plan.as_deref(), key.credits), (Some("ann@acme"), Some("pro"), Some(0)));
        let metadata: Vec<_> = key.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(metadata, [("a.b_c-1", "é"), ("empty", "")]);
        for without in [
            json!({"name": "a"}),
            json!({"name": "a", "member": null, "plan": null, "credits": null, "metadata": null}),
        ] {
            let key = read(without).unwrap();
            assert_eq!((key.member, key.plan, key.credits, key.metadata.len()), (None, None, None, 0));
        }
    }

    #[test]
    fn what_member_plan_credits_and_metadata_cannot_be_is_told_at_its_place() {
        let problems = read(json!({
            "name": "ci", "member": "two words", "plan": "", "credits": -1,
            "metadata": {"ok": "ok", "no space": "x", "number": 3, "control": "a\nb", "long": "é".repeat(501)},
        }))
        .unwrap_err();
        let fields: Vec<_> = problems.iter().map(|(field, _)| field.as_str()).collect();
        let in_metadata = ["metadata.no space", "metadata.number", "metadata.control", "metadata.long"];
        assert_eq!(fields, [&["member", "plan", "credits"][..], &in_metadata].concat());
        let entries = |n| json!({"name": "a", "metadata": Map::from_iter((0..n).map(|n| (n.to_string(), json!("x"))))});
        assert!(read(entries(20)).is_ok());
        assert_eq!(read(entries(21)).unwrap_err()[0].0, "metadata");
        assert!(read(json!({"name": "a", "metadata": {"n".repeat(64): "é".repeat(500)}})).is_ok());
        assert!(read(json!({"name": "a", "metadata": {"n".repeat(65): "x"}})).is_err());
    }

    #[test]
    fn an_expiry_keeps_to_the_dialects_bounds_to_the_second() {
        let dialect = dialect("graph8");
        let day = 86_400;
        let within = |seconds: u64| {
            told(NewKey::read(json!({"name": "a", "owner": "o", "expires_in_s": seconds}), &dialect, NOW))
        };
        for allowed in [day, 365 * day] {
            assert_eq!(within(allowed).unwrap().expires_at, Some(NOW.plus(Duration::from_secs(allowed))));
        }
        for beyond in [day - 1, 365 * day + 1] {
            assert_eq!(within(beyond).unwrap_err()[0].0, "expires_in_s");
            let at = NOW.plus(Duration::from_secs(beyond)).to_string();
            let problems =
                told(NewKey::read(json!({"name": "a", "owner": "o", "expires_at": at}), &dialect, NOW)).unwrap_err();
            assert_eq!(problems[0].0, "expires_at");
            assert!(problems[0].1.contains("1 to 365 days"), "{}", problems[0].1);
        }
        let at = NOW.plus(Duration::from_secs(365 * day)).to_string();
        assert!(NewKey::read(json!({"name": "a", "owner": "o", "expires_at": at}), &dialect, NOW).is_ok());
        let endless = NewKey::read(json!({"name": "a", "owner": "o"}), &dialect, NOW).unwrap();
        assert_eq!(endless.expires_at, None, "it need not end");
        let long = json!({"name": "a", "owner": "o", "expires_in_s": 1});
        assert!(read(long).is_ok(), "other dialects do not bound it");
    }
}
