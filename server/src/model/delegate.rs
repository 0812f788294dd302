//! What one key may hand on to another: never more than it may do itself.
//!
//! This holds for a key that it makes, and for one whose new secret it is shown. Of what is not asked for, the new key gets
//! what the other one has. Both functions name every field, so that a new one does not compile until they decide on it.

use super::key::{FieldValue, Key, KeyFields, SelfService};
use super::request::NewKey;
use crate::clock::Timestamp;
use keyward_core::dialect::Dialect;
use keyward_core::document::{Problem, Problems};
use keyward_core::key::environment::Environment;
use serde_json::{Map, Value, json};

/// A key that asks for another one, or for a new secret of another one.
#[derive(Clone, Copy)]
pub struct Delegator<'a> {
    /// The key.
    pub key: &'a Key,
    /// Whether it has a permission now.
    pub may: &'a dyn Fn(&str) -> bool,
}

impl Delegator<'_> {
    /// Reads the request for a key, which inherits what the request leaves out.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(&self, document: Value, dialect: &Dialect, now: Timestamp) -> Result<NewKey, Problems> {
        let mut unknown = Vec::new();
        let document = match document {
            Value::Object(given) => {
                let (known, others): (Map<_, _>, Map<_, _>) =
                    given.into_iter().partition(|(name, _)| choices().any(|choice| choice == name));
                let message = format!("unknown field; known here: {}", choices().collect::<Vec<_>>().join(", "));
                unknown = others.into_iter().map(|(path, _)| problem(path, &message)).collect();
                Value::Object(self.inheriting(known, dialect))
            }
            other => other,
        };
        match NewKey::read(&document, dialect, now) {
            Ok(new) if unknown.is_empty() => Ok(new),
            Ok(_) => Err(Problems(unknown)),
            Err(Problems(mut problems)) => {
                problems.append(&mut unknown);
                Err(Problems(problems))
            }
        }
    }

    /// The request with all that it leaves out.
    fn inheriting(&self, mut request: Map<String, Value>, dialect: &Dialect) -> Map<String, Value> {
        let KeyFields {
            name: _,
            owner,
            member,
            kind,
            environment,
            scopes,
            allow_ip,
            limits,
            plan,
            // A key that has credits makes no others, and notes are the operator's.
            credits: _,
            metadata: _,
            expires_at,
        } = &self.key.fields;
        let is_absent = |request: &Map<String, Value>, name: &str| request.get(name).is_none_or(Value::is_null);
        let scopes: Vec<&String> = scopes.iter().filter(|scope| (self.may)(scope)).collect();
        for (name, value) in [("kind", kind.to_json()), ("scopes", json!(scopes)), ("allow_ip", allow_ip.to_json())] {
            if is_absent(&request, name) {
                request.insert(name.to_owned(), value);
            }
        }
        let mut formats = dialect.formats.iter().filter(|format| request.get("kind") == Some(&json!(format.kind)));
        let is_of_kind = environment.is_some() && formats.any(|format| format.environment == *environment);
        if is_of_kind && is_absent(&request, "environment") {
            request.insert("environment".to_owned(), environment.to_json());
        }
        if is_absent(&request, "expires_at") && is_absent(&request, "expires_in_s") {
            request.insert("expires_at".to_owned(), expires_at.to_json());
        }
        // These are not for users to choose.
        for (name, value) in [("owner", owner), ("member", member), ("plan", plan)] {
            request.insert(name.to_owned(), value.to_json());
        }
        request.insert("limits".to_owned(), limits.to_json());
        request
    }

    /// In what another key of the same owner may do more than this one; nothing if it may not.
    pub fn escalations(&self, other: &KeyFields, dialect: &Dialect) -> Vec<Problem> {
        let asks = &self.key.fields;
        let KeyFields {
            name: _,
            // The caller has found it among the keys of this owner.
            owner: _,
            member,
            kind,
            environment,
            scopes,
            allow_ip,
            limits,
            plan,
            // One with credits would multiply them, whatever the other key has.
            credits: _,
            metadata: _,
            expires_at,
        } = other;
        let mut found = Vec::new();
        if asks.environment == Some(Environment::Test) && *environment != asks.environment {
            found.push(problem("environment", "a test key has to do with test keys only"));
        }
        if !dialect.managed_by(&asks.kind).any(|managed| managed == kind) {
            found.push(problem("kind", "the key that asks has nothing to do with keys of this kind"));
        } else if dialect.has_owners_scopes(kind) && !dialect.has_owners_scopes(&asks.kind) {
            found.push(problem("kind", "keys of this kind have all permissions of their owner"));
        }
        for (n, _) in scopes.iter().enumerate().filter(|(_, scope)| !(self.may)(scope)) {
            found.push(problem(format!("scopes[{n}]"), "the key that asks does not have this permission"));
        }
        if !asks.allow_ip.is_empty() {
            if allow_ip.is_empty() {
                found.push(problem("allow_ip", "the key that asks may not be used from everywhere"));
            }
            let is_outside = |network| !asks.allow_ip.iter().any(|allowed| allowed.contains(network));
            for (n, _) in allow_ip.iter().enumerate().filter(|(_, network)| is_outside(*network)) {
                let message = "the key that asks may not be used from all of this network";
                found.push(problem(format!("allow_ip[{n}]"), message));
            }
        }
        if let Some(end) = asks.expires_at
            && expires_at.is_none_or(|expires_at| expires_at > end)
        {
            found.push(problem("expires_at", "the key that asks ends sooner"));
        }
        if (limits, plan) != (&asks.limits, &asks.plan) {
            found.push(problem("limits", "the key that asks has other limits"));
        }
        if *member != asks.member {
            found.push(problem("member", "the key that asks is for somebody else"));
        }
        if asks.credits.is_some() {
            found.push(problem("credits", "the key that asks has credits of its own"));
        }
        found
    }
}

