//! One request, one verdict. The checks run in the order of [`Stage`](keyward_core::refusal::Stage); [`authorize`] decides
//! whether the key may be used.

use crate::engine::auth_throttle::AuthThrottle;
use crate::engine::credential::{self, Credential, Header};
use crate::engine::digests::Digests;
use crate::engine::feed::Now;
use crate::engine::limiter::{Limiter, Verdict, WindowState};
use crate::engine::policy::Policy;
use crate::engine::rate_limit_headers::When;
use crate::engine::rules::{Access, ProtectedResource, Requirement, Strip, Target, UNMATCHED};
use crate::engine::snapshot::{Found, OwnerState, PlanState, ResolvedKey, Snapshot};
use crate::engine::store::SharedStore;
use crate::engine::verification::cache::{self, Memory, Verified};
use crate::engine::verification::queue::{Ended, Outcome, Unverified};
use keyward_core::authorize::{self, authorize};
use keyward_core::dialect::Dialect;
use keyward_core::dialect::error_shape::{ErrorShape, Facts, Rendered};
use keyward_core::dialect::key_format::KeyFormat;
use keyward_core::dialect::rate_limit_fields::Window;
use keyward_core::key::digest::Digest;
use keyward_core::key::limit::Limit;
use keyward_core::key::secret::Secret;
use keyward_core::refusal::Refusal;
use keyward_core::refusal::malformation::Malformation;
use keyward_core::wire::entry::KeyRecord;
use keyward_core::wire::verify::Answer;
use std::borrow::Cow;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::rc::Rc;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes on, in this name.
    Allow {
        /// The key.
        holder: Rc<ResolvedKey>,
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
    pub holder: Option<Rc<ResolvedKey>>,
    /// What is wrong with a malformed credential.
    pub malformation: Option<Malformation>,
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

    /// What is wrong with a malformed credential, as it is named in filter state and logs.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Refuse(refused) => refused.malformation.map(Malformation::name),
            _ => None,
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
    pub fn render(&self, policy: &Policy, headers: &[Header<'_>]) -> Rendered {
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
            malformation: self.malformation,
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
pub struct Authorizer<'a, S> {
    /// What is asked, and how refusals look.
    pub policy: &'a Policy,
    /// By which digests keys are looked up.
    pub digests: &'a Digests,
    /// The keys.
    pub snapshot: &'a mut Snapshot,
    /// What the keys have used.
    pub limiter: &'a Limiter,
    /// Who sends bad keys; `None` where nobody is to be held back.
    pub guessing: Option<&'a AuthThrottle>,
    /// What the control plane said of credentials that only it can check.
    pub verified: &'a mut Verified,
    /// What all workers share.
    pub store: &'a S,
}

/// What the route asks of a key.
struct RouteRequirements<'a> {
    requirement: &'a Requirement,
    /// What the path asks for as it is written, where it was another spelling of it that the requirement is of.
    also: Option<&'a Requirement>,
    method: &'a [u8],
    cost: NonZeroU32,
}

/// A key that may be used, and its windows where they are to be told.
struct Allowed {
    holder: Rc<ResolvedKey>,
    windows: Vec<Window>,
}

impl<S: SharedStore> Authorizer<'_, S> {
    /// Decides. The client's address is asked for only where a key has an allowlist, or is bad and its sender counted.
    pub fn decide(&mut self, headers: &[Header<'_>], now: Now, client: impl FnOnce() -> Option<IpAddr>) -> Decision {
        self.decide_after(headers, now, client, None)
    }

    /// The same for a request that waited; it is told what came of that, and does not wait again.
    pub fn decide_after(
        &mut self,
        headers: &[Header<'_>],
        now: Now,
        client: impl FnOnce() -> Option<IpAddr>,
        ended: Option<&Ended>,
    ) -> Decision {
        let field = |name| header(headers, name).unwrap_or_default();
        let target = Target { method: field(":method"), host: field(":authority"), path: field(":path") };
        let (policy, unmatched) = (self.policy, UNMATCHED);
        let (route, also) = policy.rules.find(&target).unwrap_or((&unmatched, None));
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
        let asked = RouteRequirements { requirement, also, method: target.method, cost: route.cost };
        let looks_like_a_key = self.guessing.is_some() && looks_like_a_key(policy, &credential);
        let mut client = Some(client);
        let mut client = || client.take().and_then(|ask| ask());
        match self.check(credential, now, &asked, &mut client, ended) {
            Ok(Allowed { holder, windows }) => {
                Decision::Allow { holder, strip: requirement.strip, cost: route.cost, windows }
            }
            Err(Rejection::Refused(refused)) if looks_like_a_key => refuse(self.held_back(refused, now, client)),
            Err(Rejection::Refused(refused)) => refuse(refused),
            Err(Rejection::Unverified(what)) => Decision::Verify(what),
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
        let limit = guessing.threshold();
        let retry_after_s = limit.wait_s(retry_after_ms);
        let windows = vec![Window { limit, remaining: 0, reset_s: retry_after_s }];
        Refused { exhausted: Some(Exhausted { limit, retry_after_s, windows }), ..Refusal::RateLimited.into() }
    }

    fn check(
        &mut self,
        credential: Credential<'_>,
        now: Now,
        asked: &RouteRequirements<'_>,
        client: impl FnOnce() -> Option<IpAddr>,
        ended: Option<&Ended>,
    ) -> Result<Allowed, Rejection> {
        if !self.snapshot.is_usable_now(self.store, now.monotonic_ms, self.policy.max_staleness_ms) {
            return Err(Refusal::Unavailable.into());
        }
        let holder = self.holder_of(&possible_key(self.policy, credential)?, now, ended)?;
        if holder.plan == PlanState::Unknown {
            return Err(Refusal::Unavailable.into());
        }
        if let Err(denial) = authorize(&holder.view(), &self.policy.dialect, now.wall_ms, &asked.both(), client) {
            let (refusal, scope) = (denial.refusal(), denial.scope().to_owned());
            return Err(Refused { holder: Some(holder), scope, ..refusal.into() }.into());
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
        Ok(Allowed { holder, windows })
    }

    /// The key that a credential is: by its digest, or else by its public beginning and what is known of the rest.
    fn holder_of(
        &mut self,
        key: &PossibleKey<'_>,
        now: Now,
        ended: Option<&Ended>,
    ) -> Result<Rc<ResolvedKey>, Rejection> {
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
                let credential = cache::Credential { text: &key.credential, digest, subject, before: &before };
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
        credential: &cache::Credential<'_>,
        now: Now,
        ended: Option<&Ended>,
    ) -> Result<Rc<ResolvedKey>, Rejection> {
        let cache::Credential { text, digest, subject, .. } = *credential;
        let holder = match self.snapshot.find(self.store, &subject, [subject]) {
            Found::Key(holder) => holder,
            Found::Nothing => return Err(Refusal::Unknown.into()),
            Found::Unreadable => return Err(Refusal::Unavailable.into()),
        };
        let secret_id = &holder.key.secret_id;
        match self.verified.recall(self.store, credential, secret_id, now.monotonic_ms) {
            Some(Memory::Right { .. }) => return Ok(holder),
            Some(Memory::Wrong) => return Err(Refusal::Unknown.into()),
            None if holder.view().state(now.wall_ms).is_err() => return Err(Refusal::Unknown.into()),
            None => {}
        }
        match ended.filter(|ended| ended.digest == digest).map(|ended| &ended.outcome) {
            Some(Outcome::Answered(Answer::Right { secret_id: right })) if right == secret_id => Ok(holder),
            Some(Outcome::Answered(Answer::Wrong)) => Err(Refusal::Unknown.into()),
            Some(Outcome::Unavailable { retry_after_s } | Outcome::Busy { retry_after_s }) => {
                Err(Refused::unavailable(*retry_after_s).into())
            }
            // The control plane and this snapshot do not mean the same secret; one of them is behind.
            Some(Outcome::Answered(Answer::Right { .. })) => Err(Refusal::Unavailable.into()),
            None if ended.is_some() => Err(Refusal::Unavailable.into()),
            None => {
                // What has a format is visible ASCII.
                let text = std::str::from_utf8(text).map_err(|_| Rejection::from(Refusal::Unknown))?;
                let credential = Secret::new(text.to_owned());
                let secret_id = secret_id.clone();
                Err(Rejection::Unverified(Box::new(Unverified { credential, digest, subject, secret_id })))
            }
        }
    }

    /// Counts the request against the limits of the key or its plan, or the dialect's where neither has any; returns its
    /// windows where they are to be told, or which of them is exhausted.
    fn admit(&self, holder: &ResolvedKey, cost: NonZeroU32, now_ms: u64) -> Result<Vec<Window>, Exhausted> {
        let limits = holder.limits().unwrap_or(&self.policy.dialect.limits);
        let window = |state: &WindowState| Window {
            limit: state.limit,
            remaining: state.remaining,
            reset_s: state.limit.wait_s(state.reset_ms),
        };
        let key = (holder.key.key_id.as_str(), || holder.limit_hash());
        match self.limiter.admit_hashed(self.store, key, limits, cost, now_ms) {
            Verdict::Admitted { windows } if self.policy.rate_limit_headers.are_on_allowed() => {
                Ok(windows.iter().map(window).collect())
            }
            Verdict::Admitted { .. } => Ok(Vec::new()),
            Verdict::Exhausted { limit, retry_after_ms, windows } => {
                // What never gets through is told to come back after a window, as a status of 429 has to say something.
                let retry_after_ms = retry_after_ms.unwrap_or(limit.window_ms().get());
                let windows = windows.iter().map(window).collect();
                Err(Exhausted { limit, retry_after_s: limit.wait_s(retry_after_ms), windows })
            }
        }
    }
}

/// What keeps a request from passing.
enum Rejection {
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
fn possible_key<'a>(policy: &'a Policy, credential: Credential<'a>) -> Result<PossibleKey<'a>, Rejection> {
    let credential = match credential {
        Credential::One(credential) => credential,
        Credential::Missing => return Err(Refusal::Missing.into()),
        Credential::Malformed(malformation) => return Err(malformation.into()),
    };
    if credential::is_jwt(&credential) {
        return Err(Refusal::Jwt.into());
    }
    match policy.dialect.format_of(&credential) {
        Some(format) => Ok(PossibleKey { credential, format }),
        None => Err(policy.dialect.malformation_of(&credential).into()),
    }
}

/// Whether a credential has the beginning of a key of the dialect: what has not is a mistake and no guess.
fn looks_like_a_key(policy: &Policy, credential: &Credential<'_>) -> bool {
    let Credential::One(credential) = credential else { return false };
    policy.dialect.formats.iter().any(|format| credential.starts_with(format.prefix.as_bytes()))
}

impl<'a> RouteRequirements<'a> {
    /// The requirements of the matching rule, and of the rule for the path as sent.
    fn both(&self) -> [authorize::Requirement<'a>; 2] {
        let of = |asked: &'a Requirement| authorize::Requirement {
            kinds: asked.kinds.as_deref(),
            scopes: asked.scopes.of(self.method),
        };
        [of(self.requirement), self.also.map(of).unwrap_or_default()]
    }
}

impl ResolvedKey {
    /// The permissions that the upstream is told: those that the key may use at this moment.
    pub fn scopes(&self, dialect: &Dialect) -> Vec<&str> {
        let owners = match &self.owner {
            OwnerState::Known(owner) => owner.permissions.as_deref(),
            OwnerState::Unowned | OwnerState::Unknown => None,
        };
        let named = self.key.scopes.iter().chain(owners.unwrap_or_default());
        let view = self.view();
        let mut scopes: Vec<&str> = named.map(String::as_str).filter(|scope| view.has_scope(scope, dialect)).collect();
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
            malformation: None,
            scope: String::new(),
            resource: None,
            exhausted: None,
            retry_after_s: None,
            errors: None,
        }
    }
}

impl From<Malformation> for Rejection {
    fn from(malformation: Malformation) -> Self {
        Self::Refused(Refused { malformation: Some(malformation), ..Refusal::Malformed.into() })
    }
}

impl From<Refused> for Rejection {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.into())
    }
}

/// The first value of a header field.
pub fn header<'a>(headers: &[Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|(given, _)| *given == name).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests;
