//! What stands in a row, as the types of the rest: every column is read here, and nowhere trusted.

use super::Error;
use super::query_builder::Sql;
use crate::clock::Timestamp;
use crate::model::{FieldSpec, Key, KeyFields, Owner, OwnerKind, PasswordHash, Pause, PausedBy, Plan, Secret, Stored};
use keyward_core::key::digest::Digest;
use keyward_core::key::limit::Limits;
use keyward_core::wire::cursor::Cursor;
use keyward_core::wire::summary::Summary;
use serde::de::DeserializeOwned;
use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};

/// A row whose fields are the columns of these names. Instead of sqlx's derive macro, for which Cargo compiles both
/// database drivers a second time, for the machine that builds.
macro_rules! row {
    ($(#[$meta:meta])* $visible:vis struct $row:ident { $($field_visible:vis $column:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        $visible struct $row {
            $($field_visible $column: $type,)+
        }

        impl sqlx::FromRow<'_, sqlx::any::AnyRow> for $row {
            fn from_row(row: &sqlx::any::AnyRow) -> Result<Self, sqlx::Error> {
                use sqlx::Row as _;
                Ok(Self { $($column: row.try_get(stringify!($column))?,)+ })
            }
        }
    };
}
pub(super) use row;

pub(super) struct KeyRow {
    id: String,
    /// The settable fields, in the order of their table.
    fields: Vec<Stored>,
    created_at: i64,
    revoked_at: Option<i64>,
    paused_at: Option<i64>,
    paused_by: Option<String>,
    spent: i64,
    last_used_at: Option<i64>,
    version: i64,
}

impl FromRow<'_, AnyRow> for KeyRow {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let field = |spec: &FieldSpec| {
            Ok(if spec.shape.is_number() {
                Stored::Number(row.try_get(spec.name)?)
            } else {
                Stored::Text(row.try_get(spec.name)?)
            })
        };
        Ok(Self {
            id: row.try_get("id")?,
            fields: KeyFields::SPECS.iter().map(field).collect::<Result<_, sqlx::Error>>()?,
            created_at: row.try_get("created_at")?,
            revoked_at: row.try_get("revoked_at")?,
            paused_at: row.try_get("paused_at")?,
            paused_by: row.try_get("paused_by")?,
            spent: row.try_get("spent")?,
            last_used_at: row.try_get("last_used_at")?,
            version: row.try_get("version")?,
        })
    }
}

row! {
    pub(super) struct SecretRow {
        pub(super) key_id: String,
        id: String,
        digest: Vec<u8>,
        hint: String,
        created_at: i64,
        not_after: Option<i64>,
        forgotten: i64,
        hash: Option<String>,
        last_used_at: Option<i64>,
        leaked_at: Option<i64>,
    }
}

row! {
    pub(super) struct OwnerRow {
        pub(super) id: String,
        kind: Option<String>,
        disabled: i64,
        permissions: Option<String>,
        created_at: i64,
        version: i64,
    }
}

row! {
    pub(super) struct PlanRow {
        pub(super) id: String,
        limits: Option<String>,
        credits: Option<i64>,
        created_at: i64,
        version: i64,
    }
}

row! {
    pub(super) struct HeadRow {
        epoch: i64,
        sequence: i64,
        chain: Vec<u8>,
        summary: Option<Vec<u8>>,
        summary_at: Option<i64>,
    }
}

/// The columns of the head, in every query for a [`HeadRow`].
pub(super) const HEAD_COLUMNS: &str = "epoch, sequence, chain, summary, summary_at";

/// Where the history stands, and the summary of all records there, if it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) cursor: Cursor,
    pub(super) summary: Option<Summary>,
}

