//! The header fields that the upstream receives: the authenticated identity, without the credential unless the route
//! keeps it, and without a client's forgery of either.

use crate::engine::credential::{self, Header};
use crate::engine::policy::Policy;
use crate::engine::rules::Strip;
use crate::engine::snapshot::{IdentityField, ResolvedKey};
use keyward_core::dialect::Source;
use std::borrow::Cow;

/// A change to a request's header fields; changes apply in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Removes all fields of this name.
    Remove(&'a str),
    /// Replaces the value of the only field of this name.
    Replace(&'a str, Vec<u8>),
    /// Adds a field.
    Add(&'a str, Cow<'a, [u8]>),
}

/// The key's id, which the access log reads.
pub const KEY_ID: &str = "x-keyward-key-id";
/// The kind of the key, in the dialect's terms.
pub const KIND: &str = "x-keyward-kind";
/// The key's owner.
pub const OWNER: &str = "x-keyward-owner";
/// The key's plan.
pub const PLAN: &str = "x-keyward-plan";
/// The key's environment: live or test.
pub const ENVIRONMENT: &str = "x-keyward-environment";
/// The permissions that the key may use at this moment.
pub const SCOPES: &str = "x-keyward-scopes";

/// All of these names, in the order in which they are added.
pub const FIELDS: [&str; 6] = [KEY_ID, KIND, OWNER, PLAN, ENVIRONMENT, SCOPES];

/// Fields by which some frameworks let a client override the method or path that the rules have matched. Removed from
/// every forwarded request, in every spelling.
const OVERRIDES: [&str; 5] =
    ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];

/// The changes that remove the client's disallowed header fields and add the identity.
///
/// Returns changes rather than the resulting fields, since each costs a call to the host: a request with many fields
/// costs no more than one with few.
pub fn changes<'a>(
    headers: &[Header<'a>],
    sources: &[Source],
    strip: Strip,
    identity: &'a [IdentityField],
) -> Vec<Change<'a>> {
    let mut changes = Vec::with_capacity(identity.len() + 2);
    for (name, value) in headers {
        let is_kept = matches!(kept(name, value, sources, strip), Some(Cow::Borrowed(_)));
        if is_kept || changes.contains(&Change::Remove(name)) {
            continue;
        }
        let of_name = || headers.iter().filter(|(other, _)| other == name);
        let mut rest: Vec<_> = of_name().filter_map(|(name, value)| kept(name, value, sources, strip)).collect();
        if of_name().count() == 1
            && let Some(value) = rest.pop()
        {
            changes.push(Change::Replace(name, value.into_owned()));
        } else {
            changes.push(Change::Remove(name));
            changes.extend(rest.into_iter().map(|value| Change::Add(name, value)));
        }
    }
    changes.extend(identity.iter().map(|(name, value)| Change::Add(name, Cow::Borrowed(value.as_bytes()))));
    changes
}

/// The header fields after these changes, as Envoy would apply them; for tests.
pub fn changed(headers: &[Header<'_>], changes: &[Change<'_>]) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
    for change in changes {
        match change {
            Change::Remove(name) => fields.retain(|(other, _)| other != name),
            Change::Replace(name, with) => {
                let of_name = fields.iter_mut().filter(|(other, _)| other == name);
                of_name.for_each(|(_, value)| value.clone_from(with));
            }
            Change::Add(name, value) => fields.push(((*name).to_owned(), value.to_vec())),
        }
    }
    fields
}

/// The changes to the header fields of a refused request, so that the access log finds the key's id there and never one
/// that the client forged.
pub fn of_refused<'a>(headers: &[Header<'_>], key_id: Option<&'a str>) -> Vec<Change<'a>> {
    let is_made_up = headers.iter().any(|(name, _)| *name == KEY_ID);
    let key_id = key_id.map(|key_id| Change::Add(KEY_ID, Cow::Borrowed(key_id.as_bytes())));
    is_made_up.then_some(Change::Remove(KEY_ID)).into_iter().chain(key_id).collect()
}

/// What remains of a field; `None` if nothing does.
fn kept<'a>(name: &str, value: &'a [u8], sources: &[Source], strip: Strip) -> Option<Cow<'a, [u8]>> {
    if matches!(name.as_bytes(), [b'x' | b'X', ..]) && (is_ours(name) || is_override(name)) {
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
    // A cookie field that held only the credential is removed entirely.
    (name != "cookie" || !value.is_empty()).then_some(value)
}

