//! A key that is asked for.

use crate::clock::Timestamp;
use crate::model::key::{Context, KeyFields};
use keyward_core::dialect::Dialect;
use keyward_core::dialect::key_format::KeyFormat;
use keyward_core::document::{Problems, read_value};
use serde_json::Value;

/// A key that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Its settable fields.
    pub fields: KeyFields,
    /// What its secrets look like; its kind and environment follow from it.
    pub format: KeyFormat,
}

impl NewKey {
    /// Reads the request for a key of that dialect.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(document: &Value, dialect: &Dialect, now: Timestamp) -> Result<Self, Problems> {
        read_value(document, |node| {
            let mut given = node.fields()?;
            let mut context = Context { dialect, now, created_at: Some(now), format: None };
            let fields = KeyFields::read(&mut given, &mut context);
            given.finish();
            let new = Self { fields: fields?, format: context.format.flatten()?.clone() };
            new.fields.check_size().map_err(|error| node.problem(error.to_string())).ok().map(|()| new)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::reader::told;
    use keyward_core::key::digest::Digest;
    use keyward_core::key::environment::Environment;
    use keyward_core::wire::entry::{Body, Entry, KeyRecord};
    use serde_json::{Map, json};
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    fn dialect(name: &str) -> Dialect {
        Dialect::built_in(name).unwrap().unwrap()
    }

    fn read(document: Value) -> Result<KeyFields, Vec<(String, String)>> {
        told(NewKey::read(&document, &dialect("keyward"), NOW)).map(|new| new.fields)
    }

    #[test]
    fn a_name_is_enough_for_a_live_key_of_the_first_kind() {
        let key = read(json!({"name": "ci", "owner": null})).unwrap();
        assert_eq!((key.kind.as_str(), key.environment), ("key", Some(Environment::Live)));
        assert_eq!((key.owner, key.scopes, key.allow_ip, key.expires_at), (None, vec![], vec![], None));
    }

    #[test]
    fn every_field_is_taken_as_it_was_meant() {
        let document = json!({
            "name": "ci", "owner": "acme/ops", "kind": "key", "environment": "test", "scopes": ["read", "a.b:c/*"],
            "allow_ip": ["192.0.2.7", "10.1.2.3/8", "2001:db8::/32"], "expires_in_s": 60,
        });
        let new = NewKey::read(&document, &dialect("keyward"), NOW).unwrap();
        let key = new.fields;
        assert_eq!((new.format.prefix.as_str(), key.environment), ("kw_test_", Some(Environment::Test)));
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
            let dialect = Dialect { scopes_required: false, ..dialect };
            for without in [json!({"name": "a"}), json!({"name": "a", "owner": null})] {
                match told(NewKey::read(&without, &dialect, NOW)) {
                    Ok(key) => assert!(key.fields.owner.is_none() && !dialect.owner_required),
                    Err(problems) => {
                        assert!(dialect.owner_required && problems[0].1.contains("is required"), "{problems:?}");
                        assert_eq!((problems.len(), problems[0].0.as_str()), (1, "owner"));
                    }
                }
            }
            for (field, value) in [("kind", "nonsense"), ("environment", "prod")] {
                let problems = told(NewKey::read(&json!({"name": "a", "owner": "o", field: value}), &dialect, NOW));
                assert_eq!(problems.unwrap_err()[0].0, field, "{name}");
            }
        }
    }

    #[test]
    fn kind_and_permissions_are_required_by_the_dialect_only() {
        let fields = |dialect: &Dialect, mut document: Value| {
            document["name"] = "a".into();
            let read = told(NewKey::read(&document, dialect, NOW));
            read.map(|_| ()).map_err(|problems| problems.into_iter().map(|(field, _)| field).collect::<Vec<_>>())
        };
        let (auxot, ai_api) = (dialect("auxot"), dialect("ai-api"));
        assert!(ai_api.scopes_required && !auxot.scopes_required && !auxot.kind_required);
        for none in [json!({}), json!({"scopes": []}), json!({"scopes": null})] {
            assert_eq!(fields(&ai_api, none.clone()).unwrap_err(), ["scopes"]);
            assert_eq!(fields(&ai_api.without_requirements(), none), Ok(()));
        }
        assert_eq!(fields(&ai_api, json!({"scopes": ["read"]})), Ok(()));

        let strict = Dialect { kind_required: true, scopes_required: true, ..auxot };
        assert_eq!(fields(&strict, json!({"owner": "o"})).unwrap_err(), ["kind"]);
        assert_eq!(fields(&strict, json!({})).unwrap_err(), ["owner", "kind"]);
        assert_eq!(fields(&strict, json!({"owner": "o", "kind": "team"})).unwrap_err(), ["scopes"]);
        assert_eq!(fields(&strict, json!({"owner": "o", "kind": "user"})), Ok(()), "it has its owner's permissions");
        assert_eq!(fields(&strict.without_requirements(), json!({})), Ok(()));
    }

    #[test]
    fn only_one_expiry_can_be_given() {
        let problems = read(json!({"name": "a", "expires_in_s": 5, "expires_at": "9000-01-01T00:00:00Z"})).unwrap_err();
        assert_eq!(problems[0].0, "expires_in_s");
    }

    #[test]
    fn an_environment_that_the_dialect_does_not_have_is_refused() {
        let wanted = json!({"name": "a", "environment": "test"});
        let problems = told(NewKey::read(&wanted, &dialect("exograph"), NOW)).unwrap_err();
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
            told(NewKey::read(&json!({"name": "a", "owner": "o", "expires_in_s": seconds}), &dialect, NOW))
        };
        for allowed in [day, 365 * day] {
            assert_eq!(within(allowed).unwrap().fields.expires_at, Some(NOW.plus(Duration::from_secs(allowed))));
        }
        for beyond in [day - 1, 365 * day + 1] {
            assert_eq!(within(beyond).unwrap_err()[0].0, "expires_in_s");
            let at = NOW.plus(Duration::from_secs(beyond)).to_string();
            let problems =
                told(NewKey::read(&json!({"name": "a", "owner": "o", "expires_at": at}), &dialect, NOW)).unwrap_err();
            assert_eq!(problems[0].0, "expires_at");
            assert!(problems[0].1.contains("1 to 365 days"), "{}", problems[0].1);
        }
        let at = NOW.plus(Duration::from_secs(365 * day)).to_string();
        assert!(NewKey::read(&json!({"name": "a", "owner": "o", "expires_at": at}), &dialect, NOW).is_ok());
        let endless = NewKey::read(&json!({"name": "a", "owner": "o"}), &dialect, NOW).unwrap();
        assert_eq!(endless.fields.expires_at, None, "it need not end");
        let long = json!({"name": "a", "owner": "o", "expires_in_s": 1});
        assert!(read(long).is_ok(), "other dialects do not bound it");
    }
}
