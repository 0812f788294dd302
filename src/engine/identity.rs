//! What the upstream sees of a request: the identity that was found, never the credential unless the route keeps it,
//! never a copy of either that the client made up.

use crate::engine::credential::{self, Header};
use crate::engine::snapshot::Holder;
use keyward_contract::dialect::{Dialect, Source};
use std::borrow::Cow;

/// A header field as it goes on.
pub type Field<'a> = (&'a str, Cow<'a, [u8]>);

/// Which of the client's header fields are taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Strip {
    /// Those that the filter itself sets.
    Identity,
    /// Those, and what an upstream could take for a credential though none was read there: other spellings of a
    /// source's header field. What stays is the one credential that was checked.
    IdentityAndUnread,
    /// Those, and every source of credentials.
    #[default]
    IdentityAndCredentials,
}

/// The header fields for the upstream: the client's without what is taken away, then the identity's.
///
/// `None` if nothing has to change.
pub fn forwarded<'a>(
    headers: &'a [Header],
    sources: &[Source],
    strip: Strip,
    identity: &'a [(&'static str, String)],
) -> Option<Vec<Field<'a>>> {
    let mut changed = !identity.is_empty();
    let mut forwarded = Vec::with_capacity(headers.len() + identity.len());
    for (name, value) in headers {
        match kept(name, value, sources, strip) {
            Some(value) => {
                changed |= matches!(value, Cow::Owned(_));
                forwarded.push((name.as_str(), value));
            }
            None => changed = true,
        }
    }
    forwarded.extend(identity.iter().map(|(name, value)| (*name, Cow::Borrowed(value.as_bytes()))));
    changed.then_some(forwarded)
}

/// What stays of a field; `None` if nothing does.
fn kept<'a>(name: &str, value: &'a [u8], sources: &[Source], strip: Strip) -> Option<Cow<'a, [u8]>> {
    if is_ours(name) {
        return None;
    }
    let value = if name == "connection" { without_our_options(value) } else { Cow::Borrowed(value) };
    match strip {
        Strip::Identity => Some(value),
        Strip::IdentityAndUnread => {
            let was_read = || sources.iter().any(|source| source.header() == Some(name));
            let is_spelling = |source: &Source| source.header().is_some_and(|of| is_spelling_of(of, name));
            (!sources.iter().any(is_spelling) || was_read()).then_some(value)
        }
        Strip::IdentityAndCredentials => without_credentials(name, value, sources),
    }
}

fn without_credentials<'a>(name: &str, mut value: Cow<'a, [u8]>, sources: &[Source]) -> Option<Cow<'a, [u8]>> {
    for source in sources {
        let rest = match source {
            Source::Header { name: of, .. } if is_spelling_of(of, name) => return None,
            Source::Basic(_) if is_spelling_of("authorization", name) => return None,
            Source::Query(parameter) if name == ":path" => credential::without_parameters(&value, &[parameter]),
            Source::Cookie(cookie) if name == "cookie" => credential::without_cookies(&value, &[cookie]),
            _ => None,
        };
        if let Some(rest) = rest {
            value = Cow::Owned(rest);
        }
    }
    // A cookie field that held nothing but the credential goes as a whole.
    (name != "cookie" || !value.is_empty()).then_some(value)
}

/// The options of a `connection` field without our names: whoever comes next would remove the fields that they name (RFC
/// 9110, section 7.6.1).
fn without_our_options(value: &[u8]) -> Cow<'_, [u8]> {
    let ours = |option: &[u8]| is_ours(&String::from_utf8_lossy(option.trim_ascii()));
    let options = || value.split(|&c| c == b',');
    if !options().any(ours) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(options().filter(|option| !ours(option)).collect::<Vec<_>>().join(&b','))
}

/// The header fields that tell the upstream who is calling.
pub fn headers_of(holder: &Holder, dialect: &Dialect) -> Vec<(&'static str, String)> {
    let key = &holder.key;
    let mut headers = vec![("x-keyward-key-id", key.key_id.clone()), ("x-keyward-kind", key.kind.clone())];
    if let Some(owner) = &key.owner {
        headers.push(("x-keyward-owner", owner.clone()));
    }
    if let Some(plan) = &key.plan {
        headers.push(("x-keyward-plan", plan.clone()));
    }
    if let Some(environment) = key.environment {
        headers.push(("x-keyward-environment", environment.name().to_owned()));
    }
    let scopes = holder.scopes(dialect);
    if !scopes.is_empty() {
        headers.push(("x-keyward-scopes", scopes.join(" ")));
    }
    headers
}

/// Whether an upstream could take the name for one that the filter sets: many read `_` as `-`, and CGI reads every
/// character that is no letter or digit alike.
fn is_ours(name: &str) -> bool {
    let mut letters = name.bytes().map(unify);
    b"x-keyward".iter().all(|&c| letters.next() == Some(c)) && matches!(letters.next(), None | Some(b'-'))
}