/// The options of a `connection` field without the filter's names: the next hop would remove the fields that they name
/// (RFC 9110, section 7.6.1).
fn without_our_options(value: &[u8]) -> Cow<'_, [u8]> {
    let ours = |option: &[u8]| is_ours(&String::from_utf8_lossy(option.trim_ascii()));
    let options = || value.split(|&c| c == b',');
    if !options().any(ours) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(options().filter(|option| !ours(option)).collect::<Vec<_>>().join(&b','))
}

/// The header fields that identify the caller to the upstream, according to the policy.
pub fn headers_of(holder: &ResolvedKey, policy: &Policy) -> Vec<IdentityField> {
    let key = &holder.key;
    let scopes = holder.scopes(&policy.dialect).join(" ");
    let fields = [
        (KEY_ID, Some(key.key_id.clone())),
        (KIND, Some(key.kind.clone())),
        (OWNER, key.owner.clone()),
        (PLAN, key.plan.clone()),
        (ENVIRONMENT, key.environment.map(|environment| environment.name().to_owned())),
        (SCOPES, Some(scopes).filter(|scopes| !scopes.is_empty())),
    ];
    let wanted = fields.into_iter().filter(|(name, _)| policy.identity.contains(name));
    wanted.filter_map(|(name, value)| Some((name, value?))).collect()
}

impl ResolvedKey {
    /// The header fields that tell the upstream who is calling. A worker has one policy.
    pub fn identity(&self, policy: &Policy) -> &[IdentityField] {
        self.identity.get_or_init(|| headers_of(self, policy))
    }
}

/// Whether an upstream could take the name for one that the filter sets: many read `_` as `-`, and CGI treats all
/// characters other than letters and digits alike.
fn is_ours(name: &str) -> bool {
    let mut letters = name.bytes().map(unify);
    b"x-keyward".iter().all(|&c| letters.next() == Some(c)) && matches!(letters.next(), None | Some(b'-'))
}

