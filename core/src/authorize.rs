//! May this key do this now? The one decision, for edge and server.
//!
//! [`KeyView`] borrows from an edge's record or from a stored key, so both keep their own types and a request allocates
//! nothing. The checks have one order: revoked (the key, or this secret of it), expired, paused, owner, kind, client address,
//! scopes. The first that fails is the result.
//!
//! Not decided here: which key a credential is, and whether limits and credits are left, which edges count. The environment of
//! a key refuses nothing; the upstream gets it in a header.

use crate::dialect::Dialect;
use crate::refusal::Refusal;
use ipnet::IpNet;
use std::net::IpAddr;

/// A key under one of its secrets, with its owner.
#[derive(Clone, Copy, Debug)]
pub struct KeyView<'a> {
    /// Whether it was revoked.
    pub is_revoked: bool,
    /// When this secret expires though the key stays valid, in milliseconds since the Unix epoch.
    pub secret_not_after_ms: Option<u64>,
    /// When the key expires, in milliseconds since the Unix epoch.
    pub expires_at_ms: Option<u64>,
    /// Whether it is paused.
    pub is_paused: bool,
    /// Its owner.
    pub owner: OwnerView<'a>,
    /// Its kind, in the dialect's words.
    pub kind: &'a str,
    /// The client networks it may be used from; empty means from anywhere.
    pub allowlist: &'a [IpNet],
    /// Its own permissions.
    pub scopes: &'a [String],
}

/// What is known of a key's owner.
#[derive(Clone, Copy, Debug)]
pub enum OwnerView<'a> {
    /// The key has no owner.
    None,
    /// The key names an owner without a readable record: the key is refused.
    Unknown,
    /// The owner.
    Known {
        /// Whether all its keys are refused.
        disabled: bool,
        /// The most its keys may do; `None` does not bound them.
        permissions: Option<&'a [String]>,
    },
}

/// What a request requires of a key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Requirement<'a> {
    /// The kinds that are accepted; `None` accepts all.
    pub kinds: Option<&'a [String]>,
    /// The required permissions, all of them.
    pub scopes: &'a [String],
}

/// Why a key may not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial<'a> {
    /// The key was revoked, or this secret of it is past its grace period.
    Revoked,
    /// The key is past its expiry.
    Expired,
    /// The key is paused.
    Paused,
    /// It has no owner where the dialect requires one, or its owner is disabled or unknown.
    Unassociated,
    /// Keys of its kind are not accepted.
    WrongKind,
    /// The client's address is unknown or not in the key's allowlist.
    ForbiddenIp,
    /// The key or its owner lacks this permission.
    InsufficientScope(&'a str),
}

/// Decides whether the client may use the key now for a request with these requirements.
///
/// Calls `client` only if the key has an allowlist.
///
/// # Errors
/// The first check that fails.
pub fn authorize<'r>(
    key: &KeyView<'_>,
    dialect: &Dialect,
    now_ms: u64,
    requirements: &[Requirement<'r>],
    client: impl FnOnce() -> Option<IpAddr>,
) -> Result<(), Denial<'r>> {
    key.usable(dialect, now_ms)?;
    let is_accepted = |kinds: &[String]| kinds.iter().any(|kind| kind == key.kind);
    if !requirements.iter().filter_map(|requirement| requirement.kinds).all(is_accepted) {
        return Err(Denial::WrongKind);
    }
    if !key.allowlist.is_empty() {
        let address = client().map(|address| address.to_canonical());
        if !address.is_some_and(|address| key.allowlist.iter().any(|network| network.contains(&address))) {
            return Err(Denial::ForbiddenIp);
        }
    }
    let mut needed = requirements.iter().flat_map(|requirement| requirement.scopes);
    match needed.find(|scope| !key.has_scope(scope, dialect)) {
        Some(lacking) => Err(Denial::InsufficientScope(lacking)),
        None => Ok(()),
    }
}

