//! One request, one verdict. The order of the checks is that of [`Refusal`].

use crate::engine::credential::{self, Credential, Header};
use crate::engine::digests::Digests;
use crate::engine::feed::Now;
use crate::engine::guessing::Guessing;
use crate::engine::identity::Strip;
use crate::engine::limiter::{Limiter, Verdict, WindowState};
use crate::engine::rate_limit_headers::{RateLimitHeaders, When};
use crate::engine::rules::{Access, ProtectedResource, Requirement, Rules, Target, UNMATCHED};
use crate::engine::snapshot::{Found, Holder, OwnerState, PlanState, Snapshot};
use crate::engine::store::SharedStore;
use crate::engine::verified::{self, Memory, Verified};
use crate::engine::verifier::{Ended, Outcome, Unverified};
use keyward_contract::dialect::Dialect;
use keyward_contract::digest::Digest;
use keyward_contract::entry::KeyRecord;
use keyward_contract::error_shape::{ErrorShape, Facts, Rendered, Window};
use keyward_contract::key_format::KeyFormat;
use keyward_contract::limit::Limit;
use keyward_contract::secret::Secret;
use keyward_contract::verdict::Refusal;
use keyward_contract::verify::Answer;
use std::borrow::Cow;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::rc::Rc;

/// What a gateway asks, and how it answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The system whose keys are checked and whose refusals are sent.
    pub dialect: Dialect,
    /// What each route asks for.
    pub rules: Rules,
    /// How old the last answer of the feed may be before requests are refused, in milliseconds; `None` serves on.
    pub max_staleness_ms: Option<u64>,
    /// What clients are told of limits.
    pub rate_limit_headers: RateLimitHeaders,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes on, in this name.
    Allow {
        /// The key.
        holder: Rc<Holder>,
        /// What is taken from the request.
        strip: Strip,
        /// How much of the key's credits it uses, by its route.
        cost: NonZeroU32,
        /// The key's windows with this request counted, where its answer is to tell of them.
        windows: Vec<Window>,
    },
    /// It goes on without a name: the route asks for no key.
    Public,
    /// It goes on with its credential, which another filter checks.
    Delegated,
    /// It is answered with this metadata.
    Metadata(Rc<ProtectedResource>),
    /// It is answered here.
    Refuse(Refused),
    /// It waits until the control plane has checked its credential, and is decided again then.
    Verify(Box<Unverified>),
}

/// A refusal with what it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The key, once its record was found.
    pub holder: Option<Rc<Holder>>,
    /// The permission that is lacking.
    pub scope: String,
    /// The resource whose metadata the answer names.
    pub resource: Option<Rc<ProtectedResource>>,
    /// The windows, of which one is exhausted.
    pub exhausted: Option<Exhausted>,
    /// After how many seconds to come back, where that is known.
    pub retry_after_s: Option<u64>,
    /// The shape of the answer; `None` for the dialect's own.
    pub errors: Option<Rc<ErrorShape>>,
}

/// What a key has used up, or a client that guesses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// The limit that refuses for longest.
    pub limit: Limit,
    /// After how many seconds the key may be used again.
    pub retry_after_s: u64,
    /// All of the windows.
    pub windows: Vec<Window>,
}

/// After how many seconds to come back when there is nothing to decide with: the first snapshot takes about that long.
const UNAVAILABLE_RETRY_S: u64 = 1;

impl Decision {
    /// The name in filter state, metrics and logs.
    pub fn verdict(&self) -> &'static str {
        match self {
            Self::Allow { .. } => "allow",
            Self::Public | Self::Metadata(_) => "public",
            Self::Delegated => "delegated",
            Self::Refuse(refused) => refused.refusal.name(),
            Self::Verify(_) => "verify",
        }
    }

    /// The id of the key, where its record was found.
    pub fn key_id(&self) -> Option<&str> {
        self.key().map(|key| key.key_id.as_str())
    }

    /// The key, where its record was found.
    pub fn key(&self) -> Option<&KeyRecord> {
        match self {
            Self::Allow { holder, .. } => Some(&holder.key),
            Self::Refuse(Refused { holder, .. }) => holder.as_ref().map(|holder| &holder.key),
            Self::Public | Self::Delegated | Self::Metadata(_) | Self::Verify(_) => None,
        }
    }
}

impl Refused {
    /// That nothing can be decided, and when to come back, in seconds.
    pub fn unavailable(retry_after_s: u64) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..Refusal::Unavailable.into() }
    }

    /// The answer, in the dialect's words.
    pub fn render(&self, policy: &Policy, headers: &[Header]) -> Rendered {
        let request_id = header(headers, "x-request-id").and_then(|id| std::str::from_utf8(id).ok());
        let key = self.holder.as_ref().map(|holder| &holder.key);
        let exhausted = self.exhausted.as_ref();
        let windows = exhausted.map_or(&[][..], |exhausted| &exhausted.windows);
        let told = policy.rate_limit_headers;
        let facts = Facts {
            resource_metadata: self.resource.as_ref().map_or("", |resource| &resource.metadata_url),
            header: policy.dialect.sources.first().map_or("", |source| source.written()),
            request_id: request_id.unwrap_or_default(),
            key_id: key.map_or("", |key| &key.key_id),
            expired_at_ms: key.and_then(|key| key.expires_at_ms).unwrap_or_default(),
            scope: &self.scope,
            retry_after_s: exhausted
                .map(|exhausted| exhausted.retry_after_s)
                .or(self.retry_after_s)
                .unwrap_or(UNAVAILABLE_RETRY_S),
            limit: exhausted.map_or(0, |exhausted| exhausted.limit.requests().into()),
            window_s: exhausted.map_or(0, |exhausted| exhausted.limit.window_ms().get() / 1000),
            windows: if told.standard == When::Never { &[] } else { windows },
        };
        let mut rendered = self.errors.as_deref().unwrap_or(&policy.dialect.errors).render(self.refusal, &facts);
        if rendered.status == 429 {
            let fields = told.x_on_refused(windows).into_iter();
            rendered.headers.extend(fields.map(|(name, value)| (name.into(), value)));
        }
        rendered
    }
}

/// What one worker decides with.
pub struct Edge<'a, S> {
    /// What is asked, and how refusals look.
    pub policy: &'a Policy,
    /// By which digests keys are looked up.
    pub digests: &'a Digests,
    /// The keys.
    pub snapshot: &'a mut Snapshot,
    /// What the keys have used.
    pub limiter: &'a Limiter,
    /// Who sends bad keys; `None` where nobody is to be held back.
    pub guessing: Option<&'a Guessing>,
    /// What the control plane said of credentials that only it can check.
    pub verified: &'a mut Verified,
    /// What all workers share.
    pub store: &'a S,
}

