//! One entry of the feed: the current state of a key's secret, of an owner or of a plan.
//!
//! An entry is framed by its length and begins with its subject and version, so that an edge too old to read the rest
//! still knows whom it concerns and refuses that one. A field's tag says whether a reader that does not know it may
//! ignore it (high bit set) or must refuse the record (high bit clear).

use crate::key::digest::Digest;
use crate::key::environment::Environment;
use crate::key::limit::Limits;
use crate::wire::codec::Reader;
use crate::wire::limits;
use crate::wire::summary::Summary;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The current state of one subject, as the feed carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whom it concerns: a secret's digest, or the address of an owner or a plan.
    pub subject: Digest,
    /// The sequence of the change that made this state; it only rises within an epoch.
    pub version: u64,
    /// The state.
    pub body: Body,
}

/// What an entry says of its subject.
#[allow(clippy::large_enum_variant, reason = "nearly every entry is a key, so a box would save nothing")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A key, as seen by one of its secrets.
    Key(KeyRecord),
    /// An owner, who decides for all its keys.
    Owner(OwnerRecord),
    /// A plan, which sets the limits of all its keys that have none of their own.
    Plan(PlanRecord),
    /// Nothing is known of the subject any longer.
    Removed,
}

/// A key, as an edge sees it under one of its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KeyRecord {
    /// The public id of the key.
    pub key_id: String,
    /// The public id of the secret, of which a key in rotation has two.
    pub secret_id: String,
    /// What sort of key it is, in the dialect's words.
    pub kind: String,
    /// Where its requests go.
    pub environment: Option<Environment>,
    /// When the key was revoked, in milliseconds since the Unix epoch. Revocation is for good.
    pub revoked_at_ms: Option<u64>,
    /// When the key expires, in milliseconds since the Unix epoch.
    pub expires_at_ms: Option<u64>,
    /// When this secret ends though the key goes on, in milliseconds since the Unix epoch.
    pub secret_not_after_ms: Option<u64>,
    /// The owner's id; its own entry decides for this key.
    pub owner: Option<String>,
    /// The permissions of the key.
    pub scopes: Vec<String>,
    /// The client addresses it may be used from; empty means from anywhere.
    pub allowlist: Vec<IpNet>,
    /// What it may use; `None` for what its plan says, or else the dialect.
    pub limits: Option<Limits>,
    /// Whether it is refused until it is resumed.
    pub paused: bool,
    /// Whether its credits are used up.
    pub credits_exhausted: bool,
    /// The plan's name; its own entry has what this key may use.
    pub plan: Option<String>,
    /// Whether the secret is stored as a password hash: the subject is then the secret's public beginning alone, which
    /// proves nothing, and only the control plane can check the rest.
    pub needs_verification: bool,
}

/// A user, team or organization.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OwnerRecord {
    /// Whether all its keys are refused.
    pub disabled: bool,
    /// The most its keys may do; `None` does not bound them.
    pub permissions: Option<Vec<String>>,
}

/// A plan that keys are on.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PlanRecord {
    /// What each of its keys may use; `None` for the dialect's default.
    pub limits: Option<Limits>,
}

/// An entry found by its frame, not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Whom it concerns.
    pub subject: Digest,
    /// The version of the state.
    pub version: u64,
    body: &'a [u8],
    /// All of it, as it stands.
    encoded: &'a [u8],
}

/// Walks the frames of a page or a bucket; ends with an error where the framing itself cannot be read.
#[derive(Clone)]
pub struct Frames<'a>(Reader<'a>);

/// The lengths do not add up: nothing after this point can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the framing of the entries cannot be read")]
pub struct BrokenFraming;

/// This one entry cannot be understood; its subject must be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableEntry {
    /// The kind of the entry is not known here.
    #[error("entry of unknown kind {0}")]
    UnknownKind(u8),
    /// A field that must be understood is not.
    #[error("unknown critical field {0}")]
    UnknownCriticalField(u8),
    /// A field's length or contents are wrong.
    #[error("field {0} cannot be read")]
    BadField(u8),
    /// The fields end in the middle.
    #[error("the fields are truncated")]
    Truncated,
}

/// The entry is too large for its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry takes at most {MAX_ENTRY_BYTES} bytes: fewer or shorter scopes and addresses are needed")]
pub struct EntryTooLarge;

