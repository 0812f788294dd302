//! A key with its secret and owner, as [`keyward_core::authorize`] decides on it.

use super::{Key, KeyFields, Owner, Secret};
use crate::clock::Timestamp;
use keyward_core::authorize::{KeyView, OwnerView};

/// The key as `authorize` sees it, under one of its secrets. The pattern names all fields, so that a new one does not compile
/// until it is decided whether it matters here.
pub fn key_view<'a>(key: &'a Key, secret: &Secret, owner: Option<&'a Owner>) -> KeyView<'a> {
    let Key { fields, revoked_at, pause, id: _, created_at: _, spent: _, last_used_at: _, version: _, secrets: _ } =
        key;
    let KeyFields {
        expires_at,
        owner: owner_id,
        kind,
        allow_ip,
        scopes,
        // Counted at the edges.
        limits: _,
        plan: _,
        credits: _,
        // Descriptive, or passed to the upstream.
        name: _,
        environment: _,
        member: _,
        metadata: _,
    } = fields;
    let owner = match (owner_id, owner) {
        (_, Some(owner)) => OwnerView::Known { disabled: owner.disabled, permissions: owner.permissions.as_deref() },
        (Some(_), None) => OwnerView::Unknown,
        (None, None) => OwnerView::None,
    };
    KeyView {
        is_revoked: revoked_at.is_some(),
        secret_not_after_ms: secret.not_after.map(Timestamp::as_ms),
        expires_at_ms: expires_at.map(Timestamp::as_ms),
        is_paused: pause.is_some(),
        owner,
        kind,
        allowlist: allow_ip,
        scopes,
    }
}

/// Whether neither the key nor this secret of it is revoked or expired at that time. A paused key is neither.
pub fn is_active(key: &Key, secret: &Secret, now: Timestamp) -> bool {
    key_view(key, secret, None).state(now.as_ms()).is_ok()
}