impl KeyView<'_> {
    /// Checks what ends a key for good.
    ///
    /// For a key stored as a password hash this comes before verification, so that no hash is computed for a key that is
    /// revoked or expired. Pause and owner are checked after verification: a key can be resumed and an owner enabled again,
    /// and only a client with the whole key may learn that it is paused or its owner disabled.
    ///
    /// # Errors
    /// If the key or this secret is revoked, or the key is expired.
    pub fn state(&self, now_ms: u64) -> Result<(), Denial<'static>> {
        let is_past = |time: Option<u64>| time.is_some_and(|time| time <= now_ms);
        if self.is_revoked || is_past(self.secret_not_after_ms) {
            return Err(Denial::Revoked);
        }
        if is_past(self.expires_at_ms) { Err(Denial::Expired) } else { Ok(()) }
    }

    /// Checks what does not depend on the request: [state](Self::state), pause, owner.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn usable(&self, dialect: &Dialect, now_ms: u64) -> Result<(), Denial<'static>> {
        self.state(now_ms)?;
        if self.is_paused {
            return Err(Denial::Paused);
        }
        let is_associated = match self.owner {
            OwnerView::None => !dialect.owner_required,
            OwnerView::Unknown => false,
            OwnerView::Known { disabled, .. } => !disabled,
        };
        if is_associated { Ok(()) } else { Err(Denial::Unassociated) }
    }

    /// Whether both the key and its owner have a permission; for kinds with the permissions of their owner, whether the owner
    /// has it.
    pub fn has_scope(&self, scope: &str, dialect: &Dialect) -> bool {
        let holds =
            |scopes: &[String]| scopes.iter().any(|held| held == scope || Some(held) == dialect.superscope.as_ref());
        let owners = match self.owner {
            OwnerView::Known { permissions, .. } => permissions,
            OwnerView::None | OwnerView::Unknown => None,
        };
        if dialect.has_owners_scopes(self.kind) {
            // An owner without a list of permissions grants none.
            return owners.is_some_and(holds);
        }
        owners.is_none_or(holds) && holds(self.scopes)
    }
}