/// The longest entry, in bytes, its length prefix not counted.
pub const MAX_ENTRY_BYTES: usize = u16::MAX as usize;

const IGNORABLE: u8 = 0x80;

mod kind {
    pub(super) const REMOVED: u8 = 0;
    pub(super) const KEY: u8 = 1;
    pub(super) const OWNER: u8 = 2;
    pub(super) const PLAN: u8 = 3;
}

mod key_field {
    pub(super) const KEY_ID: u8 = 1;
    pub(super) const SECRET_ID: u8 = 2;
    pub(super) const KIND: u8 = 3;
    pub(super) const ENVIRONMENT: u8 = 4;
    pub(super) const REVOKED_AT: u8 = 5;
    pub(super) const EXPIRES_AT: u8 = 6;
    pub(super) const SECRET_NOT_AFTER: u8 = 7;
    pub(super) const OWNER: u8 = 8;
    pub(super) const SCOPE: u8 = 9;
    pub(super) const ALLOW: u8 = 10;
    pub(super) const LIMITS: u8 = 11;
    pub(super) const CREDITS_EXHAUSTED: u8 = 12;
    pub(super) const PLAN: u8 = 13;
    pub(super) const NEEDS_VERIFICATION: u8 = 14;
    pub(super) const PAUSED: u8 = 15;
}

mod owner_field {
    pub(super) const DISABLED: u8 = 1;
    pub(super) const PERMISSIONS: u8 = 2;
}

mod plan_field {
    pub(super) const LIMITS: u8 = 1;
}

impl Entry {
    /// Appends the frame: length, subject, version, kind, fields.
    ///
    /// # Errors
    /// If the entry is longer than [`MAX_ENTRY_BYTES`]; `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EntryTooLarge> {
        let mut entry = Vec::with_capacity(128);
        entry.extend_from_slice(&self.subject.0);
        entry.extend_from_slice(&self.version.to_le_bytes());
        self.body.encode(&mut entry)?;
        let length = u16::try_from(entry.len()).map_err(|_| EntryTooLarge)?;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&entry);
        Ok(())
    }
}

impl Body {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EntryTooLarge> {
        match self {
            Self::Removed => out.push(kind::REMOVED),
            Self::Key(key) => {
                out.push(kind::KEY);
                key.encode(out)?;
            }
            Self::Owner(owner) => {
                out.push(kind::OWNER);
                put(out, owner_field::DISABLED, &[u8::from(owner.disabled)])?;
                if let Some(permissions) = &owner.permissions {
                    put(out, owner_field::PERMISSIONS, permissions.join(" ").as_bytes())?;
                }
            }
            Self::Plan(plan) => {
                out.push(kind::PLAN);
                if let Some(limits) = &plan.limits {
                    put_limits(out, plan_field::LIMITS, limits)?;
                }
            }
        }
        Ok(())
    }
}

impl KeyRecord {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EntryTooLarge> {
        put(out, key_field::KEY_ID, self.key_id.as_bytes())?;
        put(out, key_field::SECRET_ID, self.secret_id.as_bytes())?;
        put(out, key_field::KIND, self.kind.as_bytes())?;
        if let Some(environment) = self.environment {
            put(out, key_field::ENVIRONMENT, &[environment_code(environment)])?;
        }
        for (tag, time) in [
            (key_field::REVOKED_AT, self.revoked_at_ms),
            (key_field::EXPIRES_AT, self.expires_at_ms),
            (key_field::SECRET_NOT_AFTER, self.secret_not_after_ms),
        ] {
            if let Some(time) = time {
                put(out, tag, &time.to_le_bytes())?;
            }
        }
        if let Some(owner) = &self.owner {
            put(out, key_field::OWNER, owner.as_bytes())?;
        }
        for scope in &self.scopes {
            put(out, key_field::SCOPE, scope.as_bytes())?;
        }
        for net in &self.allowlist {
            put(out, key_field::ALLOW, &encode_net(net))?;
        }
        if let Some(limits) = &self.limits {
            put_limits(out, key_field::LIMITS, limits)?;
        }
        if self.credits_exhausted {
            put(out, key_field::CREDITS_EXHAUSTED, &[])?;
        }
        if let Some(plan) = &self.plan {
            put(out, key_field::PLAN, plan.as_bytes())?;
        }
        if self.needs_verification {
            put(out, key_field::NEEDS_VERIFICATION, &[])?;
        }
        if self.paused {
            put(out, key_field::PAUSED, &[])?;
        }
        Ok(())
    }

