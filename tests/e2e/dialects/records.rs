//! The keys of a table's run: a snapshot with one key per state, generated in the dialect's format.

use keyward_core::dialect::Dialect;
use keyward_core::key::digest::Digest;
use keyward_core::key::limit::Limits;
use keyward_core::wire::cursor::{Cursor, Position};
use keyward_core::wire::entry::{Body, Entry, KeyRecord, OwnerRecord};
use keyward_core::wire::page::{Extent, Page};
use std::time::{SystemTime, UNIX_EPOCH};

/// 2024-01-01T00:00:00Z.
const EXPIRED_AT_MS: u64 = 1_704_067_200_000;

/// A browser's token, whose first part is `{"alg":"HS256","typ":"JWT"}`.
const JWT: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJzb21lYm9keSJ9.c2lnbmF0dXJl";

/// The keys of one dialect, by their names in the table.
pub(crate) struct Records(Dialect);

impl Records {
    pub(crate) fn of(dialect: &str) -> Self {
        Self(Dialect::built_in(dialect).unwrap().unwrap())
    }

    /// The credential of that name; deterministic.
    pub(crate) fn credential(&self, name: &str) -> String {
        match name {
            "jwt" => JWT.to_owned(),
            "malformed" => "not-a-key".to_owned(),
            _ => self.key(name),
        }
    }

    fn key(&self, name: &str) -> String {
        let mut block = 0;
        let filler = |bytes: &mut [u8]| {
            for chunk in bytes.chunks_mut(Digest::LENGTH) {
                block += 1;
                chunk.copy_from_slice(&Digest::of_key(format!("{name} {block}").as_bytes()).0[..chunk.len()]);
            }
            Ok::<_, ()>(())
        };
        let kind = self.kind(name);
        let format = self.0.formats.iter().find(|format| format.kind == kind).unwrap();
        format.issue(filler).unwrap().expose().to_owned()
    }

    /// The kind that the dialect's main routes accept, or a different one.
    fn kind(&self, name: &str) -> &'static str {
        match (self.0.name.as_str(), name) {
            ("graph8", "other_kind") => "write",
            ("graph8", _) => "api",
            ("auxot", "other_kind") => "team",
            ("auxot", _) => "user",
            _ => "key",
        }
    }

    /// A snapshot of all keys except the unknown one.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let plain = |name: &str| KeyRecord {
            key_id: format!("key_{name}"),
            kind: self.kind(name).to_owned(),
            environment: self.0.formats[0].environment,
            owner: Some("acme".to_owned()),
            scopes: vec!["read".to_owned(), "write".to_owned()],
            ..KeyRecord::default()
        };
        let keys = [
            ("valid", plain("valid")),
            ("other_kind", plain("other_kind")),
            ("revoked", KeyRecord { revoked_at_ms: Some(now_ms - 60_000), ..plain("revoked") }),
            ("replaced", KeyRecord { secret_not_after_ms: Some(now_ms - 60_000), ..plain("replaced") }),
            ("expired", KeyRecord { expires_at_ms: Some(EXPIRED_AT_MS), ..plain("expired") }),
            ("paused", KeyRecord { paused: true, ..plain("paused") }),
            ("unassociated", KeyRecord { owner: self.inactive_owner(), ..plain("unassociated") }),
            ("elsewhere", KeyRecord { allowlist: vec!["192.0.2.0/24".parse().unwrap()], ..plain("elsewhere") }),
            (
                "limited",
                KeyRecord { limits: Some(Limits::new(vec!["1/min".parse().unwrap()]).unwrap()), ..plain("limited") },
            ),
            ("exhausted", KeyRecord { credits_exhausted: true, ..plain("exhausted") }),
        ];
        let mut entries: Vec<(Digest, Body)> =
            keys.map(|(name, record)| (Digest::of_key(self.key(name).as_bytes()), Body::Key(record))).into();
        let permissions = Some(vec!["read".to_owned(), "write".to_owned()]);
        entries.push((Digest::of_owner("acme"), Body::Owner(OwnerRecord { disabled: false, permissions })));
        entries.push((Digest::of_owner("gone"), Body::Owner(OwnerRecord { disabled: true, permissions: None })));
        page(entries)
    }

    /// No owner if the dialect requires one, otherwise a disabled owner.
    fn inactive_owner(&self) -> Option<String> {
        (!self.0.owner_required).then(|| "gone".to_owned())
    }
}

/// A complete snapshot.
pub(crate) fn page(mut entries: Vec<(Digest, Body)>) -> Vec<u8> {
    entries.sort_by_key(|(subject, _)| *subject);
    let mut encoded = Vec::new();
    for (subject, body) in entries {
        Entry { subject, version: 1, body }.encode(&mut encoded).unwrap();
    }
    let head = Cursor { epoch: 1, sequence: 1, chain: [1; 16] };
    Page { summary: None, answers: Position::Nothing, head, extent: Extent::Snapshot { end: None }, entries: &encoded }
        .encode()
}
