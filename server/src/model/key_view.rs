//! A key with its secret and owner, as [`keyward_core::authorize`] decides on it.

use super::{Key, KeyFields, Owner, Secret};
use crate::clock::Timestamp;
use keyward_core::authorize::{KeyView, OwnerView};

/// A key as it is authorized, by one of its secrets and with the owner that is stored of it. A field that is added to keys is
/// named here once somebody has decided whether it is for that.
pub fn key_view<'a>(key: &'a Key, secret: &Secret, owner: Option<&'a Owner>) -> KeyView<'a> {
    let Key { fields, revoked_at, id: _, created_at: _, spent: _, last_used_at: _, version: _, secrets: _ } = key;
    let KeyFields {
        expires_at,
        owner: owner_id,
        kind,
        allow_ip,
        scopes,
        // Limits and credits are counted at the edges.
        limits: _,
        plan: _,
        credits: _,
        // What describes it, or is told to the upstream.
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
        owner,
        kind,
        allowlist: allow_ip,
        scopes,
    }
}

/// Whether a secret of a key has not ended at that time, by itself or with its key.
pub fn is_active(key: &Key, secret: &Secret, now: Timestamp) -> bool {
    key_view(key, secret, None).state(now.as_ms()).is_ok()
}