/// What the route asks of a key.
struct Asked<'a> {
    requirement: &'a Requirement,
    method: &'a [u8],
    cost: NonZeroU32,
}

/// A key that may be used, and its windows where they are to be told.
struct Passed {
    holder: Rc<Holder>,
    windows: Vec<Window>,
}

impl<S: SharedStore> Edge<'_, S> {
    /// Decides. The client's address is asked for only where a key has an allowlist, or is bad and its sender counted.
    pub fn decide(&mut self, headers: &[Header], now: Now, client: impl FnOnce() -> Option<IpAddr>) -> Decision {
        self.decide_after(headers, now, client, None)
    }

    /// The same for a request that waited; it is told what came of that, and does not wait again.
    pub fn decide_after(
        &mut self,
        headers: &[Header],
        now: Now,
        client: impl FnOnce() -> Option<IpAddr>,
        ended: Option<&Ended>,
    ) -> Decision {
        let field = |name| header(headers, name).unwrap_or_default();
        let target = Target { method: field(":method"), host: field(":authority"), path: field(":path") };
        let (policy, unmatched) = (self.policy, UNMATCHED);
        let route = policy.rules.route(&target).unwrap_or(&unmatched);
        let refuse = |refused: Refused| Decision::Refuse(Refused { errors: route.errors.clone(), ..refused });
        let (requirement, optional) = match &route.access {
            Access::Public => return Decision::Public,
            Access::Metadata(resource) => return Decision::Metadata(Rc::clone(resource)),
            Access::Delegated(Some(resource)) if header(headers, "authorization").is_none() => {
                return refuse(Refused { resource: Some(Rc::clone(resource)), ..Refusal::Missing.into() });
            }
            Access::Delegated(_) => return Decision::Delegated,
            Access::Optional(requirement) => (requirement, true),
            Access::Key(requirement) => (requirement, false),
        };
        let credential = credential::find(&policy.dialect.sources, headers);
        if optional && credential == Credential::Missing {
            return Decision::Public;
        }
        let asked = Asked { requirement, method: target.method, cost: route.cost };
        let looks_like_a_key = self.guessing.is_some() && looks_like_a_key(policy, &credential);
        let mut client = Some(client);
        let mut client = || client.take().and_then(|ask| ask());
        match self.check(credential, now, &asked, &mut client, ended) {
            Ok(Passed { holder, windows }) => {
                Decision::Allow { holder, strip: requirement.strip, cost: route.cost, windows }
            }
            Err(Stop::Refused(refused)) if looks_like_a_key => refuse(self.held_back(refused, now, client)),
            Err(Stop::Refused(refused)) => refuse(refused),
            Err(Stop::Unverified(what)) => Decision::Verify(what),
        }
    }

    /// What becomes of a refusal of what looks like a key: if it is none, and its sender has sent too many such, that.
    fn held_back(&self, refused: Refused, now: Now, client: impl FnOnce() -> Option<IpAddr>) -> Refused {
        if !matches!(refused.refusal, Refusal::Unknown | Refusal::Malformed) {
            return refused;
        }
        let Some((guessing, address)) = self.guessing.and_then(|guessing| Some((guessing, client()?))) else {
            return refused;
        };
        let Some(retry_after_ms) = guessing.fail(self.store, address, now.monotonic_ms) else { return refused };
        let (limit, retry_after_s) = (guessing.threshold(), retry_after_ms.div_ceil(1000));
        let windows = vec![Window { limit, remaining: 0, reset_s: retry_after_s }];
        Refused { exhausted: Some(Exhausted { limit, retry_after_s, windows }), ..Refusal::RateLimited.into() }
    }

    fn check(
        &mut self,
        credential: Credential<'_>,
        now: Now,
        asked: &Asked<'_>,
        client: impl FnOnce() -> Option<IpAddr>,
        ended: Option<&Ended>,
    ) -> Result<Passed, Stop> {
        if !self.snapshot.is_usable_now(self.store, now.monotonic_ms, self.policy.max_staleness_ms) {
            return Err(Refusal::Unavailable.into());
        }
        let holder = self.holder_of(&possible_key(self.policy, credential)?, now, ended)?;
        if holder.plan == PlanState::Unknown {
            return Err(Refusal::Unavailable.into());
        }
        if let Some((refusal, scope)) = refusal_of(self.policy, &holder, now.wall_ms, asked, client) {
            return Err(Refused { holder: Some(holder), scope: scope.to_owned(), ..refusal.into() }.into());
        }
        let windows = match self.admit(&holder, asked.cost, now.monotonic_ms) {
            Ok(windows) => windows,
            Err(exhausted) => {
                let refused: Refused = Refusal::RateLimited.into();
                return Err(Refused { holder: Some(holder), exhausted: Some(exhausted), ..refused }.into());
            }
        };
        if holder.key.credits_exhausted {
            let refused: Refused = Refusal::QuotaExhausted.into();
            return Err(Refused { holder: Some(holder), ..refused }.into());
        }
        Ok(Passed { holder, windows })
    }

    /// The key that a credential is: by its digest, or else by its public beginning and what is known of the rest.
    fn holder_of(&mut self, key: &PossibleKey<'_>, now: Now, ended: Option<&Ended>) -> Result<Rc<Holder>, Stop> {
        let digest = Digest::of_key(&key.credential);
        let selector = key.selector();
        if selector.is_some()
            && let Some(recent) = self.verified.recent(&digest, now.monotonic_ms)
            && self.snapshot.is_unmoved(&recent.before)
            && let Found::Key(holder) = self.snapshot.find(self.store, &recent.subject, [recent.subject])
            && holder.key.secret_id == recent.secret_id
        {
            return Ok(holder);
        }
        let addresses = self.digests.addresses(&key.credential, digest);
        match (self.snapshot.find(self.store, &digest, addresses), selector) {
            // Whoever leads here has shown the whole key, so nothing would be left to verify.
            (Found::Key(holder), _) if !holder.key.needs_verification => Ok(holder),
            (Found::Nothing, Some(selector)) => {
                let subject = Digest::of_selector(selector);
                let before = self.snapshot.reading(self.digests.addresses(&key.credential, digest));
                let credential = verified::Credential { text: &key.credential, digest, subject, before: &before };
                self.verified_holder(&credential, now, ended)
            }
            (Found::Nothing, None) => Err(Refusal::Unknown.into()),
            (Found::Key(_) | Found::Unreadable, _) => Err(Refusal::Unavailable.into()),
        }
    }

    /// The key whose public beginning a credential has, if the rest is right. The record proves nothing, whatever it says:
    /// to whom is not known to have the key, it is as if there were none.
    fn verified_holder(
        &mut self,
        credential: &verified::Credential<'_>,
        now: Now,
        ended: Option<&Ended>,
    ) -> Result<Rc<Holder>, Stop> {
        let verified::Credential { text, digest, subject, .. } = *credential;
        let holder = match self.snapshot.find(self.store, &subject, [subject]) {
            Found::Key(holder) => holder,
            Found::Nothing => return Err(Refusal::Unknown.into()),
            Found::Unreadable => return Err(Refusal::Unavailable.into()),
        };
        let secret_id = &holder.key.secret_id;
        match self.verified.recall(self.store, credential, secret_id, now.monotonic_ms) {
            Some(Memory::Right { .. }) => return Ok(holder),
            Some(Memory::Wrong) => return Err(Refusal::Unknown.into()),
            None if state_refusal(&holder.key, now.wall_ms).is_some() => return Err(Refusal::Unknown.into()),
            None => {}
        }
        match ended.filter(|ended| ended.digest == digest).map(|ended| &ended.outcome) {
            Some(Outcome::Answered(Answer::Right { secret_id: right })) if right == secret_id => Ok(holder),
            Some(Outcome::Answered(Answer::Wrong)) => Err(Refusal::Unknown.into()),
            Some(Outcome::Unavailable { retry_after_s }) => Err(Refused::unavailable(*retry_after_s).into()),
            // The control plane and this snapshot do not mean the same secret; one of them is behind.
            Some(Outcome::Answered(Answer::Right { .. })) => Err(Refusal::Unavailable.into()),
            None if ended.is_some() => Err(Refusal::Unavailable.into()),
            None => {
                // What has a format is visible ASCII.
                let text = std::str::from_utf8(text).map_err(|_| Stop::from(Refusal::Unknown))?;
                let credential = Secret::new(text.to_owned());
                let secret_id = secret_id.clone();
                Err(Stop::Unverified(Box::new(Unverified { credential, digest, subject, secret_id })))
            }
        }
    }

    /// Counts the request against the limits of the key or its plan, or the dialect's where neither has any; returns its
    /// windows where they are to be told, or which of them is exhausted.
    fn admit(&self, holder: &Holder, cost: NonZeroU32, now_ms: u64) -> Result<Vec<Window>, Exhausted> {
        let limits = holder.limits().unwrap_or(&self.policy.dialect.limits);
        let window = |state: &WindowState| Window {
            limit: state.limit,
            remaining: state.remaining,
            reset_s: state.reset_ms.div_ceil(1000),
        };
        match self.limiter.admit(self.store, &holder.key.key_id, limits, cost, now_ms) {
            Verdict::Admitted { windows } if self.policy.rate_limit_headers.are_on_allowed() => {
                Ok(windows.iter().map(window).collect())
            }
            Verdict::Admitted { .. } => Ok(Vec::new()),
            Verdict::Exhausted { limit, retry_after_ms, windows } => {
                // What never gets through is told to come back after a window, as a status of 429 has to say something.
                let retry_after_ms = retry_after_ms.unwrap_or(limit.window_ms().get());
                let windows = windows.iter().map(window).collect();
                Err(Exhausted { limit, retry_after_s: retry_after_ms.div_ceil(1000), windows })
            }
        }
    }
}