/// What users may ask for.
fn choices() -> impl Iterator<Item = &'static str> {
    let chosen = KeyFields::SPECS.iter().filter(|spec| spec.self_service == SelfService::Chosen);
    chosen.map(|spec| spec.name).chain(["expires_in_s"])
}

fn problem(path: impl Into<String>, message: &str) -> Problem {
    Problem { path: path.into(), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::key_auth::Verified;
    use crate::model::{Owner, Secret};
    use keyward_core::key::digest::Digest;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::EXAMPLE;

    fn dialect(name: &str) -> Dialect {
        Dialect::built_in(name).unwrap().unwrap()
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn key(change: impl FnOnce(&mut Key)) -> Key {
        let mut key = Key::new("key_1".into(), "n".into(), "key".into(), NOW);
        key.owner = Some("acme".into());
        key.environment = Some(Environment::Live);
        change(&mut key);
        key
    }

    fn asking(key: Key) -> Verified {
        let secret = Secret::new("sec_1".into(), Digest([0; 32]), String::new(), NOW);
        Verified { key, secret, owner: Some(Owner::new("acme".into(), NOW)) }
    }

    fn with<T>(asking: &Verified, dialect: &Dialect, act: impl FnOnce(Delegator<'_>) -> T) -> T {
        act(Delegator { key: &asking.key, may: &|scope| asking.may(scope, dialect) })
    }

    fn read(document: Value, asking: &Verified) -> Result<KeyFields, Problems> {
        let dialect = dialect("keyward");
        with(asking, &dialect, |asking| asking.read(document, &dialect, NOW)).map(|new| new.fields)
    }

    fn escalations(asking: &Verified, other: &Key, dialect: &Dialect) -> Vec<Problem> {
        with(asking, dialect, |asking| asking.escalations(other, dialect))
    }

    fn paths(problems: &[Problem]) -> Vec<&str> {
        problems.iter().map(|problem| problem.path.as_str()).collect()
    }

    #[test]
    fn a_name_alone_asks_for_what_the_key_itself_has() {
        let end = NOW.plus(Duration::from_secs(60));
        let asking = asking(key(|key| {
            key.environment = Some(Environment::Test);
            key.scopes = texts(&["a", "b"]);
            key.allow_ip = vec!["10.0.0.0/8".parse().unwrap()];
            key.limits = Some(keyward_core::key::limit::Limits::new(vec!["10/s".parse().unwrap()]).unwrap());
            key.expires_at = Some(end);
        }));
        let new = read(json!({"name": "ci", "scopes": null}), &asking).unwrap();
        let asks = asking.key.fields;
        assert_eq!((new.owner, new.environment), (asks.owner, asks.environment));
        assert_eq!((new.scopes, new.allow_ip, new.limits), (asks.scopes, asks.allow_ip, asks.limits));
        assert_eq!(new.expires_at, Some(end));
    }

    #[test]
    fn owner_limits_and_credits_cannot_be_chosen_and_all_mistakes_are_told_at_once() {
        let asking = asking(key(|_| {}));
        let wanted = json!({"owner": "globex", "limits": [], "credits": 5, "plan": "p", "scopes": ["a b"]});
        let problems = read(wanted, &asking).unwrap_err();
        assert_eq!(paths(&problems.0), ["name", "scopes[0]", "owner", "limits", "credits", "plan"]);
        assert!(read(json!([]), &asking).is_err());
    }

    #[test]
    fn permissions_that_the_owner_has_lost_are_not_inherited() {
        let mut asking = asking(key(|key| key.scopes = texts(&["a", "b"])));
        asking.owner.as_mut().unwrap().permissions = Some(texts(&["b"]));
        let new = read(json!({"name": "ci"}), &asking).unwrap();
        assert_eq!(new.scopes, ["b"]);
    }

    #[test]
    fn whatever_goes_beyond_the_key_that_asks_is_told_at_its_place() {
        type Change = fn(&mut Key);
        let soon = |key: &mut Key| key.expires_at = Some(NOW.plus(Duration::from_secs(9)));
        let inside = |key: &mut Key| key.allow_ip = vec!["10.1.0.0/16".parse().unwrap()];
        let cases: [(Change, Change, &[&str]); 13] = [
            (|_| {}, |_| {}, &[]),
            (|key| key.scopes = texts(&["a"]), |key| key.scopes = texts(&["a", "b"]), &["scopes[1]"]),
            (|key| key.environment = Some(Environment::Test), |_| {}, &["environment"]),
            (|_| {}, |key| key.environment = Some(Environment::Test), &[]),
            (inside, |_| {}, &["allow_ip"]),
            (
                inside,
                |key| key.allow_ip = vec!["10.1.2.3/32".parse().unwrap(), "10.0.0.0/8".parse().unwrap()],
                &["allow_ip[1]"],
            ),
            (|_| {}, inside, &[]),
            (soon, |_| {}, &["expires_at"]),
            (soon, |key| key.expires_at = Some(NOW.plus(Duration::from_secs(8))), &[]),
            (|_| {}, |key| key.plan = Some("p".into()), &["limits"]),
            (|_| {}, |key| key.limits = Some(keyward_core::key::limit::Limits::default()), &["limits"]),
            (|_| {}, |key| key.member = Some("eve".into()), &["member"]),
            (|key| key.credits = Some(1), |_| {}, &["credits"]),
        ];
        for (n, (asks, other, expected)) in cases.into_iter().enumerate() {
            let found = escalations(&asking(key(asks)), &key(other), &dialect("keyward"));
            assert_eq!(paths(&found), expected, "case {n}");
        }
    }

    #[test]
    fn a_key_has_to_do_with_keys_of_its_own_kind_and_with_those_that_the_dialect_says() {
        for (name, asks, other, expected) in [
            ("auxot", "team", "user", &["kind"][..]),
            ("auxot", "user", "team", &[]),
            ("auxot", "user", "user", &[]),
            ("graph8", "write", "api", &["kind"]),
            ("graph8", "api", "write", &["kind"]),
            ("graph8", "write", "write", &[]),
            ("graph8", "gone", "gone", &[]),
        ] {
            let of_kind = |kind: &str| key(|key| (key.kind, key.environment) = (kind.to_owned(), None));
            let found = escalations(&asking(of_kind(asks)), &of_kind(other), &dialect(name));
            assert_eq!(paths(&found), expected, "{name} {asks} {other}");
        }
    }

    #[test]
    fn a_kind_that_has_its_owners_permissions_is_made_by_its_like_only_whatever_the_dialect_says() {
        let mut auxot = dialect("auxot");
        auxot.formats[1].manages = vec!["user".to_owned()];
        let of_kind = |kind: &str| key(|key| (key.kind, key.environment) = (kind.to_owned(), None));
        assert_eq!(paths(&escalations(&asking(of_kind("team")), &of_kind("user"), &auxot)), ["kind"]);
    }
}