impl KeyRow {
    pub(super) fn with_secrets(self, secrets: Vec<Secret>) -> Result<Key, Error> {
        let pause = self.paused_at.map(|at| {
            let by = self.paused_by.as_deref().and_then(PausedBy::from_name).ok_or(Error::Corrupt("pause of a key"))?;
            Ok::<_, Error>(Pause { at: Timestamp::from_stored(at), by })
        });
        Ok(Key {
            id: self.id,
            fields: KeyFields::from_stored(self.fields).map_err(Error::Corrupt)?,
            created_at: Timestamp::from_stored(self.created_at),
            revoked_at: self.revoked_at.map(Timestamp::from_stored),
            pause: pause.transpose()?,
            spent: amount(self.spent, "key's spent credits")?,
            last_used_at: self.last_used_at.map(Timestamp::from_stored),
            version: amount(self.version, "key's version")?,
            secrets,
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Where it stands among all keys by age.
    pub(super) fn age(&self) -> (i64, &str) {
        (self.created_at, &self.id)
    }
}

/// A query for [`KeyRow`]s, up to the table.
pub(super) fn select_keys() -> Sql {
    let mut query = Sql::new("SELECT ");
    let others = "id, created_at, revoked_at, paused_at, paused_by, spent, last_used_at, version FROM keys";
    query.push(KeyFields::COLUMNS).push(others);
    query
}

/// The columns of a secret, in every query for a [`SecretRow`].
pub(super) const SECRET_COLUMNS: &str = "key_id, id, digest, hint, created_at, not_after, \
                                         CAST(forgotten AS INTEGER) AS forgotten, hash, last_used_at, leaked_at";

/// The columns of an owner, in every query for an [`OwnerRow`].
pub(super) const OWNER_COLUMNS: &str =
    "id, kind, CAST(disabled AS INTEGER) AS disabled, permissions, created_at, version";

impl TryFrom<SecretRow> for Secret {
    type Error = Error;

    fn try_from(row: SecretRow) -> Result<Self, Error> {
        Ok(Self {
            digest: digest(row.digest)?,
            id: row.id,
            hint: row.hint,
            created_at: Timestamp::from_stored(row.created_at),
            not_after: row.not_after.map(Timestamp::from_stored),
            forgotten: row.forgotten != 0,
            hash: row.hash.map(PasswordHash::new),
            last_used_at: row.last_used_at.map(Timestamp::from_stored),
            leaked_at: row.leaked_at.map(Timestamp::from_stored),
        })
    }
}

impl TryFrom<OwnerRow> for Owner {
    type Error = Error;

    fn try_from(row: OwnerRow) -> Result<Self, Error> {
        Ok(Self {
            permissions: row.permissions.map(|list| from_json(&list, "list of permissions")).transpose()?,
            kind: row.kind.map(|name| OwnerKind::from_name(&name).ok_or(Error::Corrupt("owner's kind"))).transpose()?,
            id: row.id,
            disabled: row.disabled != 0,
            created_at: Timestamp::from_stored(row.created_at),
            version: amount(row.version, "owner's version")?,
        })
    }
}

/// The columns of a plan, in every query for a [`PlanRow`].
pub(super) const PLAN_COLUMNS: &str = "id, limits, credits, created_at, version";

impl TryFrom<PlanRow> for Plan {
    type Error = Error;

    fn try_from(row: PlanRow) -> Result<Self, Error> {
        Ok(Self {
            limits: row.limits.map(|stored| limits(&stored)).transpose()?,
            credits: row.credits.map(|credits| amount(credits, "plan's credits")).transpose()?,
            id: row.id,
            created_at: Timestamp::from_stored(row.created_at),
            version: amount(row.version, "plan's version")?,
        })
    }
}

impl TryFrom<HeadRow> for Head {
    type Error = Error;

    fn try_from(row: HeadRow) -> Result<Self, Error> {
        let summary = row.summary.filter(|_| row.summary_at == Some(row.sequence));
        let summary = summary.map(|stored| stored.try_into().map_err(|_| Error::Corrupt("summary of the feed")));
        let sequence = sequence(row.sequence)?;
        Ok(Self {
            cursor: Cursor { epoch: row.epoch.cast_unsigned(), sequence, chain: chain(row.chain)? },
            summary: summary.transpose()?.map(Summary::from_bytes),
        })
    }
}

fn limits(stored: &str) -> Result<Limits, Error> {
    let corrupt = || Error::Corrupt("plan's limits");
    let texts: Vec<String> = from_json(stored, "plan's limits")?;
    let limits: Result<_, _> = texts.iter().map(|text| text.parse()).collect();
    Limits::new(limits.map_err(|_| corrupt())?).map_err(|_| corrupt())
}

pub(super) fn digest(stored: Vec<u8>) -> Result<Digest, Error> {
    stored.try_into().map(Digest).map_err(|_| Error::Corrupt("digest"))
}

pub(super) fn chain(stored: Vec<u8>) -> Result<[u8; Cursor::CHAIN_LENGTH], Error> {
    stored.try_into().map_err(|_| Error::Corrupt("chain hash"))
}

pub(super) fn sequence(stored: i64) -> Result<u64, Error> {
    u64::try_from(stored).map_err(|_| Error::Corrupt("sequence"))
}

/// An amount that is never negative.
pub(super) fn amount(stored: i64, what: &'static str) -> Result<u64, Error> {
    u64::try_from(stored).map_err(|_| Error::Corrupt(what))
}

/// An amount as it is stored.
pub(super) fn stored_amount(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// A sequence as it is stored; one that cannot be lies after all that are.
pub(super) fn stored_sequence(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// A list of texts as it is stored.
pub(super) fn to_json<T: ToString>(list: &[T]) -> String {
    serde_json::Value::from_iter(list.iter().map(ToString::to_string)).to_string()
}

pub(super) fn from_json<T: DeserializeOwned>(stored: &str, what: &'static str) -> Result<T, Error> {
    serde_json::from_str(stored).map_err(|_| Error::Corrupt(what))
}