/// What keeps a request from passing.
enum Stop {
    Refused(Refused),
    Unverified(Box<Unverified>),
}

/// A credential that could be a key.
struct PossibleKey<'a> {
    credential: Cow<'a, [u8]>,
    format: &'a KeyFormat,
}

impl PossibleKey<'_> {
    fn selector(&self) -> Option<&[u8]> {
        self.format.selector_of(&self.credential)
    }
}

/// The request's credential, if it has one that can be a key.
fn possible_key<'a>(policy: &'a Policy, credential: Credential<'a>) -> Result<PossibleKey<'a>, Refusal> {
    let credential = match credential {
        Credential::One(credential) => credential,
        Credential::Missing => return Err(Refusal::Missing),
        Credential::Malformed => return Err(Refusal::Malformed),
    };
    if credential::is_jwt(&credential) {
        return Err(Refusal::Jwt);
    }
    let format = policy.dialect.format_of(&credential).ok_or(Refusal::Malformed)?;
    Ok(PossibleKey { credential, format })
}

/// What the record of a key says against it by itself, whoever asks for what.
fn state_refusal(key: &KeyRecord, wall_ms: u64) -> Option<Refusal> {
    let is_past = |time: Option<u64>| time.is_some_and(|time| time <= wall_ms);
    if key.revoked_at_ms.is_some() || is_past(key.secret_not_after_ms) {
        return Some(Refusal::Revoked);
    }
    is_past(key.expires_at_ms).then_some(Refusal::Expired)
}

/// Whether a credential has the beginning of a key of the dialect: what has not is a mistake and no guess.
fn looks_like_a_key(policy: &Policy, credential: &Credential<'_>) -> bool {
    let Credential::One(credential) = credential else { return false };
    policy.dialect.formats.iter().any(|format| credential.starts_with(format.prefix.as_bytes()))
}

/// What speaks against a key that exists, and the scope that it lacks if it is that.
fn refusal_of<'a>(
    policy: &Policy,
    holder: &Holder,
    wall_ms: u64,
    asked: &Asked<'a>,
    client: impl FnOnce() -> Option<IpAddr>,
) -> Option<(Refusal, &'a str)> {
    let key = &holder.key;
    if let Some(refusal) = state_refusal(key, wall_ms) {
        return Some((refusal, ""));
    }
    let associated = match &holder.owner {
        OwnerState::Unowned => !policy.dialect.owner_required,
        OwnerState::Known(owner) => !owner.disabled,
        OwnerState::Unknown => false,
    };
    if !associated {
        return Some((Refusal::Unassociated, ""));
    }
    if asked.requirement.kinds.as_ref().is_some_and(|kinds| !kinds.contains(&key.kind)) {
        return Some((Refusal::WrongKind, ""));
    }
    if !key.allowlist.is_empty() {
        let address = client().map(|address| address.to_canonical());
        if !address.is_some_and(|address| key.allowlist.iter().any(|net| net.contains(&address))) {
            return Some((Refusal::ForbiddenIp, ""));
        }
    }
    let scopes = asked.requirement.scopes.of(asked.method);
    let lacking = scopes.iter().find(|scope| !holder.may(scope, &policy.dialect))?;
    Some((Refusal::InsufficientScope, lacking))
}