    fn decode(fields: Reader<'_>) -> Result<Self, UnreadableEntry> {
        let mut key = Self::default();
        for field in Fields(fields) {
            let (tag, value) = field?;
            match tag {
                key_field::KEY_ID => key.key_id = text(tag, value)?,
                key_field::SECRET_ID => key.secret_id = text(tag, value)?,
                key_field::KIND => key.kind = text(tag, value)?,
                key_field::ENVIRONMENT => key.environment = Some(environment(tag, value)?),
                key_field::REVOKED_AT => key.revoked_at_ms = Some(number(tag, value)?),
                key_field::EXPIRES_AT => key.expires_at_ms = Some(number(tag, value)?),
                key_field::SECRET_NOT_AFTER => key.secret_not_after_ms = Some(number(tag, value)?),
                key_field::OWNER => key.owner = Some(text(tag, value)?),
                key_field::SCOPE => key.scopes.push(text(tag, value)?),
                key_field::ALLOW => key.allowlist.push(decode_net(value).ok_or(UnreadableEntry::BadField(tag))?),
                key_field::LIMITS => key.limits = Some(read_limits(tag, value)?),
                key_field::CREDITS_EXHAUSTED => key.credits_exhausted = true,
                key_field::PLAN => key.plan = Some(text(tag, value)?),
                key_field::NEEDS_VERIFICATION => key.needs_verification = true,
                key_field::PAUSED => key.paused = true,
                _ if tag & IGNORABLE != 0 => {}
                _ => return Err(UnreadableEntry::UnknownCriticalField(tag)),
            }
        }
        if key.key_id.is_empty() {
            return Err(UnreadableEntry::BadField(key_field::KEY_ID));
        }
        Ok(key)
    }
}

impl OwnerRecord {
    fn decode(fields: Reader<'_>) -> Result<Self, UnreadableEntry> {
        let mut owner = Self::default();
        for field in Fields(fields) {
            let (tag, value) = field?;
            match tag {
                owner_field::DISABLED => {
                    owner.disabled = match value {
                        [0] => false,
                        [1] => true,
                        _ => return Err(UnreadableEntry::BadField(tag)),
                    }
                }
                owner_field::PERMISSIONS => {
                    let permissions = text(tag, value)?;
                    owner.permissions =
                        Some(permissions.split(' ').filter(|p| !p.is_empty()).map(str::to_owned).collect());
                }
                _ if tag & IGNORABLE != 0 => {}
                _ => return Err(UnreadableEntry::UnknownCriticalField(tag)),
            }
        }
        Ok(owner)
    }
}

impl PlanRecord {
    fn decode(fields: Reader<'_>) -> Result<Self, UnreadableEntry> {
        let mut plan = Self::default();
        for field in Fields(fields) {
            let (tag, value) = field?;
            match tag {
                plan_field::LIMITS => plan.limits = Some(read_limits(tag, value)?),
                _ if tag & IGNORABLE != 0 => {}
                _ => return Err(UnreadableEntry::UnknownCriticalField(tag)),
            }
        }
        Ok(plan)
    }
}

impl<'a> Frames<'a> {
    /// The frames that stand one after another in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(Reader::new(bytes))
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, BrokenFraming>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let frame = Frame::read(&mut self.0).ok_or(BrokenFraming);
        if frame.is_err() {
            self.0 = Reader::new(&[]);
        }
        Some(frame)
    }
}