fn is_spelling_of(header: &str, name: &str) -> bool {
    name.len() == header.len() && name.bytes().zip(header.bytes()).all(|(a, b)| unify(a) == unify(b))
}

fn unify(c: u8) -> u8 {
    if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { b'-' }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::snapshot::{OwnerState, PlanState};
    use keyward_contract::entry::{Environment, KeyRecord};

    fn names(strip: Strip, sent: &[&str], identity: &[(&'static str, String)]) -> Option<Vec<String>> {
        let sources = Dialect::built_in("keyward").unwrap().unwrap().sources;
        let headers: Vec<Header> = sent.iter().map(|name| ((*name).to_owned(), b"v".to_vec())).collect();
        let forwarded = forwarded(&headers, &sources, strip, identity)?;
        Some(forwarded.into_iter().map(|(name, _)| name.to_owned()).collect())
    }

    #[test]
    fn credentials_and_made_up_identities_are_taken_away_in_every_spelling() {
        let sent = [
            ":path",
            "authorization",
            "x-api-key",
            "x_api_key",
            "x-keyward-key-id",
            "x_keyward_owner",
            "x-keyward_scopes",
            "x-keyward",
            "x.keyward~owner",
            "x-keywarden",
            "accept",
        ];
        let kept = names(Strip::IdentityAndCredentials, &sent, &[]).unwrap();
        assert_eq!(kept, [":path", "x-keywarden", "accept"]);
        let kept = names(Strip::Identity, &sent, &[]).unwrap();
        assert_eq!(kept, [":path", "authorization", "x-api-key", "x_api_key", "x-keywarden", "accept"]);
    }

    #[test]
    fn a_kept_credential_is_the_one_that_was_read() {
        let sent =
            [":path", "authorization", "x-api-key", "x_api_key", "X.Api.Key", "x-keyward-key-id", "cookie", "accept"];
        let kept = names(Strip::IdentityAndUnread, &sent, &[("x-keyward-kind", "key".to_owned())]).unwrap();
        assert_eq!(kept, [":path", "authorization", "x-api-key", "cookie", "accept", "x-keyward-kind"]);
        let sources = [Source::Query("key".into()), Source::Cookie("key".into())];
        let headers = [(":path", "/a?key=s&b=c"), ("cookie", "x=y; key=s")]
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        assert_eq!(forwarded(&headers, &sources, Strip::IdentityAndUnread, &[]), None);
    }

    #[test]
    fn a_credential_in_the_query_or_a_cookie_is_taken_out_of_it() {
        let sources = [Source::Query("key".into()), Source::Cookie("key".into())];
        let headers: Vec<Header> =
            [(":path", "/a?key=s&b=c"), ("cookie", "x=y; key=s"), ("cookie", "key=s"), ("accept", "*/*")]
                .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
                .into();
        let kept = forwarded(&headers, &sources, Strip::IdentityAndCredentials, &[]).unwrap();
        let kept: Vec<_> = kept.iter().map(|(name, value)| (*name, std::str::from_utf8(value).unwrap())).collect();
        assert_eq!(kept, [(":path", "/a?b=c"), ("cookie", "x=y"), ("accept", "*/*")]);
        assert_eq!(forwarded(&headers, &sources, Strip::Identity, &[]), None);
    }

    #[test]
    fn the_client_cannot_have_the_identity_removed_at_the_next_hop() {
        let headers = [("connection".to_owned(), b"Upgrade, X-Keyward-Key-Id,x_keyward_kind".to_vec())];
        let kept = forwarded(&headers, &[], Strip::Identity, &[]).unwrap();
        assert_eq!(kept, [("connection", Cow::Borrowed(&b"Upgrade"[..]))]);
        assert_eq!(names(Strip::Identity, &["connection"], &[]), None);
    }

    #[test]
    fn a_request_that_needs_no_change_is_left_alone() {
        assert_eq!(names(Strip::IdentityAndCredentials, &[":path", "accept"], &[]), None);
        assert_eq!(names(Strip::Identity, &["authorization"], &[]), None);
    }

    #[test]
    fn the_upstream_is_told_who_calls() {
        let key = KeyRecord {
            key_id: "key_1".into(),
            kind: "key".into(),
            owner: Some("acme".into()),
            plan: Some("pro".into()),
            environment: Some(Environment::Test),
            scopes: vec!["a".into(), "b".into()],
            ..KeyRecord::default()
        };
        let holder = Holder { key, owner: OwnerState::Unowned, plan: PlanState::NoPlan };
        let headers = headers_of(&holder, &Dialect::built_in("keyward").unwrap().unwrap());
        let expected = [
            ("x-keyward-key-id", "key_1"),
            ("x-keyward-kind", "key"),
            ("x-keyward-owner", "acme"),
            ("x-keyward-plan", "pro"),
            ("x-keyward-environment", "test"),
            ("x-keyward-scopes", "a b"),
        ];
        assert_eq!(headers, expected.map(|(name, value)| (name, value.to_owned())));
        assert!(headers.iter().all(|(name, _)| is_ours(name)));
    }
}