impl Holder {
    /// Whether the key has a permission, and its owner at this moment too.
    fn may(&self, scope: &str, dialect: &Dialect) -> bool {
        let holds =
            |scopes: &[String]| scopes.iter().any(|held| held == scope || Some(held) == dialect.superscope.as_ref());
        let owners = self.owners_permissions();
        if dialect.has_owners_scopes(&self.key.kind) {
            // An owner that was given no permissions has none to lend.
            return owners.is_some_and(holds);
        }
        owners.is_none_or(holds) && holds(&self.key.scopes)
    }

    /// What the owner may do at most; `None` if nothing is said of that.
    fn owners_permissions(&self) -> Option<&[String]> {
        match &self.owner {
            OwnerState::Known(owner) => owner.permissions.as_deref(),
            OwnerState::Unowned | OwnerState::Unknown => None,
        }
    }

    /// The permissions that the upstream is told: those that the key may use at this moment.
    pub fn scopes(&self, dialect: &Dialect) -> Vec<&str> {
        let named = self.key.scopes.iter().chain(self.owners_permissions().unwrap_or_default());
        let mut scopes: Vec<&str> = named.map(String::as_str).filter(|scope| self.may(scope, dialect)).collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            holder: None,
            scope: String::new(),
            resource: None,
            exhausted: None,
            retry_after_s: None,
            errors: None,
        }
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.into())
    }
}