impl<'a> Frame<'a> {
    const HEADER_LENGTH: usize = Digest::LENGTH + 8;

    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let encoded = reader.rest();
        let length = usize::from(reader.u16()?);
        let mut inside = Reader::new(reader.bytes(length)?);
        let subject = Digest(inside.array()?);
        let version = inside.u64()?;
        Some(Self { subject, version, body: inside.rest(), encoded: encoded.get(..2 + length)? })
    }

    /// The summary of this one record.
    pub fn summary(&self) -> Summary {
        Summary::of(self.encoded)
    }

    /// How many bytes it takes where it stands, its length prefix among them.
    pub fn encoded_length(&self) -> usize {
        2 + Self::HEADER_LENGTH + self.body.len()
    }

    /// Appends the frame with another version and the same contents, read or not.
    pub fn encode_with_version(&self, version: u64, out: &mut Vec<u8>) {
        // A frame comes out of a frame, so its length fits; saturation keeps the function total.
        let length = u16::try_from(Self::HEADER_LENGTH + self.body.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&self.subject.0);
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(self.body);
    }

    /// What the entry says.
    ///
    /// # Errors
    /// If it cannot be understood in full; the subject must then be refused.
    pub fn decode(&self) -> Result<Body, UnreadableEntry> {
        let mut reader = Reader::new(self.body);
        match reader.u8().ok_or(UnreadableEntry::Truncated)? {
            kind::REMOVED => Ok(Body::Removed),
            kind::KEY => KeyRecord::decode(reader).map(Body::Key),
            kind::OWNER => OwnerRecord::decode(reader).map(Body::Owner),
            kind::PLAN => PlanRecord::decode(reader).map(Body::Plan),
            unknown => Err(UnreadableEntry::UnknownKind(unknown)),
        }
    }
}

struct Fields<'a>(Reader<'a>);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u8, &'a [u8]), UnreadableEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut field = || {
            let tag = self.0.u8()?;
            let length = self.0.u16()?;
            Some((tag, self.0.bytes(usize::from(length))?))
        };
        let field = field().ok_or(UnreadableEntry::Truncated);
        if field.is_err() {
            self.0 = Reader::new(&[]);
        }
        Some(field)
    }
}

fn put(out: &mut Vec<u8>, tag: u8, value: &[u8]) -> Result<(), EntryTooLarge> {
    let length = u16::try_from(value.len()).map_err(|_| EntryTooLarge)?;
    out.push(tag);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(value);
    Ok(())
}

fn put_limits(out: &mut Vec<u8>, tag: u8, value: &Limits) -> Result<(), EntryTooLarge> {
    let mut encoded = Vec::new();
    limits::encode(value, &mut encoded);
    put(out, tag, &encoded)
}

fn read_limits(tag: u8, value: &[u8]) -> Result<Limits, UnreadableEntry> {
    limits::decode(value).map_err(|_| UnreadableEntry::BadField(tag))
}

fn text(tag: u8, value: &[u8]) -> Result<String, UnreadableEntry> {
    std::str::from_utf8(value).map(str::to_owned).map_err(|_| UnreadableEntry::BadField(tag))
}

fn number(tag: u8, value: &[u8]) -> Result<u64, UnreadableEntry> {
    value.try_into().map(u64::from_le_bytes).map_err(|_| UnreadableEntry::BadField(tag))
}

fn environment_code(environment: Environment) -> u8 {
    match environment {
        Environment::Live => 0,
        Environment::Test => 1,
    }
}

fn environment(tag: u8, value: &[u8]) -> Result<Environment, UnreadableEntry> {
    match value {
        [0] => Ok(Environment::Live),
        [1] => Ok(Environment::Test),
        _ => Err(UnreadableEntry::BadField(tag)),
    }
}

fn encode_net(net: &IpNet) -> Vec<u8> {
    let mut out = vec![net.prefix_len()];
    match net {
        IpNet::V4(net) => out.extend_from_slice(&net.network().octets()),
        IpNet::V6(net) => out.extend_from_slice(&net.network().octets()),
    }
    out
}

