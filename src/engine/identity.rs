//! What the upstream sees of a request: the identity that was found, never the credential, never a copy of either
//! that the client made up.

use crate::engine::credential::Header;
use crate::engine::snapshot::Holder;
use keyward_contract::dialect::Source;

/// Which of the client's header fields are taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strip {
    /// Those that the filter itself sets.
    Identity,
    /// Those, and every source of credentials.
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
) -> Option<Vec<(&'a str, &'a [u8])>> {
    let taken = |name: &str| {
        is_ours(name)
            || strip == Strip::IdentityAndCredentials
                && sources.iter().any(|source| is_spelling_of(&source.header, name))
    };
    if identity.is_empty() && !headers.iter().any(|(name, _)| taken(name)) {
        return None;
    }
    let kept = headers.iter().filter(|(name, _)| !taken(name)).map(|(name, value)| (name.as_str(), value.as_slice()));
    Some(kept.chain(identity.iter().map(|(name, value)| (*name, value.as_bytes()))).collect())
}

/// The header fields that tell the upstream who is calling.
pub fn headers_of(holder: &Holder) -> Vec<(&'static str, String)> {
    let key = &holder.key;
    let mut headers = vec![("x-keyward-key-id", key.key_id.clone()), ("x-keyward-kind", key.kind.clone())];
    if let Some(owner) = &key.owner {
        headers.push(("x-keyward-owner", owner.clone()));
    }
    if let Some(environment) = key.environment {
        headers.push(("x-keyward-environment", environment.name().to_owned()));
    }
    if !key.scopes.is_empty() {
        headers.push(("x-keyward-scopes", key.scopes.join(" ")));
    }
    headers
}

/// Whether an upstream could take the name for one that the filter sets: many read `_` as `-`.
fn is_ours(name: &str) -> bool {
    let mut letters = name.bytes().map(unify);
    b"x-keyward".iter().all(|&c| letters.next() == Some(c)) && matches!(letters.next(), None | Some(b'-'))
}

fn is_spelling_of(header: &str, name: &str) -> bool {
    name.len() == header.len() && name.bytes().zip(header.bytes()).all(|(a, b)| unify(a) == unify(b))
}

fn unify(c: u8) -> u8 {
    if c == b'_' { b'-' } else { c.to_ascii_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::snapshot::OwnerState;
    use keyward_contract::dialect::Dialect;
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
            "x-keywarden",
            "accept",
        ];
        let kept = names(Strip::IdentityAndCredentials, &sent, &[]).unwrap();
        assert_eq!(kept, [":path", "x-keywarden", "accept"]);
        let kept = names(Strip::Identity, &sent, &[]).unwrap();
        assert_eq!(kept, [":path", "authorization", "x-api-key", "x_api_key", "x-keywarden", "accept"]);
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
            environment: Some(Environment::Test),
            scopes: vec!["a".into(), "b".into()],
            ..KeyRecord::default()
        };
        let headers = headers_of(&Holder { key, owner: OwnerState::Unowned });
        let expected = [
            ("x-keyward-key-id", "key_1"),
            ("x-keyward-kind", "key"),
            ("x-keyward-owner", "acme"),
            ("x-keyward-environment", "test"),
            ("x-keyward-scopes", "a b"),
        ];
        assert_eq!(headers, expected.map(|(name, value)| (name, value.to_owned())));
        assert!(headers.iter().all(|(name, _)| is_ours(name)));
    }
}