/// The first value of a header field.
pub fn header<'a>(headers: &'a [Header], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::engine::bucket::{self, Input, Stamp};
    use crate::engine::cells::Status;
    use crate::engine::digests::{KeyDigest, Pepper};
    use crate::engine::store::memory::MemoryStore;
    use crate::engine::store::{Names, update};
    use hmac::{Hmac, Mac as _};
    use keyward_contract::entry::{Body, Entry, OwnerRecord, PlanRecord};
    use keyward_contract::limit::Limits;
    use sha2::{Digest as _, Sha256, Sha512};
    use std::cell::Cell;

    const KEY: &str = "exo_live_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
    const NOW: Now = Now { monotonic_ms: 100_000, wall_ms: 1_700_000_000_000 };
    const BITS: u32 = 4;

    struct Fixture {
        policy: Policy,
        digests: Digests,
        store: MemoryStore,
        names: Names,
        snapshot: Snapshot,
        limiter: Limiter,
        guessing: Option<Guessing>,
        verified: Verified,
        version: u64,
    }

    impl Fixture {
        fn new(rules: &str) -> Self {
            let text = format!(
                r#"{{"dialect": "exona", "control_plane": {{"cluster": "c", "max_staleness_s": 60}}, "rules": {rules}}}"#
            );
            let names = Names::new("c", "a", BITS);
            let snapshot = Snapshot::new(names.clone(), BITS, 100);
            let policy = Config::parse(text.as_bytes()).unwrap().policy;
            let edge = Self {
                policy,
                digests: Digests::default(),
                store: MemoryStore::default(),
                limiter: Limiter::new(names.limits(), 4),
                guessing: None,
                verified: Verified::new(names.verified(), 100, Some([7; 32])),
                names,
                snapshot,
                version: 0,
            };
            edge.status(|status| {
                status.generation = 1;
                status.contact_ms = NOW.monotonic_ms;
            });
            edge
        }

        fn open() -> Self {
            Self::new(r#"[{"path": {"prefix": "/"}, "access": "key"}]"#)
        }

        fn status(&self, change: impl Fn(&mut Status)) {
            update(&self.store, &self.names.status, |current| {
                let mut status = current.map_or(Status::START, Status::decode);
                change(&mut status);
                (Some(status.encode()), ())
            });
        }

        fn put(&mut self, subject: Digest, body: Body) {
            self.version += 1;
            let mut frame = Vec::new();
            Entry { subject, version: self.version, body }.encode(&mut frame).unwrap();
            self.put_frame(subject, &frame);
        }

        fn unreadable(&mut self, subject: Digest) {
            self.version += 1;
            let mut frame = Vec::new();
            Entry { subject, version: self.version, body: Body::Removed }.encode(&mut frame).unwrap();
            *frame.last_mut().unwrap() = 200;
            self.put_frame(subject, &frame);
        }

        fn put_frame(&self, subject: Digest, frame: &[u8]) {
            let index = subject.leading_bits(BITS);
            let stamp = Stamp { generation: 1, sequence: self.version };
            update(&self.store, &self.names.bucket(index), |current| {
                (bucket::merge(current.unwrap_or_default(), stamp, frame, Input::Changes, NOW.wall_ms).rewritten, ())
            });
            self.status(|status| status.stripes[Status::stripe_of(index)] += 1);
        }

        fn key(&mut self, change: impl Fn(&mut KeyRecord)) {
            let mut key = KeyRecord { key_id: "key_1".into(), kind: "key".into(), ..KeyRecord::default() };
            change(&mut key);
            self.put(Digest::of_key(KEY.as_bytes()), Body::Key(key));
        }

        fn plan(&mut self, name: &str, limit: Option<&str>) {
            let limits = limit.map(|limit| Limits::new(vec![limit.parse().unwrap()]).unwrap());
            self.put(Digest::of_plan(name), Body::Plan(PlanRecord { limits }));
        }

        /// A key that was imported as a digest, found at this address.
        fn imported(&mut self, address: Digest, key_id: &str) {
            self.put(address, Body::Key(KeyRecord { key_id: key_id.to_owned(), ..KeyRecord::default() }));
        }

        fn decide(&mut self, path: &str, authorization: Option<&str>, client: Option<&str>) -> Decision {
            let mut headers = vec![(":path".to_owned(), path.as_bytes().to_vec())];
            headers.extend(authorization.map(|value| ("authorization".to_owned(), value.as_bytes().to_vec())));
            let client = client.map(|address| address.parse().unwrap());
            self.snapshot.poll(&self.store, NOW.monotonic_ms);
            self.edge().decide(&headers, NOW, || client)
        }

        fn edge(&mut self) -> Edge<'_, MemoryStore> {
            let Self { policy, digests, snapshot, limiter, guessing, verified, store, .. } = self;
            Edge { policy, digests, snapshot, limiter, guessing: guessing.as_ref(), verified, store }
        }

        fn verdict(&mut self) -> &'static str {
            self.decide("/", Some(&format!("Bearer {KEY}")), None).verdict()
        }

        fn verdict_from(&mut self, client: &str) -> &'static str {
            self.decide("/", Some(&format!("Bearer {KEY}")), Some(client)).verdict()
        }
    }

    #[test]
    fn without_a_snapshot_or_with_a_stale_one_even_a_request_without_a_key_is_unavailable() {
        let mut edge = Fixture::open();
        edge.key(|_| {});
        assert_eq!(edge.verdict(), "allow");
        edge.status(|status| status.contact_ms = NOW.monotonic_ms - 60_001);
        assert_eq!(edge.verdict(), "unavailable");
        edge.status(|status| {
            status.contact_ms = NOW.monotonic_ms;
            status.generation = 0;
        });
        assert_eq!(edge.verdict(), "unavailable");
        assert_eq!(edge.decide("/", None, None).verdict(), "unavailable");
    }

    #[test]
    fn once_one_worker_can_decide_every_other_can() {
        let mut edge = Fixture::open();
        edge.key(|_| {});
        edge.status(|status| status.generation = 0);
        assert_eq!(edge.verdict(), "unavailable");
        edge.status(|status| status.generation = 1);
        let headers =
            [(":path".to_owned(), b"/".to_vec()), ("authorization".to_owned(), format!("Bearer {KEY}").into_bytes())];
        assert_eq!(edge.edge().decide(&headers, NOW, || None).verdict(), "allow", "without a tick in between");
    }

    #[test]
    fn each_bad_credential_has_its_verdict() {
        let mut edge = Fixture::open();
        edge.key(|_| {});
        let mut verdict = |authorization| edge.decide("/", authorization, None).verdict();
        assert_eq!(verdict(None), "missing");
        assert_eq!(verdict(Some("Bearer nonsense")), "malformed");
        assert_eq!(verdict(Some("Bearer eyJhbGciOiJub25lIn0.e30.")), "jwt");
        assert_eq!(verdict(Some("Bearer exo_live_yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy")), "unknown");
    }

    #[test]
    fn a_key_is_refused_from_the_moment_it_is_revoked_or_ends() {
        let mut edge = Fixture::open();
        edge.key(|key| key.expires_at_ms = Some(NOW.wall_ms + 1));
        assert_eq!(edge.verdict(), "allow");
        edge.key(|key| key.expires_at_ms = Some(NOW.wall_ms));
        assert_eq!(edge.verdict(), "expired");
        edge.key(|key| key.secret_not_after_ms = Some(NOW.wall_ms + 1));
        assert_eq!(edge.verdict(), "allow");
        edge.key(|key| key.secret_not_after_ms = Some(NOW.wall_ms));
        assert_eq!(edge.verdict(), "revoked");
        edge.key(|key| {
            key.revoked_at_ms = Some(1);
            key.expires_at_ms = Some(1);
        });
        assert_eq!(edge.verdict(), "revoked");
    }

    #[test]
    fn an_owner_decides_for_its_keys() {
        let mut edge = Fixture::open();
        edge.key(|key| key.owner = Some("acme".into()));
        assert_eq!(edge.verdict(), "unassociated", "an owner that is not known");
        edge.put(Digest::of_owner("acme"), Body::Owner(OwnerRecord::default()));
        assert_eq!(edge.verdict(), "allow");
        edge.put(Digest::of_owner("acme"), Body::Owner(OwnerRecord { disabled: true, permissions: None }));
        assert_eq!(edge.verdict(), "unassociated");
    }

    #[test]
    fn a_key_that_must_have_an_owner_and_has_none_is_unassociated() {
        let mut edge = Fixture::open();
        edge.policy.dialect.owner_required = true;
        edge.key(|_| {});
        assert_eq!(edge.verdict(), "unassociated");
    }

    #[test]
    fn an_allowlist_is_held_against_the_client_in_both_families() {
        let mut edge = Fixture::open();
        edge.key(|key| key.allowlist = vec!["10.1.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        for (client, expected) in [
            ("10.1.2.3", "allow"),
            ("::ffff:10.1.2.3", "allow"),
            ("2001:db8::1", "allow"),
            ("10.2.0.1", "forbidden_ip"),
            ("::ffff:10.2.0.1", "forbidden_ip"),
            ("2001:db9::1", "forbidden_ip"),
        ] {
            assert_eq!(edge.verdict_from(client), expected, "{client}");
        }
        assert_eq!(edge.verdict(), "forbidden_ip", "an address that is not known");
    }

    #[test]
    fn the_clients_address_is_not_asked_for_without_an_allowlist() {
        let mut edge = Fixture::open();
        edge.key(|_| {});
        let asked = Cell::new(false);
        let headers =
            [(":path".to_owned(), b"/".to_vec()), ("authorization".to_owned(), format!("Bearer {KEY}").into_bytes())];
        let decision = edge.edge().decide(&headers, NOW, || {
            asked.set(true);
            None
        });
        assert_eq!((decision.verdict(), asked.get()), ("allow", false));
    }

    #[test]
    fn a_key_in_the_cache_costs_no_look_up() {
        let mut edge = Fixture::open();
        edge.key(|key| {
            key.owner = Some("acme".into());
            key.plan = Some("pro".into());
        });
        edge.put(Digest::of_owner("acme"), Body::Owner(OwnerRecord::default()));
        edge.plan("pro", None);
        assert_eq!(edge.verdict(), "allow");
        let headers =
            [(":path".to_owned(), b"/".to_vec()), ("authorization".to_owned(), format!("Bearer {KEY}").into_bytes())];
        let before = edge.store.calls.get();
        let decision = edge.edge().decide(&headers, NOW, || None);
        assert_eq!((decision.verdict(), edge.store.calls.get() - before), ("allow", 0));
    }

    #[test]
    fn a_status_that_is_too_old_is_read_again_before_a_cached_key_is_believed() {
        let mut edge = Fixture::open();
        edge.key(|_| {});
        assert_eq!(edge.verdict(), "allow");
        edge.key(|key| key.revoked_at_ms = Some(1));
        let headers =
            [(":path".to_owned(), b"/".to_vec()), ("authorization".to_owned(), format!("Bearer {KEY}").into_bytes())];
        let mut at = |ms| {
            let now = Now { monotonic_ms: NOW.monotonic_ms + ms, ..NOW };
            edge.edge().decide(&headers, now, || None).verdict()
        };
        assert_eq!(at(50), "allow");
        assert_eq!(at(51), "revoked");
    }

    #[test]
    fn scopes_and_kinds_are_asked_of_the_key_and_bounded_by_its_owner() {
        let mut edge = Fixture::new(
            r#"[{"path": {"prefix": "/admin"}, "access": "key", "scopes": ["read", "admin"]},
                {"path": {"prefix": "/hooks"}, "access": "key", "kinds": ["team"]},
                {"path": {"exact": "/open"}, "access": "public"}, {"path": {"prefix": "/mcp"}, "access": "delegated"}]"#,
        );
        let bearer = format!("Bearer {KEY}");
        edge.key(|key| key.scopes = vec!["read".into()]);
        let decision = edge.decide("/admin/x", Some(&bearer), None);
        let Decision::Refuse(refused) = &decision else { panic!("{decision:?}") };
        assert_eq!((refused.refusal, refused.scope.as_str()), (Refusal::InsufficientScope, "admin"));
        assert_eq!(decision.key_id(), Some("key_1"));
        assert_eq!(edge.decide("/hooks", Some(&bearer), None).verdict(), "wrong_kind");
        assert_eq!(edge.decide("/open", None, None).verdict(), "public");
        assert_eq!(edge.decide("/mcp", None, None).verdict(), "delegated");
        assert_eq!(edge.decide("/elsewhere", Some(&bearer), None).verdict(), "wrong_kind", "no rule matches");
        assert_eq!(edge.decide("/elsewhere", None, None).verdict(), "missing");
        edge.key(|key| {
            key.scopes = vec!["read".into(), "admin".into()];
            key.owner = Some("acme".into());
        });
        edge.put(Digest::of_owner("acme"), Body::Owner(OwnerRecord::default()));
        assert_eq!(edge.decide("/admin", Some(&bearer), None).verdict(), "allow");
        let permissions = Some(vec!["read".to_owned()]);
        edge.put(Digest::of_owner("acme"), Body::Owner(OwnerRecord { disabled: false, permissions }));
        assert_eq!(edge.decide("/admin", Some(&bearer), None).verdict(), "insufficient_scope");
    }

    #[test]
    fn a_route_that_keeps_the_credential_checks_it_as_any_other() {
        let mut edge = Fixture::new(
            r#"[{"path": {"prefix": "/self"}, "access": "key", "credential": "keep", "scopes": ["self"]},
                {"path": {"prefix": "/maybe"}, "access": "optional", "credential": "keep"},
                {"path": {"prefix": "/"}, "access": "key"}]"#,
        );
        let bearer = format!("Bearer {KEY}");
        edge.key(|_| {});
        assert_eq!(edge.decide("/self", Some(&bearer), None).verdict(), "insufficient_scope");
        assert_eq!(edge.decide("/self", None, None).verdict(), "missing");
        assert_eq!(edge.decide("/maybe", None, None), Decision::Public);
        edge.key(|key| key.scopes = vec!["self".into()]);
        let mut strip = |path| match edge.decide(path, Some(&bearer), None) {
            Decision::Allow { strip, .. } => strip,
            decision => panic!("{decision:?}"),
        };
        assert_eq!(strip("/self"), Strip::IdentityAndUnread);
        assert_eq!(strip("/maybe"), Strip::IdentityAndUnread);
        assert_eq!(strip("/"), Strip::IdentityAndCredentials);
        let headers = [
            (":path", "/self".to_owned()),
            ("authorization", bearer.clone()),
            ("authorization", bearer.replace('x', "y")),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.into_bytes()));
        assert_eq!(edge.edge().decide(&headers, NOW, || None).verdict(), "malformed", "two that differ");
    }

    #[test]
    fn a_key_is_held_to_its_limits_and_to_the_dialects_where_it_has_none() {
        let mut edge = Fixture::open();
        edge.policy.dialect.limits = Limits::new(vec!["2/s".parse().unwrap()]).unwrap();
        edge.key(|_| {});
        assert_eq!([edge.verdict(), edge.verdict(), edge.verdict()], ["allow", "allow", "rate_limited"]);
        edge.key(|key| {
            key.key_id = "key_2".into();
            key.limits = Some(Limits::new(vec!["1/s".parse().unwrap(), "9/min".parse().unwrap()]).unwrap());
        });
        assert_eq!(edge.verdict(), "allow");
        let decision = edge.decide("/", Some(&format!("Bearer {KEY}")), None);
        let Decision::Refuse(refused) = &decision else { panic!("{decision:?}") };
        let exhausted = refused.exhausted.as_ref().unwrap();
        assert_eq!((exhausted.limit.to_string().as_str(), exhausted.windows.len()), ("1/s", 2));
        assert!((1..=2).contains(&exhausted.retry_after_s), "{exhausted:?}");
        let rendered = refused.render(&edge.policy, &[]);
        assert_eq!(rendered.status, 429);
        assert!(rendered.headers.iter().any(|(name, _)| name == "ratelimit-policy"), "{rendered:?}");
    }

    #[test]
    fn a_plan_limits_its_keys_that_have_no_limits_of_their_own() {
        let mut edge = Fixture::open();
        edge.policy.dialect.limits = Limits::new(vec!["3/s".parse().unwrap()]).unwrap();
        edge.plan("pro", Some("2/s"));
        let on_plan = |key_id: &str, limits: Option<&str>| {
            let limits = limits.map(|limit| Limits::new(vec![limit.parse().unwrap()]).unwrap());
            let (key_id, plan) = (key_id.to_owned(), Some("pro".to_owned()));
            move |key: &mut KeyRecord| {
                (key.key_id, key.plan, key.limits) = (key_id.clone(), plan.clone(), limits.clone());
            }
        };
        edge.key(on_plan("key_1", None));
        assert_eq!([edge.verdict(), edge.verdict(), edge.verdict()], ["allow", "allow", "rate_limited"]);
        edge.key(on_plan("key_2", Some("1/s")));
        assert_eq!([edge.verdict(), edge.verdict()], ["allow", "rate_limited"], "the key's own");
        edge.plan("pro", None);
        edge.key(on_plan("key_3", None));
        let verdicts = [edge.verdict(), edge.verdict(), edge.verdict(), edge.verdict()];
        assert_eq!(verdicts, ["allow", "allow", "allow", "rate_limited"], "the dialect's");
    }

    #[test]
    fn a_change_of_a_plan_reaches_a_key_in_the_cache() {
        let mut edge = Fixture::open();
        edge.plan("pro", Some("0/s"));
        edge.key(|key| key.plan = Some("pro".into()));
        assert_eq!(edge.verdict(), "rate_limited");
        edge.plan("pro", Some("1000/s"));
        assert_eq!(edge.verdict(), "allow");
        edge.put(Digest::of_plan("pro"), Body::Removed);
        assert_eq!(edge.verdict(), "unavailable");
    }

    #[test]
    fn a_key_whose_plan_is_not_known_or_not_a_plan_is_unavailable() {
        let mut edge = Fixture::open();
        edge.key(|key| key.plan = Some("pro".into()));
        assert_eq!(edge.verdict(), "unavailable");
        edge.plan("other", None);
        assert_eq!(edge.verdict(), "unavailable");
        edge.put(Digest::of_plan("pro"), Body::Owner(OwnerRecord::default()));
        assert_eq!(edge.verdict(), "unavailable");
        edge.plan("pro", None);
        assert_eq!(edge.verdict(), "allow");
    }

    #[test]
    fn a_route_costs_what_it_says_and_used_up_credits_are_told() {
        let mut edge = Fixture::new(r#"[{"path": {"prefix": "/"}, "access": "key", "cost": 5}]"#);
        edge.key(|key| key.limits = Some(Limits::new(vec!["9/min".parse().unwrap()]).unwrap()));
        assert_eq!([edge.verdict(), edge.verdict()], ["allow", "rate_limited"]);
        edge.key(|key| {
            key.limits = Some(Limits::default());
            key.credits_exhausted = true;
        });
        assert_eq!(edge.verdict(), "quota_exhausted");
    }

    fn limits(limits: &[&str]) -> Option<Limits> {
        Some(Limits::new(limits.iter().map(|limit| limit.parse().unwrap()).collect()).unwrap())
    }

    /// The answer to a request with the key, if it is refused here.
    fn answer(edge: &mut Fixture) -> Option<Rendered> {
        match edge.decide("/", Some(&format!("Bearer {KEY}")), None) {
            Decision::Refuse(refused) => Some(refused.render(&edge.policy, &[])),
            _ => None,
        }
    }

    fn field<'a>(rendered: &'a Rendered, name: &str) -> Option<&'a str> {
        rendered.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn what_never_passes_is_told_to_come_back_after_a_window() {
        for (of_key, cost, retry_after) in [("0/s", 1, "1"), ("0/d", 1, "86400"), ("5/min", 6, "60")] {
            let mut edge =
                Fixture::new(&format!(r#"[{{"path": {{"prefix": "/"}}, "access": "key", "cost": {cost}}}]"#));
            edge.key(|key| key.limits = limits(&[of_key]));
            let refused = answer(&mut edge).unwrap();
            assert_eq!((refused.status, field(&refused, "retry-after")), (429, Some(retry_after)), "{of_key}");
        }
    }

    #[test]
    fn whoever_waits_as_long_as_told_gets_through_and_the_wall_clock_does_not_matter() {
        let mut edge = Fixture::open();
        edge.key(|key| key.limits = limits(&["2/s", "3/min"]));
        let bearer = format!("Bearer {KEY}");
        let headers = [(":path".to_owned(), b"/".to_vec()), ("authorization".to_owned(), bearer.into_bytes())];
        let mut now = NOW;
        let mut passed = Vec::new();
        for step in [3_600_000i64, -7_200_000, 0, 86_400_000, -1, 5000, 0, 0, -86_400_000, 1] {
            now.wall_ms = now.wall_ms.checked_add_signed(step).unwrap();
            edge.status(|status| status.contact_ms = now.monotonic_ms);
            match edge.edge().decide(&headers, now, || None) {
                Decision::Refuse(refused) => {
                    now.monotonic_ms += 1000 * refused.exhausted.unwrap().retry_after_s;
                    edge.status(|status| status.contact_ms = now.monotonic_ms);
                    let verdict = edge.edge().decide(&headers, now, || None).verdict();
                    assert_eq!(verdict, "allow", "after {step}");
                }
                decision => assert_eq!(decision.verdict(), "allow"),
            }
            passed.push(now.monotonic_ms);
        }
        assert!(passed.windows(4).all(|four| four[3] - four[0] > 60_000), "{passed:?}");
    }

    #[test]
    fn what_a_429_tells_of_limits_is_as_configured() {
        let told = |rate_limit_headers: RateLimitHeaders| {
            let mut edge = Fixture::open();
            edge.policy.rate_limit_headers = rate_limit_headers;
            edge.key(|key| key.limits = limits(&["1/s", "9/min"]));
            assert_eq!(answer(&mut edge), None);
            let refused = answer(&mut edge).unwrap();
            assert!(field(&refused, "retry-after").is_some());
            let names = refused.headers.iter().map(|(name, _)| name.to_string());
            names.filter(|name| name.contains("ratelimit")).collect::<Vec<_>>()
        };
        let standard = ["ratelimit-policy", "ratelimit"];
        let x = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
        assert_eq!(told(RateLimitHeaders::default()), standard);
        assert_eq!(told(RateLimitHeaders { standard: When::Never, x: When::Never }), [""; 0]);
        assert_eq!(told(RateLimitHeaders { standard: When::Never, x: When::Refused }), x);
        assert_eq!(told(RateLimitHeaders { standard: When::Always, x: When::Always }), [&standard[..], &x].concat());
    }

    #[test]
    fn an_allowed_request_remembers_its_windows_where_they_are_to_be_told() {
        let mut edge = Fixture::open();
        edge.key(|key| key.limits = limits(&["5/s"]));
        let mut windows = |told| {
            edge.policy.rate_limit_headers = told;
            match edge.decide("/", Some(&format!("Bearer {KEY}")), None) {
                Decision::Allow { windows, .. } => windows,
                decision => panic!("{decision:?}"),
            }
        };
        let always = RateLimitHeaders { standard: When::Never, x: When::Always };
        assert_eq!(windows(always), [Window { limit: "5/s".parse().unwrap(), remaining: 4, reset_s: 2 }]);
        assert_eq!(windows(RateLimitHeaders::default()), []);
    }

    const UNKNOWN: &str = "Bearer exo_live_yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy";

    #[test]
    fn who_sends_too_many_bad_keys_is_held_back_and_a_good_key_from_there_passes() {
        let mut edge = Fixture::open();
        edge.key(|_| {});
        edge.guessing = Some(Guessing::new("g.", "3/min".parse().unwrap()));
        let here = Some("192.0.2.1");
        for bad in [UNKNOWN, "Bearer exo_live_short", UNKNOWN] {
            assert_ne!(edge.decide("/", Some(bad), here).verdict(), "rate_limited");
        }
        for bad in [UNKNOWN, "Bearer exo_live_short"] {
            let Decision::Refuse(refused) = edge.decide("/", Some(bad), here) else { panic!("passed") };
            assert_eq!((refused.refusal, refused.holder.is_none()), (Refusal::RateLimited, true));
            let rendered = refused.render(&edge.policy, &[]);
            assert_eq!((rendered.status, field(&rendered, "retry-after")), (429, Some("60")));
            assert_eq!(field(&rendered, "ratelimit"), Some(r#""3/min";r=0;t=60"#));
        }
        assert_eq!(edge.verdict_from("192.0.2.1"), "allow");
        assert_eq!(edge.decide("/", Some(UNKNOWN), Some("192.0.2.2")).verdict(), "unknown", "another client");
        assert_eq!(edge.decide("/", Some(UNKNOWN), None).verdict(), "unknown", "an address that is not known");
        assert_eq!(edge.decide("/", Some("Bearer nonsense"), here).verdict(), "malformed", "no guess");
        assert_eq!(edge.decide("/", None, here).verdict(), "missing");
        edge.key(|key| key.revoked_at_ms = Some(1));
        assert_eq!(edge.verdict_from("192.0.2.1"), "revoked", "whoever has had a key need not guess");
    }

    #[test]
    fn a_bad_key_that_is_counted_costs_one_read_more_and_a_good_one_none() {
        let mut edge = Fixture::open();
        edge.key(|_| {});
        let mut calls = |authorization: &str| {
            edge.decide("/", Some(authorization), Some("192.0.2.1"));
            let before = edge.store.calls.get();
            edge.decide("/", Some(authorization), Some("192.0.2.1"));
            // The fixture polls the status itself.
            edge.store.calls.get() - before - 1
        };
        let good = format!("Bearer {KEY}");
        assert_eq!((calls(&good), calls(UNKNOWN)), (0, 1));
        edge.guessing = Some(Guessing::new("g.", "1/min".parse().unwrap()));
        let mut calls = |authorization: &str| {
            edge.decide("/", Some(authorization), Some("192.0.2.1"));
            let before = edge.store.calls.get();
            edge.decide("/", Some(authorization), Some("192.0.2.1"));
            edge.store.calls.get() - before - 1
        };
        assert_eq!((calls(&good), calls(UNKNOWN)), (0, 2));
    }

    fn of_sha512() -> Digest {
        Digest::of_sha512(&Sha512::digest(KEY).into())
    }

    fn of_hmac(pepper: &[u8]) -> Digest {
        let hmac = Hmac::<Sha256>::new_from_slice(pepper).unwrap().chain_update(KEY);
        Digest::of_hmac_sha256(&hmac.finalize().into_bytes().into())
    }

    /// Looks a key up by SHA-256, SHA-512 and HMAC-SHA-256 under "a" and "b".
    fn with_all_digests() -> Fixture {
        let hmac = |pepper: &[u8]| KeyDigest::HmacSha256(Pepper::new(pepper).unwrap());
        let digests = Digests::new(vec![KeyDigest::Sha256, KeyDigest::Sha512, hmac(b"a"), hmac(b"b")]);
        Fixture { digests, ..Fixture::open() }
    }

    #[test]
    fn a_key_imported_as_another_digest_is_found_by_it_where_it_is_configured() {
        for address in [of_sha512(), of_hmac(b"a"), of_hmac(b"b")] {
            let mut edge = with_all_digests();
            edge.imported(address, "key_1");
            assert_eq!(edge.verdict(), "allow");
            edge.digests = Digests::default();
            edge.snapshot = Snapshot::new(edge.names.clone(), BITS, 100);
            assert_eq!(edge.verdict(), "unknown");
        }
        let mut edge = with_all_digests();
        edge.imported(of_hmac(b"another"), "key_1");
        assert_eq!(edge.verdict(), "unknown");
    }

    #[test]
    fn an_imported_key_in_the_cache_costs_no_look_up_and_an_unknown_one_one_for_each_digest() {
        let mut edge = with_all_digests();
        let bearer = format!("Bearer {KEY}");
        let look_ups = |edge: &mut Fixture| {
            let headers = [(":path".to_owned(), b"/".to_vec()), ("authorization".to_owned(), bearer.clone().into())];
            edge.snapshot.poll(&edge.store, NOW.monotonic_ms);
            let before = edge.store.calls.get();
            let verdict = edge.edge().decide(&headers, NOW, || None).verdict();
            (verdict, edge.store.calls.get() - before)
        };
        assert_eq!(look_ups(&mut edge), ("unknown", 4));
        edge.imported(of_hmac(b"b"), "key_1");
        assert_eq!(look_ups(&mut edge), ("allow", 4));
        assert_eq!(look_ups(&mut edge), ("allow", 0));
    }

    #[test]
    fn the_first_digest_with_a_record_decides_for_a_key_in_the_cache_too() {
        let mut edge = with_all_digests();
        edge.imported(of_hmac(b"a"), "key_3");
        for (address, expected) in [(of_sha512(), "key_2"), (Digest::of_key(KEY.as_bytes()), "key_1")] {
            assert_eq!(edge.verdict(), "allow");
            edge.imported(address, expected);
            assert_eq!(edge.decide("/", Some(&format!("Bearer {KEY}")), None).key_id(), Some(expected));
        }
        edge.key(|key| key.revoked_at_ms = Some(1));
        assert_eq!(edge.verdict(), "revoked", "though it is active elsewhere");
        edge.put(Digest::of_key(KEY.as_bytes()), Body::Removed);
        edge.put(of_sha512(), Body::Removed);
        assert_eq!(edge.decide("/", Some(&format!("Bearer {KEY}")), None).key_id(), Some("key_3"));
        edge.put(of_hmac(b"a"), Body::Removed);
        assert_eq!(edge.verdict(), "unknown");
    }

    #[test]
    fn an_entry_that_cannot_be_understood_refuses_though_a_later_digest_has_one_that_can() {
        let mut edge = with_all_digests();
        edge.imported(of_hmac(b"a"), "key_1");
        edge.unreadable(of_sha512());
        assert_eq!(edge.verdict(), "unavailable");
    }

    #[test]
    fn a_key_that_only_the_control_plane_can_check_is_refused_here() {
        let mut edge = Fixture::open();
        edge.key(|key| key.needs_verification = true);
        assert_eq!(edge.verdict(), "unavailable");
        edge.key(|key| {
            key.needs_verification = true;
            key.revoked_at_ms = Some(1);
        });
        assert_eq!(edge.verdict(), "unavailable", "whoever sends it has proved nothing, and learns nothing");
    }

    #[test]
    fn an_entry_that_cannot_be_understood_refuses() {
        let mut edge = Fixture::open();
        edge.key(|_| {});
        edge.unreadable(Digest::of_key(KEY.as_bytes()));
        assert_eq!(edge.verdict(), "unavailable");
    }
}