fn decode_net(value: &[u8]) -> Option<IpNet> {
    let (&length, address) = value.split_first()?;
    if let Ok(octets) = <[u8; 4]>::try_from(address) {
        return Ipv4Net::new(Ipv4Addr::from(octets), length).ok().map(IpNet::V4);
    }
    let octets = <[u8; 16]>::try_from(address).ok()?;
    Ipv6Net::new(Ipv6Addr::from(octets), length).ok().map(IpNet::V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_key() -> KeyRecord {
        KeyRecord {
            key_id: "key_1".into(),
            secret_id: "sec_1".into(),
            kind: "user".into(),
            environment: Some(Environment::Test),
            revoked_at_ms: Some(1),
            expires_at_ms: Some(2),
            secret_not_after_ms: Some(3),
            owner: Some("acme".into()),
            scopes: vec!["read".into(), "write".into()],
            allowlist: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            limits: Some(two_limits()),
            paused: true,
            credits_exhausted: true,
            plan: Some("pro".into()),
            needs_verification: true,
        }
    }

    fn two_limits() -> Limits {
        Limits::new(vec!["10/s".parse().unwrap(), "200/min".parse().unwrap()]).unwrap()
    }

    fn encoded(body: Body) -> Vec<u8> {
        let mut out = Vec::new();
        Entry { subject: Digest([5; 32]), version: 77, body }.encode(&mut out).unwrap();
        out
    }

    fn with_field(body: Body, tag: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = encoded(body);
        put(&mut bytes, tag, value).unwrap();
        let length = u16::try_from(bytes.len() - 2).unwrap();
        bytes[..2].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    fn decoded(bytes: &[u8]) -> Result<Body, UnreadableEntry> {
        let mut frames = Frames::new(bytes);
        let frame = frames.next().unwrap().unwrap();
        assert!(frames.next().is_none());
        assert_eq!((frame.subject, frame.version), (Digest([5; 32]), 77));
        frame.decode()
    }

    #[test]
    fn every_field_survives_the_wire() {
        let owner = OwnerRecord { disabled: true, permissions: Some(vec!["read".into()]) };
        let plan = |limits| Body::Plan(PlanRecord { limits });
        let owners = [Body::Owner(owner), Body::Owner(OwnerRecord::default())];
        let plans = [plan(Some(two_limits())), plan(Some(Limits::default())), plan(None)];
        for body in [Body::Key(full_key()), Body::Removed].into_iter().chain(owners).chain(plans) {
            assert_eq!(decoded(&encoded(body.clone())), Ok(body));
        }
    }

    #[test]
    fn an_unknown_field_is_ignored_or_refused_as_its_tag_says() {
        let plan = PlanRecord { limits: Some(two_limits()) };
        for body in [Body::Key(full_key()), Body::Owner(OwnerRecord::default()), Body::Plan(plan)] {
            assert_eq!(decoded(&with_field(body.clone(), 0xf0, &[1, 2])), Ok(body.clone()));
            assert_eq!(decoded(&with_field(body, 0x70, &[1, 2])), Err(UnreadableEntry::UnknownCriticalField(0x70)));
        }
    }

    #[test]
    fn limits_that_cannot_be_read_make_a_key_and_a_plan_unreadable() {
        let key = KeyRecord { limits: None, ..full_key() };
        for (body, tag) in [(Body::Key(key), 11), (Body::Plan(PlanRecord::default()), 1)] {
            assert_eq!(decoded(&with_field(body, tag, &[0; 11])), Err(UnreadableEntry::BadField(tag)));
        }
    }

    #[test]
    fn an_unknown_kind_and_a_key_without_id_are_unreadable() {
        let mut bytes = encoded(Body::Removed);
        *bytes.last_mut().unwrap() = 9;
        assert_eq!(decoded(&bytes), Err(UnreadableEntry::UnknownKind(9)));
        let nameless = KeyRecord { key_id: String::new(), ..full_key() };
        assert_eq!(decoded(&encoded(Body::Key(nameless))), Err(UnreadableEntry::BadField(1)));
    }

    #[test]
    fn a_truncated_frame_is_broken_framing_and_ends_the_walk() {
        let bytes = encoded(Body::Key(full_key()));
        for cut in 1..bytes.len() {
            let mut frames = Frames::new(&bytes[..cut]);
            assert_eq!(frames.next(), Some(Err(BrokenFraming)), "cut at {cut}");
            assert_eq!(frames.next(), None);
        }
    }

    #[test]
    fn an_entry_that_does_not_fit_its_frame_is_an_error_and_writes_nothing() {
        let scopes = vec!["s".repeat(1000); 70];
        let mut out = vec![1];
        let entry = Entry { subject: Digest([5; 32]), version: 1, body: Body::Key(KeyRecord { scopes, ..full_key() }) };
        assert_eq!(entry.encode(&mut out), Err(EntryTooLarge));
        assert_eq!(out, [1]);
    }
}