fn is_override(name: &str) -> bool {
    matches!(name.len(), 13 | 14 | 17 | 22) && OVERRIDES.iter().any(|of| is_spelling_of(of, name))
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
    use crate::policy::Config;
    use keyward_core::dialect::Dialect;
    use keyward_core::key::environment::Environment;
    use keyward_core::wire::entry::KeyRecord;

    fn changed_by(strip: Strip, sources: &[Source], sent: &[(&str, &str)], identity: &[IdentityField]) -> Vec<String> {
        let headers: Vec<Header<'_>> = sent.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let changed = changed(&headers, &changes(&headers, sources, strip, identity));
        changed.into_iter().map(|(name, value)| format!("{name}: {}", String::from_utf8(value).unwrap())).collect()
    }

    fn names(strip: Strip, sent: &[&str], identity: &[IdentityField]) -> Vec<String> {
        let sources = Dialect::built_in("keyward").unwrap().unwrap().sources;
        let sent: Vec<_> = sent.iter().map(|name| (*name, "v")).collect();
        let fields = changed_by(strip, &sources, &sent, identity);
        fields.iter().map(|field| field.rsplit_once(": ").unwrap().0.to_owned()).collect()
    }

    fn needs_changes(strip: Strip, sources: &[Source], sent: &[(&str, &str)]) -> bool {
        let headers: Vec<Header<'_>> = sent.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        !changes(&headers, sources, strip, &[]).is_empty()
    }

    /// Credentials and forged identities are removed in every spelling.
    #[test]
    fn credentials_and_forged_identity_are_removed() {
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
        let kept = names(Strip::IdentityAndCredentials, &sent, &[]);
        assert_eq!(kept, [":path", "x-keywarden", "accept"]);
        let kept = names(Strip::Identity, &sent, &[]);
        assert_eq!(kept, [":path", "authorization", "x-api-key", "x_api_key", "x-keywarden", "accept"]);
    }

    /// Fields that override method or path are removed in every spelling; all others stay.
    #[test]
    fn method_and_path_overrides_are_removed() {
        let sent = [
            "x-http-method-override",
            "x.http.method.override",
            "x_http-method~override",
            "x-http-method",
            "x!method'override",
            "x-original-url",
            "x_original_url",
            "x-rewrite.url",
            "x-http-methods",
            "x-original-urls",
            "xhttpmethodoverride",
            "accept",
        ];
        for strip in [Strip::Identity, Strip::IdentityAndUnread, Strip::IdentityAndCredentials] {
            let kept = names(strip, &sent, &[]);
            assert_eq!(kept, ["x-http-methods", "x-original-urls", "xhttpmethodoverride", "accept"]);
        }
    }

    #[test]
    fn kept_credential_is_the_one_that_was_read() {
        let sent =
            [":path", "authorization", "x-api-key", "x_api_key", "X.Api.Key", "x-keyward-key-id", "cookie", "accept"];
        let kept = names(Strip::IdentityAndUnread, &sent, &[("x-keyward-kind", "key".to_owned())]);
        assert_eq!(kept, [":path", "authorization", "x-api-key", "cookie", "accept", "x-keyward-kind"]);
        let sources = [Source::Query("key".into()), Source::Cookie("key".into())];
        let sent = [(":path", "/a?key=s&b=c"), ("cookie", "x=y; key=s")];
        assert!(!needs_changes(Strip::IdentityAndUnread, &sources, &sent));
    }

    #[test]
    fn credential_in_query_or_cookie_is_removed() {
        let sources = [Source::Query("key".into()), Source::Cookie("key".into())];
        let sent = [(":path", "/a?key=s&b=c"), ("cookie", "x=y; key=s"), ("cookie", "key=s"), ("accept", "*/*")];
        let kept = changed_by(Strip::IdentityAndCredentials, &sources, &sent, &[]);
        assert_eq!(kept, [":path: /a?b=c", "accept: */*", "cookie: x=y"]);
        assert!(!needs_changes(Strip::Identity, &sources, &sent));
    }

    /// Of several fields with one name, those without a credential keep their value and order.
    #[test]
    fn fields_without_credential_keep_value_and_order() {
        let sent = [("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2; key=s"), ("cookie", "c=3")];
        let kept = changed_by(Strip::IdentityAndCredentials, &[Source::Cookie("key".into())], &sent, &[]);
        assert_eq!(kept, ["accept: */*", "cookie: a=1", "cookie: b=2", "cookie: c=3"]);
    }

    #[test]
    fn identity_replaces_a_forged_one() {
        let sent = [("x-keyward-kind", "a"), ("x-keyward-kind", "b")];
        let kept = changed_by(Strip::Identity, &[], &sent, &[("x-keyward-kind", "key".to_owned())]);
        assert_eq!(kept, ["x-keyward-kind: key"]);
    }

    #[test]
    fn client_cannot_have_the_next_hop_remove_identity() {
        let kept = changed_by(Strip::Identity, &[], &[("connection", "Upgrade, X-Keyward-Key-Id,x_keyward_kind")], &[]);
        assert_eq!(kept, ["connection: Upgrade"]);
        assert!(!needs_changes(Strip::Identity, &[], &[("connection", "v")]));
    }

    #[test]
    fn refused_request_carries_only_its_own_key_id() {
        let sent: [Header<'_>; 2] = [(KEY_ID, b"made-up"), ("accept", b"*/*")];
        let ids = |key_id| {
            let fields = changed(&sent, &of_refused(&sent, key_id)).into_iter();
            fields.filter(|(name, _)| name == KEY_ID).map(|(_, value)| value).collect::<Vec<_>>()
        };
        assert_eq!((ids(Some("key_1")), ids(None)), (vec![b"key_1".to_vec()], Vec::new()));
        assert_eq!(of_refused(&sent[1..], None), []);
    }

    #[test]
    fn request_without_changes_is_left_alone() {
        let sources = Dialect::built_in("keyward").unwrap().unwrap().sources;
        assert!(!needs_changes(Strip::IdentityAndCredentials, &sources, &[(":path", "/"), ("accept", "*/*")]));
        assert!(!needs_changes(Strip::Identity, &sources, &[("authorization", "Bearer x")]));
    }

    #[test]
    fn upstream_receives_the_callers_identity() {
        let key = KeyRecord {
            key_id: "key_1".into(),
            kind: "key".into(),
            owner: Some("acme".into()),
            plan: Some("pro".into()),
            environment: Some(Environment::Test),
            scopes: vec!["a".into(), "b".into()],
            ..KeyRecord::default()
        };
        let holder = ResolvedKey::new(key, OwnerState::Unowned, PlanState::NoPlan);
        let identity_of = |identity: &str| {
            let text = format!(r#"{{"dialect": "keyward", "control_plane": {{"cluster": "c"}}{identity}}}"#);
            headers_of(&holder, &Config::parse(text.as_bytes()).unwrap().policy)
        };
        let headers = identity_of("");
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
        let some = identity_of(r#", "identity_headers": ["scopes", "owner"]"#);
        assert_eq!(some, [expected[2], expected[5]].map(|(name, value)| (name, value.to_owned())));
        assert_eq!(identity_of(r#", "identity_headers": []"#), []);
    }
}