impl<'a> Denial<'a> {
    /// The reason in responses, metrics and logs.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Revoked => Refusal::Revoked,
            Self::Expired => Refusal::Expired,
            Self::Paused => Refusal::Paused,
            Self::Unassociated => Refusal::Unassociated,
            Self::WrongKind => Refusal::WrongKind,
            Self::ForbiddenIp => Refusal::ForbiddenIp,
            Self::InsufficientScope(_) => Refusal::InsufficientScope,
        }
    }

    /// The missing permission; empty for other reasons.
    pub fn scope(self) -> &'a str {
        match self {
            Self::InsufficientScope(scope) => scope,
            Self::Revoked | Self::Expired | Self::Paused | Self::Unassociated | Self::WrongKind | Self::ForbiddenIp => {
                ""
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Stage;
    use std::cell::Cell;

    const NOW: u64 = 1000;

    fn dialect(name: &str) -> Dialect {
        Dialect::built_in(name).unwrap().unwrap()
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    const KEY: KeyView<'_> = KeyView {
        is_revoked: false,
        secret_not_after_ms: None,
        expires_at_ms: None,
        is_paused: false,
        owner: OwnerView::None,
        kind: "key",
        allowlist: &[],
        scopes: &[],
    };

    fn decide(key: &KeyView<'_>) -> Result<(), Denial<'static>> {
        authorize(key, &dialect("keyward"), NOW, &[], || None)
    }

    /// All checks fail at first; they are fixed one by one.
    #[test]
    fn the_first_failing_check_is_the_result() {
        let (allowlist, kinds, scopes) = (["10.0.0.0/8".parse().unwrap()], texts(&["write"]), texts(&["read"]));
        let dialect = Dialect { owner_required: true, ..dialect("keyward") };
        let mut key = KeyView {
            is_revoked: true,
            secret_not_after_ms: Some(NOW),
            expires_at_ms: Some(NOW),
            is_paused: true,
            owner: OwnerView::None,
            kind: "key",
            allowlist: &allowlist,
            scopes: &[],
        };
        let requirement = Requirement { kinds: Some(&kinds), scopes: &scopes };
        let decide = |key: &KeyView<'_>| authorize(key, &dialect, NOW, &[requirement], || None);
        let mut denials = vec![decide(&key)];
        key.is_revoked = false;
        denials.push(decide(&key));
        key.secret_not_after_ms = Some(NOW + 1);
        denials.push(decide(&key));
        key.expires_at_ms = Some(NOW + 1);
        denials.push(decide(&key));
        key.is_paused = false;
        denials.push(decide(&key));
        key.owner = OwnerView::Unknown;
        denials.push(decide(&key));
        key.owner = OwnerView::Known { disabled: true, permissions: None };
        denials.push(decide(&key));
        key.owner = OwnerView::Known { disabled: false, permissions: None };
        denials.push(decide(&key));
        key.kind = "write";
        denials.push(decide(&key));
        key.allowlist = &[];
        denials.push(decide(&key));
        key.scopes = &scopes;
        denials.push(decide(&key));
        assert_eq!(
            denials,
            [
                Err(Denial::Revoked),
                Err(Denial::Revoked),
                Err(Denial::Expired),
                Err(Denial::Paused),
                Err(Denial::Unassociated),
                Err(Denial::Unassociated),
                Err(Denial::Unassociated),
                Err(Denial::WrongKind),
                Err(Denial::ForbiddenIp),
                Err(Denial::InsufficientScope("read")),
                Ok(()),
            ]
        );
        let places = denials
            .iter()
            .filter_map(|denial| denial.err())
            .map(|denial| Refusal::ALL.into_iter().position(|refusal| refusal == denial.refusal()).unwrap());
        assert!(places.is_sorted(), "in the order of Refusal::ALL");
    }

    #[test]
    fn denials_cover_exactly_two_stages() {
        for refusal in Refusal::ALL {
            let denials = [
                Denial::Revoked,
                Denial::Expired,
                Denial::Paused,
                Denial::Unassociated,
                Denial::WrongKind,
                Denial::ForbiddenIp,
                Denial::InsufficientScope(""),
            ];
            let is_here = denials.into_iter().any(|denial| denial.refusal() == refusal);
            assert_eq!(matches!(refusal.stage(), Stage::Key | Stage::Request), is_here, "{}", refusal.name());
        }
    }

    #[test]
    fn a_time_is_past_at_its_millisecond() {
        for (time, secret, key) in [
            (NOW - 1, Err(Denial::Revoked), Err(Denial::Expired)),
            (NOW, Err(Denial::Revoked), Err(Denial::Expired)),
            (NOW + 1, Ok(()), Ok(())),
        ] {
            assert_eq!(decide(&KeyView { secret_not_after_ms: Some(time), ..KEY }), secret, "{time}");
            assert_eq!(decide(&KeyView { expires_at_ms: Some(time), ..KEY }), key, "{time}");
        }
    }

    #[test]
    fn a_pause_is_checked_after_the_state() {
        let key = KeyView { is_paused: true, ..KEY };
        assert_eq!(key.state(NOW), Ok(()));
        assert_eq!(key.usable(&dialect("keyward"), NOW), Err(Denial::Paused));
    }

    #[test]
    fn a_disabled_owner_is_checked_after_the_state() {
        let key = KeyView { owner: OwnerView::Known { disabled: true, permissions: None }, ..KEY };
        assert_eq!(key.state(NOW), Ok(()));
        assert_eq!(key.usable(&dialect("keyward"), NOW), Err(Denial::Unassociated));
    }

    #[test]
    fn an_owner_is_required_only_by_the_dialect() {
        let required = Dialect { owner_required: true, ..dialect("keyward") };
        let owned = KeyView { owner: OwnerView::Known { disabled: false, permissions: None }, ..KEY };
        assert_eq!(decide(&KEY), Ok(()));
        assert_eq!(KEY.usable(&required, NOW), Err(Denial::Unassociated));
        assert_eq!(owned.usable(&required, NOW), Ok(()));
    }

    #[test]
    fn an_allowlist_is_enforced_for_both_ip_versions() {
        let allowlist = ["10.1.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let key = KeyView { allowlist: &allowlist, ..KEY };
        let from = |client: Option<&str>| {
            let client = client.map(|client| client.parse().unwrap());
            authorize(&key, &dialect("keyward"), NOW, &[], || client)
        };
        for allowed in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"] {
            assert_eq!(from(Some(allowed)), Ok(()), "{allowed}");
        }
        for forbidden in [Some("10.2.0.1"), Some("::ffff:10.2.0.1"), Some("2001:db9::1"), None] {
            assert_eq!(from(forbidden), Err(Denial::ForbiddenIp), "{forbidden:?}");
        }
        let asked = Cell::new(false);
        let ask = || {
            asked.set(true);
            None
        };
        assert_eq!((authorize(&KEY, &dialect("keyward"), NOW, &[], ask), asked.get()), (Ok(()), false));
    }

    #[test]
    fn all_requirements_must_be_met() {
        let [read, both] = [texts(&["read"]), texts(&["read", "write"])];
        let [this, other] = [texts(&["key", "other"]), texts(&["other"])];
        let key = KeyView { scopes: &read, ..KEY };
        let decide = |requirements: &[Requirement<'_>]| {
            let denied = authorize(&key, &dialect("keyward"), NOW, requirements, || None).err();
            denied.map(|denial| (denial.refusal(), denial.scope().to_owned()))
        };
        let [of_read, of_both] = [&read, &both].map(|scopes| Requirement { kinds: Some(&this), scopes });
        assert_eq!(decide(&[of_read, Requirement::default()]), None);
        assert_eq!(decide(&[of_read, of_both]), Some((Refusal::InsufficientScope, "write".to_owned())));
        let of_other = Requirement { kinds: Some(&other), scopes: &[] };
        assert_eq!(decide(&[of_both, of_other]), Some((Refusal::WrongKind, String::new())), "kinds before scopes");
        assert_eq!(decide(&[Requirement { kinds: Some(&[]), scopes: &[] }]), Some((Refusal::WrongKind, String::new())));
    }

    #[test]
    fn a_permission_needs_key_and_owner_or_owner_alone() {
        let auxot = dialect("auxot");
        assert!(auxot.has_owners_scopes("user") && !auxot.has_owners_scopes("team"));
        for (kind, scopes, permissions, expected) in [
            ("team", &["a"][..], None, true),
            ("team", &["a"], Some(&["a", "b"][..]), true),
            ("team", &["a"], Some(&["b"]), false),
            ("team", &["b"], Some(&["a"]), false),
            ("user", &[], Some(&["a"]), true),
            ("user", &["a"], Some(&["b"]), false),
            ("user", &["a"], None, false),
        ] {
            let (scopes, permissions) = (texts(scopes), permissions.map(texts));
            let owner = OwnerView::Known { disabled: false, permissions: permissions.as_deref() };
            let key = KeyView { kind, scopes: &scopes, owner, ..KEY };
            assert_eq!(key.has_scope("a", &auxot), expected, "{kind} {scopes:?} {permissions:?}");
        }
        let scopes = texts(&["a"]);
        for owner in [OwnerView::None, OwnerView::Unknown] {
            assert!(KeyView { kind: "team", scopes: &scopes, owner, ..KEY }.has_scope("a", &auxot));
            assert!(!KeyView { kind: "user", scopes: &scopes, owner, ..KEY }.has_scope("a", &auxot));
        }
    }

    #[test]
    fn the_superscope_includes_all_permissions() {
        let (ai_api, admin, read) = (dialect("ai-api"), texts(&["admin"]), texts(&["read"]));
        let key = |scopes, permissions| KeyView {
            scopes,
            owner: OwnerView::Known { disabled: false, permissions: Some(permissions) },
            ..KEY
        };
        assert!(key(&admin, &read).has_scope("read", &ai_api) && key(&read, &admin).has_scope("read", &ai_api));
        assert!(!key(&admin, &read).has_scope("write", &ai_api));
    }
}
